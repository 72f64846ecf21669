"""`vpp up` as a person runs it: it comes to life unasked, stops clean, and goes on where it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import psutil
import pytest
import requests

from vpp_pipeline.warehouse.store import Warehouse

if TYPE_CHECKING:
    from pathlib import Path

SPEED = 30  # so that a run has half a minute to start and be through within its quarter-hour
PATIENCE_S = 400.0


@contextmanager
def _running(home: Path, port: int):
    """Run `vpp up` and stop it as Ctrl-C does; every process it had must be gone then."""
    with (home / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "vpp_pipeline.cli",
                "up",
                "--home",
                str(home),
                "--port",
                str(port),
                "--speed",
                str(SPEED),
            ],
            env={"PATH": "/usr/bin:/bin:/usr/sbin", "DAGSTER_HOME": str(home / "dagster")},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield process
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE_S) == 0, (home / "up.log").read_text()
        assert [left for left in family if left.is_running()] == []
    finally:
        if process.poll() is None:
            for left in [*psutil.Process(process.pid).children(recursive=True), process]:
                left.kill()
            process.wait()


def _until(process: subprocess.Popen, what: str, found) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert process.poll() is None, f"vpp up ended while waiting for {what}"
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE_S:.0f} s"
        time.sleep(1.0)


def _ui_answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/server_info", timeout=2).ok
    except (requests.ConnectionError, requests.Timeout):
        return False


def _verified(warehouse: Warehouse) -> int:
    first, last = datetime(2020, 9, 1).astimezone(), datetime(2020, 10, 1).astimezone()
    with warehouse.read() as connection:
        counts = connection.frame("defs_command_counts", start=first, end_=last)
    return dict(counts.iter_rows()).get("VERIFIED", 0)


@pytest.mark.timeout(900)
def test_a_live_plant_dispatches_unasked_stops_clean_and_goes_on_where_it_was(tmp_path, free_port):
    warehouse = Warehouse(tmp_path / "warehouse")
    with _running(tmp_path, free_port) as process:
        _until(process, "user interface", lambda: _ui_answers(free_port))
        _until(process, "verified dispatch", lambda: _verified(warehouse) > 0)
    stood_at = json.loads((tmp_path / "clock.json").read_text())["stood_at"]
    before = _verified(warehouse)
    with _running(tmp_path, free_port) as process:
        _until(process, "dispatch after the restart", lambda: _verified(warehouse) > before)
        assert json.loads((tmp_path / "clock.json").read_text())["start"] == stood_at
