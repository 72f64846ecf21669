"""The similar-day model: tomorrow at this time of day is like the recent days of its kind.

Belongs here: the model that load, price and temperature share. Does not: what is special to
one of them - bounds, published values, the answer where nothing at all is known.

The time of day is local clock time, so a habit stays where it was when the clocks change; both
passes of the repeated hour in autumn get the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from vpp_pipeline.forecasting.rows import QUANTILES, asked, of_each_instant, quantiles

_RECENCY_DAYS = 14.0
"""A day's weight falls by e in this time."""
_LEVEL_WINDOW_H = 24.0
_LEVEL_LIFE_H = 24.0
_ENOUGH_DAYS = 2
_ENOUGH_RESIDUALS = 8
_ALONE = 1e-6
"""A value that is its own mean leaves no residual."""
_CELL = ["subject_id", "weekend", "slot"]
_SATURDAY = 6
_HOUR = pl.duration(hours=1)
_AS_NUMBER = pl.col("subject_id").cast(pl.Categorical)
"""Millions of rows are joined and grouped by it."""


@dataclass(frozen=True)
class Habit:
    """What one kind of quantity has for habits."""

    day_types: bool
    """Whether workdays and weekends differ."""
    level_trust: float
    """The share of the last day's mean deviation that is carried on, in [0, 1]."""


def similar_day(
    history: pl.DataFrame, subjects: pl.Series, intervals: pl.Series, timezone: str, habit: Habit
) -> pl.DataFrame:
    """Forecast each subject from its own history; null where it has no two values to compare.

    `history` is what is known: `subject_id`, `interval_start`, `value`. The point is the mean of
    the same local quarter-hour over the days of the same type, recent days weighing more, plus
    what is left of the last day's deviation; the quantiles are those of the past residuals of
    that hour, each against the mean of the other days (leave-one-out).

    Returns `subject_id`, `interval_start`, `p10`, `p50`, `p90`, `model`; the model is
    `similar-day`, else `all-days` (fewer than two days of the type), else `mean` (none at this
    time of day), else null.
    """
    known = _clocked(history.with_columns(_AS_NUMBER), timezone, habit)
    start = pl.col("interval_start")
    age_days = (start.max() - start) / pl.duration(days=1)
    known = known.with_columns((-age_days / _RECENCY_DAYS).exp().alias("weight"))
    grid = _clocked(asked(subjects, intervals).with_columns(_AS_NUMBER), timezone, habit)

    cells = pl.concat([known.select(_CELL), grid.select(_CELL)]).unique()
    profiles = _profiles(cells, known)
    residuals = _residuals(known.join(profiles, on=_CELL))
    point = pl.col("profile") + pl.col("level")
    return _with_spread(
        _with_level(grid.join(profiles, on=_CELL), residuals, habit), residuals
    ).select(
        pl.col("subject_id").cast(pl.String),
        "interval_start",
        *((point + pl.col(name)).alias(name) for name in QUANTILES),
        pl.when(pl.col("p50").is_not_null()).then("model").alias("model"),
    )


def _clocked(rows: pl.DataFrame, timezone: str, habit: Habit) -> pl.DataFrame:
    """Add the local clock: `slot` (quarter-hour of the day), `hour` and `weekend`."""
    local = pl.col("interval_start").dt.convert_time_zone(timezone)
    weekend = local.dt.weekday() >= _SATURDAY if habit.day_types else pl.lit(value=False)
    clock = pl.struct(
        slot=local.dt.hour().cast(pl.Int16) * 4 + local.dt.minute() // 15,
        hour=local.dt.hour(),
        weekend=weekend,
    )
    told = of_each_instant(
        rows["interval_start"],
        lambda starts: starts.to_frame("interval_start").select(clock).to_series(),
    )
    return rows.with_columns(clock=told).unnest("clock")


def _profiles(cells: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Add each cell's weighted mean, the weight that backs it, and the model it comes from."""
    backing = pl.col("weight").sum()
    mean = pl.struct(
        ((pl.col("value") * pl.col("weight")).sum() / backing).alias("profile"),
        backing.alias("backing"),
    )
    days = pl.col("interval_start").dt.date().n_unique()
    same_type = known.group_by(_CELL).agg(mean.alias("same_type"), days.alias("days"))
    any_day = known.group_by("subject_id", "slot").agg(mean.alias("any_day"))
    overall = known.group_by("subject_id").agg(mean.alias("overall"))
    enough = pl.col("days") >= _ENOUGH_DAYS
    return (
        cells.join(same_type, on=_CELL, how="left")
        .join(any_day, on=["subject_id", "slot"], how="left")
        .join(overall, on="subject_id", how="left")
        .with_columns(
            pl.coalesce(pl.when(enough).then("same_type"), "any_day", "overall").alias("mean"),
            pl.when(enough)
            .then(pl.lit("similar-day"))
            .when(pl.col("any_day").is_not_null())
            .then(pl.lit("all-days"))
            .when(pl.col("overall").is_not_null())
            .then(pl.lit("mean"))
            .alias("model"),
        )
        .drop("same_type", "days", "any_day", "overall")
        .unnest("mean")
    )


def _residuals(profiled: pl.DataFrame) -> pl.DataFrame:
    left_out = 1.0 - pl.col("weight") / pl.col("backing")
    residual = (pl.col("value") - pl.col("profile")) / left_out
    return profiled.with_columns(residual.alias("residual")).filter(left_out > _ALONE)


def _with_level(rows: pl.DataFrame, residuals: pl.DataFrame, habit: Habit) -> pl.DataFrame:
    newest = pl.col("interval_start").max().over("subject_id")
    last_day = residuals.filter(pl.col("interval_start") > newest - _LEVEL_WINDOW_H * _HOUR)
    level = last_day.group_by("subject_id").agg(
        pl.col("residual").mean().alias("level"), pl.col("interval_start").max().alias("newest")
    )
    lead_h = ((pl.col("interval_start") - pl.col("newest")) / _HOUR).clip(lower_bound=0.0)
    left = habit.level_trust * (-lead_h / _LEVEL_LIFE_H).exp()
    return rows.join(level, on="subject_id", how="left").with_columns(
        (pl.col("level") * left).fill_null(0.0)
    )


def _with_spread(rows: pl.DataFrame, residuals: pl.DataFrame) -> pl.DataFrame:
    spread = quantiles("residual")
    alike = ["subject_id", "weekend", "hour"]
    hourly = residuals.group_by(alike).agg(*spread, pl.len().alias("residuals"))
    overall = residuals.group_by("subject_id").agg(spread)
    return (
        rows.join(hourly.filter(pl.col("residuals") >= _ENOUGH_RESIDUALS), on=alike, how="left")
        .join(overall, on="subject_id", how="left", suffix="_overall")
        .with_columns([pl.coalesce(name, f"{name}_overall").alias(name) for name in QUANTILES])
    )
