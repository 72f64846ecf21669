"""Who can answer what is forecast: each target's models, fed with what was known at one moment.

Belongs here: which rows each model learns from, and under which name it stands for election. Does
not: any model (`forecasting`), which of them a plan stands on (`forecasts`), storing what they
say (`defs`).

Every candidate is a function of a runtime, a delivery day and a moment, reads nothing that was
known later, and stores nothing. So a challenger can be asked after the day for what it would have
said before it, and the plan waits for none but the champion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.forecasting import groups, load_model, pv_model
from vpp_pipeline.forecasting.generation import generation_forecast
from vpp_pipeline.forecasting.load import load_forecast
from vpp_pipeline.forecasting.price_days import PRICE_MEMORY
from vpp_pipeline.forecasting.prices import lear_price_forecast, price_forecast
from vpp_pipeline.forecasting.rows import ended_by
from vpp_pipeline.forecasting.sessions import WEEKDAY, WEEKEND, session_forecast
from vpp_pipeline.forecasting.stays import past_sessions, words_and_outcomes
from vpp_pipeline.forecasting.temperature import temperature_forecast
from vpp_pipeline.planning.records import readings
from vpp_pipeline.planning.trained import load_model_at, pv_model_at, stay_model_at
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.telemetry_quality.parts import in_parts
from vpp_pipeline.telemetry_quality.repair import trusted
from vpp_pipeline.telemetry_quality.settings import QualitySettings
from vpp_pipeline.warehouse.quarter_hours import quarter_hours

HISTORY = timedelta(days=28)

Candidate = Callable[[Runtime, date, datetime], pl.DataFrame]
"""Returns `Forecasts` of a delivery day, or `SessionForecasts`, made from what was known at a moment."""


def load_like_all_loads(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return what uncontrolled loads, sites and groups will draw, by what all have taught."""
    members, loads, known = _load_inputs(runtime, as_of)
    model = load_model_at(known, as_of)
    told = load_model.issue(model, loads, known, _intervals(day), MARKET_TZ, as_of)
    return groups.told_apart(told, members)


