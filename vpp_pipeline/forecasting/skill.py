"""How wrong the forecasts were.

Belongs here: error measures of a forecast against what happened. Does not: forecasts, money.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting import session_values
from vpp_pipeline.forecasting.rows import QUANTILES
from vpp_pipeline.forecasting.schemas import ForecastErrors, ForecastSkill

if TYPE_CHECKING:
    from datetime import date, datetime

    import dataframely as dy


SCORED_AS = {
    "load": "load",
    "site_load": "site_load",
    "group_load": "group_load",
    "pv": "generation",
    "wind": "generation",
    "temperature": "temperature",
    "price": "price",
    "sessions": "sessions",
    **{target: target for target in session_values.TARGETS},
}
"""A forecast's target as candidates stand for it: sun and wind are one model's."""


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
    on = ["subject_id", "interval_start"]
    if "target" in actuals.columns:
        on.append("target")
    scored = (
        _beside_actuals(forecasts, actuals, on)
        .group_by("target", "subject_id", "known_at")
        .agg(
            model=pl.col("model").unique().sort().str.join("+"),
            bias=_MISS.mean(),
            **_MEASURES,
        )
        .with_columns(delivery_day=pl.lit(delivery_day))
    )
    return ForecastErrors.validate(
        scored.select(ForecastErrors.column_names()).sort("target", "subject_id", "known_at"),
        cast=True,
    )


def skill(  # noqa: PLR0917 - what was said, what came of it, and the day
    forecasts: pl.DataFrame,
    actuals: pl.DataFrame,
    naive: pl.DataFrame,
    euros: pl.DataFrame,
    delivery_day: date,
    known_at: datetime,
) -> dy.DataFrame[ForecastSkill]:
    """Score each candidate of each target over all subjects that have actuals.

    `forecasts` has the columns of `ChallengerForecasts` and `champion`, cut to the delivery day;
    `actuals` holds `target`, `subject_id`, `interval_start`, `value`, and `naive` the same with
    what the naive rule says (`naive`). The measures are those of `errors`; `rmae` is the mean
    absolute error over that of the naive rule, on the quarter-hours that the rule answers for.
    `euros` holds `target` (as in `SCORED_AS`), `forecaster`, `euros_lost`.
    """
    keys = ["target", "subject_id", "interval_start"]
    ruled = pl.col("naive").is_not_null()
    miss_of_rule = (pl.col("naive") - pl.col("value")).abs().filter(ruled).sum()
    scored = (
        _beside_actuals(forecasts, actuals, keys)
        .join(naive, on=keys, how="left")
        .sort("forecaster", *keys)
        .with_columns(target=pl.col("target").replace_strict(SCORED_AS))
        .group_by("target", "forecaster", "champion", maintain_order=True)
        .agg(
            subjects=pl.col("subject_id").n_unique().cast(pl.Int64),
            forecast_known_at=pl.col("known_at").max(),
            # where the rule was right throughout (at night), a ratio to it says nothing
            rmae=pl.when(miss_of_rule > 0).then(_MISS.abs().filter(ruled).sum() / miss_of_rule),
            **_MEASURES,
        )
        .join(euros, on=["target", "forecaster"], how="left")
        .with_columns(
            delivery_day=pl.lit(delivery_day),
            known_at=pl.lit(known_at).dt.cast_time_unit("us"),
        )
    )
    return ForecastSkill.validate(
        scored.select(ForecastSkill.column_names()).sort("target", "forecaster"), cast=True
    )


_MISS = pl.col("p50") - pl.col("value")
_SHORT = {name: pl.col("value") - pl.col(name) for name in QUANTILES}
_MEASURES = {
    "intervals": pl.len().cast(pl.Int64),
    "mae": _MISS.abs().mean(),
    "pinball": pl.mean_horizontal(
        pl.max_horizontal(q * _SHORT[name], (q - 1.0) * _SHORT[name]).mean()
        for name, q in QUANTILES.items()
    ),
    "coverage_p10_p90": pl.col("value").is_between("p10", "p90").mean(),
}


def _beside_actuals(forecasts: pl.DataFrame, actuals: pl.DataFrame, on: list[str]) -> pl.DataFrame:
    """Return the forecasts of quarter-hours that have a number, with it."""
    happened = actuals.filter(pl.col("value").is_finite()).with_columns(
        pl.col(name).cast(pl.String) for name in on if name == "target"
    )
    return forecasts.with_columns(pl.col("target").cast(pl.String)).join(happened, on=on)
