"""When each device of an interval starts, so that a fleet does not step in unison.

Belongs here: the spread over devices and the fleet's ramp limit. Does not: a device's own ramp
(`guard`), sending at these moments (`push`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.dispatch.commands import CAPPED_TYPES, GRACE

LATEST = GRACE - timedelta(seconds=30)
"""No start is later than this after the boundary: the command before runs out at `GRACE`. It is
below half of an interval."""

WAVE = timedelta(seconds=5)
"""Devices that can't wait by themselves for their moment get theirs in waves, this far apart."""

_PAUSE_S = 0.05  # between two starts, where the window leaves more room than that
_NEVER_S = STEP.total_seconds()  # after the interval
_ORDER_SEED = 20_200_101  # any number: the order is the same in every process


@dataclass(frozen=True)
class SpreadSettings:
    """`ramp_kw_per_min`: how fast the fleet's steps may sum up, None for no limit; `window`: how
    long the starts of a large fleet are spread where no ramp asks for more.
    """

    ramp_kw_per_min: float | None = None
    window: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        """Raise ValueError for a ramp at which nothing would ever start."""
        if self.ramp_kw_per_min is not None and not self.ramp_kw_per_min > 0:
            raise ValueError(
                f"a fleet ramp of {self.ramp_kw_per_min} kW/min: give one above 0, or None"
            )


def steps_kw(commands: pl.DataFrame, devices: pl.DataFrame, states: pl.DataFrame) -> pl.Series:
    """Return, a row of `commands`, by how much its device's power will move: kW, 0 or more.

    `commands` has `device_id` and `setpoint_kw`, `devices` is a `DeviceFrame`, `states` are
    telemetry rows of which the latest a device counts. A cap moves PV and wind to what they
    could give, but no higher than the cap. A device whose power is not known is taken to be at
    the end of its nameplate that is farthest.
    """
    latest = (
        states.drop_nulls(["device_id", "measured_at"])
        .sort("measured_at", maintain_order=True)
        .unique("device_id", keep="last")
        .select("device_id", "power_kw", "available_power_kw")
    )
    setpoint = pl.col("setpoint_kw")
    could_kw = pl.when(pl.col("available_power_kw").is_finite()).then("available_power_kw")
    target_kw = (
        pl.when(pl.col("device_type").cast(pl.String).is_in(CAPPED_TYPES))
        .then(pl.min_horizontal(setpoint, could_kw))
        .otherwise(setpoint)
    )
    farthest_kw = pl.max_horizontal(
        (setpoint + pl.col("max_draw_kw")).abs(), (pl.col("max_inject_kw") - setpoint).abs()
    )
    known = pl.col("power_kw").is_finite().fill_null(value=False)
    return (
        commands.select("device_id", "setpoint_kw")
        .join(
            devices.select("device_id", "device_type", "max_inject_kw", "max_draw_kw"),
            on="device_id",
            how="left",
            maintain_order="left",
        )
        .join(latest, on="device_id", how="left", maintain_order="left")
        .select(
            step_kw=pl.when(known)
            .then((target_kw - pl.col("power_kw")).abs())
            .otherwise(farthest_kw)
            .fill_null(0.0)
        )
        .to_series()
    )


def spread(commands: pl.DataFrame, earliest: datetime, settings: SpreadSettings) -> pl.DataFrame:
    """Return `commands` with `valid_from` set to each one's start, in the same order.

    Besides the columns of `Commands` they have `step_kw` (see `steps_kw`), `urgent` (bound by an
    order: starts at once) and `waits` (the device waits for its `valid_from` by itself; all
    others start at the full `WAVE` before). The first start is `earliest`. A start comes after
    the ones before it by their steps over the ramp, and by the window's share: so the steps that
    begin within a span T sum to at most ramp · T and one step more, and what urgent ones take of
    it others wait for. Without a step there is nothing to wait for. The order of devices is
    theirs alone. A start after `earliest + LATEST` is one that this interval has no room for; it is
    never beyond the command's validity.
    """
    moves = pl.col("step_kw") > 0
    waiting = moves & ~pl.col("urgent")
    share_s = pl.min_horizontal(
        settings.window.total_seconds() / pl.max_horizontal(waiting.sum(), 1), _PAUSE_S
    )
    ramp_s = (
        pl.lit(0.0)
        if settings.ramp_kw_per_min is None
        else pl.col("step_kw") / settings.ramp_kw_per_min * 60
    )
    gap_s = pl.max_horizontal(pl.when(waiting).then(share_s).otherwise(0.0), ramp_s)
    after_s = gap_s.cum_sum() - gap_s
    wave_s = WAVE.total_seconds()
    starts = (
        commands.select(
            "command_id", "step_kw", "urgent", "waits", order=pl.col("device_id").hash(_ORDER_SEED)
        )
        .sort(~pl.col("urgent"), "order", "command_id")
        .with_columns(after_s=pl.when(waiting).then(after_s.clip(0, _NEVER_S)).otherwise(0.0))
        .with_columns(
            after_s=pl.when("waits")
            .then("after_s")
            .otherwise((pl.col("after_s") / wave_s).floor() * wave_s)
        )
        .select(
            "command_id", after=pl.duration(microseconds=(pl.col("after_s") * 1e6).cast(pl.Int64))
        )
    )
    return (
        commands.join(starts, on="command_id", how="left", maintain_order="left")
        .with_columns(
            valid_from=pl.min_horizontal(pl.lit(earliest) + pl.col("after"), "valid_until")
        )
        .drop("after")
    )
