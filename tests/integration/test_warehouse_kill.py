"""Whatever moment it is killed at, compaction loses no row and doubles none."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl
import pytest

from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.warehouse import landing
from vpp_pipeline.warehouse.store import Warehouse

T0 = datetime(2025, 3, 30, tzinfo=UTC)
FILES = 6
ROWS = 5_000

# Compacts, and dies just before the given call of the given function; or when it is killed.
VICTIM = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.warehouse import landing, store
root, function, countdown = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def dying(original):
    def call(*arguments, **named):
        global countdown
        countdown -= 1
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)
    return call

for owner in (store.Connection, Path):
    if hasattr(owner, function):
        setattr(owner, function, dying(getattr(owner, function)))
print("ready", flush=True)
landing.compact(store.Warehouse(root / "warehouse"), root / "landing", "telemetry", Telemetry,
                "telemetry", datetime(2025, 3, 31, tzinfo=UTC))
"""


def fill(root) -> set[str]:
    """Land good files, one with a bad row and one that can't be read; return their names."""
    names = set()
    for number in range(FILES):
        readings = pl.DataFrame({"heartbeat": range(ROWS)}, {"heartbeat": pl.Int64}).select(
            pl.lit(None, dtype).alias(name)
            if name not in {"device_id", "measured_at", "heartbeat", "status", "known_at"}
            else {
                "device_id": pl.lit(f"device-{number}"),
                "measured_at": pl.lit(T0).cast(dtype),
                "heartbeat": pl.col("heartbeat"),
                "status": pl.lit("asleep" if number == 1 else "ok"),
                "known_at": pl.lit(T0).cast(dtype),
            }[name].alias(name)
            for name, dtype in Telemetry.create_empty().schema.items()
        )
        path = landing.land(root / "landing", "telemetry", readings, T0 + timedelta(seconds=number))
        names.add(path.name)
    broken = landing.land(root / "landing", "telemetry", pl.DataFrame({"x": [1]}), T0)
    return names | {broken.name}


def restart(root) -> None:
    landing.compact(
        Warehouse(root / "warehouse", lock_timeout_s=5),
        root / "landing",
        "telemetry",
        Telemetry,
        "telemetry",
        T0,
    )


def assert_nothing_lost_or_doubled(root, names: set[str]) -> None:
    good = (FILES - 1) * ROWS
    with duckdb.connect(root / "warehouse" / "vpp.duckdb") as session:
        assert session.sql(
            "SELECT count(*), count(DISTINCT (device_id, heartbeat)) FROM telemetry"
        ).fetchall() == [(good, good)]
        assert session.sql(
            "SELECT count(*), count(DISTINCT (source, row_number)) FROM quarantine"
        ).fetchall() == [(ROWS + 1, ROWS + 1)]
        assert {
            name for (name,) in session.sql("SELECT file_name FROM landed_files").fetchall()
        } == names
    assert list((root / "landing" / "telemetry").iterdir()) == []
    assert len(list((root / "landing" / "rejected").iterdir())) == 1


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("replace", 1),  # before the new database takes its place
        ("append", 1),
        ("append", 3),  # all but the ledger of files is written
        ("replace", 2),  # committed; before the unreadable file is moved
        ("unlink", 3),  # committed; before the first file is removed (two were leftovers)
        ("unlink", 5),
    ],
)
def test_a_compaction_killed_between_two_steps_is_made_good_by_the_next(tmp_path, function, call):
    names = fill(tmp_path)

    victim = subprocess.run(
        [sys.executable, "-c", VICTIM, tmp_path, function, str(call)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert victim.returncode == -9, victim.stderr
    restart(tmp_path)
    assert_nothing_lost_or_doubled(tmp_path, names)


@pytest.mark.parametrize("seed", range(4))
def test_a_compaction_killed_at_any_moment_is_made_good_by_the_next(tmp_path, seed):
    names = fill(tmp_path)

    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, tmp_path, "none", "0"], stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        time.sleep(random.Random(seed).uniform(0.0, 0.3))
        victim.kill()

    restart(tmp_path)
    assert_nothing_lost_or_doubled(tmp_path, names)
