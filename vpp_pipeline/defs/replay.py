"""Past days planned again, in the Dagster UI: the asset to backfill, and its check.

Belongs here: asking for a replay and showing it. Does not: planning a day again
(`planning.replay`), anything that releases or sends (`planning`, `dispatch`).
"""

from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from vpp_pipeline.defs.metadata import column_schema, figures, owners, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.plan_figures import plan_figures
from vpp_pipeline.optimization.schemas import Schedules
from vpp_pipeline.planning import as_of as moments
from vpp_pipeline.planning.replay import replay_day
from vpp_pipeline.planning.replay_store import keep
from vpp_pipeline.planning.replays import ReplayedDay
from vpp_pipeline.planning.variants import AS_IT_WAS, variant_of
from vpp_pipeline.runtime import Runtime


class ReplayConfig(dg.Config):
    """What was known when (gate-closure, a market time, an instant), and what is changed."""

    as_of: str = moments.GATE_CLOSURE
    variant: dict[str, Any] = Field(default_factory=dict)


@dg.asset(
    group_name="replay",
    partitions_def=delivery_days,
    kinds={"cvxpy", "duckdb"},
    owners=owners(),
    metadata=column_schema(Schedules),
)
def replayed_plan(
    context: dg.AssetExecutionContext,
    config: ReplayConfig,
    runtime: dg.ResourceParam[Runtime],
) -> dg.MaterializeResult[None]:
    """A past day planned again on what was known then, forecasts included; it is never sent.

    Backfill it over any days. With `variant` in the launchpad, which has a name, it is planned
    as it was not.
    """
    day = delivery_day(context)
    try:
        as_of = moments.as_of(config.as_of).of(day)
        variant = variant_of(config.variant, "variant") if config.variant else AS_IT_WAS
        replay = replay_day(runtime, day, as_of, variant)
    except ValueError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    told = ReplayedDay(replay, keep(runtime, replay))
    return dg.MaterializeResult(
        metadata={
            "replay_id": told.kept.replay_id,
            "variant": variant.name,
            "as_of": as_of.isoformat(),
            "plan_hash": replay.schedule_hash,
            "input_hash": replay.input_hash,
            "no_solver_cut_short": replay.unhurried,
            "replays_of_the_same_before": told.kept.earlier,
            "repeats_plan": told.kept.repeats_plan or "none was made of these inputs",
            "same_as_before": not told.differs,
            **_costs(told),
            **plan_figures(replay.plan, replay.inputs.devices, replay.inputs.market),
        }
    )


@dg.asset_check(asset=replayed_plan)
def replay_is_identical(
    context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.AssetCheckResult:
    """The same day, moment, variant and inputs have always given the same schedule."""
    with runtime.warehouse.read() as connection:
        found = connection.frame("planning_replays_of_day", delivery_day=delivery_day(context))
    alike = found.group_by("variant_spec", "as_of", "input_hash").agg(
        pl.len().alias("replays"),
        pl.col("schedule_hash").n_unique().alias("plans"),
        pl.col("unhurried").all(),
    )
    return dg.AssetCheckResult(
        passed=alike.filter((pl.col("plans") > 1) & pl.col("unhurried")).is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"replays": table(alike.drop("variant_spec").sort("as_of", "input_hash"))},
    )


def _costs(told: ReplayedDay) -> dict[str, Any]:
    verdict = told.replay.judged
    if verdict is None:
        return {"no_cost": told.replay.not_judged}
    costs = {**figures({"cost_eur": told.cost_eur}), "costs": table(verdict.regret)}
    if verdict.real_plan_eur is None or told.cost_eur is None:
        return costs | {"difference_from_real_plan_eur": "no plan was in force"}
    return costs | figures(
        {
            "real_plan_eur": verdict.real_plan_eur,
            "difference_from_real_plan_eur": told.cost_eur - verdict.real_plan_eur,
            "moved_from_real_plan_kwh": verdict.moved_kwh,
        }
    )
