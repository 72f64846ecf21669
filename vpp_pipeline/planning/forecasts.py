"""The forecasts of a delivery day that a plan stands on, made from what was known at one moment.

Belongs here: asking each target's champion. Does not: what a model learns from, and its rivals
(`candidates`), any model (`forecasting`), storing what it says (`defs`).

Every function is of a runtime, a delivery day and a moment, reads nothing that was known later,
and stores nothing: the assets call them now, a replay calls them for any day gone by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpp_pipeline.planning.champions import from_champion

if TYPE_CHECKING:
    from datetime import date, datetime

    import polars as pl

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
