"""A market's quarter-hours as days of 24 hours, and back.

Belongs here: what a price model needs to be spared clock changes, resolutions and gaps. Does
not: the model (`price_model`).

A day is one of the market's local clock. The hour that is skipped in spring is filled in from its
neighbours, and the one that comes twice in autumn is the mean of both, as in the reference that
`price_model` names. In a market of quarter-hours an hour is its mean, and each quarter-hour
stands off it by what it did on average over the last four weeks.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.forecasting.price_model import (
    HOURS,
    LONGEST_LAG_DAYS,
    LONGEST_WINDOW_DAYS,
    Array,
    forecast_day,
    regressors,
)
from vpp_pipeline.forecasting.rows import QUANTILES

if TYPE_CHECKING:
    from datetime import date

PRICE_MEMORY = timedelta(days=LONGEST_WINDOW_DAYS + LONGEST_LAG_DAYS + 1)
"""How far back the model looks."""

_SHAPE_MEMORY = timedelta(days=28)
_ANSWER = {"interval_start": pl.Datetime("us", "UTC"), **dict.fromkeys(QUANTILES, pl.Float64())}


def day_by_day(
    prices: pl.DataFrame, exogenous: pl.DataFrame, intervals: pl.Series, timezone: str
) -> pl.DataFrame:
    """Forecast the quarter-hours of `intervals` whose days the model can answer for.

    `prices` holds `interval_start` and `value` (EUR/MWh); `exogenous` holds `interval_start` and,
    in every other column, a forecast for the market that is told before its auction, such as load
    and renewables. A row is a quarter-hour. Of a day's own prices, and of all that comes after
    it, nothing is looked at.

    Returns `interval_start`, `p10`, `p50`, `p90`; no rows of a day without the prices of the day
    before or without its exogenous forecasts, or with too few whole days behind it.
    """
    asked = _clocked(intervals.rename("interval_start").unique().sort().to_frame(), timezone)
    known, told = _clocked(prices, timezone), _clocked(exogenous, timezone)
    if asked.is_empty() or known.is_empty() or told.is_empty():
        return pl.DataFrame(schema=_ANSWER)
    answers = [_day(day, known, told) for day in asked["day"].unique().sort()]
    return (
        asked.join(pl.concat(answers), on=["day", "hour"])
        .join(_shape(known.filter(pl.col("day") < asked["day"].min())), on="slot", how="left")
        .select(
            "interval_start", *(pl.col(q) + pl.col("stands_off").fill_null(0.0) for q in QUANTILES)
        )
    )


def _clocked(rows: pl.DataFrame, timezone: str) -> pl.DataFrame:
    local = pl.col("interval_start").dt.convert_time_zone(timezone)
    return rows.with_columns(day=local.dt.date(), hour=local.dt.hour(), slot=local.dt.time())


def _day(day: date, prices: pl.DataFrame, exogenous: pl.DataFrame) -> pl.DataFrame:
    """Return `day`, `hour` and the quantiles of 24 hours, or no rows."""
    calendar = pl.date_range(day - PRICE_MEMORY, day, eager=True)
    value = _by_day(prices, "value", calendar)
    value[-1] = np.nan
    told = [
        _by_day(exogenous, name, calendar)
        for name in exogenous.columns
        if name not in ("interval_start", "day", "hour", "slot")
    ]
    weekdays = calendar.dt.weekday().cast(pl.Int64).to_numpy() - 1
    forecast = forecast_day(regressors(value, told, weekdays), value[:-1])
    hours = pl.DataFrame(forecast, schema=dict.fromkeys(QUANTILES, pl.Float64()))
    return hours.with_columns(
        day=pl.lit(day), hour=pl.int_range(hours.height, dtype=pl.Int8, eager=True)
    )


def _by_day(rows: pl.DataFrame, column: str, calendar: pl.Series) -> Array:
    """Return a column's hourly means as (days, 24), NaN where there are none.

    A single missing hour between two others of its day is the mean of these.
    """
    hourly = rows.sort("interval_start").group_by("day", "hour").agg(pl.col(column).mean())
    grid = (
        calendar.alias("day")
        .to_frame()
        .join(pl.DataFrame({"hour": range(HOURS)}, {"hour": pl.Int8}), how="cross")
        .join(hourly, on=["day", "hour"], how="left", maintain_order="left")
    )
    days = grid[column].cast(pl.Float64).fill_null(np.nan).to_numpy().reshape(-1, HOURS).copy()
    between = (days[:, :-2] + days[:, 2:]) / 2
    days[:, 1:-1] = np.where(np.isnan(days[:, 1:-1]), between, days[:, 1:-1])
    return days


def _shape(prices: pl.DataFrame) -> pl.DataFrame:
    """Return by how much each `slot` of the clock usually stands off its hour's mean."""
    newest = pl.col("interval_start").max()
    recent = prices.filter(pl.col("interval_start") > newest - _SHAPE_MEMORY)
    hour_mean = pl.col("value").mean().over("day", "hour")
    return (
        recent.sort("interval_start")
        .with_columns(stands_off=pl.col("value") - hour_mean)
        .group_by("slot")
        .agg(pl.col("stands_off").mean())
    )
