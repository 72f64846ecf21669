"""What PV will give uncurtailed, by one model over all plants, each under its own clear sky.

Belongs here: training on plants' history and issuing their forecasts, as frames. Does not: the
model (`global_model`), a plant's clear sky (`sun`), wind and what a new plant is taken to give
(`generation`).

Train once a day and issue as often as asked, as with `load_model`:

    model = train(devices, history, weather, timezone, known_at)
    forecast = issue(model, devices, history, weather, intervals, timezone, known_at)

`history` holds `device_id`, `interval_start`, `power_kw` and, where the plant tells them,
`available_power_kw` and `setpoint_kw`, means over steps of `step`: a quarter-hour unless told, or
an hour. `weather` has `site_id`, `interval_start`, `ghi_w_per_m2`, `kind`, `known_at` of
`markets.schemas.Weather`, or no rows: only what a service foretold counts, in the past too, so that
it is trusted as far as it was right. Both read nothing that had not ended, or was not known, by
`known_at`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.forecasting.generation import generation_forecast
from vpp_pipeline.forecasting.global_model import fit, predict
from vpp_pipeline.forecasting.panel import panel_of
from vpp_pipeline.forecasting.regressors import Sun
from vpp_pipeline.forecasting.rows import MEMORY, QUANTILES, as_forecasts, measured
from vpp_pipeline.forecasting.sun import clear_power, irradiance_clear

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    import dataframely as dy

    from vpp_pipeline.forecasting.global_model import GlobalModel
    from vpp_pipeline.forecasting.panel import Panel
    from vpp_pipeline.forecasting.schemas import Forecasts

NAME = "global-sun"
_LEAST_DAYS = 3
_LEAST_CLEAR_W_PER_M2 = 20.0
_MOST_CLEAR = 1.2
_HELD_SHARE = 0.02
"""A plant this near to its limit, as a share of its rating, may have been held back by it."""


def train(  # noqa: PLR0917 - what is known, on which clock, and when
    devices: pl.DataFrame,
    history: pl.DataFrame,
    weather: pl.DataFrame,
    timezone: str,
    known_at: datetime,
    step: timedelta = STEP,
) -> GlobalModel | None:
    """Return what the PV plants among `devices` teach together; None where it is too little.

    The longer the history, the better: it is not cut at the four weeks that an issue looks at.
    """
    plants = _plants(devices)
    rows = _uncurtailed(history, plants, known_at, step)
    if rows.is_empty():
        return None
    first = rows.select(pl.col("interval_start").min()).item()
    panel = panel_of(rows, rows["subject_id"], first, known_at, step, timezone)
    return fit(panel, _sun(panel, plants, weather, first, known_at, known_at))


def issue(  # noqa: PLR0917 - what was learnt, what is known, what is asked, and when
    model: GlobalModel | None,
    devices: pl.DataFrame,
    history: pl.DataFrame,
    weather: pl.DataFrame,
    intervals: pl.Series,
    timezone: str,
    known_at: datetime,
) -> dy.DataFrame[Forecasts]:
    """Forecast every PV plant and wind turbine over `intervals`: kW in [0, rating], uncurtailed.

    `model` of an answer is `global-sun`, or the fallback's name (`generation`): of wind, of a
    plant that has told fewer than three days, and where there is no model. What is asked of the
    past is answered as it would have been then.
    """
    plants = _plants(devices)
    step = STEP if model is None else model.step
    started = pl.col("interval_start") >= known_at - MEMORY
    rows = _uncurtailed(history, plants, known_at, step).filter(started)
    day = pl.col("interval_start").dt.convert_time_zone(timezone).dt.date()
    enough = (
        rows.group_by("subject_id").agg(days=day.n_unique()).filter(pl.col("days") >= _LEAST_DAYS)
    )
    told = plants.join(enough, on="subject_id", how="semi")
    if model is None or told.is_empty() or intervals.is_empty():
        return generation_forecast(devices, history, weather, intervals, known_at)
    asked = intervals.dt.cast_time_unit("us").unique().sort()
    start, end = min(known_at - MEMORY, asked[0]), max(known_at, asked[-1] + step)
    panel = panel_of(rows, told["subject_id"], start, end, step, timezone)
    origin = int(panel.place(pl.Series([known_at]).dt.cast_time_unit("us"))[0])
    sun = _sun(panel, told, weather, start, end, known_at)
    columns = panel.place(asked)
    powers = np.maximum(predict(model, panel.until(origin), origin, columns, sun), 0.0)
    powers = np.where(sun.clear[:, columns] > 0, powers, 0.0)
    answers = (
        panel.subjects.to_frame()
        .join(asked.rename("interval_start").to_frame(), how="cross")
        .with_columns(
            pl.Series(name, power.ravel()) for name, power in zip(QUANTILES, powers, strict=True)
        )
        .join(told.select("subject_id", "rated_kw"), on="subject_id")
        .with_columns(pl.col(QUANTILES).clip(0.0, pl.col("rated_kw")), model=pl.lit(NAME))
        .filter(pl.col("p50").is_finite().all().over("subject_id"))
    )
    mine = as_forecasts(answers, "pv", known_at)
    left = devices.join(mine, left_on="device_id", right_on="subject_id", how="anti")
    if left.is_empty():
        return mine
    others = generation_forecast(left, history, weather, intervals, known_at)
    return pl.concat([mine, others]).sort("target", "subject_id", "interval_start")  # type: ignore[return-value]


def _plants(devices: pl.DataFrame) -> pl.DataFrame:
    return devices.filter(pl.col("device_type").cast(pl.String) == "pv").select(
        "site_id",
        "latitude",
        "longitude",
        "tilt_deg",
        "azimuth_deg",
        subject_id="device_id",
        rated_kw="max_inject_kw",
    )


def _uncurtailed(
    history: pl.DataFrame, plants: pl.DataFrame, known_at: datetime, step: timedelta
) -> pl.DataFrame:
    """Return what the sun gave: `subject_id`, `interval_start`, `value`.

    What a plant tells it could have given goes first; without that, a step in which a limit was
    in force and reached says only that there was no less, and is left out.
    """
    ended = history.filter(pl.col("interval_start") + step <= known_at)
    if "known_at" in ended.columns:
        ended = ended.filter(pl.col("known_at") <= known_at)
    ended = ended.join(plants.select(device_id="subject_id", rated="rated_kw"), on="device_id")
    power = pl.col("power_kw")
    if "setpoint_kw" in history.columns:
        held = power >= pl.col("setpoint_kw") - _HELD_SHARE * pl.col("rated")
        power = pl.when(~held.fill_null(value=False)).then(power)
    if "available_power_kw" in history.columns:
        power = pl.coalesce("available_power_kw", power)
    return measured(ended, power.clip(lower_bound=0.0), "device_id")


def _sun(  # noqa: PLR0917 - which plants, what is foretold, over which span, and when
    panel: Panel,
    plants: pl.DataFrame,
    weather: pl.DataFrame,
    start: datetime,
    end: datetime,
    known_at: datetime,
) -> Sun:
    """Return each plant's clear sky, and that under the clouds that were foretold by `known_at`."""
    clear = clear_power(panel, plants, start, end)
    told = np.full(clear.shape, np.nan)
    foretold = weather.filter(
        pl.col("kind") == "forecast",
        pl.col("known_at") <= known_at,
        pl.col("known_at") <= pl.col("interval_start"),
        pl.col("ghi_w_per_m2").is_finite(),
    )
    if foretold.is_empty():
        return Sun(clear, told)
    flat = irradiance_clear(panel, plants, start, end)
    newest = foretold.sort("known_at").unique(["site_id", "interval_start"], keep="last")
    by_plant = newest.join(plants.select("site_id", "subject_id"), on="site_id").select(
        "subject_id", "interval_start", value="ghi_w_per_m2"
    )
    irradiance = panel_of(
        by_plant.sort("subject_id", "interval_start"),
        panel.subjects, start, end, panel.step, panel.timezone,
    ).values  # fmt: skip
    high = flat > _LEAST_CLEAR_W_PER_M2
    clearness = np.divide(irradiance, flat, out=np.full(flat.shape, np.nan), where=high)
    return Sun(clear, clear * np.clip(clearness, 0.0, _MOST_CLEAR))
