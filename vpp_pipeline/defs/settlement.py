"""Settlement in Dagster: what was delivered, what it was worth, and how wrong the forecasts were.

Belongs here: the assets after the delivery day. Does not: any figure (`settlement`), where money
was lost (`regret`), the day's page (`report`).
"""

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs.dispatch import dispatch_ledger
from vpp_pipeline.defs.metadata import column_schema, figures, owners, picture, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.plant import telemetry
from vpp_pipeline.forecasting.schemas import ForecastErrors
from vpp_pipeline.forecasting.skill import errors
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.planning.inputs import commitment, committed_position
from vpp_pipeline.planning.records import day_devices, day_records
from vpp_pipeline.planning.scoring import actuals
from vpp_pipeline.reporting import pictures
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET_TZ
from vpp_pipeline.settlement.schemas import Delivery
from vpp_pipeline.settlement.settle import settle_day


@dg.asset(
    group_name="settlement",
    partitions_def=delivery_days,
    deps=[telemetry, dispatch_ledger],
    kinds={"polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(Delivery),
)
def settlement(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """What was delivered against what was planned, and its cost beside two other ways to run it.

    The unmanaged fleet and perfect foresight are costed under the same accounting, on what
    really happened: prices, loads, sun, wind, cold and vehicles.
    """
    now = runtime.clock.now()
    day = delivery_day(context)
    devices = day_devices(runtime, day, now)
    settled = settle_day(
        devices,
        day_records(runtime, devices, day, now),
        PlanSettings(),
        intervals=market_day.day_intervals(day, MARKET_TZ),
        delivery_day=day,
        settled_at=now,
        commitment=commitment(
            committed_position(runtime, day, now), runtime.settings.imbalance_spread_eur_per_mwh
        ),
    )
    costs = settled.costs(day, now)
    with runtime.warehouse.write() as connection:
        connection.append("delivery", settled.delivery)
        connection.append("delivery_errors", settled.delivery_errors)
        connection.append("settlements", costs)
    totals = dict(costs.select("basis", "total_eur").iter_rows())
    return dg.MaterializeResult(
        metadata={
            **figures(
                {f"{basis}_cost_eur": total for basis, total in totals.items()}
                | {
                    "foresight_gap": settled.foresight_gap,
                    "net_delivery_error": settled.delivery_errors["net_error"][0],
                    "absolute_delivery_error": settled.delivery_errors["absolute_error"][0],
                }
            ),
            "costs": table(costs),
            "planned_against_delivered": picture(
                pictures.delivered(settled.delivery, MARKET_TZ, "png"), "planned and delivered"
            ),
        }
    )


@dg.asset_check(asset=settlement)
def management_was_worth_it(
    context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.AssetCheckResult:
    """The managed day cost less than the unmanaged one, and no less than perfect foresight."""
    with runtime.warehouse.read() as connection:
        costs = connection.frame("defs_settlement", delivery_day=delivery_day(context))
    totals = dict(costs.select("basis", "total_eur").iter_rows())
    return dg.AssetCheckResult(
        passed=totals["perfect_foresight"] <= totals["managed"] <= totals["unmanaged"],
        severity=dg.AssetCheckSeverity.WARN,
        metadata=figures({f"{basis}_cost_eur": total for basis, total in totals.items()}),
    )


@dg.asset(
    group_name="settlement",
    partitions_def=delivery_days,
    deps=[telemetry],
    kinds={"polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(ForecastErrors),
)
def forecast_errors(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """How wrong each forecast of the day was, by target and subject."""
    day = delivery_day(context)
    now = runtime.clock.now()
    start, end = market_day.bounds(day, MARKET_TZ)
    with runtime.warehouse.read() as connection:
        made = connection.frame("defs_day_ahead_forecasts", start=start, end_=end)
    came = actuals(runtime, day_devices(runtime, day, now), start, end, now)
    scored = errors(made, came, day)
    with runtime.warehouse.write() as connection:
        known = connection.frame("defs_scored_forecasts", delivery_day=day)
        connection.append(
            "forecast_errors",
            scored.join(known, on=["target", "subject_id", "model", "known_at"], how="anti"),
        )
    return dg.MaterializeResult(
        metadata={"dagster/row_count": scored.height, "by_target": table(by_target(scored))}
    )


def by_target(scored: pl.DataFrame) -> pl.DataFrame:
    """Return forecast errors as means over their subjects, by target and model."""
    return (
        scored.group_by("target", "model")
        .agg(
            subjects=pl.col("subject_id").n_unique(),
            mae=pl.col("mae").mean(),
            bias=pl.col("bias").mean(),
            pinball=pl.col("pinball").mean(),
            coverage_p10_p90=pl.col("coverage_p10_p90").mean(),
        )
        .sort("target", "model")
    )
