import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import dispatch_fakes
import pytest
from dispatch_fakes import BEFORE, START, Bench

from vpp_pipeline.dispatch.lifecycle import FINAL

# Before the send, after it, after the acknowledgement, before a commit. A push sends twice, ahead
# (MQTT, HTTP) and at the boundary (Modbus): each kind of point is hit in both. "after send" counts
# drivers.
POINTS = [
    ("before commit of intents", 1),
    ("after intents", 1),
    ("after SENT", 1),
    ("after SENT", 2),
    ("after send", 1),
    ("after send", 3),
    ("before commit of ACKED", 1),
    ("after ACKED", 1),
    ("before commit of VERIFIED", 1),
]
UNSENT = {"before commit of intents", "after intents", "after SENT"}


@pytest.mark.parametrize(("point", "nth"), POINTS)
def test_invariant_05_a_push_killed_anywhere_loses_nothing_and_applies_nothing_twice(
    tmp_path, point, nth
):
    killed = subprocess.run(
        [sys.executable, str(Path(dispatch_fakes.__file__)), str(tmp_path), point, str(nth)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    at_boundary = "VERIFIED" in point or nth > 1
    bench = Bench(tmp_path, now=START + timedelta(seconds=20) if at_boundary else BEFORE)
    before = bench.applications()

    report = bench.push()

    assert set(bench.states().values()) == {"VERIFIED"} <= FINAL
    assert len(bench.states()) == len(bench.devices)
    assert bench.applications() == dict.fromkeys(bench.devices["device_id"], 1)
    assert report.not_verified.is_empty()
    if point in UNSENT and nth == 1:
        assert set(before.values()) == {0}
    for device_id in bench.devices["device_id"]:
        events = bench.events(device_id)
        assert events[0] == "PLANNED"
        assert events.count("PLANNED") == 1
        assert events.count("SENT") == 1 or "UNKNOWN" in events


def test_a_push_killed_after_its_interval_leaves_nothing_open(tmp_path):
    subprocess.run(
        [sys.executable, str(Path(dispatch_fakes.__file__)), str(tmp_path), "after SENT", "1"],
        timeout=60,
        check=False,
    )
    bench = Bench(tmp_path, now=START + timedelta(hours=1))
    bench.push()
    assert set(bench.states().values()) == {"EXPIRED"}
    assert set(bench.applications().values()) == {0}
