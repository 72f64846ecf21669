"""The rows every forecast starts from and ends in: what is asked, what is known, what is answered.

Belongs here: the grid of asked rows, the cut at `known_at`, the stamp on an answer. Does not:
any model (`similar_day`, `generation`, `sessions`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.forecasting.schemas import Forecasts

if TYPE_CHECKING:
    from collections.abc import Callable

    import dataframely as dy

MEMORY = timedelta(days=28)
"""How far back every model looks."""

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def asked(subjects: pl.Series, intervals: pl.Series) -> pl.DataFrame:
    """Return one row a subject and quarter-hour: `subject_id`, `interval_start`."""
    return (
        subjects.rename("subject_id")
        .unique()
        .sort()
        .to_frame()
        .join(
            intervals.rename("interval_start").dt.cast_time_unit("us").unique().sort().to_frame(),
            how="cross",
        )
    )


def ended_by(history: pl.DataFrame, known_at: datetime) -> pl.DataFrame:
    """Return the quarter-hours of the last four weeks that had ended, and were known, by then.

    A mean over a quarter-hour is not known before its end; rows that carry a `known_at` of
    their own must meet it too.
    """
    start = pl.col("interval_start")
    ended = (start + STEP <= known_at) & (start >= known_at - MEMORY)
    if "known_at" in history.columns:
        ended &= pl.col("known_at") <= known_at
    # weeks of a large fleet take long to copy
    all_ended = history.select(ended.all(ignore_nulls=False)).item()
    return history if all_ended else history.filter(ended)


def measured(history: pl.DataFrame, value: pl.Expr, subject: str) -> pl.DataFrame:
    """Return `subject_id`, `interval_start`, `value`, without the rows that hold no number.

    Sorted, so that sums come out the same to the last bit whatever order the rows came in.
    """
    rows = history.select(
        pl.col(subject).alias("subject_id"), "interval_start", value.cast(pl.Float64).alias("value")
    )
    return in_time_order(rows.filter(pl.col("value").is_finite()), "subject_id")


def in_time_order(rows: pl.DataFrame, subject: str = "device_id") -> pl.DataFrame:
    """Return the rows by subject and `interval_start`; those in order already as they are."""
    named, at = pl.col(subject), pl.col("interval_start")
    rises = (named > named.shift()) | ((named == named.shift()) & (at >= at.shift()))
    # weeks of a large fleet come in order, and take long to sort again
    return rows if rows.select(rises.all()).item() else rows.sort(subject, "interval_start")


def of_each_instant(
    starts: pl.Series, told: Callable[[pl.Series], pl.Series], grain: timedelta = STEP
) -> pl.Series:
    """Return what is `told` of UTC instants: asked once for each time that is a whole `grain`.

    Rows of many series have few instants, and local time is slow. An instant between two is told
    what the one before is.
    """
    if starts.is_empty():
        return told(starts)
    grain_us = grain // timedelta.resolution
    nth = starts.dt.cast_time_unit("us").to_physical().to_numpy() // grain_us
    whole_us = pl.Series(np.arange(nth.min(), nth.max() + 1) * grain_us)
    return told(whole_us.cast(pl.Datetime("us", "UTC"))).gather(nth - nth.min())


def quantiles(value: str) -> list[pl.Expr]:
    """Return the aggregations `p10`, `p50` and `p90` of a column."""
    return [pl.col(value).quantile(q, "linear").alias(name) for name, q in QUANTILES.items()]


def as_forecasts(answers: pl.DataFrame, target: str, known_at: datetime) -> dy.DataFrame[Forecasts]:
    """Stamp answers (`subject_id`, `interval_start`, `p10`, `p50`, `p90`, `model`) and check them.

    Raises `dataframely.exc.ValidationError` if quantiles don't ascend or a row stands twice.
    """
    stamped = answers.with_columns(
        pl.lit(target).alias("target"),
        pl.lit(known_at).dt.cast_time_unit("us").alias("known_at"),
    )
    return Forecasts.validate(
        stamped.select(Forecasts.column_names()).sort("subject_id", "interval_start"), cast=True
    )
