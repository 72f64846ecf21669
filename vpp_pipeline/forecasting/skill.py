"""How wrong the forecasts were.

Belongs here: error measures of a forecast against what happened. Does not: forecasts, money.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting.rows import QUANTILES
from vpp_pipeline.forecasting.schemas import ForecastErrors

if TYPE_CHECKING:
    from datetime import date

    import dataframely as dy


def errors(
    forecasts: pl.DataFrame, actuals: pl.DataFrame, delivery_day: date
) -> dy.DataFrame[ForecastErrors]:
    """Score each forecast (target, subject, moment) on the quarter-hours that have actuals.

    `forecasts` has the columns of `Forecasts`, cut to the delivery day; `actuals` holds
    `subject_id`, `interval_start`, `value`, and `target` where subjects share names. `bias` is
    forecast less actual; `pinball` is the mean over the three quantiles of
    max(q·(y - f), (q - 1)·(y - f)) (Koenker and Bassett 1978); `coverage_p10_p90` is the share
    of actuals inside [p10, p90]; `model` joins the names of those that answered with a plus. A
    forecast without a single actual has no row.
    """
    on = [name for name in ("target", "subject_id", "interval_start") if name in actuals.columns]
    happened = actuals.filter(pl.col("value").is_finite()).with_columns(
        pl.col(name).cast(pl.String) for name in on if name == "target"
    )
    miss = pl.col("p50") - pl.col("value")
    short = {name: pl.col("value") - pl.col(name) for name in QUANTILES}
    pinball = [
        pl.max_horizontal(q * short[name], (q - 1.0) * short[name]).mean()
        for name, q in QUANTILES.items()
    ]
    scored = (
        forecasts.with_columns(pl.col("target").cast(pl.String))
        .join(happened, on=on)
        .group_by("target", "subject_id", "known_at")
        .agg(
            model=pl.col("model").unique().sort().str.join("+"),
            intervals=pl.len().cast(pl.Int64),
            mae=miss.abs().mean(),
            bias=miss.mean(),
            pinball=pl.sum_horizontal(pinball) / len(pinball),
            coverage_p10_p90=pl.col("value").is_between("p10", "p90").mean(),
        )
        .with_columns(delivery_day=pl.lit(delivery_day))
    )
    return ForecastErrors.validate(
        scored.select(ForecastErrors.column_names()).sort("target", "subject_id", "known_at"),
        cast=True,
    )
