"""When a device has had the time to follow its set-point, and what it did from then on.

Belongs here: the settling time of each type, and the mean power after it. Does not: whether that
power is near enough (`verification`), whose fault it is if not (`delivery`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.warehouse.quarter_hours import quarter_hours

if TYPE_CHECKING:
    from datetime import datetime

REACH = timedelta(hours=3)
"""How long after a quarter-hour its powers may still be looked at."""

BEFORE = timedelta(minutes=15)
"""How long before the first quarter-hour readings are wanted: a ramp begins where a device was."""

_RESPONSE_MINUTES = {"wind": 2, "chp": 2, "heat_pump": 3}  # a compressor waits before it starts
_RESPONSE_MINUTES_OF_OTHERS = 1
_LEAST = timedelta(minutes=3)  # a shorter rest of a quarter-hour tells little
_LANDING = timedelta(minutes=2)  # until the last readings of a quarter-hour have landed
_LANDING_S = 5.0  # and the same for a clock that runs faster


def judged_until(now: datetime, rate: float) -> datetime:
    """Return the moment before which all readings have landed, of a clock that runs at `rate`."""
    return now - max(_LANDING, timedelta(seconds=_LANDING_S * rate))


def settled(commands: pl.DataFrame, readings: pl.DataFrame, devices: pl.DataFrame) -> pl.DataFrame:
    """Add `settled_at` to commands: when the device should be where it was told to be.

    `commands` has `device_id`, `interval_start`, `setpoint_kw` and `told_at`; `readings` are
    those of `warehouse_readings`, in time order by device; `devices` is a `DeviceFrame`. From
    `told_at`, or the quarter-hour's start, each type has some minutes to respond, and then the
    time its ramp takes from where it was (the nameplate's whole range if that is unknown). Null
    where less than three minutes of the quarter-hour are left.
    """
    response = (
        pl.col("device_type")
        .cast(pl.String)
        .replace_strict(_RESPONSE_MINUTES, default=_RESPONSE_MINUTES_OF_OTHERS)
    )
    way_kw = (pl.col("setpoint_kw") - pl.col("power_kw")).abs()
    whole_kw = pl.col("max_inject_kw") + pl.col("max_draw_kw")
    ramp = pl.coalesce(way_kw, whole_kw) / pl.col("ramp_kw_per_min")
    settles_at = pl.col("begins") + pl.duration(
        seconds=((response + ramp.fill_null(0.0)) * 60).ceil()
    )
    end = pl.col("interval_start") + STEP
    before = readings.filter(pl.col("power_kw").is_finite()).select(
        "device_id", "measured_at", "power_kw"
    )
    return (
        commands.with_columns(begins=pl.max_horizontal("interval_start", "told_at"))
        .sort("begins")
        .join_asof(
            before.sort("measured_at"),
            left_on="begins",
            right_on="measured_at",
            by="device_id",
            tolerance=BEFORE,
            check_sortedness=False,
        )
        .join(
            devices.select(
                "device_id", "device_type", "max_inject_kw", "max_draw_kw", "ramp_kw_per_min"
            ),
            on="device_id",
            how="left",
        )
        .with_columns(settled_at=pl.when(settles_at <= end - _LEAST).then(settles_at))
        .select(*commands.columns, "settled_at")
        .sort("interval_start", "device_id")
    )


def measured(commands: pl.DataFrame, readings: pl.DataFrame) -> pl.DataFrame:
    """Return `quarter_hours` of the readings from each command's `settled_at` on.

    `commands` are those of `settled`, one a device and quarter-hour.
    """
    after = (
        readings.with_columns(interval_start=pl.col("measured_at").dt.truncate("15m"))
        .join(
            commands.select("device_id", "interval_start", "settled_at"),
            on=["device_id", "interval_start"],
            maintain_order="left",
        )
        .filter(pl.col("measured_at") >= pl.col("settled_at"))
    )
    return quarter_hours(after.select(readings.columns))
