"""The prices a plan is made on: what is published, and the forecast where nothing is yet.

Belongs here: choosing between the two. Does not: forecasting prices, checking them (`inputs`,
`build`), what fleet power is worth in a plan (`found`).
"""

from __future__ import annotations

import polars as pl


def complete(intervals: pl.Series, published: pl.DataFrame, forecast: pl.DataFrame) -> pl.DataFrame:
    """Return one price a quarter-hour, published before forecast.

    `published`: (interval_start, price_eur_per_mwh); `forecast`: (interval_start, p50). Returns
    (interval_start, price_eur_per_mwh, origin), where a quarter-hour that neither knows has a
    null price for the checks to refuse.
    """
    return (
        intervals.alias("interval_start")
        .to_frame()
        .join(
            published.select("interval_start", published="price_eur_per_mwh"),
            on="interval_start",
            how="left",
        )
        .join(forecast.select("interval_start", forecast="p50"), on="interval_start", how="left")
        .select(
            "interval_start",
            price_eur_per_mwh=pl.coalesce("published", "forecast"),
            origin=pl.when(pl.col("published").is_not_null())
            .then(pl.lit("published"))
            .otherwise(pl.lit("forecast")),
        )
        .sort("interval_start")
    )
