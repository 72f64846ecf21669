"""Two processes that push one interval at the same time."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dispatch_fakes
import pytest
from dispatch_fakes import START, Bench

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from dispatch_fakes import Bench

def slow(driver):
    deliver = driver.command
    async def command(commands, now, timeout_s, tell):
        print("sending", flush=True)
        await asyncio.sleep(float(sys.argv[3]))
        return await deliver(commands, now, timeout_s, tell)
    driver.command = command

bench = Bench(Path(sys.argv[2]))
for protocol in ("mqtt", "http"):
    slow(bench.drivers[protocol])
print("ready", flush=True)
sys.stdin.readline()
bench.push()
"""


def test_invariant_05_of_two_processes_that_push_one_interval_one_claims_each_command(tmp_path):
    bench = Bench(tmp_path)
    with _run(tmp_path, delay_s=2) as first, _run(tmp_path, delay_s=0) as second:
        _await(first, "ready")
        _await(second, "ready")
        _go(first)
        _await(first, "sending")
        _go(second)
        ends = [run.communicate(timeout=60) for run in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], ends
    assert bench.applications() == dict.fromkeys(bench.devices["device_id"], 1)
    assert set(bench.states().values()) == {"VERIFIED"}
    for device_id in bench.devices["device_id"]:
        history = bench.ledger.history(device_id, START + timedelta(minutes=10))
        assert history["state"].to_list() == ["PLANNED", "SENT", "ACKED", "VERIFIED"]
        assert history["fence"].drop_nulls().to_list() == [1]


@contextmanager
def _run(home: Path, delay_s: float) -> Iterator[subprocess.Popen]:
    folder = str(Path(dispatch_fakes.__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", RUN, folder, str(home), str(delay_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            yield run
        finally:
            run.kill()


def _await(run: subprocess.Popen, word: str) -> None:
    if run.stdout.readline() != f"{word}\n":
        pytest.fail(run.stderr.read())


def _go(run: subprocess.Popen) -> None:
    run.stdin.write("go\n")
    run.stdin.flush()
