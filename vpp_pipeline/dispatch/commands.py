"""From a plan's schedules to the commands of one interval.

Belongs here: which device is told what, with which identity and validity. Does not: bounds from
live telemetry (`guard`), sending (`push`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.dispatch.schemas import Commands

GRACE = timedelta(minutes=5)
"""How long a command outlives its interval, so that the next one refreshes it without a gap."""

CAPPED_TYPES = ("pv", "wind")
"""Their command is the most they may inject, not a set-point."""

_NOISE_DECIMALS = 6  # a solver's noise below a milliwatt is no set-point


@dataclass(frozen=True)
class PlanRef:
    """The plan a command stands on."""

    plan_id: str
    plan_version: int


@dataclass(frozen=True)
class DueCommands:
    """The commands of one interval, and the schedule rows that could not become one.

    `commands` has the columns of `schemas.Commands`; `refused` has `device_id`,
    `interval_start`, `field`, `value` and `reason` (with its remedy).
    """

    commands: pl.DataFrame
    refused: pl.DataFrame


def due_commands(
    plan: PlanRef,
    schedules: pl.DataFrame,
    devices: pl.DataFrame,
    interval_start: datetime,
    grace: timedelta = GRACE,
) -> DueCommands:
    """Return what `plan` tells each controllable device for the interval at `interval_start`.

    `schedules` are the plan's rows (columns of `Schedules`), `devices` a `DeviceFrame`. PV and
    wind get their `limit_kw`, all others their `power_kw`, rounded to a milliwatt. The identity
    `<device>.v<plan_version>.<sequence>` names device, plan version and interval and nothing
    else, so that the same intent has the same id in every process.
    """
    capped = pl.col("device_type").cast(pl.String).is_in(CAPPED_TYPES)
    rows = (
        schedules.filter(pl.col("interval_start") == interval_start)
        .join(
            devices.select("device_id", "device_type", "controllable"), on="device_id", how="left"
        )
        .filter(pl.col("controllable").fill_null(value=True))
        .with_columns(
            field=pl.when(capped).then(pl.lit("limit_kw")).otherwise(pl.lit("power_kw")),
            planned_kw=pl.when(capped).then("limit_kw").otherwise("power_kw"),
            sequence=pl.lit(interval_number(interval_start), pl.Int64),
        )
        .with_columns(reason=_refusal())
        .sort("device_id")
    )
    commands = rows.filter(pl.col("reason").is_null()).select(
        command_id=pl.format("{}.v{}.{}", "device_id", pl.lit(plan.plan_version), "sequence"),
        device_id="device_id",
        plan_id=pl.lit(plan.plan_id),
        plan_version=pl.lit(plan.plan_version, pl.Int64),
        sequence="sequence",
        interval_start="interval_start",
        valid_from="interval_start",
        valid_until=pl.col("interval_start") + STEP + grace,
        planned_kw=pl.col("planned_kw").round(_NOISE_DECIMALS),
        setpoint_kw=pl.col("planned_kw").round(_NOISE_DECIMALS),
        guard_reason=pl.lit(""),
    )
    refused = rows.filter(pl.col("reason").is_not_null()).select(
        "device_id",
        "interval_start",
        "field",
        value=pl.col("planned_kw").cast(pl.String),
        reason=pl.format("schedules of plan {}: {}", pl.lit(plan.plan_id), "reason"),
    )
    return DueCommands(Commands.validate(commands), refused)


def interval_number(interval_start: datetime) -> int:
    """Return the interval's number since the epoch: the `sequence` of its commands."""
    return int(interval_start.timestamp()) // int(STEP.total_seconds())


def _refusal() -> pl.Expr:
    duplicate = pl.len().over("device_id") > 1
    return (
        pl.when(pl.col("device_type").is_null())
        .then(pl.lit("the device is not in the registry: add it there or plan again"))
        .when(duplicate)
        .then(pl.lit("several rows for one device and interval: plan again"))
        .when(~pl.col("planned_kw").is_finite().fill_null(value=False))
        .then(pl.format("{} is not a finite number: plan again", "field"))
    )
