"""What the Dagster UI shows of a forecast: who answered, and the fleet's course with its band.

Belongs here: a forecast as metadata. Does not: making or storing it (`forecasts`), drawing
(`reporting.pictures`).
"""

from __future__ import annotations

from typing import Any

import polars as pl

from vpp_pipeline.defs.metadata import picture, table
from vpp_pipeline.forecasting.groups import TARGETS as OF_SUMS
from vpp_pipeline.forecasting.together import together
from vpp_pipeline.reporting import pictures
from vpp_pipeline.settings import MARKET_TZ

_UNITS = {
    "load": "kW (negative draws)",
    "pv": "kW (positive injects)",
    "wind": "kW (positive injects)",
    "temperature": "°C, mean of the sites",
    "price": "EUR/MWh",
}
_POWERS = ["load", "pv", "wind"]


def forecast_figures(forecast: pl.DataFrame) -> dict[str, Any]:
    """Return the metadata of one asset's `Forecasts`."""
    told = forecast.with_columns(pl.col("target").cast(pl.String))
    course = _course(told)
    figures: dict[str, Any] = {
        "dagster/row_count": told.height,
        "models": table(
            told.group_by("target", "model")
            .agg(subjects=pl.col("subject_id").n_unique(), rows=pl.len())
            .sort("target", "model")
        ),
    }
    for (target,), rows in course.partition_by("target", as_dict=True).items():
        figures[f"{target}_picture"] = picture(
            pictures.band(rows, MARKET_TZ, f"{target}, {_UNITS[target]}", "png"), target
        )
    sums = (
        told.filter(pl.col("target").is_in(OF_SUMS))
        .group_by("target", "subject_id")
        .agg(pl.col("p10", "p50", "p90").mean().name.suffix("_kw"))
    )
    if sums.height:
        figures["mean_of_sites_and_groups"] = table(sums.sort("target", "subject_id"), rows=50)
    return figures | {"by_quarter_hour": table(course, rows=200)}


def _course(told: pl.DataFrame) -> pl.DataFrame:
    """Return (target, interval_start, p10, p50, p90) of what the fleet does together."""
    powers = together(told.filter(pl.col("target").is_in(_POWERS))).select(
        "target",
        "interval_start",
        p10=pl.col("p50_kw") - pl.col("lower_by_kw"),
        p50=pl.col("p50_kw"),
        p90=pl.col("p50_kw") + pl.col("higher_by_kw"),
    )
    others = (
        told.filter(pl.col("target").is_in(["temperature", "price"]))
        .group_by("target", "interval_start")
        .agg(pl.col("p10", "p50", "p90").mean())
    )
    return pl.concat([powers, others]).sort("target", "interval_start")
