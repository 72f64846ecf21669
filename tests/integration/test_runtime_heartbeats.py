"""Dispatch is told of a heartbeat that stands still, wherever its readings are kept."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import Settings
from vpp_pipeline.warehouse import landing
from vpp_pipeline.warehouse.store import Warehouse

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
AGES = (14, 8, 4, 1)


@pytest.fixture(scope="module")
def new_warehouse(tmp_path_factory):
    """A migrated warehouse to copy."""
    directory = tmp_path_factory.mktemp("new")
    with Warehouse(directory).read():
        return directory / "vpp.duckdb"


@pytest.fixture
def runtime(new_warehouse, tmp_path) -> Runtime:
    settings = Settings(tmp_path, tmp_path / "fleet.yaml", "recorded", "")
    settings.warehouse_dir.mkdir()
    shutil.copy(new_warehouse, settings.warehouse_dir)
    return Runtime(settings, ManualClock(NOW), Warehouse(settings.warehouse_dir))


def readings(beats: dict[str, list[int | None]], ages: tuple[int, ...]) -> pl.DataFrame:
    rows = [
        {
            "device_id": name,
            "measured_at": NOW - age * MINUTE,
            "heartbeat": values[AGES.index(age)],
            "power_kw": 1.0,
            "status": "ok",
            "known_at": NOW - age * MINUTE,
        }
        for name, values in beats.items()
        for age in ages
    ]
    return pl.DataFrame(rows, schema=Telemetry.create_empty().schema)


BEATS: dict[str, list[int | None]] = {
    "frozen": [7, 7, 7, 7],
    "moving": [1, 2, 3, 4],
    "moved-lately": [6, 6, 7, 7],
    "silent": [None, None, None, None],
}


@pytest.mark.parametrize("stored", [(), (14,), (14, 8), (14, 8, 4), AGES])
def test_invariant_15_a_frozen_heartbeat_is_known_by_its_first_reading(runtime, stored):
    landed = readings(BEATS, tuple(age for age in AGES if age not in stored))
    if not landed.is_empty():
        landing.land(runtime.settings.landing_dir, "telemetry", landed, NOW)
    with runtime.warehouse.write() as connection:
        connection.append("telemetry", readings(BEATS, stored))
    states = runtime.dispatch_telemetry(NOW)
    beat = pl.col("heartbeat")
    still = states.group_by("device_id").agg(
        since=pl.col("measured_at").filter(beat == beat.last()).min(),
        power_kw=pl.col("power_kw").last(),
    )
    ages = {name: since and (NOW - since) // MINUTE for name, since, _ in still.rows()}
    assert ages == {"frozen": 14, "moving": 1, "moved-lately": 4, "silent": None}
    assert still["power_kw"].to_list() == [1.0] * 4
    assert set(states.columns) == set(Telemetry.column_names())
