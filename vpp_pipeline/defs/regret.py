"""Regret and churn in Dagster: where a settled day's money was lost, and what re-plans moved.

Belongs here: the two assets and the check on them. Does not: any figure (`settlement`).
"""

import dagster as dg
import polars as pl

from vpp_pipeline.defs.metadata import column_schema, figures, owners, picture, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.settlement import settlement
from vpp_pipeline.planning.records import day_devices
from vpp_pipeline.reporting import pictures
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settlement import churn as churns
from vpp_pipeline.settlement import regret as regrets

_ADDS_UP_EUR = 1e-6
_MOST_EXECUTION_SHARE = 0.1
"""Of what perfect foresight saves; a day that loses more to its devices is looked into."""


@dg.asset(
    group_name="settlement",
    partitions_def=delivery_days,
    deps=[settlement],
    kinds={"polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(regrets.Regret),
)
def regret(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """What the day cost more than perfect foresight: lost to solver, forecast and execution."""
    day = delivery_day(context)
    now = runtime.clock.now()
    with runtime.warehouse.read() as connection:
        costs = connection.frame("defs_settlement", delivery_day=day)
        plans = connection.frame("defs_plans_in_force", delivery_day=day, as_of=now)
    found = regrets.regret(costs.with_columns(delivery_day=pl.lit(day)), plans)
    if found.is_empty():
        raise dg.Failure(
            f"{day} is not settled in every way that regret compares: materialise settlement",
            allow_retries=False,
        )
    with runtime.warehouse.write() as connection:
        connection.append("regret", found.with_columns(settled_at=pl.lit(now)))
    return dg.MaterializeResult(
        metadata={
            **figures(found.drop("delivery_day").row(0, named=True)),
            "picture": picture(pictures.regret(found, "png"), "regret"),
        }
    )


@dg.asset_check(asset=regret)
def losses_add_up_and_devices_do_as_told(
    context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.AssetCheckResult:
    """The parts are the whole, and execution lost at most a tenth of what could be saved."""
    day = delivery_day(context)
    with runtime.warehouse.read() as connection:
        told = connection.frame("defs_regret", delivery_day=day).row(0, named=True)
        costs = connection.frame("defs_settlement", delivery_day=day)
    totals = dict(costs.select("basis", "total_eur").iter_rows())
    parts = told["solver_eur"] + told["forecast_eur"] + told["execution_eur"]
    off_eur = abs(totals["perfect_foresight"] + parts - totals["managed"])
    possible_eur = totals["unmanaged"] - totals["perfect_foresight"]
    adds_up = off_eur <= _ADDS_UP_EUR
    return dg.AssetCheckResult(
        passed=adds_up and told["execution_eur"] <= _MOST_EXECUTION_SHARE * max(possible_eur, 0.0),
        severity=dg.AssetCheckSeverity.WARN if adds_up else dg.AssetCheckSeverity.ERROR,
        metadata=figures(
            {
                "off_eur": off_eur,
                "execution_eur": told["execution_eur"],
                "possible_eur": possible_eur,
                "most_execution_share": _MOST_EXECUTION_SHARE,
                "unproven_quarter_hours": told["unproven_quarter_hours"],
            }
        ),
    )


@dg.asset(
    group_name="settlement",
    partitions_def=delivery_days,
    deps=[settlement],
    kinds={"polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(churns.PlanChurn),
)
def plan_churn(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """How much each re-plan of the day moved what was planned before it, by cause."""
    day = delivery_day(context)
    now = runtime.clock.now()
    devices = day_devices(runtime, day, now)
    with runtime.warehouse.read() as connection:
        plans = connection.frame("defs_plans_released", delivery_day=day, as_of=now)
        schedules = connection.frame("defs_schedules_released", delivery_day=day, as_of=now)
    found = churns.plan_churn(plans, schedules, devices)
    with runtime.warehouse.write() as connection:
        connection.append("plan_churn", found.with_columns(settled_at=pl.lit(now)))
    return dg.MaterializeResult(
        metadata={
            "re_plans": found.height,
            "moved_kwh": float(found["moved_kwh"].sum()),
            "by_cause": table(churns.churn_by_cause(found), rows=50),
            "picture": picture(pictures.churn(found, "png"), "plan churn"),
        }
    )
