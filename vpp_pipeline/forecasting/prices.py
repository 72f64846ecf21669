"""What the quarter-hours will cost whose prices are not published yet.

Belongs here: the choice between a published price and a forecast. Does not: fetching prices
(`markets`), what a price is worth to a device (`optimization`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting.rows import MEMORY, as_forecasts, asked, measured
from vpp_pipeline.forecasting.similar_day import Habit, similar_day

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.forecasting.schemas import Forecasts

_HABIT = Habit(day_types=True, level_trust=0.8)
_NO_HISTORY = {"p10": 0.0, "p50": 60.0, "p90": 150.0}


def price_forecast(
    prices: pl.DataFrame,
    intervals: pl.Series,
    market: str,
    timezone: str,
    known_at: datetime,
) -> dy.DataFrame[Forecasts]:
    """Forecast a market's prices (EUR/MWh) over `intervals`.

    `prices` has the columns of `markets.schemas.Prices`; of several rows for a quarter-hour the
    last one known by `known_at` holds. A published quarter-hour answers with its price
    (`published`); the others with the recent days of their type and the last day's level, whose
    past errors make the quantiles; with no history at all the answer is `no-history`.
    """
    known = (
        prices.filter(
            pl.col("market") == market,
            pl.col("known_at") <= known_at,
            pl.col("interval_start") >= known_at - MEMORY,
        )
        .sort("known_at")
        .unique(["market", "interval_start"], keep="last")
    )
    published = measured(known, pl.col("price_eur_per_mwh"), "market")
    subject = pl.Series([market], dtype=pl.String)
    answers = (
        asked(subject, intervals)
        .join(published, on=["subject_id", "interval_start"], how="left")
        .join(
            similar_day(published, subject, intervals, timezone, _HABIT),
            on=["subject_id", "interval_start"],
            how="left",
        )
        .with_columns(
            pl.when(pl.col("value").is_not_null())
            .then(pl.lit("published"))
            .otherwise(pl.col("model").fill_null("no-history"))
            .alias("model"),
            *(
                pl.coalesce("value", name, default).alias(name)
                for name, default in _NO_HISTORY.items()
            ),
        )
    )
    return as_forecasts(answers, "price", known_at)
