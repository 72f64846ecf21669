"""A what-if is judged on what was measured, by the stores that its own devices have."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import polars as pl
import pytest
from settlement_days import (
    DAY,
    TOLD,
    TZ,
    battery,
    charger,
    fleet,
    heat_pump,
    prices,
    stay,
    told,
    washer,
    weather,
)

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.forecasting.schemas import Forecasts
from vpp_pipeline.planning.judged import happened_to
from vpp_pipeline.planning.variants import within_capacity
from vpp_pipeline.settlement.settle import Records

INTERVALS = day_intervals(DAY, TZ)
NOON = datetime(2020, 9, 10, 12, tzinfo=UTC)
NOTHING = pl.DataFrame()
REST = (charger(), heat_pump(), washer())
REAL = fleet(battery(), *REST)
VEHICLE = stay(NOON, NOON + timedelta(hours=3), 10.0, 20.0)
RECORDS = Records(
    telemetry=pl.concat(
        [
            pl.DataFrame(schema=TOLD),
            told("battery", power_kw=0.0, energy_kwh=8.0),
            told("charger", **VEHICLE),
            told("heat_pump", power_kw=-1.0, temperature_c=21.0),
            told("washer", power_kw=0.0, energy_kwh=0.0),
        ]
    ),
    prices=prices(),
    weather=weather(),
    forecasts=Forecasts.create_empty(),
    day_ahead=NOTHING,
    in_force=NOTHING,
    commands=NOTHING,
    outages=NOTHING,
)


def happened(*devices):
    return happened_to(fleet(*devices), REAL, RECORDS, INTERVALS)


def held(day, device_id):
    return day.start_kwh.filter(pl.col("device_id") == device_id)["energy_kwh"].item()


def stays_of(day, device_id):
    return day.stays.filter(pl.col("device_id") == device_id)


def test_a_room_is_as_warm_as_it_was_measured_whatever_comfort_is_asked_for():
    for changed in (heat_pump(comfort_min_c=18.0), heat_pump(thermal_capacity_kwh_per_k=9.0)):
        day = happened(battery(), charger(), changed, washer())
        assert held(day, "heat_pump") == pytest.approx(
            (21.0 - changed.comfort_min_c) * changed.thermal_capacity_kwh_per_k
        )


def test_a_load_is_judged_by_its_own_need_and_window():
    changed = washer(energy_kwh=5, earliest=time(0), latest=time(6))
    (window,) = stays_of(happened(battery(), charger(), heat_pump(), changed), "washer").to_dicts()
    assert (window["first_step"], window["end_step"]) == (0, 24)
    assert window["target_kwh"] == 5.0


def test_vehicles_come_and_go_as_they_did_in_every_variant():
    real = happened_to(REAL, REAL, RECORDS, INTERVALS)
    day = happened(battery(), charger(charge_efficiency=0.5), heat_pump(), washer())
    assert stays_of(day, "charger").equals(stays_of(real, "charger"))


def test_a_smaller_battery_is_full_where_the_real_one_held_more():
    assert held(happened(battery(energy_capacity_kwh=5), *REST), "battery") == 5.0
    assert held(happened(battery(energy_capacity_kwh=9), *REST), "battery") == 8.0
    assert held(happened(battery(energy_capacity_kwh=20), *REST), "battery") == 8.0


def test_what_the_real_battery_can_not_hold_stays_implausible():
    readings = pl.DataFrame({"device_id": ["battery", "washer"], "energy_kwh": [10.2, 99.0]})
    small = fleet(battery(energy_capacity_kwh=5), *REST)
    assert within_capacity(readings, REAL, small).equals(readings)
