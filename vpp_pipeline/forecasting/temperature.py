"""How warm it will be outdoors at each site.

Belongs here: the choice between a weather service's forecast and the recent days. Does not:
fetching weather (`markets`), irradiance (`generation`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting.rows import as_forecasts, asked, ended_by, measured
from vpp_pipeline.forecasting.similar_day import Habit, similar_day

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.forecasting.schemas import Forecasts

_HABIT = Habit(day_types=False, level_trust=0.8)
_SERVICE_SPREAD_K = 2.0
"""Day-ahead 2 m temperature forecasts err by about 1.5 K (RMSE): p10 and p90 stand 1.28 times that off."""
_TEMPERATE = {"p10": 0.0, "p50": 10.0, "p90": 22.0}


def temperature_forecast(
    sites: pl.Series,
    weather: pl.DataFrame,
    intervals: pl.Series,
    timezone: str,
    known_at: datetime,
) -> dy.DataFrame[Forecasts]:
    """Forecast the outdoor temperature (°C) of every site over `intervals`.

    `weather` has `site_id`, `interval_start`, `temperature_c`, `kind` and `known_at` of
    `markets.schemas.Weather`. `model` tells which answered:
    `service` (a forecast row known by `known_at`), the site's own recent days (`similar-day` and
    its fallbacks), the mean of the other sites (`other-sites`), or `temperate`, a fixed guess.
    """
    names = ["p10", "p50", "p90"]
    known = weather.filter(pl.col("known_at") <= known_at)
    service = (
        known.filter(pl.col("kind") == "forecast", pl.col("temperature_c").is_finite())
        .sort("known_at")
        .group_by(pl.col("site_id").alias("subject_id"), "interval_start")
        .agg(pl.col("temperature_c").last().alias("service"))
    )
    observed = ended_by(known.filter(pl.col("kind") == "observed"), known_at)
    by_habit = similar_day(
        measured(observed, pl.col("temperature_c"), "site_id"), sites, intervals, timezone, _HABIT
    )
    answers = (
        asked(sites, intervals)
        .join(service, on=["subject_id", "interval_start"], how="left")
        .join(by_habit, on=["subject_id", "interval_start"], how="left")
        .with_columns(
            pl.when(pl.col("service").is_not_null())
            .then(pl.lit("service"))
            .otherwise("model")
            .alias("model"),
            *(
                pl.coalesce(pl.col("service") + offset, name).alias(name)
                for name, offset in zip(
                    names, (-_SERVICE_SPREAD_K, 0.0, _SERVICE_SPREAD_K), strict=True
                )
            ),
        )
        .with_columns(
            pl.coalesce(
                "model",
                pl.when(pl.col("p50").mean().over("interval_start").is_not_null()).then(
                    pl.lit("other-sites")
                ),
                pl.lit("temperate"),
            ).alias("model"),
            *(
                pl.coalesce(name, pl.col(name).mean().over("interval_start"), guess).alias(name)
                for name, guess in _TEMPERATE.items()
            ),
        )
    )
    return as_forecasts(answers, "temperature", known_at)
