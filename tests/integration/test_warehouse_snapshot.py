"""A published copy: whole, current, and in nobody's way."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import duckdb
import polars as pl
import pytest

from vpp_pipeline.warehouse.errors import WarehouseError
from vpp_pipeline.warehouse.snapshot import publish
from vpp_pipeline.warehouse.store import Warehouse

T0 = datetime(2025, 3, 30, tzinfo=UTC)


def release(warehouse: Warehouse, plan: str) -> None:
    with warehouse.write() as connection:
        connection.append("plan_releases", pl.DataFrame({"plan_id": [plan], "released_at": [T0]}))


def plans(session: duckdb.DuckDBPyConnection) -> list[str]:
    return [
        plan for (plan,) in session.sql("SELECT plan_id FROM plan_releases ORDER BY 1").fetchall()
    ]


def published(target) -> list[str]:
    with duckdb.connect(target, read_only=True) as session:
        return plans(session)


def test_a_snapshot_holds_every_commit_and_its_reader_never_blocks_the_writer(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse", lock_timeout_s=0.05)
    target = tmp_path / "public" / "vpp.duckdb"
    release(warehouse, "a")
    publish(warehouse, target)

    with duckdb.connect(target, read_only=True) as reader:
        release(warehouse, "b")
        publish(warehouse, target)
        assert plans(reader) == ["a"]

    assert published(target) == ["a", "b"]
    assert [path.name for path in target.parent.iterdir()] == ["vpp.duckdb"]


def test_a_snapshot_holds_what_a_killed_writer_had_committed(tmp_path):
    warehouse = Warehouse(tmp_path)
    release(warehouse, "a")
    script = """
import duckdb, os, signal, sys
session = duckdb.connect(sys.argv[1])
session.execute("INSERT INTO plan_releases VALUES ('b', now())")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script, tmp_path / "vpp.duckdb"], check=False)
    assert (tmp_path / "vpp.duckdb.wal").exists()

    publish(warehouse, tmp_path / "snapshot.duckdb")

    assert published(tmp_path / "snapshot.duckdb") == ["a", "b"]


def test_a_warehouse_never_used_is_published_empty(tmp_path):
    publish(Warehouse(tmp_path / "warehouse"), tmp_path / "snapshot.duckdb")

    assert published(tmp_path / "snapshot.duckdb") == []


def test_a_snapshot_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    warehouse = Warehouse(tmp_path / "warehouse")
    target = tmp_path / "snapshot.duckdb"
    release(warehouse, "a")
    publish(warehouse, target)
    release(warehouse, "b")

    def full(source, copy):
        copy.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(WarehouseError, match=r"No space left.*the last snapshot stays"):
        publish(warehouse, target)

    assert published(target) == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshot.duckdb", "warehouse"]
