"""Rules on when a reading was measured and when it came.

Belongs here: gaps, doubles, order, clocks and the change of the clocks; each rule is an
expression, true where it is broken. Does not: what a reading says (`value_rules`).

All stand on readings by `device`, `measured_at`, `known_at`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from vpp_pipeline.telemetry_quality.settings import QualitySettings

_AROUND_CHANGE = timedelta(minutes=90)
_ONE_BY_ONE_SHARE = 0.5
_at = pl.col("measured_at")
_SAME_DEVICE = pl.col("device") == pl.col("device").shift()


def gap(settings: QualitySettings) -> pl.Expr:
    """The device said nothing for longer than it may, until this reading."""
    return _SAME_DEVICE & (_at - _at.shift() > settings.gap_after)


def duplicate() -> pl.Expr:
    """The instant was told before: this reading corrects or repeats another."""
    return _SAME_DEVICE & (_at == _at.shift())


def clock_future(settings: QualitySettings) -> pl.Expr:
    """Measured after it was known: the device's clock runs ahead."""
    return _at > pl.col("known_at") + settings.clock_ahead


def arrivals(ordered: pl.DataFrame) -> pl.DataFrame:
    """Return the readings as they came, with what was the newest before each; none in good order.

    Good order is that of measuring. Readings of one arrival have no order.
    """
    told = ordered.select("row", "device", "measured_at", "known_at", "heartbeat")
    overtook = _SAME_DEVICE & (pl.col("known_at") < pl.col("known_at").shift())
    if told.select(overtook.any()).item():
        came = told.sort("device", "known_at", "measured_at", "heartbeat")
    else:
        came = told.clear()
    return came.with_columns(
        newest=pl.col("measured_at").cum_max().shift().over("device"),
        beats=pl.col("heartbeat").cum_max().shift().over("device"),
    )


def arrival_rules(came: pl.DataFrame) -> pl.DataFrame:
    """Return (row, rule) of `arrivals` that came after one that was measured later.

    A heartbeat that went on meanwhile tells a clock that was set back (`clock_back`); else the
    reading was only late (`out_of_order`).
    """
    return (
        came.filter(pl.col("measured_at") < pl.col("newest"))
        .filter(pl.col("known_at") > pl.col("known_at").min().over("device"))
        .select(
            "row",
            rule=pl.when(pl.col("heartbeat") > pl.col("beats"))
            .then(pl.lit("clock_back"))
            .otherwise(pl.lit("out_of_order")),
        )
    )


def clock_behind(came: pl.DataFrame, settings: QualitySettings) -> pl.DataFrame:
    """Return (row, rule) of `arrivals` from a clock that was set back and runs behind since then.

    From one reading to the next the time from measuring to knowing steps up, to what it never was
    before, though one measured later was known already; and it stays up while most readings go on
    to come one by one, as far apart as they were measured. A backlog that comes at once is none,
    nor readings that wait on their way: those leave a pause and come in order. It is told as long
    as `came` reaches back to the step.
    """
    late_s = (pl.col("known_at") - _at).dt.total_seconds().clip(lower_bound=0)
    before_s = pl.col("late_s").shift().over("device")
    still_s = pl.min_horizontal(
        *(pl.col("late_s").shift(-n).over("device") for n in range(settings.clock_behind_readings))
    )
    steps = (
        (_at < pl.col("newest"))
        & (pl.col("late_s") - before_s > settings.clock_behind.total_seconds())
        & (still_s > (before_s + pl.col("late_s")) / 2)
    )
    told = came.with_columns(late_s=late_s).with_columns(steps=steps.fill_null(value=False))
    stepped = told.filter(pl.col("steps").any().over("device"))
    behind = [rows.filter(_behind(rows, settings)) for rows in stepped.partition_by("device")]
    return pl.concat([stepped.clear(), *behind]).select("row", rule=pl.lit("clock_behind"))


def _behind(came: pl.DataFrame, settings: QualitySettings) -> pl.Series:
    """Tell which of one device's arrivals a clock that runs behind has dated."""
    late_s = came["late_s"].to_numpy()
    known_s, measured_s = (
        came[name].dt.epoch("us").to_numpy() / 1e6 for name in ("known_at", "measured_at")
    )
    behind = np.zeros(len(late_s), dtype=np.bool_)
    for step in np.flatnonzero(came["steps"].to_numpy()):
        bar_s = (late_s[step - 1] + late_s[step]) / 2
        back = np.flatnonzero(late_s[step:] < bar_s)
        end = step + back[0] if len(back) else len(late_s)
        habit_s = late_s[:step][~behind[:step]]
        if min(len(habit_s), end - step) < settings.clock_behind_readings:
            continue
        came_s, apart_s = np.diff(known_s[step:end]), np.diff(measured_s[step:end])
        one_by_one = (apart_s > 0) & (came_s / 2 <= apart_s) & (apart_s <= came_s * 2)
        lasts = came_s.sum() >= settings.clock_behind_lasts.total_seconds()
        is_new = (habit_s >= bar_s).mean() <= settings.clock_behind_before_share
        if one_by_one.mean() > _ONE_BY_ONE_SHARE and lasts and is_new:
            behind[step:end] = True
    return pl.Series(behind)


def clock_change_rules(suspects: pl.DataFrame) -> pl.DataFrame:
    """Return (row, rule) of gaps and doubles that the change of the clocks made.

    `suspects` has row, timezone, measured_at and rule. Around the instant at which the device's
    timezone changes its offset, a double is the repeated hour (`dst_double`) and a gap the hour
    left out (`dst_missing`).
    """
    changed = [
        rows.filter(
            _offset(_at - _AROUND_CHANGE, str(timezone))
            != _offset(_at + _AROUND_CHANGE, str(timezone))
        )
        for (timezone,), rows in suspects.drop_nulls("timezone").group_by("timezone")
    ]
    return pl.concat([suspects.clear(), *changed]).select(
        "row",
        rule=pl.when(pl.col("rule") == "gap")
        .then(pl.lit("dst_missing"))
        .otherwise(pl.lit("dst_double")),
    )


def _offset(at: pl.Expr, timezone: str) -> pl.Expr:
    local = at.dt.convert_time_zone(timezone)
    return local.dt.base_utc_offset() + local.dt.dst_offset()
