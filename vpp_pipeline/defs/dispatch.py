"""Dispatch in Dagster: one interval's commands, pushed ahead of time and verified.

Belongs here: the ledger asset and its check. Does not: guard, ledger, push (`dispatch`).
"""

import asyncio
from datetime import datetime, timedelta

import dagster as dg
import polars as pl

from vpp_pipeline.defs.metadata import owners, table
from vpp_pipeline.defs.partitions import delivery_days
from vpp_pipeline.defs.planning import device_schedules
from vpp_pipeline.devices.leases import Leases
from vpp_pipeline.dispatch.commands import DueCommands, PlanRef, due_commands
from vpp_pipeline.dispatch.dispatcher import Dispatcher, PushSettings
from vpp_pipeline.dispatch.guard import GuardSettings
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.dispatch.report import PushReport
from vpp_pipeline.runtime import Runtime

_STATES_MAX_AGE = timedelta(minutes=10)


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

    A run that was killed is simply run again: what it had sent is read back before any resend.
    """
    interval_start = datetime.fromisoformat(config.interval_start)
    now = runtime.clock.now()
    with runtime.warehouse.read() as connection:
        plans = connection.frame("defs_released_plan", plan_id=config.plan_id)
        schedule = connection.frame("warehouse_schedule", plan_id=config.plan_id)
    if plans.is_empty():
        raise dg.Failure(
            f"plan {config.plan_id} is not released: its blocking checks have not passed",
            allow_retries=False,
        )
    devices = runtime.devices(now)
    plan = PlanRef(config.plan_id, plans["plan_version"][0])
    due = due_commands(plan, schedule, devices, interval_start)
    dispatcher = _dispatcher(context.run.run_id, runtime)
    report = asyncio.run(_push(dispatcher, plan, due, devices, interval_start))
    return dg.MaterializeResult(
        metadata={
            "plan_id": config.plan_id,
            "interval_start": config.interval_start,
            "planned_kw": report.planned_kw,
            "verified_kw": report.verified_kw,
            **{f"commands_{state.lower()}": count for state, count in report.counts.items()},
            "not_verified": table(report.not_verified, rows=50),
        }
    )


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


def _dispatcher(actor: str, runtime: Runtime) -> Dispatcher:
    return Dispatcher(
        Ledger(runtime.warehouse),
        runtime.drivers("dispatcher"),
        runtime.clock,
        lambda: runtime.latest_telemetry(runtime.clock.now()),
        OrderBook(runtime.settings.order_dir),
        Holds(runtime.settings.order_dir),
        Leases(runtime.settings.lease_dir, actor),
        actor,
        PushSettings(guard=GuardSettings(max_age=_STATES_MAX_AGE)),
    )


async def _push(
    dispatcher: Dispatcher,
    plan: PlanRef,
    due: DueCommands,
    devices: pl.DataFrame,
    interval_start: datetime,
) -> PushReport:
    try:
        return await push(dispatcher, plan, due, devices, interval_start)
    finally:
        await asyncio.gather(*(driver.close() for driver in dispatcher.drivers.values()))
