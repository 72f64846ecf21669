"""What a plan expects of vehicles is the newest forecast of them, also where that expects nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.defs.forecasts import ev_forecast
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.fleet import document
from vpp_pipeline.fleet.model import (
    EvCharger,
    Fleet,
    GridConnection,
    SimulatedConnection,
    Site,
)
from vpp_pipeline.planning import forecasts
from vpp_pipeline.planning.champions import issued_sessions
from vpp_pipeline.planning.inputs import horizon_left
from vpp_pipeline.planning.outlook import stored_forecasts
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import Settings
from vpp_pipeline.warehouse.store import Warehouse

DAY = date(2022, 3, 16)
MIDNIGHT = datetime(2022, 3, 16, tzinfo=UTC)
BEFORE, AFTER = MIDNIGHT + timedelta(hours=10), MIDNIGHT + timedelta(hours=13, minutes=5)
CHARGER = EvCharger(
    device_id="charger", connection=SimulatedConnection(over="mqtt"), max_charge_kw=7.4
)
FLEET = Fleet(
    sites=(
        Site(
            site_id="home",
            latitude=52,
            longitude=13,
            grid=GridConnection(import_limit_kw=17, export_limit_kw=10),
            devices=(CHARGER,),
        ),
    )
)


def told() -> pl.DataFrame:
    """Every day a vehicle from 16:00 to 20:00; on the last one from 12:00 to 12:45 instead."""
    rows = []
    for quarter in range(-15 * 96, 13 * 4 + 1):
        at = MIDNIGHT + quarter * timedelta(minutes=15)
        hour = quarter % 96 / 4
        comes, leaves = (16, 20) if quarter < 0 else (12, 12.75)
        here = comes <= hour < leaves
        rows.append(
            {
                "device_id": "charger",
                "measured_at": at,
                "power_kw": -7.4 if here else 0.0,
                "energy_kwh": 30 + 6.8 * (hour - comes) if here else None,
                "plugged_in": here,
                "target_energy_kwh": 40.0 if here else None,
                "deadline": at + timedelta(hours=leaves - hour) if here else None,
                "status": "ok",
                "known_at": at + timedelta(minutes=1),
            }
        )
    return pl.DataFrame(rows, Telemetry.create_empty().schema)


@pytest.fixture
def runtime(tmp_path) -> Runtime:
    settings = Settings(tmp_path, tmp_path / "fleet.yaml", "recorded", "")
    runtime = Runtime(settings, ManualClock(BEFORE), Warehouse(settings.warehouse_dir))
    version = {
        "fleet_version": 1,
        "content_hash": document.content_hash(FLEET),
        "source": "test",
        "document": document.to_document(FLEET),
        "known_at": MIDNIGHT - timedelta(days=16),
    }
    with runtime.warehouse.write() as connection:
        connection.append("fleet_versions", pl.DataFrame([version]))
        connection.append("telemetry", told().cast({"status": pl.String}))
    return runtime


def forecast_at(runtime: Runtime, moment: datetime, day: date = DAY) -> Runtime:
    """Make the asset at a moment and return the runtime then."""
    then = replace(runtime, clock=ManualClock(moment))
    made = dg.materialize([ev_forecast], partition_key=str(day), resources={"runtime": then})
    assert made.success
    return then


def expected(runtime: Runtime, moment: datetime) -> pl.DataFrame:
    """What a plan of the rest of the day reads."""
    return stored_forecasts(runtime, horizon_left(runtime, DAY, moment), moment).sessions


def test_a_vehicle_that_is_expected_no_more_leaves_the_plan_as_it_leaves_a_replay(runtime):
    for moment, vehicles in ((BEFORE, 1), (AFTER, 0)):
        then = forecast_at(runtime, moment)
        said = forecasts.sessions(then, DAY, moment)
        assert said.height == vehicles
        assert_frame_equal(expected(then, moment), said)


def test_the_next_days_forecast_leaves_what_is_expected_today(runtime):
    then = forecast_at(runtime, BEFORE)
    forecast_at(runtime, BEFORE + timedelta(minutes=1), DAY + timedelta(days=1))
    assert expected(then, BEFORE + timedelta(minutes=1)).height == 1


def test_a_day_whose_last_forecast_expected_nobody_was_sold_on_nobody(runtime):
    closes = MIDNIGHT - timedelta(hours=13)
    then = forecast_at(runtime, closes - timedelta(hours=1))
    assert issued_sessions(then, DAY, BEFORE).height == 1
    kept = forecasts.sessions_to_keep(then, DAY, closes).filter(probability=0.0)
    with then.warehouse.write() as connection:
        connection.append("session_forecasts", kept)
    assert issued_sessions(then, DAY, BEFORE).is_empty()
