"""What the Dagster UI shows of released schedules: who does what when, and what a re-plan moved.

Belongs here: schedules as metadata. Does not: releasing them (`planning`), a plan's certificate
(`plan_figures`), drawing (`reporting.pictures`).
"""

from __future__ import annotations

from typing import Any

import polars as pl

from vpp_pipeline.defs.metadata import picture, table
from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.reporting import pictures
from vpp_pipeline.settings import MARKET_TZ

_DEVICES_SHOWN = 50
_MOVED_KW = 1e-3
"""Less than a watt is rounding."""
_POWER = pl.col("power_kw")
_SET_POINT = pl.coalesce("limit_kw", "power_kw")


def schedule_figures(
    schedule: pl.DataFrame, before: pl.DataFrame, devices: pl.DataFrame
) -> dict[str, Any]:
    """Return the metadata of a plan's schedules.

    `schedule` and `before`, the plan that was in force until now (empty for a first one):
    (device_id, interval_start, power_kw, limit_kw). Shown are the devices that are steered, those of the
    most energy where they are many.
    """
    steered = schedule.join(
        devices.filter("controllable").select(
            "device_id",
            pl.col("device_type").cast(pl.String),
            nameplate_kw=pl.max_horizontal("max_inject_kw", "max_draw_kw"),
        ),
        on="device_id",
    )
    by_device = (
        steered.group_by("device_type", "device_id")
        .agg(
            injects_kwh=_POWER.clip(lower_bound=0).sum() * STEP_H,
            draws_kwh=-_POWER.clip(upper_bound=0).sum() * STEP_H,
            lowest_kw=_POWER.min(),
            highest_kw=_POWER.max(),
        )
        .sort(pl.col("injects_kwh") + pl.col("draws_kwh"), descending=True)
        .head(_DEVICES_SHOWN)
        .sort("device_type", "device_id")
    )
    shown = steered.join(by_device.select("device_id"), on="device_id").select(
        "device_type", "device_id", "interval_start", share=_POWER / pl.col("nameplate_kw")
    )
    figures: dict[str, Any] = {}
    if steered.height:
        drawn = pictures.set_points(shown, MARKET_TZ, "png")
        figures["set_points"] = picture(drawn, "set-points")
    if before.height:
        figures["moved_most"] = table(_moved(steered, before))
    return figures | {"by_device": table(by_device, rows=_DEVICES_SHOWN)}


def _moved(steered: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """Return which devices a re-plan moved, the most moved first, and where it did so most.

    Sun and wind count where their cap moves: a new forecast alone moves nobody.
    """
    change = pl.col("power_kw") - pl.col("before_kw")
    most = change.abs().arg_max()
    return (
        steered.with_columns(set_point_kw=_SET_POINT)
        .join(
            before.select(
                "device_id", "interval_start", before_kw="power_kw", told_before_kw=_SET_POINT
            ),
            on=["device_id", "interval_start"],
        )
        .filter((pl.col("set_point_kw") - pl.col("told_before_kw")).abs() >= _MOVED_KW)
        .group_by("device_id")
        .agg(
            moved_kwh=change.abs().sum() * STEP_H,
            most_at=pl.col("interval_start").get(most),
            before_kw=pl.col("before_kw").get(most),
            now_kw=_POWER.get(most),
        )
        .sort("moved_kwh", "device_id", descending=[True, False])
    )
