import multiprocessing
import signal
from datetime import timedelta

import pytest
from dispatch_fakes import BEFORE, START, Bench, push_until_killed

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

PROCESSES = multiprocessing.get_context("forkserver")  # each a fork of one that has imported this:
PROCESSES.set_forkserver_preload(["vpp_pipeline.dispatch.push", "vpp_pipeline.dispatch.recheck"])


def killed_push(directory, point, nth, now=BEFORE):
    process = PROCESSES.Process(target=push_until_killed, args=(directory, point, nth, now))
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize(("point", "nth"), POINTS)
def test_invariant_05_a_push_killed_anywhere_loses_nothing_and_applies_nothing_twice(
    tmp_path, point, nth
):
    assert killed_push(tmp_path, point, nth) == -signal.SIGKILL
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


@pytest.mark.parametrize(
    ("point", "nth"),
    [
        ("before commit of intents", 1),
        ("after intents", 1),
        ("after send", 1),
        ("before commit of ACKED", 1),
    ],
)
def test_invariant_05_nor_does_one_that_claims_all_with_its_intents(tmp_path, point, nth):
    assert killed_push(tmp_path, point, nth, START) == -signal.SIGKILL
    bench = Bench(tmp_path, now=START + timedelta(seconds=20))
    claimed = "intents" not in point or point.startswith("after")
    assert set(bench.states().values()) == ({"SENT"} if claimed else set())
    before = bench.applications()

    assert bench.push().not_verified.is_empty()
    assert bench.applications() == dict.fromkeys(bench.devices["device_id"], 1)
    if "intents" in point:
        assert set(before.values()) == {0}


def test_a_push_killed_after_its_interval_leaves_nothing_open(tmp_path):
    assert killed_push(tmp_path, "after SENT", 1) == -signal.SIGKILL
    bench = Bench(tmp_path, now=START + timedelta(hours=1))
    bench.push()
    assert set(bench.states().values()) == {"EXPIRED"}
    assert set(bench.applications().values()) == {0}
