"""A frame's rows, one for each quarter-hour that is planned.

Belongs here: bringing rows onto the horizon, or saying which of them do not fit. Does not: what
the rows hold (`build`, `portfolio`).
"""

from __future__ import annotations

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.optimization.problem import ProblemError


def aligned(rows: pl.DataFrame, intervals: pl.Series, name: str, remedy: str) -> pl.DataFrame:
    """Return one row for each of `intervals`, with its `row` in the input; others are not read.

    Raises `ProblemError`, which names the input `name`, the row and the remedy, where a row of the
    horizon does not start one of the quarter-hours, or one has no row or several.
    """
    within = rows.with_row_index("row").filter(
        pl.col("interval_start").is_between(intervals[0], intervals[-1] + STEP, closed="left")
    )
    misaligned = within.filter(~pl.col("interval_start").is_in(intervals.implode()))
    doubled = within.filter(pl.col("interval_start").is_duplicated())
    for wrong, what in (
        (misaligned, "does not start a quarter-hour of the horizon"),
        (doubled, "is there more than once"),
    ):
        if wrong.height:
            first = wrong.row(0, named=True)
            raise ProblemError(
                f"{name} row {first['row']}: interval_start {first['interval_start']} {what}: "
                f"{remedy}"
            )
    whole = (
        intervals.alias("interval_start")
        .to_frame()
        .join(within, on="interval_start", how="left", maintain_order="left")
    )
    missing = whole.filter(pl.col("row").is_null())
    if missing.height:
        raise ProblemError(
            f"{name}: interval_start {missing['interval_start'][0]} has no row "
            f"({missing.height} quarter-hours without): {remedy}"
        )
    return whole
