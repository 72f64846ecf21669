"""What happened is read from telemetry alone."""

from __future__ import annotations

from datetime import date, time, timedelta

import polars as pl
import pytest
from settlement_days import (
    DAY,
    TZ,
    actual,
    battery,
    charger,
    fleet,
    heat_pump,
    load,
    pv,
    stay,
    told,
    washer,
)

from vpp_pipeline.delivery_day import bounds
from vpp_pipeline.forecasting.schemas import Forecasts

START, END = bounds(DAY, TZ)
HOUR = timedelta(hours=1)


def guess(subject_id: str, target: str, value: float) -> pl.DataFrame:
    frame = told(subject_id).select(
        target=pl.lit(target),
        subject_id="device_id",
        interval_start="interval_start",
        p10=pl.lit(value),
        p50=pl.lit(value),
        p90=pl.lit(value),
        model=pl.lit("clear-sky"),
        known_at=pl.lit(START),
    )
    return Forecasts.validate(frame, cast=True)


def test_a_stay_begins_with_what_was_there_before_its_charge():
    arrival, departure = START + 10 * HOUR, START + 18 * HOUR
    rows = told("charger", **stay(arrival, departure, 20.0, 30.0))
    row = actual(fleet(charger()), rows).stays.row(0, named=True)
    assert (row["first_step"], row["end_step"]) == (40, 72)
    assert row["initial_kwh"] == pytest.approx(20.0)
    assert row["target_kwh"] == 30.0
    assert row["leaves"]
    assert not row["was_there"]


def test_a_vehicle_that_came_before_the_day_begins_it_with_what_it_held_then():
    arrival, departure = START - HOUR, START + 8 * HOUR
    rows = told("charger", **stay(arrival, departure, 20.0, 40.0))
    row = actual(fleet(charger()), rows).stays.row(0, named=True)
    assert row["was_there"]
    assert row["initial_kwh"] == pytest.approx(28.0)
    assert (row["first_step"], row["end_step"]) == (0, 32)


def test_a_vehicle_that_is_still_there_stays_until_its_deadline_beyond_the_day():
    rows = told("charger", **stay(START + 20 * HOUR, END + 7 * HOUR, 20.0, 40.0))
    row = actual(fleet(charger()), rows).stays.row(0, named=True)
    assert not row["leaves"]
    assert row["end_step"] == 96
    assert row["departure"] == END + 7 * HOUR


def test_a_charge_told_only_by_its_power_belongs_to_the_stay():
    arrival, departure = START + 10 * HOUR, START + 18 * HOUR
    rows = told("charger", **stay(arrival, departure, 20.0, 30.0))
    before = pl.col("interval_start") == arrival - timedelta(minutes=15)
    rows = rows.with_columns(pl.when(before).then(-4.0).otherwise("power_kw").alias("power_kw"))
    row = actual(fleet(charger()), rows).stays.row(0, named=True)
    assert row["first_step"] == 39
    assert row["initial_kwh"] == pytest.approx(20.0 - 4.0 * 0.25 * 0.8)


def test_curtailed_sun_counts_as_what_it_could_have_given():
    rows = told("pv", power_kw=1.0, available_power_kw=3.0)
    assert set(actual(fleet(pv()), rows).profiles["available_kw"]) == {3.0}


def test_sun_held_at_its_limit_counts_as_forecast_and_free_sun_as_measured():
    limit = pl.when(pl.col("interval_start") < START + 12 * HOUR).then(1.0)
    rows = told("pv", power_kw=1.0, setpoint_kw=limit)
    profiles = actual(fleet(pv()), rows, forecasts=guess("pv", "pv", 2.5)).profiles
    assert profiles.sort("interval_start")["available_kw"].to_list() == [2.5] * 48 + [1.0] * 48


def test_a_load_that_nobody_measured_counts_as_forecast():
    rows = told("load", power_kw=-1.5).filter(pl.col("interval_start") < START + 12 * HOUR)
    profiles = actual(fleet(load()), rows, forecasts=guess("load", "load", -0.5)).profiles
    assert profiles.sort("interval_start")["available_kw"].to_list() == [-1.5] * 48 + [-0.5] * 48


def test_stores_begin_with_what_they_last_told_before_the_day():
    before = pl.col("interval_start") < START
    day = actual(
        fleet(battery(), heat_pump()),
        told("battery", energy_kwh=pl.when(before).then(4.0).otherwise(9.0)),
        told("heat_pump", temperature_c=pl.when(before).then(21.0).otherwise(22.0)),
    )
    assert dict(day.start_kwh.rows()) == {"battery": 4.0, "heat_pump": 4.0}


def test_a_window_across_midnight_begins_the_day_with_what_was_drawn_for_it():
    night = washer(energy_kwh=8, earliest=time(22), latest=time(6))
    ends = START + 6 * HOUR
    drawing = pl.col("interval_start").is_between(START - HOUR, START + HOUR, closed="left")
    rows = told(
        "washer",
        power_kw=pl.when(drawing).then(-2.0).otherwise(0.0),
        deadline=pl.when(pl.col("interval_start") < ends).then(
            pl.lit(ends, pl.Datetime("us", "UTC"))
        ),
    )
    stays = actual(fleet(night), rows).stays.sort("first_step")
    assert stays.select("first_step", "end_step", "initial_kwh", "leaves", "was_there").rows() == [
        (0, 24, 2.0, True, True),
        (88, 96, 0.0, False, False),
    ]


@pytest.mark.parametrize(
    ("day", "steps"), [(date(2020, 3, 29), 92), (DAY, 96), (date(2020, 10, 25), 100)]
)
def test_a_day_has_as_many_quarter_hours_as_the_clock_gives_it(day, steps):
    actuals = actual(fleet(load(), washer()), told("load", day, power_kw=-1.0), day=day)
    assert actuals.profiles.height == steps
    window = actuals.stays.row(0, named=True)
    assert window["end_step"] - window["first_step"] == 48
    assert window["end_step"] == steps - 16
