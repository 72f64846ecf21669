"""Dispatch in Dagster: one interval's commands, pushed ahead of time and verified.

Belongs here: the ledger and re-check assets, and their checks. Does not: guard, ledger, push (`dispatch`).
"""

from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline import event_loop
from vpp_pipeline.defs.metadata import figures, owners, table
from vpp_pipeline.defs.partitions import delivery_days
from vpp_pipeline.defs.planning import device_schedules
from vpp_pipeline.dispatch.commands import PlanRef, due_commands
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.dispatch.recheck import RecheckReport, recheck
from vpp_pipeline.dispatch.report import PushReport, Tolerance, accepted_kw, shortfall_kw
from vpp_pipeline.runtime import Runtime


class DispatchConfig(dg.Config):
    """Which plan's commands for which quarter-hour."""

    plan_id: str
    interval_start: str


@dg.asset(
    group_name="dispatch",
    partitions_def=delivery_days,
    deps=[device_schedules],
    kinds={"modbus", "mqtt", "http", "duckdb"},
    owners=owners(),
    retry_policy=dg.RetryPolicy(max_retries=2, delay=1),  # a push may be done again at any point
)
def dispatch_ledger(
    context: dg.AssetExecutionContext,
    config: DispatchConfig,
    runtime: dg.ResourceParam[Runtime],
) -> dg.MaterializeResult[None]:
    """Every command of the quarter-hour: stored, sent, acknowledged, read back.

    The sums in kW are of set-points: sun and wind count as the cap that they were given.

    A run that was killed is simply run again: what it had sent is read back before any resend.
    """
    interval_start = datetime.fromisoformat(config.interval_start)
    with runtime.warehouse.read() as connection:
        plans = connection.frame("defs_released_plan", plan_id=config.plan_id)
        schedule = connection.frame("warehouse_schedule", plan_id=config.plan_id)
    if plans.is_empty():
        raise dg.Failure(
            f"plan {config.plan_id} is not released: its blocking checks have not passed",
            allow_retries=False,
        )
    plan = PlanRef(config.plan_id, plans["plan_version"][0])
    report = event_loop.run(_push(runtime, context.run.run_id, plan, schedule, interval_start))
    return dg.MaterializeResult(
        metadata={"interval_start": config.interval_start, **pushed(report)}
    )


@dg.asset(
    group_name="dispatch",
    deps=[dispatch_ledger],
    kinds={"modbus", "mqtt", "http", "duckdb"},
    owners=owners(),
)
def dispatch_recheck(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """The running quarter-hour's set-points read back again, and orders that have changed followed.

    What fell back to its default is told again; where another's value stands, that is an alarm.
    """
    report = event_loop.run(_recheck(runtime, context.run.run_id))
    return dg.MaterializeResult(
        metadata={
            "looked_at": report.looked_at,
            "overridden": table(report.overridden, rows=50),
            "gone": table(report.gone, rows=50),
            **({} if report.pushed is None else pushed(report.pushed)),
        }
    )


def pushed(report: PushReport) -> dict[str, Any]:
    """Return what the UI shows of a push."""
    return {
        "plan_id": report.plan_id,
        **figures(
            {
                "planned_kw": report.planned_kw,
                "accepted_kw": report.accepted_kw,
                "verified_kw": report.verified_kw,
                "shortfall_kw": report.shortfall_kw,
                "left_over_by_the_ramp_kw": report.left_over_kw,
            }
        ),
        **{f"commands_{state.lower()}": count for state, count in report.counts.items()},
        "not_verified": table(report.not_verified, rows=50),
    }


@dg.asset_check(asset=dispatch_ledger)
def commands_are_verified(runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
    """Every command of the last two hours ended verified, or tells why it did not."""
    now = runtime.clock.now()
    with runtime.warehouse.read() as connection:
        unverified = connection.frame(
            "defs_unverified_commands", start=now - timedelta(hours=2), end_=now
        )
    return dg.AssetCheckResult(
        passed=unverified.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"count": unverified.height, "not_verified": table(unverified, rows=50)},
    )


@dg.asset_check(asset=dispatch_ledger)
def plan_is_accepted(runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
    """The set-points that devices accepted for this quarter-hour sum up to the plan's."""
    newest = Ledger(runtime.warehouse).newest(market_day.floor_interval(runtime.clock.now()))
    short_kw = shortfall_kw(newest, Tolerance())
    return dg.AssetCheckResult(
        passed=short_kw == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=figures(
            {
                "planned_kw": float(newest["planned_kw"].sum()),
                "accepted_kw": accepted_kw(newest),
                "shortfall_kw": short_kw,
            }
        ),
    )


async def _push(
    runtime: Runtime, actor: str, plan: PlanRef, schedule: pl.DataFrame, interval_start: datetime
) -> PushReport:
    devices = runtime.devices(runtime.clock.now())
    due = due_commands(plan, schedule, devices, interval_start)
    async with runtime.dispatching(actor) as dispatcher:
        return await push(dispatcher, plan, due, devices, interval_start)


async def _recheck(runtime: Runtime, actor: str) -> RecheckReport:
    async with runtime.dispatching(actor) as dispatcher:
        return await recheck(dispatcher, runtime.devices(runtime.clock.now()))
