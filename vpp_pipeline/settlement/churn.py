"""How much each re-plan moved what was planned before it.

Belongs here: one released plan of a day against those before it. Does not: whether the move was
worth it (`regret`), why a day is planned again (`dispatch.deviation`).
"""

from __future__ import annotations

import dataframely as dy
import polars as pl

from vpp_pipeline.delivery_day import STEP_H

_MOVED_KW = 1e-3
"""Less than a watt is rounding."""


class PlanChurn(dy.Schema):
    """One row a plan of a delivery day that was released after another."""

    delivery_day = dy.Date()
    plan_id = dy.String(primary_key=True)
    revision = dy.Int64(min=0)
    cause = dy.String()
    cause_kind = dy.String(description="what the causes are of: outage, prices, session, …")
    moved_kwh = dy.Float64(min=0)
    devices = dy.Int64(min=0, description="that are controllable, and were planned before")
    devices_moved = dy.Int64(min=0)
    share_moved = dy.Float64(min=0, max=1)


def plan_churn(
    plans: pl.DataFrame, schedules: pl.DataFrame, devices: pl.DataFrame
) -> dy.DataFrame[PlanChurn]:
    """Return what each re-plan moved, oldest first; of a day's first plan, nothing.

    `plans` (plan_id, plan_version, delivery_day, revision, cause,
    cause_kind) are released ones, `schedules`
    (plan_version, device_id, interval_start, power_kw, limit_kw) theirs. A quarter-hour of a plan
    is held against the plan with the next lower version that has it: the one in force until then.

    Counted are controllable devices whose set-point moves by a watt or more; for sun and wind
    that is the limit, so that a new forecast alone is no churn. `moved_kwh` is by how much their
    power moves, whichever way: Σ |power - power before| · h.
    """
    cell = ["device_id", "interval_start"]
    setpoint, power = pl.coalesce("limit_kw", "power_kw"), pl.col("power_kw")
    held = (
        schedules.join(
            devices.filter("controllable").select("device_id"), on="device_id", how="semi"
        )
        .sort("plan_version", maintain_order=True)
        .with_columns(setpoint_kw=setpoint)
        .with_columns(
            before_kw=power.shift(1).over(cell),
            setpoint_before_kw=pl.col("setpoint_kw").shift(1).over(cell),
        )
        .filter(pl.col("before_kw").is_not_null())
        .with_columns(
            moved=(pl.col("setpoint_kw") - pl.col("setpoint_before_kw")).abs() >= _MOVED_KW,
            moved_kwh=(power - pl.col("before_kw")).abs() * STEP_H,
        )
    )
    by_plan = held.group_by("plan_version").agg(
        moved_kwh=pl.col("moved_kwh").filter("moved").sum(),
        devices=pl.col("device_id").n_unique(),
        devices_moved=pl.col("device_id").filter("moved").n_unique(),
    )
    return PlanChurn.validate(
        plans.join(by_plan, on="plan_version")
        .sort("plan_version")
        .with_columns(share_moved=pl.col("devices_moved") / pl.col("devices"))
        .select(PlanChurn.column_names()),
        cast=True,
    )


def churn_by_cause(churn: pl.DataFrame) -> pl.DataFrame:
    """Return (cause_kind, re_plans, moved_kwh, share_moved), the most moved first; means of shares."""
    return (
        churn.group_by("cause_kind")
        .agg(
            re_plans=pl.len(),
            moved_kwh=pl.col("moved_kwh").sum(),
            share_moved=pl.col("share_moved").mean(),
        )
        .sort("moved_kwh", "cause_kind", descending=[True, False])
    )
