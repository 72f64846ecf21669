"""Forecasts of many subjects as one: what a fleet does together, and how far off that may be.

Belongs here: adding subjects up by target. Does not: forecasting, what the sum is used for.
"""

from __future__ import annotations

import polars as pl


def together(profiles: pl.DataFrame) -> pl.DataFrame:
    """Return the sum of all subjects' p50, and by how much it may be below or above that.

    `profiles`: `Forecasts` in kW. Returns (target, interval_start, p50_kw, lower_by_kw,
    higher_by_kw). Loads err each by itself, so their distances from p50 add up as squares; plants
    under one sky err together, and so do those in one wind.
    """
    alone = pl.col("target").cast(pl.String) == "load"
    sides = {
        "lower_by_kw": pl.col("p50") - pl.col("p10"),
        "higher_by_kw": pl.col("p90") - pl.col("p50"),
    }
    # in one order, so that what is summed up of it is the same to the last bit
    return profiles.group_by("interval_start", "target", maintain_order=True).agg(
        pl.col("p50").sum().alias("p50_kw"),
        *(
            pl.when(alone.first()).then((kw**2).sum().sqrt()).otherwise(kw.sum()).alias(name)
            for name, kw in sides.items()
        ),
    )
