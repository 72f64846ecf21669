"""Planning in Dagster: the day-ahead and intraday plans, and their release.

Belongs here: the assets and blocking checks between envelopes and dispatch. Does not: what a plan
stands on (`planning`), what the UI shows of it (`plan_figures`), the model (`optimization`).
"""

from datetime import date, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Literal

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs.envelopes import flexibility_envelopes, horizon_for_dispatch
from vpp_pipeline.defs.forecasts import price_forecast
from vpp_pipeline.defs.market import day_ahead_prices
from vpp_pipeline.defs.metadata import column_schema, figures, owners, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.plan_figures import plan_figures
from vpp_pipeline.defs.schedule_figures import schedule_figures
from vpp_pipeline.optimization.planner import PlanSettings
from vpp_pipeline.optimization.schemas import Schedules
from vpp_pipeline.planning.inputs import (
    imbalance_terms,
    market_prices,
    newest_values,
    stored_envelopes,
)
from vpp_pipeline.planning.outlook import stored_forecasts
from vpp_pipeline.planning.plans import PlanInputs, certificate_row, planned
from vpp_pipeline.runtime import Runtime

VIOLATION_TOLERANCE = 1e-3
"""kW and kWh."""
GAP_TOLERANCE = 1e-2
"""A plan that may be further from the optimum than this is warned of, and released all the same."""


class RePlanConfig(dg.Config):
    """Why a day is planned again, in full: a tag cuts it. Empty is what the run's tag tells."""

    cause: str = ""


_plan_asset = partial(
    dg.asset,
    group_name="plan",
    partitions_def=delivery_days,
    owners=owners(),
    metadata=column_schema(Schedules),
)