def generation_like_all_plants(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return what PV and wind could inject, uncurtailed, by what all PV plants have taught."""
    devices, seen, known = _generation_inputs(runtime, day, as_of)
    model = pv_model_at(devices, known, seen, as_of)
    return pv_model.issue(model, devices, known, seen, _intervals(day), MARKET_TZ, as_of)


def load_like_recent_days(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return what uncontrolled loads, sites and groups will draw, from recent days of their kind."""
    members, loads, known = _load_inputs(runtime, as_of)
    told = load_forecast(loads, known, _intervals(day), MARKET_TZ, as_of)
    return groups.told_apart(told, members)


def generation_under_clear_sky(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return what PV and wind could inject, uncurtailed, from their ratio to the clear sky."""
    devices, seen, known = _generation_inputs(runtime, day, as_of)
    return generation_forecast(devices, known, seen, _intervals(day), as_of)


def temperature_like_recent_days(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the temperature at every site with a building to heat, as foretold or from habit."""
    heated = runtime.known_devices(as_of).filter(pl.col("device_type") == "heat_pump")
    sites = heated.select(pl.col("site_id").unique().sort())
    with runtime.warehouse.read() as connection:
        seen = connection.frame(
            "warehouse_temperatures",
            {"sites": sites},
            start=as_of - HISTORY,
            end_=market_day.bounds(day, MARKET_TZ)[1],
            as_of=as_of,
        )
    return temperature_forecast(sites["site_id"], seen, _intervals(day), MARKET_TZ, as_of)


def sessions_as_learned(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the sessions of vehicles; those under way end as such sessions have taught."""
    return _sessions_like(WEEKEND, runtime, day, as_of)


def sessions_by_weekday(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the sessions of vehicles, those to come as on the last days of the same name."""
    return _sessions_like(WEEKDAY, runtime, day, as_of)


def sessions_as_stated(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the sessions of vehicles; those under way end as the vehicles say."""
    start, end = market_day.bounds(day, MARKET_TZ)
    return session_forecast(told_by_chargers(runtime, as_of), start, end, MARKET_TZ, as_of)


def price_from_fundamentals(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the market's price from earlier prices, and the load and renewables forecast for it."""
    span = _price_span(day, as_of)
    with runtime.warehouse.read() as connection:
        known = connection.frame("warehouse_prices", market=MARKET, **span)
        told = connection.frame("warehouse_market_forecasts", market=MARKET, **span)
    return lear_price_forecast(known, told, _intervals(day), MARKET, MARKET_TZ, as_of)


def price_like_recent_days(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the market's price from recent days of its kind."""
    with runtime.warehouse.read() as connection:
        known = connection.frame("warehouse_prices", market=MARKET, **_price_span(day, as_of))
    return price_forecast(known, _intervals(day), MARKET, MARKET_TZ, as_of)


def history(runtime: Runtime, devices: pl.DataFrame, query: str, as_of: datetime) -> pl.DataFrame:
    """Return the quarter-hours of `devices` ended by `as_of`, what is doubted of them repaired.

    `query` is the named query that reads their readings.
    """
    told = readings(runtime, devices, query, as_of - HISTORY, as_of, as_of)
    settings = QualitySettings()

    def ended(part: pl.DataFrame) -> pl.DataFrame:
        return ended_by(quarter_hours(trusted(part, devices, settings)), as_of)

    return in_parts(told, ended)


def _sessions_like(day_type: pl.Expr, runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    told = told_by_chargers(runtime, as_of)
    ended = words_and_outcomes(past_sessions(told)).filter(~pl.col("ongoing"))
    learned = stay_model_at(ended, as_of)
    start, end = market_day.bounds(day, MARKET_TZ)
    return session_forecast(told, start, end, MARKET_TZ, as_of, learned, day_type=day_type)


def told_by_chargers(runtime: Runtime, as_of: datetime) -> pl.DataFrame:
    """Return the `history` of all chargers."""
    chargers = runtime.known_devices(as_of).filter(pl.col("device_type") == "ev_charger")
    return history(runtime, chargers, "warehouse_charger_readings", as_of)


def _load_inputs(
    runtime: Runtime, as_of: datetime
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return which loads make up which sum, loads and sums, and the history of both."""
    loads = runtime.known_devices(as_of).filter(pl.col("device_type") == "load")
    members = groups.members(loads)
    known = history(runtime, loads, "warehouse_power_readings", as_of)
    return members, *groups.with_sums(loads, known, members)


def _generation_inputs(
    runtime: Runtime, day: date, as_of: datetime
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return PV and wind, the irradiance seen and foretold at their sites, and their history."""
    devices = runtime.known_devices(as_of).filter(
        pl.col("device_type").cast(pl.String).is_in(["pv", "wind"])
    )
    with runtime.warehouse.read() as connection:
        seen = connection.frame(
            "warehouse_irradiance",
            start=as_of - HISTORY,
            end_=market_day.bounds(day, MARKET_TZ)[1],
            as_of=as_of,
        )
    return devices, seen, history(runtime, devices, "warehouse_power_readings", as_of)


def _intervals(day: date) -> pl.Series:
    return market_day.day_intervals(day, MARKET_TZ)


def _price_span(day: date, as_of: datetime) -> dict[str, Any]:
    return {
        "start": as_of - PRICE_MEMORY,
        "end_": market_day.bounds(day, MARKET_TZ)[1],
        "as_of": as_of,
    }


CANDIDATES: Mapping[str, Mapping[str, Candidate]] = {
    "load": {"global": load_like_all_loads, "similar-day": load_like_recent_days},
    "generation": {
        "clear-sky": generation_under_clear_sky,
        "global-sun": generation_like_all_plants,
    },
    "temperature": {"similar-day": temperature_like_recent_days},
    "price": {"lear": price_from_fundamentals, "similar-day": price_like_recent_days},
    "sessions": {
        "learned": sessions_as_learned,
        "stated": sessions_as_stated,
        "weekday": sessions_by_weekday,
    },
}
"""By target; the first one answers until there is evidence for another (`champions`)."""
