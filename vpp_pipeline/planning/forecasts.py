"""The forecasts of a delivery day that a plan stands on, made from what was known at one moment.

Belongs here: asking each target's champion. Does not: what a model learns from, and its rivals
(`candidates`), any model (`forecasting`), storing what it says (`defs`).

Every function is of a runtime, a delivery day and a moment, reads nothing that was known later,
and stores nothing: the assets call them now, a replay calls them for any day gone by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.forecasting.sessions import day_forecast
from vpp_pipeline.planning.champions import from_champion
from vpp_pipeline.settings import MARKET_TZ

if TYPE_CHECKING:
    from datetime import date, datetime

    from vpp_pipeline.runtime import Runtime


def load(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `Forecasts` of what every uncontrolled load will draw, every site and group."""
    return from_champion(runtime, "load", day, as_of)


def generation(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `Forecasts` of what PV and wind could inject, uncurtailed."""
    return from_champion(runtime, "generation", day, as_of)


def temperature(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `Forecasts` of the temperature at every site with a building to heat."""
    return from_champion(runtime, "temperature", day, as_of)


def price(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `Forecasts` of the market's price."""
    return from_champion(runtime, "price", day, as_of)


def sessions(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `SessionForecasts`: when vehicles will come and leave, what they will ask for."""
    return from_champion(runtime, "sessions", day, as_of)


def sessions_to_keep(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return `sessions` and a row a charger that says that its day was forecast."""
    chargers = runtime.known_devices(as_of).filter(pl.col("device_type") == "ev_charger")
    start, end = market_day.bounds(day, MARKET_TZ)
    return pl.concat(
        [
            sessions(runtime, day, as_of),
            day_forecast(chargers["device_id"], start, end, as_of),
        ]
    )
