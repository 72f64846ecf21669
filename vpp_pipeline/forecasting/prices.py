"""What the quarter-hours will cost whose prices are not published yet.

Belongs here: the choice between a published price and a forecast. Does not: fetching prices
(`markets`), what a price is worth to a device (`optimization`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting.price_days import PRICE_MEMORY, day_by_day
from vpp_pipeline.forecasting.rows import MEMORY, QUANTILES, as_forecasts, asked, measured
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
    """Forecast a market's prices (EUR/MWh) over `intervals` from the similar days.

    `prices` has the columns of `markets.schemas.Prices`; of several rows for a quarter-hour the
    last one known by `known_at` holds. A published quarter-hour answers with its price
    (`published`); the others with the recent days of their type and the last day's level, whose
    past errors make the quantiles; with no history at all the answer is `no-history`.
    """
    published = measured(
        _last_known(prices, market, known_at).filter(pl.col("interval_start") >= known_at - MEMORY),
        pl.col("price_eur_per_mwh"),
        "market",
    )
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


def lear_price_forecast(  # noqa: PLR0917 - what is known, what is asked, and when
    prices: pl.DataFrame,
    market_forecasts: pl.DataFrame,
    intervals: pl.Series,
    market: str,
    timezone: str,
    known_at: datetime,
) -> dy.DataFrame[Forecasts]:
    """Forecast a market's prices (EUR/MWh) over `intervals` from prices, load and renewables.

    `market_forecasts` has the columns of `markets.schemas.MarketForecasts`; as of the prices the
    last row known by `known_at` holds. A quarter-hour that is not published answers with the
    LEAR model (`lear`, see `price_model`); where its history or the day's forecasts lack, the
    answer is that of `price_forecast`, under the name it has there.
    """
    fallback = price_forecast(prices, intervals, market, timezone, known_at)
    since = known_at - PRICE_MEMORY
    known = _last_known(prices, market, known_at).filter(pl.col("interval_start") >= since)
    told = _last_known(market_forecasts, market, known_at).filter(pl.col("interval_start") >= since)
    open_ = fallback.filter(pl.col("model") != "published")["interval_start"]
    lear = day_by_day(
        measured(known, pl.col("price_eur_per_mwh"), "market").drop("subject_id"),
        told.select("interval_start", "load_mw", "renewables_mw").sort("interval_start"),
        open_,
        timezone,
    )
    answers = fallback.join(lear, on="interval_start", how="left", suffix="_lear").with_columns(
        pl.when(pl.col("p50_lear").is_not_null())
        .then(pl.lit("lear"))
        .otherwise("model")
        .alias("model"),
        *(pl.coalesce(f"{name}_lear", name).alias(name) for name in QUANTILES),
    )
    return as_forecasts(answers, "price", known_at)


def _last_known(rows: pl.DataFrame, market: str, known_at: datetime) -> pl.DataFrame:
    return (
        rows.filter(pl.col("market") == market, pl.col("known_at") <= known_at)
        .sort("known_at")
        .unique(["market", "interval_start"], keep="last")
    )
