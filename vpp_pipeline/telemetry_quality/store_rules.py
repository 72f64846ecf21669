"""Rules on what stores tell they hold, and on the power that must explain it.

Belongs here: contents and room temperatures that stand still, jump or contradict their power.
Does not: powers by themselves (`power_rules`), bounds of a single reading (`flexibility.states`).

All stand on readings by `device` and `measured_at`, one an instant, with `value` (kWh, or degrees
C for a heat pump), `power_kw`, `kind`, `plugged_in`, `deadline`, `capacity` (kWh; null for a room)
and `rating_kw`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from vpp_pipeline.telemetry_quality.settings import QualitySettings

_value, _at, _power = pl.col("value"), pl.col("measured_at"), pl.col("power_kw")
_IS_ROOM = pl.col("kind") == "heat_pump"
_H_PER_US = 1 / 3_600_000_000
_HOURS = (_at - _at.shift()).dt.total_microseconds() * _H_PER_US
_FIRST = 3
_LEAST_STEP_SHARE = 0.01


def with_stays(readings: pl.DataFrame) -> pl.DataFrame:
    """Add `stay`: the readings of one and the same store, content following content.

    A vehicle that went, and a load's window that ended, leave the next content unexplained.
    """
    same_device = pl.col("device") == pl.col("device").shift()
    comes_and_goes = pl.col("kind").is_in(["ev_charger", "flexible_load"])
    same_visit = pl.col("deadline").eq_missing(pl.col("deadline").shift()) & pl.col(
        "plugged_in"
    ).eq_missing(pl.col("plugged_in").shift())
    begins = ~same_device | (comes_and_goes & ~same_visit)
    return readings.with_columns(stay=begins.fill_null(value=True).cum_sum())


def frozen(readings: pl.DataFrame, settings: QualitySettings) -> pl.Series:
    """Tell contents that stand still while power flows, and rooms that do for half a day."""
    if readings.is_empty():
        return pl.Series(dtype=pl.Boolean)
    begins = readings.select(
        ((pl.col("stay") != pl.col("stay").shift()) | (_value != _value.shift())).fill_null(
            value=True
        )
    ).to_series()
    first = np.flatnonzero(begins.to_numpy())
    count = np.diff(first, append=readings.height)
    flows = pl.when(_power.abs() > settings.standby_share * pl.col("rating_kw")).then(_power)
    # the last reading's power has not moved anything yet
    moved = pl.when(~begins.shift(-1, fill_value=True)).then(flows * _HOURS.shift(-1))
    flowed = readings.select(moved.fill_null(0.0)).to_series().to_numpy()
    of_run = readings.select("capacity", at_us=_at.to_physical(), room=_IS_ROOM)[first]
    lasted_us = readings["measured_at"].to_physical().to_numpy()[first + count - 1]
    lasted_us = lasted_us - of_run["at_us"].to_numpy()
    long_us = settings.temperature_frozen_after // settings.temperature_frozen_after.resolution
    least_kwh = settings.frozen_flow_share * of_run["capacity"].fill_null(np.inf).to_numpy()
    stands = np.where(
        of_run["room"].to_numpy(),
        lasted_us >= long_us,
        np.abs(np.add.reduceat(flowed, first)) > least_kwh,
    )
    return pl.Series(np.repeat(stands & (count >= settings.frozen_readings), count))


def jumped(readings: pl.DataFrame, settings: QualitySettings) -> pl.DataFrame:
    """Return (row, rule) of contents that no power explains.

    What impossible steps add up to, against where the stay began, is how far the sensor is off:
    off for one reading is a `spike`, for longer `shifted`, until it steps back.
    """
    step = pl.when(pl.col("stay") == pl.col("stay").shift()).then(_value - _value.shift())
    room = settings.jump_k + settings.jump_k_per_h * _HOURS
    store = settings.jump_share * pl.col("capacity") + (
        settings.jump_power_margin * pl.col("rating_kw") * _HOURS
    )
    allowed = pl.when(_IS_ROOM).then(room).otherwise(store)
    least = (
        pl.when(_IS_ROOM).then(settings.jump_k).otherwise(settings.jump_share * pl.col("capacity"))
    )
    steps = readings.with_columns(jump=pl.when(step.abs() > allowed).then(step), least=least)
    of_jumps = pl.col("stay").is_in(
        steps.filter(pl.col("jump").is_not_null())["stay"].unique().implode()
    )
    off = (
        steps.filter(of_jumps)  # elsewhere nothing is off
        .with_columns(offset=pl.col("jump").fill_null(0.0).cum_sum().over("stay"))
        .with_columns(offset=pl.col("offset") - pl.col("offset").head(_FIRST).median().over("stay"))
    )
    is_off = pl.col("offset").abs() > pl.col("least")
    episode = ((is_off != is_off.shift()) | (pl.col("stay") != pl.col("stay").shift())).fill_null(
        value=True
    )
    return (
        off.with_columns(is_off=is_off, episode=episode.cum_sum())
        .filter("is_off")
        .select(
            "row",
            rule=pl.when(pl.len().over("episode") == 1)
            .then(pl.lit("spike"))
            .otherwise(pl.lit("shifted")),
        )
    )


def sign_flip() -> pl.Expr:
    """A battery's power that its content contradicts over two steps in a row: it is turned."""
    same = pl.col("stay") == pl.col("stay").shift()
    told = pl.min_horizontal(_power.abs(), _power.shift().abs()) * _HOURS
    steady = _power * _power.shift() > 0
    against = (_value - _value.shift()) * _power > 0
    least = _LEAST_STEP_SHARE * pl.col("capacity")
    contradicts = (
        same
        & steady
        & against
        & (told > least)
        & ((_value - _value.shift()).abs() > least)
        & (pl.col("kind") == "battery")
    ).fill_null(value=False)
    in_a_row = (contradicts & contradicts.shift(fill_value=False)) | (
        contradicts & contradicts.shift(-1, fill_value=False)
    )
    return in_a_row | (
        in_a_row.shift(-1, fill_value=False) & (pl.col("stay") == pl.col("stay").shift(-1))
    )
