"""The naive rule that every model has to beat.

Belongs here: yesterday's or last week's value, as known at a moment. Does not: any model, errors
(`skill`).
"""

from __future__ import annotations

import polars as pl

_TUESDAY, _FRIDAY = 2, 5
_KEYS = ["target", "subject_id", "interval_start"]


def naive(history: pl.DataFrame, intervals: pl.Series, timezone: str) -> pl.DataFrame:
    """Return what the naive rule says of `intervals`: `target`, `subject_id`, `interval_start`, `naive`.

    `history` (`target`, `subject_id`, `interval_start`, `value`) is what was known when the
    forecast was made. The rule is that of Lago et al. (Applied Energy 293, 2021): from Tuesday to
    Friday the value of the day before at this time of the local clock, on the other days that of a
    week before. What the day before has not told yet (it is midday, and loads are measured as they
    happen) is that of a week before too. What neither tells has no row.
    """
    local = pl.col("interval_start").dt.convert_time_zone(timezone).dt.replace_time_zone(None)
    asked = intervals.rename("interval_start").unique().sort().to_frame()
    workday = local.dt.weekday().is_between(_TUESDAY, _FRIDAY)
    known = history.filter(pl.col("value").is_finite()).with_columns(
        pl.col("target").cast(pl.String)
    )
    days_before = {
        lag: asked.select(
            "interval_start",
            workday=workday,
            like=local.dt.offset_by(f"-{lag}d")
            .dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
            .dt.convert_time_zone("UTC"),
        )
        .join(known.rename({"interval_start": "like"}), on="like")
        .drop("like")
        for lag in (1, 7)
    }
    return (
        days_before[7]
        .join(days_before[1].filter("workday"), on=_KEYS, how="full", coalesce=True, suffix="_1")
        .select(*_KEYS, naive=pl.coalesce("value_1", "value"))
    )
