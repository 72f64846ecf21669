"""What was planned, commanded and measured, side by side.

Belongs here: the delivery frame and how far delivery was off the plan. Does not: money (`cost`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.settlement.schemas import Delivery

if TYPE_CHECKING:
    from datetime import date, datetime

    import dataframely as dy

_ROW = ["device_id", "interval_start"]


def delivery(
    day_ahead: pl.DataFrame,
    in_force: pl.DataFrame,
    commands: pl.DataFrame,
    measured: pl.DataFrame,
    intervals: pl.Series,
    *,
    delivery_day: date,
    settled_at: datetime,
) -> dy.DataFrame[Delivery]:
    """Return one row a device and quarter-hour that was planned, commanded or measured.

    `day_ahead`, `in_force` and `measured` hold `device_id`, `interval_start`, `power_kw`;
    `commands` `device_id`, `interval_start`, `setpoint_kw`, `state`, one row a device and
    quarter-hour (of several, the last holds). What is missing stays null.
    """
    asked = intervals.rename("interval_start").to_frame()
    parts = [
        day_ahead.select(*_ROW, day_ahead_kw="power_kw"),
        in_force.select(*_ROW, planned_kw="power_kw"),
        commands.unique(_ROW, keep="last", maintain_order=True).select(
            *_ROW, commanded_kw="setpoint_kw", command_state="state"
        ),
        measured.select(*_ROW, measured_kw="power_kw"),
    ]
    rows = pl.concat([part.select(_ROW) for part in parts]).unique()
    joined = rows.join(asked, on="interval_start", how="semi")
    for part in parts:
        joined = joined.join(part, on=_ROW, how="left")
    return Delivery.validate(
        joined.with_columns(
            delivery_day=pl.lit(delivery_day),
            settled_at=pl.lit(settled_at).dt.cast_time_unit("us"),
        )
        .select(Delivery.column_names())
        .sort(_ROW),
        cast=True,
    )


def delivery_errors(
    delivered: pl.DataFrame, devices: pl.DataFrame, outages: pl.DataFrame
) -> pl.DataFrame:
    """Return the fleet's delivery errors over a day, one row as in the table `delivery_errors`.

    Counted are the quarter-hours of steered devices (`controllable`) that a plan was in force
    for; one without a measurement delivered nothing. `outages` (`device_id`, `from`, `until`)
    leaves out every quarter-hour that starts in [from, until); how many is told. With P and M the
    planned and measured energy, D devices and T quarter-hours:

    - `net_error` = |Σ_D,T M - Σ_D,T P| / Σ_D,T |P|: over the whole day;
    - `absolute_error` = Σ_T |Σ_D M - Σ_D P| / Σ_D,T |P|: quarter-hour by quarter-hour.

    Both are 0 where nothing was planned and nothing delivered.
    """
    steered = delivered.filter(pl.col("planned_kw").is_not_null()).join(
        devices.filter("controllable").select("device_id"), on="device_id", how="semi"
    )
    out = (
        steered.select(_ROW)
        .join(outages, on="device_id")
        .filter(
            (pl.col("interval_start") >= pl.col("from"))
            & (pl.col("interval_start") < pl.col("until"))
        )
        .select(_ROW)
        .unique()
    )
    counted = steered.join(out, on=_ROW, how="anti").select(
        "interval_start",
        planned=pl.col("planned_kw") * STEP_H,
        measured=pl.col("measured_kw").fill_null(0.0) * STEP_H,
    )
    off_by = counted.group_by("interval_start").agg(
        off=(pl.col("measured").sum() - pl.col("planned").sum()).abs()
    )
    planned, measured = (float(counted[name].to_numpy().sum()) for name in ("planned", "measured"))
    volume = float(counted["planned"].abs().to_numpy().sum())
    return delivered.select(pl.col("delivery_day").first(), pl.col("settled_at").first()).select(
        "delivery_day",
        planned_energy_kwh=pl.lit(planned, pl.Float64),
        delivered_energy_kwh=pl.lit(measured, pl.Float64),
        net_error=pl.lit(_share(abs(measured - planned), volume)),
        absolute_error=pl.lit(_share(float(off_by["off"].to_numpy().sum()), volume)),
        excluded_intervals=pl.lit(out.height, pl.Int64),
        settled_at="settled_at",
    )


def _share(off_kwh: float, volume_kwh: float) -> float:
    """Return off / volume; energy delivered where none was planned is an error of 1."""
    if volume_kwh > 0:
        return off_kwh / volume_kwh
    return float(off_kwh > 0)
