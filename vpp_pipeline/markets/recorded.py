"""The recorded data that the package ships: real measurements on one calendar window.

Belongs here: reading the shipped frames in the pipeline's units and instants. Does not: where
each series comes from, its licence and what was shifted (`recorded/SOURCES.md`), feeds from
outside, and what is made of the data (`simulation`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.markets.schemas import MarketForecasts, Prices

if TYPE_CHECKING:
    import dataframely as dy

MARKET = "DE-LU"
MARKET_TZ = "Europe/Berlin"
WINDOW_START = datetime(2020, 8, 2, 22, tzinfo=UTC)
"""2020-08-03 00:00 in the market's time zone."""
WINDOW_END = datetime(2020, 10, 28, 23, tzinfo=UTC)
"""2020-10-29 00:00 in the market's time zone; prices go on to the end of that October."""


@cache
def prices() -> dy.DataFrame[Prices]:
    """Return the DE-LU day-ahead prices, one row a quarter-hour; each hour's price stands on four.

    Known at 12:55 market time on the day before delivery, when the auction's result is public.
    """
    return Prices.validate(
        _quarter_hours(_shipped("prices")).select(
            market=pl.lit(MARKET),
            interval_start="interval_start",
            price_eur_per_mwh="price_eur_per_mwh",
            resolution_minutes=pl.lit(60, pl.Int64),
            source=pl.lit("recorded"),
            known_at=_the_day_before(12, 55),
        )
    )


@cache
def market_forecasts() -> dy.DataFrame[MarketForecasts]:
    """Return the day-ahead forecasts of DE-LU's load, wind and sun, one row a quarter-hour.

    Known at 10:00 market time on the day before delivery: two hours before gate closure is when
    the load forecast is due.
    """
    return MarketForecasts.validate(
        _quarter_hours(_shipped("market_forecasts")).select(
            "interval_start",
            "load_mw",
            "renewables_mw",
            market=pl.lit(MARKET),
            resolution_minutes=pl.lit(60, pl.Int64),
            source=pl.lit("recorded"),
            known_at=_the_day_before(10, 0),
        )
    )


@cache
def household_load() -> pl.DataFrame:
    """Return five homes' consumption: (home 1 to 5, interval_start, load_kw >= 0).

    Measured by the hour; each hour's mean power stands on its four quarter-hours.
    """
    return _quarter_hours(_shipped("household_load"))


@cache
def pv() -> pl.DataFrame:
    """Return one PV plant's measured output and its weather, by the quarter-hour.

    (interval_start, power_per_kw 0 to 1, ghi_w_per_m2, ghi_clear_w_per_m2)
    """
    return _shipped("pv")


@cache
def temperature() -> pl.DataFrame:
    """Return an outdoor temperature: (interval_start, temperature_c)."""
    return _shipped("temperature")


@cache
def wind() -> pl.DataFrame:
    """Return Luxembourg's wind power: (interval_start, power_per_kw 0 to 1 of the year's peak)."""
    return _shipped("wind")


@cache
def ev_sessions() -> pl.DataFrame:
    """Return charging sessions, at most one at a time a station.

    (station, arrival, departure, estimated_departure, requested_kwh, delivered_kwh), where the
    estimate and the request are what the driver told on arrival.
    """
    return _shipped("ev_sessions")


def _the_day_before(hour: int, minute: int) -> pl.Expr:
    """Return the instant of a market time on the day before a row's delivery day."""
    market_day = pl.col("interval_start").dt.convert_time_zone(MARKET_TZ).dt.date()
    return (
        market_day.dt.offset_by("-1d")
        .dt.combine(pl.time(hour, minute))
        .dt.replace_time_zone(MARKET_TZ)
        .dt.convert_time_zone("UTC")
        .cast(pl.Datetime("us", "UTC"))
    )


def _shipped(name: str) -> pl.DataFrame:
    with as_file(files("vpp_pipeline.markets") / "recorded" / f"{name}.parquet") as path:
        return pl.read_parquet(path)


def _quarter_hours(hourly: pl.DataFrame) -> pl.DataFrame:
    """Put each hour's row on its four quarter-hours, keeping the rows' order."""
    quarters = [pl.duration(minutes=minutes) for minutes in (0, 15, 30, 45)]
    return hourly.with_columns(
        interval_start=pl.concat_list([pl.col("interval_start") + q for q in quarters])
    ).explode("interval_start")