@_plan_asset(
    deps=[flexibility_envelopes, price_forecast, day_ahead_prices], kinds={"cvxpy", "duckdb"}
)
def day_ahead_plan(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """The delivery day's plan, made before gate closure: a schedule for every device."""
    return _make_plan(context, runtime, "day_ahead", "")


@_plan_asset(
    deps=[flexibility_envelopes, price_forecast, day_ahead_prices], kinds={"cvxpy", "duckdb"}
)
def intraday_plan(
    context: dg.AssetExecutionContext,
    config: RePlanConfig,
    runtime: dg.ResourceParam[Runtime],
) -> dg.MaterializeResult[None]:
    """The rest of the day re-planned, because the picture has changed.

    What the day-ahead plan sold by gate closure is the position that deviations are settled
    against.
    """
    return _make_plan(context, runtime, "intraday", config.cause)


def _feasible(of_plan: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=of_plan,
        name=f"{of_plan.key.path[-1]}_is_feasible",
        blocking=True,
        description="The newest plan's certificate shows no violation and how far the optimum can "
        "be, and every device has its schedule.",
    )
    def check(
        context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> dg.AssetCheckResult:
        newest, schedule = _newest_plan(context, runtime)
        told = _soundness(newest, schedule, runtime)
        sound = bool(told["sound"])
        return dg.AssetCheckResult(
            passed=sound and bool(told["proven"]),
            # One that breaks nothing is better than none, however far the optimum may be.
            severity=dg.AssetCheckSeverity.WARN if sound else dg.AssetCheckSeverity.ERROR,
            metadata={
                "plan_id": newest["plan_id"][0],
                "label": newest["label"][0],
                "violation_tolerance": VIOLATION_TOLERANCE,
                "gap_tolerance": GAP_TOLERANCE,
                **figures(told),
            },
        )

    return check


day_ahead_plan_is_feasible = _feasible(day_ahead_plan)
intraday_plan_is_feasible = _feasible(intraday_plan)


@_plan_asset(deps=[day_ahead_plan, intraday_plan], kinds={"duckdb"})
def device_schedules(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """The newest plan, released for dispatch: only where its blocking check passes.

    Its picture shows every device's day; `moved_most` what a re-plan changed, and where. To ask
    why one of them does so, materialise the asset `why` with that device and time.

    The check stops a job before this; it is made again here, as a person may run this alone.
    """
    newest, schedule = _newest_plan(context, runtime)
    now = runtime.clock.now()
    with runtime.warehouse.read() as connection:
        before = connection.frame("defs_schedule_before", plan_id=newest["plan_id"][0])
    if newest["released_at"][0] is None:
        told = _soundness(newest, schedule, runtime)
        if not told["sound"]:
            raise dg.Failure(
                f"plan {newest['plan_id'][0]} is not released, its check does not pass: {told}; "
                "see to that and plan the day again",
                allow_retries=False,
            )
        with runtime.warehouse.write() as connection:
            connection.append(
                "plan_releases",
                newest.select("plan_id", released_at=pl.lit(now)),
            )
    return dg.MaterializeResult(
        metadata={
            "plan_id": newest["plan_id"][0],
            "revision": newest["revision"][0],
            "dagster/row_count": schedule.height,
            "cause": newest["cause"][0],
            **schedule_figures(schedule, before, runtime.devices(now)),
        }
    )


def _make_plan(
    context: dg.AssetExecutionContext,
    runtime: Runtime,
    kind: Literal["day_ahead", "intraday"],
    told_cause: str,
) -> dg.MaterializeResult[None]:
    now = runtime.clock.now()
    day = delivery_day(context)
    still_open = horizon_for_dispatch(runtime, day, now)
    inputs = _inputs(runtime, day, kind, now)
    if inputs.horizon[0] < still_open[0] and not _envelopes_of_this_run(context):
        raise dg.Failure(
            f"the newest envelopes of {day} begin at {inputs.horizon[0]:%Y-%m-%d %H:%M} UTC, "
            f"what can still be planned at {still_open[0]:%Y-%m-%d %H:%M} UTC: quarter-hours "
            "that are over or too near would be planned again: materialise "
            "flexibility_envelopes first, or launch the job re_plan",
            allow_retries=False,
        )
    made = planned(inputs, PlanSettings())
    digest, horizon = inputs.fingerprint(), inputs.horizon
    cause = told_cause or context.run.tags.get("vpp/cause", kind)
    with runtime.warehouse.write() as connection:
        numbers = connection.frame("defs_next_plan", delivery_day=day)
        plan_id = f"{day}-r{numbers['revision'][0]:03d}-{digest[:10]}"
        row = pl.DataFrame(
            {
                "plan_id": plan_id,
                "plan_version": numbers["plan_version"],
                "delivery_day": day,
                "revision": numbers["revision"],
                "kind": kind,
                "cause": cause,
                "cause_kind": context.run.tags.get("vpp/cause_kind", cause),
                "as_of": now,
                "horizon_start": horizon[0],
                "horizon_end": horizon[-1] + market_day.STEP,
                "fleet_version": connection.frame("warehouse_fleet_at", as_of=now)["fleet_version"],
                "input_hash": digest,
                "code_version": version("vpp-pipeline"),
            }
        )
        connection.append("plans", row.hstack(certificate_row(made.certificate)))
        connection.append("schedules", made.schedules.with_columns(plan_id=pl.lit(plan_id)))
        connection.append("plan_prices", made.prices.with_columns(plan_id=pl.lit(plan_id)))
    return dg.MaterializeResult(
        metadata={
            "plan_id": plan_id,
            "cause": cause,
            "against_a_position": inputs.settled is not None,
            "as_of": f"{now:%Y-%m-%d %H:%M:%S} UTC",
            **_stands_on(inputs),
            **plan_figures(made, inputs.devices, inputs.market),
        }
    )


def _envelopes_of_this_run(context: dg.AssetExecutionContext) -> bool:
    """Tell whether this run made the day's envelopes: they count, however long it takes."""
    newest = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=flexibility_envelopes.key, asset_partitions=[context.partition_key]
        ),
        limit=1,
    ).records
    return bool(newest) and newest[0].run_id == context.run.run_id


def _inputs(
    runtime: Runtime, day: date, kind: Literal["day_ahead", "intraday"], now: datetime
) -> PlanInputs:
    """Return what the plan stands on, with the day's newest stored envelopes."""
    devices = runtime.devices(now)
    envelopes = stored_envelopes(runtime, day, now)
    if envelopes.is_empty():
        raise LookupError(f"{day} has no envelopes: materialise flexibility_envelopes first")
    horizon = envelopes["interval_start"].unique().sort()
    market = market_prices(runtime, horizon, now)
    spread = runtime.settings.imbalance_spread_eur_per_mwh
    settled = None
    if kind == "intraday" and spread > 0:
        profiles = stored_forecasts(runtime, horizon, now).profiles
        settled = imbalance_terms(runtime, day, market, profiles, now, spread_eur_per_mwh=spread)
    return PlanInputs(devices, envelopes, market, settled, newest_values(runtime, day, now))


def _stands_on(inputs: PlanInputs) -> dict[str, Any]:
    """Return what a plan was told that may make it look odd."""
    devices = (
        inputs.envelopes.group_by("device_id")
        .agg(
            out_of_service=(~pl.col("available")).any(),
            derated=pl.col("derated").drop_nulls().first(),
        )
        .filter(pl.col("out_of_service") | pl.col("derated").is_not_null())
        .sort("device_id")
    )
    forecast = inputs.market.filter(pl.col("origin") == "forecast").height
    return {
        "quarter_hours_on_forecast_prices": forecast,
        "out_of_service_or_derated": table(devices, rows=50),
    }


def _newest_plan(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, runtime: Runtime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the delivery day's newest plan, released or not, and its schedule."""
    with runtime.warehouse.read() as connection:
        newest = connection.frame(
            "defs_newest_plan", delivery_day=delivery_day(context), as_of=runtime.clock.now()
        )
        if newest.is_empty():
            raise LookupError("there is no plan of this delivery day: materialise day_ahead_plan")
        return newest, connection.frame("warehouse_schedule", plan_id=newest["plan_id"][0])


def _soundness(
    newest: pl.DataFrame, schedule: pl.DataFrame, runtime: Runtime
) -> dict[str, bool | float | str]:
    """Return whether a plan is `sound`, so that it may be released, and what that stands on.

    One that is not `proven` near the optimum is, as long as nothing is violated: its label and
    its gap say so.
    """
    (told,) = newest.to_dicts()
    steps = (told["horizon_end"] - told["horizon_start"]) // market_day.STEP
    complete = schedule.height == steps * runtime.devices(runtime.clock.now()).height
    finite = bool(schedule["power_kw"].is_finite().all())
    worst = float(max(told["worst_violation_kw"], told["worst_violation_kwh"]))
    gap = told["gap"]
    proven = gap is not None and gap <= GAP_TOLERANCE
    return {
        "sound": complete
        and finite
        and worst <= VIOLATION_TOLERANCE
        and told["simultaneous_steps"] == 0,
        "complete": complete,
        "finite": finite,
        "worst_violation": worst,
        "simultaneous_steps": told["simultaneous_steps"],
        "gap": "unknown" if gap is None else float(gap),
        "proven": proven,
    }
