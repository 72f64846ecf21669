"""What plain loads will draw, by one model over all of them.

Belongs here: training on loads' history and issuing their forecasts, as frames. Does not: the
model (`global_model`), the similar days it falls back to (`load`).

Train once a day and issue as often as asked:

    model = train(history, timezone, known_at)
    forecast = issue(model, devices, history, intervals, timezone, known_at)

`history` holds `device_id`, `interval_start`, `power_kw` (signed, a draw is negative), means over
steps of `step`: a quarter-hour unless told, or an hour. Both read nothing that had not ended by
`known_at`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.forecasting.global_model import GlobalModel, fit, predict
from vpp_pipeline.forecasting.load import load_forecast
from vpp_pipeline.forecasting.panel import panel_of
from vpp_pipeline.forecasting.rows import MEMORY, QUANTILES, as_forecasts, measured

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    import dataframely as dy

    from vpp_pipeline.forecasting.schemas import Forecasts

NAME = "global"
_LEAST_DAYS = 3
_LOADS_AT_ONCE = 2_500
"""Weeks of quarter-hours in sorted rows and in a matrix are ten times the answers."""
_DRAW = -pl.col("power_kw")


def train(
    history: pl.DataFrame, timezone: str, known_at: datetime, step: timedelta = STEP
) -> GlobalModel | None:
    """Return what the loads of `history` teach together; None where it is too little.

    The longer the history, the better: it is not cut at the four weeks that an issue looks at.
    """
    known = history.filter(_ended(history, known_at, step))
    if known.is_empty():
        return None
    rows = measured(known, _DRAW, "device_id")
    first = rows.select(pl.col("interval_start").min()).item()
    return fit(panel_of(rows, rows["subject_id"], first, known_at, step, timezone))


def issue(  # noqa: PLR0917 - what was learnt, what is known, what is asked, and when
    model: GlobalModel | None,
    devices: pl.DataFrame,
    history: pl.DataFrame,
    intervals: pl.Series,
    timezone: str,
    known_at: datetime,
) -> dy.DataFrame[Forecasts]:
    """Forecast every plain load of the fleet over `intervals`: signed kW, never above zero.

    `devices` is the fleet's frame, of which `device_id`, `device_type` and `max_draw_kw` are
    read. `model` of an answer is `global`, or, for a load that has told fewer than three days and
    where there is no model, the fallback's name (`load.load_forecast`). What is asked of the past
    is answered as it would have been then.
    """
    loads = devices.filter(pl.col("device_type").cast(pl.String) == "load")
    step = STEP if model is None else model.step
    known = history.filter(
        _ended(history, known_at, step), pl.col("interval_start") >= known_at - MEMORY
    )
    day = pl.col("interval_start").dt.convert_time_zone(timezone).dt.date()
    enough = (
        known.filter(pl.col("power_kw").is_finite())
        .group_by("device_id")
        .agg(days=day.n_unique())
        .filter(pl.col("days") >= _LEAST_DAYS)
    )
    told = loads.join(enough, on="device_id", how="semi")
    if model is None or told.is_empty() or intervals.is_empty():
        return load_forecast(loads, known, intervals, timezone, known_at)
    answers = pl.concat(
        _global(model, some["device_id"], known, intervals, timezone, known_at)
        for some in told.iter_slices(_LOADS_AT_ONCE)
    )
    left = loads.join(answers, left_on="device_id", right_on="subject_id", how="anti")
    bounded = answers.join(
        loads.select(subject_id="device_id", most=-pl.col("max_draw_kw")), on="subject_id"
    ).with_columns(pl.col(QUANTILES).clip(pl.col("most"), 0.0))
    others = load_forecast(left, known, intervals, timezone, known_at)
    columns = ["subject_id", "interval_start", *QUANTILES, "model"]
    return as_forecasts(
        pl.concat([bounded.select(columns), others.select(columns)]), "load", known_at
    )


def _global(  # noqa: PLR0917 - as `issue`
    model: GlobalModel,
    loads: pl.Series,
    known: pl.DataFrame,
    intervals: pl.Series,
    timezone: str,
    known_at: datetime,
) -> pl.DataFrame:
    """Return the answers for loads that have told enough days."""
    mine = known.join(loads.to_frame(), on="device_id", how="semi")
    rows = measured(mine, _DRAW, "device_id")
    asked = intervals.dt.cast_time_unit("us").unique().sort()
    start, end = min(known_at - MEMORY, asked[0]), max(known_at, asked[-1])
    panel = panel_of(rows, loads, start, end, model.step, timezone)
    origin = int(panel.place(pl.Series([known_at]).dt.cast_time_unit("us"))[0])
    draws = predict(model, panel.until(origin), origin, panel.place(asked))
    # a power is the draw turned round, and so are its quantiles
    powers = dict(zip(QUANTILES, -draws[::-1], strict=True))
    return (
        panel.subjects.to_frame()
        .join(asked.rename("interval_start").to_frame(), how="cross")
        .with_columns(pl.Series(name, power.ravel()) for name, power in powers.items())
        .with_columns(model=pl.lit(NAME))
        .filter(pl.col("p50").is_finite().all().over("subject_id"))
    )


def _ended(history: pl.DataFrame, known_at: datetime, step: timedelta) -> pl.Expr:
    """Tell the steps that had ended, and were known where they tell that, by `known_at`."""
    ended = pl.col("interval_start") + step <= known_at
    return ended & (pl.col("known_at") <= known_at) if "known_at" in history.columns else ended
