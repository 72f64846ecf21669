"""Several processes on one warehouse: nobody fails, nobody sees half a write."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import duckdb
import pytest

from vpp_pipeline.warehouse.errors import WarehouseError
from vpp_pipeline.warehouse.store import Warehouse

BATCH = 10

WRITER = """
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
import polars as pl
from vpp_pipeline.warehouse.store import Warehouse
warehouse, until, writes = Warehouse(Path(sys.argv[1])), time.monotonic() + 1.5, 0
while time.monotonic() < until:
    with warehouse.write() as connection:
        for half in range(2):
            connection.append("weather", pl.DataFrame({
                "site_id": [f"{writes}-{half}-{n}" for n in range(5)],
                "interval_start": datetime(2025, 1, 1, tzinfo=UTC), "temperature_c": float(writes),
                "kind": "observed", "source": "test", "known_at": datetime(2025, 1, 1, tzinfo=UTC),
            }))
    writes += 1
print(json.dumps(writes))
"""

READER = """
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
from vpp_pipeline.warehouse.store import Warehouse
warehouse, until, seen = Warehouse(Path(sys.argv[1])), time.monotonic() + 1.5, []
day = {"start": datetime(2025, 1, 1, tzinfo=UTC), "end_": datetime(2025, 1, 2, tzinfo=UTC)}
while time.monotonic() < until:
    with warehouse.read() as connection:
        seen.append(connection.frame("warehouse_weather", as_of=day["end_"], **day).height)
print(json.dumps(seen))
"""


def test_a_writer_and_two_readers_work_at_once_and_every_read_is_whole(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for script in (WRITER, READER, READER)
    ]
    said = [process.communicate() for process in processes]

    assert [errors for _, errors in said] == ["", "", ""]
    writes, *reads = (json.loads(output) for output, _ in said)
    with duckdb.connect(tmp_path / "vpp.duckdb") as session:
        assert session.sql("SELECT count(*) FROM weather").fetchall() == [(writes * BATCH,)]
    for seen in reads:
        assert seen
        assert seen == sorted(seen)
        assert all(rows % BATCH == 0 for rows in seen)


_STRANGER = """
import sys, duckdb
session = duckdb.connect(sys.argv[1], read_only=True)
print("open", flush=True)
sys.stdin.readline()
"""


def _stranger(file):
    """A program that opens the file past our lock, as a person's DuckDB shell does."""
    process = subprocess.Popen(
        [sys.executable, "-c", _STRANGER, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "open\n"
    return process


def test_a_write_waits_for_a_program_that_opened_the_file_past_the_lock(tmp_path):
    warehouse = Warehouse(tmp_path)
    with warehouse.write():
        pass
    with _stranger(tmp_path / "vpp.duckdb") as stranger:
        farewell = threading.Timer(0.5, stranger.stdin.close)
        farewell.start()
        with warehouse.write() as connection:
            assert stranger.wait(timeout=60) == 0
            assert connection.frame("warehouse_tables").height > 0
        farewell.join()


def test_a_program_that_never_closes_the_file_is_named_in_the_error(tmp_path):
    warehouse = Warehouse(tmp_path, lock_timeout_s=0.3)
    with warehouse.write():
        pass
    with _stranger(tmp_path / "vpp.duckdb") as stranger:
        try:
            with (
                pytest.raises(WarehouseError, match="close any other program that has it open"),
                warehouse.write(),
            ):
                pass
        finally:
            stranger.stdin.close()
