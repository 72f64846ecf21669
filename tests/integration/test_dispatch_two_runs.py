"""Two processes that push one interval at the same time."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import dispatch_fakes
from dispatch_fakes import START, Bench

RUN = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from dispatch_fakes import Bench

def slow(driver):
    deliver = driver.command
    async def command(commands, now, timeout_s):
        print("sending", flush=True)
        await asyncio.sleep(float(sys.argv[3]))
        return await deliver(commands, now, timeout_s)
    driver.command = command

bench = Bench(Path(sys.argv[2]))
for driver in bench.drivers.values():
    slow(driver)
print("ready", flush=True)
sys.stdin.readline()
bench.push()
"""


def test_invariant_05_of_two_processes_that_push_one_interval_one_claims_each_command(tmp_path):
    bench = Bench(tmp_path)
    folder = str(Path(dispatch_fakes.__file__).parent)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, folder, str(tmp_path), delay_s],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for delay_s in ("2.5", "0")
    ]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    first, second = runs
    _go(first)
    assert first.stdout.readline() == "sending\n"
    _go(second)
    ends = [run.communicate(timeout=60) for run in runs]

    assert [run.returncode for run in runs] == [0, 0], ends
    assert bench.applications() == dict.fromkeys(bench.devices["device_id"], 1)
    assert set(bench.states().values()) == {"VERIFIED"}
    for device_id in bench.devices["device_id"]:
        history = bench.ledger.history(device_id, START + timedelta(minutes=10))
        assert history["state"].to_list().count("SENT") == 1
        assert history["state"].to_list().count("PLANNED") == 1


def _go(run: subprocess.Popen) -> None:
    run.stdin.write("go\n")
    run.stdin.flush()
