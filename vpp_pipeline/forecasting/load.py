"""What the plain loads will draw.

Belongs here: bounds and the last fallback of load forecasts. Does not: the model itself
(`similar_day`), loads that are steered (`flexibility`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting.rows import as_forecasts, ended_by, measured
from vpp_pipeline.forecasting.similar_day import Habit, similar_day

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.forecasting.schemas import Forecasts

_HABIT = Habit(day_types=True, level_trust=0.5)
_NAMEPLATE_SHARE = {"p10": -0.4, "p50": -0.1, "p90": 0.0}
"""What a household or shop without a history is taken to draw, as shares of its connection."""


def load_forecast(
    devices: pl.DataFrame,
    history: pl.DataFrame,
    intervals: pl.Series,
    timezone: str,
    known_at: datetime,
) -> dy.DataFrame[Forecasts]:
    """Forecast every plain load of the fleet over `intervals`: signed kW, never above zero.

    `devices` is the fleet's frame (`DeviceFrame`); `history` holds `device_id`,
    `interval_start`, `power_kw` (signed, quarter-hour means, gaps welcome). Each load gets each
    interval exactly once; `model` names the fallback that answered, the last is `nameplate`: a
    share of `max_draw_kw`.
    """
    loads = devices.filter(pl.col("device_type") == "load").select(
        pl.col("device_id").alias("subject_id"), "max_draw_kw"
    )
    known = measured(ended_by(history, known_at), pl.col("power_kw"), "device_id").join(
        loads, on="subject_id", how="semi"
    )
    answers = (
        similar_day(known, loads["subject_id"], intervals, timezone, _HABIT)
        .join(loads, on="subject_id")
        .with_columns(
            *(
                pl.coalesce(name, share * pl.col("max_draw_kw"))
                .clip(-pl.col("max_draw_kw"), 0.0)
                .alias(name)
                for name, share in _NAMEPLATE_SHARE.items()
            ),
            pl.col("model").fill_null("nameplate"),
        )
    )
    return as_forecasts(answers, "load", known_at)
