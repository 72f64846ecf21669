"""A small fleet and its telemetry that the tests of settlement are built from.

Belongs here: making inputs. Does not: any promise.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import cache

import polars as pl

from vpp_pipeline.delivery_day import day_intervals, intervals
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    Battery,
    Chp,
    EvCharger,
    Fleet,
    FlexibleLoad,
    GridConnection,
    HeatPump,
    Load,
    PvInverter,
    SimulatedConnection,
    Site,
)
from vpp_pipeline.forecasting.schemas import Forecasts
from vpp_pipeline.markets.schemas import Weather
from vpp_pipeline.settlement.actuals import actual_day

TZ = "Europe/Berlin"
DAY = date(2020, 9, 10)
_BY = {"connection": SimulatedConnection(over="http")}
_UTC = pl.Datetime("us", "UTC")
TOLD = {
    "device_id": pl.String,
    "interval_start": _UTC,
    "power_kw": pl.Float64,
    "energy_kwh": pl.Float64,
    "temperature_c": pl.Float64,
    "plugged_in": pl.Boolean,
    "target_energy_kwh": pl.Float64,
    "deadline": _UTC,
    "available_power_kw": pl.Float64,
    "setpoint_kw": pl.Float64,
}


def battery(**given):
    ratings = {"max_charge_kw": 4, "max_discharge_kw": 4, "energy_capacity_kwh": 10}
    return Battery(device_id="battery", **_BY, **(ratings | given))


def charger(**given):
    return EvCharger(
        device_id="charger", **_BY, **({"max_charge_kw": 10, "charge_efficiency": 0.8} | given)
    )


def heat_pump(**given):
    return HeatPump(device_id="heat_pump", **_BY, **({"rated_power_kw": 3} | given))


def washer(**given):
    needs = {"rated_power_kw": 2, "energy_kwh": 3, "earliest": time(8), "latest": time(20)}
    return FlexibleLoad(device_id="washer", **_BY, **(needs | given))


def pv():
    return PvInverter(device_id="pv", **_BY, rated_power_kw=5)


def load():
    return Load(device_id="load", **_BY, max_power_kw=10)


def chp():
    return Chp(device_id="chp", **_BY, rated_power_kw=20, min_power_kw=5)


@cache
def fleet(*devices):
    grid = GridConnection(import_limit_kw=100, export_limit_kw=100)
    site = Site(site_id="site", latitude=50, longitude=8, grid=grid, devices=devices)
    return device_frame(Fleet(sites=(site,)))


def told(device_id: str, day: date = DAY, **columns) -> pl.DataFrame:
    """A device's quarter-hours from the day before to the day's end; columns are expressions."""
    asked = day_intervals(day, TZ)
    start = asked[0] - timedelta(days=1)
    frame = intervals(start, asked[-1] + timedelta(minutes=15)).to_frame()
    known = frame.select(
        "interval_start",
        device_id=pl.lit(device_id),
        **{
            name: value if isinstance(value, pl.Expr) else pl.lit(value)
            for name, value in columns.items()
        },
    )
    empty = pl.DataFrame(schema=TOLD)
    return pl.concat([empty, known], how="diagonal_relaxed").cast(TOLD)


def stay(arrival: datetime, departure: datetime, first_kwh: float, target_kwh: float) -> dict:
    """A vehicle's columns: charging at 10 kW (8 kW into the vehicle) from arrival to target."""
    there = pl.col("interval_start").is_between(arrival, departure, closed="left")
    quarters = (pl.col("interval_start") - arrival).dt.total_minutes() / 15
    begins, ends = (
        pl.min_horizontal(first_kwh + n * 2.0, pl.lit(target_kwh)) for n in (quarters, quarters + 1)
    )
    return {
        "plugged_in": there,
        "energy_kwh": pl.when(there).then(ends),
        "target_energy_kwh": pl.when(there).then(target_kwh),
        "deadline": pl.when(there).then(pl.lit(departure, _UTC)),
        "power_kw": pl.when(there).then((begins - ends) / 0.2).otherwise(0.0),
    }


def prices(day: date = DAY, price: float | pl.Expr = 50.0) -> pl.DataFrame:
    value = price if isinstance(price, pl.Expr) else pl.lit(price)
    return day_intervals(day, TZ).to_frame().with_columns(price_eur_per_mwh=value)


def weather(temperature_c: float = 5.0, day: date = DAY) -> pl.DataFrame:
    return Weather.validate(
        day_intervals(day, TZ)
        .to_frame()
        .with_columns(
            site_id=pl.lit("site"),
            temperature_c=pl.lit(temperature_c),
            ghi_w_per_m2=pl.lit(None, pl.Float64),
            kind=pl.lit("observed"),
            source=pl.lit("test"),
            known_at=pl.col("interval_start"),
        )
        .select(Weather.column_names()),
        cast=True,
    )


def actual(devices, *telemetry, day: date = DAY, price: float | pl.Expr = 50.0, forecasts=None):
    return actual_day(
        devices,
        pl.concat([pl.DataFrame(schema=TOLD), *telemetry]),
        prices(day, price),
        weather(day=day),
        Forecasts.create_empty() if forecasts is None else forecasts,
        intervals=day_intervals(day, TZ),
    )
