"""The forecasts of a delivery day, made from what was known at one moment.

Belongs here: which rows each model learns from, and which model answers. Does not: any model
(`forecasting`), storing what it says (`defs`).

Every function is of a runtime, a delivery day and a moment, reads nothing that was known later,
and stores nothing: the assets call them now, a replay calls them for any day gone by.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.forecasting.generation import generation_forecast
from vpp_pipeline.forecasting.load import load_forecast
from vpp_pipeline.forecasting.price_days import PRICE_MEMORY
from vpp_pipeline.forecasting.prices import lear_price_forecast
from vpp_pipeline.forecasting.sessions import session_forecast
from vpp_pipeline.forecasting.temperature import temperature_forecast
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.telemetry_quality.repair import trusted
from vpp_pipeline.telemetry_quality.settings import QualitySettings
from vpp_pipeline.warehouse.quarter_hours import quarter_hours

if TYPE_CHECKING:
    from datetime import date, datetime

    from vpp_pipeline.runtime import Runtime

HISTORY = timedelta(days=28)


def load(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `Forecasts` of what every uncontrolled load will draw."""
    loads = runtime.devices(as_of).filter(pl.col("device_type") == "load")
    return load_forecast(
        loads,
        history(runtime, loads, "warehouse_power_readings", as_of),
        _intervals(day),
        MARKET_TZ,
        as_of,
    )


def generation(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `Forecasts` of what PV and wind could inject, uncurtailed."""
    devices = runtime.devices(as_of).filter(
        pl.col("device_type").cast(pl.String).is_in(["pv", "wind"])
    )
    with runtime.warehouse.read() as connection:
        seen = connection.frame(
            "warehouse_irradiance", start=as_of - HISTORY, end_=as_of, as_of=as_of
        )
    return generation_forecast(
        devices,
        history(runtime, devices, "warehouse_power_readings", as_of),
        seen,
        _intervals(day),
        as_of,
    )


def temperature(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `Forecasts` of the temperature at every site with a building to heat."""
    heated = runtime.devices(as_of).filter(pl.col("device_type") == "heat_pump")
    sites = heated.select(pl.col("site_id").unique().sort())
    with runtime.warehouse.read() as connection:
        seen = connection.frame(
            "warehouse_temperatures",
            {"sites": sites},
            start=as_of - HISTORY,
            end_=as_of,
            as_of=as_of,
        )
    return temperature_forecast(sites["site_id"], seen, _intervals(day), MARKET_TZ, as_of)


def sessions(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `SessionForecasts`: when vehicles will come and leave, what they will ask for."""
    chargers = runtime.devices(as_of).filter(pl.col("device_type") == "ev_charger")
    return session_forecast(
        history(runtime, chargers, "warehouse_readings", as_of),
        *market_day.bounds(day, MARKET_TZ),
        MARKET_TZ,
        as_of,
    )


def price(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `Forecasts` of the market's price."""
    _, end = market_day.bounds(day, MARKET_TZ)
    span: dict[str, Any] = {"start": as_of - PRICE_MEMORY, "end_": end, "as_of": as_of}
    with runtime.warehouse.read() as connection:
        known = connection.frame("warehouse_prices", market=MARKET, **span)
        told = connection.frame("warehouse_market_forecasts", market=MARKET, **span)
    return lear_price_forecast(known, told, _intervals(day), MARKET, MARKET_TZ, as_of)


def history(runtime: Runtime, devices: pl.DataFrame, query: str, as_of: datetime) -> pl.DataFrame:
    """Return the quarter-hours of `devices` before `as_of`, what is doubted of them repaired.

    `query` is the named query that reads their readings.
    """
    with runtime.warehouse.read() as connection:
        readings = connection.frame(
            query,
            {"devices": devices.select("device_id")},
            start=as_of - HISTORY,
            end_=as_of,
            as_of=as_of,
        )
    return quarter_hours(trusted(readings, devices, QualitySettings()))


def _intervals(day: date) -> pl.Series:
    return market_day.day_intervals(day, MARKET_TZ)
