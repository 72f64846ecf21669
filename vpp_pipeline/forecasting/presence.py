"""Expected sessions by the quarter-hour: where a vehicle is expected to be.

Belongs here: `SessionForecasts` as values that can be held against what was told of the plugs. Does
not: making them (`sessions`), the measures (`skill`).
"""

from __future__ import annotations

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.forecasting.rows import QUANTILES, asked

TARGET = "sessions"
EXPECTED_FROM = 0.5
"""A session less probable than this is not planned for."""


def presence(sessions: pl.DataFrame, chargers: pl.Series, intervals: pl.Series) -> pl.DataFrame:
    """Return 1 where a vehicle is expected, else 0: `Forecasts` of target `sessions`, no `model`.

    `sessions` are `SessionForecasts` of one moment, one row at least; a charger without any expects
    nobody. p50 are the sessions that a plan stands on: as likely as not, from their median arrival
    to their median departure. p10 are the hours that hardly anybody would doubt, p90 those that
    hardly anybody would rule out, by the outer quantiles of arrival, departure and `probability`.
    """
    begins, ends = pl.col("interval_start"), pl.col("interval_start") + STEP
    likely = pl.col("probability")
    there = {
        "p10": (pl.col("arrival_p90") <= begins)
        & (pl.col("departure_p10") >= ends)
        & (likely >= QUANTILES["p90"]),
        "p50": (pl.col("arrival_p50") < ends)
        & (pl.col("departure_p50") > begins)
        & (likely >= EXPECTED_FROM),
        "p90": (pl.col("arrival_p10") < ends)
        & (pl.col("departure_p90") > begins)
        & (likely >= QUANTILES["p10"]),
    }
    expected = (
        asked(chargers, intervals)
        .join(sessions.rename({"device_id": "subject_id"}), on="subject_id")
        .group_by("subject_id", "interval_start")
        .agg(is_there.any().cast(pl.Float64).alias(name) for name, is_there in there.items())
    )
    return (
        asked(chargers, intervals)
        .join(expected, on=["subject_id", "interval_start"], how="left", maintain_order="left")
        .with_columns(
            pl.col(list(there)).fill_null(0.0),
            target=pl.lit(TARGET),
            known_at=pl.lit(sessions["known_at"].max(), sessions.schema["known_at"]),
        )
    )
