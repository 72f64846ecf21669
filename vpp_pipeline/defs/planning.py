"""Planning in Dagster: envelopes, the day-ahead and intraday plans, and their release.

Belongs here: the assets and blocking checks between forecasts and dispatch. Does not: envelopes
(`flexibility`), the model (`optimization`).
"""

from dataclasses import asdict
from datetime import date, datetime, timedelta
from importlib.metadata import version
from typing import Any, Literal

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs.forecasts import (
    ev_forecast,
    generation_forecast,
    load_forecast,
    price_forecast,
    temperature_forecast,
)
from vpp_pipeline.defs.market import day_ahead_prices
from vpp_pipeline.defs.metadata import column_schema, owners, picture, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.plant import fleet, telemetry
from vpp_pipeline.flexibility.envelopes import device_envelopes, group_envelopes
from vpp_pipeline.flexibility.schemas import Envelopes
from vpp_pipeline.flexibility.states import project, usable_states
from vpp_pipeline.optimization import inputs, prices
from vpp_pipeline.optimization.planner import PlanSettings, plan
from vpp_pipeline.optimization.schemas import Schedules
from vpp_pipeline.reporting import pictures
from vpp_pipeline.runtime import TELEMETRY_MAX_AGE, Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.warehouse.validate import input_hash

VIOLATION_TOLERANCE = 1e-3


@dg.asset(
    group_name="flexibility",
    partitions_def=delivery_days,
    deps=[
        fleet,
        telemetry,
        load_forecast,
        generation_forecast,
        temperature_forecast,
        ev_forecast,
    ],
    kinds={"polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(Envelopes),
)
def flexibility_envelopes(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """What each device could do in what is left of the delivery day."""
    now = runtime.clock.now()
    horizon = _horizon(context, runtime, now)
    start, end = horizon[0], horizon[-1] + market_day.STEP
    devices = runtime.devices(now)
    with runtime.warehouse.read() as connection:
        span: dict[str, Any] = {"start": start, "end_": end, "as_of": now}
        forecasts = pl.concat(
            [
                connection.frame("warehouse_forecasts", target=target, **span)
                for target in ("load", "pv", "wind")
            ]
        )
        temperatures = connection.frame("warehouse_forecasts", target="temperature", **span)
        sessions = connection.frame("warehouse_session_forecasts", **span)
        before = connection.frame(
            "defs_schedule_in_force", start=now - timedelta(hours=1), end_=start, as_of=now
        )
    states = usable_states(devices, runtime.latest_telemetry(now), now, TELEMETRY_MAX_AGE)
    envelopes = device_envelopes(
        devices,
        project(states, devices, before, start),
        forecasts,
        sessions,
        # A building is planned for a cold day: a night colder than the median is no discomfort.
        temperatures.select(
            site_id="subject_id", interval_start="interval_start", temperature_c="p10"
        ),
        horizon,
        now,
    )
    with runtime.warehouse.write() as connection:
        connection.append("envelopes", envelopes.with_columns(known_at=pl.lit(now)))
    unavailable = states.filter(~pl.col("available")).select("device_id", "why")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": envelopes.height,
            "unavailable_devices": table(unavailable),
            "groups": table(
                group_envelopes(devices, envelopes)
                .group_by("group_id")
                .agg(
                    pl.col("devices").max(),
                    pl.col("min_power_kw").min(),
                    pl.col("max_power_kw").max(),
                )
                .sort("group_id")
            ),
        }
    )


@dg.asset_check(asset=flexibility_envelopes, blocking=True)
def plan_inputs_are_sound(
    context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.AssetCheckResult:
    """No plan is made on stale, non-finite or misaligned inputs."""
    now = runtime.clock.now()
    day = delivery_day(context)
    envelopes = _envelopes(runtime, day, now)
    horizon = envelopes["interval_start"].unique().sort()
    _, day_end = market_day.bounds(day, MARKET_TZ)
    wanted = market_day.intervals(horizon[0], day_end) if horizon.len() else horizon
    with runtime.warehouse.read() as connection:
        newest = connection.frame("defs_newest_price", market=MARKET, as_of=now)["known_at"][0]
    found = inputs.problems(
        runtime.devices(now),
        envelopes,
        _prices(runtime, wanted, now),
        wanted,
        newest_price_known_at=newest,
        as_of=now,
    )
    return dg.AssetCheckResult(
        passed=found.is_empty(),
        metadata={"problems": table(found), "count": found.height},
    )


@dg.asset(
    group_name="plan",
    partitions_def=delivery_days,
    deps=[flexibility_envelopes, price_forecast, day_ahead_prices],
    kinds={"cvxpy", "duckdb"},
    owners=owners(),
    metadata=column_schema(Schedules),
)
def day_ahead_plan(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """The delivery day's plan, made before gate closure: a schedule for every device."""
    return _make_plan(context, runtime, "day_ahead")


@dg.asset(
    group_name="plan",
    partitions_def=delivery_days,
    deps=[flexibility_envelopes, price_forecast, day_ahead_prices],
    kinds={"cvxpy", "duckdb"},
    owners=owners(),
    metadata=column_schema(Schedules),
)
def intraday_plan(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """The rest of the day re-planned, because the picture has changed."""
    return _make_plan(context, runtime, "intraday")


@dg.asset_check(asset=day_ahead_plan, blocking=True)
def day_ahead_plan_is_feasible(
    context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.AssetCheckResult:
    """The newest plan's certificate shows no violation, and every device has its schedule."""
    return _certified(context, runtime)


@dg.asset_check(asset=intraday_plan, blocking=True)
def intraday_plan_is_feasible(
    context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.AssetCheckResult:
    """The newest plan's certificate shows no violation, and every device has its schedule."""
    return _certified(context, runtime)


@dg.asset(
    group_name="plan",
    partitions_def=delivery_days,
    deps=[day_ahead_plan, intraday_plan],
    kinds={"duckdb"},
    owners=owners(),
    metadata=column_schema(Schedules),
)
def device_schedules(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """The newest plan, released for dispatch: only where its blocking check passes.

    The check stops a job before this; it is made again here, as a person may run this alone.
    """
    newest, schedule = _newest_plan(context, runtime)
    if newest["released_at"][0] is None:
        figures = _soundness(newest, schedule, runtime)
        if not figures["sound"]:
            raise dg.Failure(
                f"plan {newest['plan_id'][0]} is not released, its check does not pass: {figures}; "
                "see to that and plan the day again",
                allow_retries=False,
            )
        with runtime.warehouse.write() as connection:
            connection.append(
                "plan_releases",
                newest.select("plan_id", released_at=pl.lit(runtime.clock.now())),
            )
    return dg.MaterializeResult(
        metadata={
            "plan_id": newest["plan_id"][0],
            "revision": newest["revision"][0],
            "dagster/row_count": schedule.height,
            "schedules": table(schedule.drop("plan_id", strict=False), rows=50),
        }
    )


def _make_plan(
    context: dg.AssetExecutionContext, runtime: Runtime, kind: Literal["day_ahead", "intraday"]
) -> dg.MaterializeResult[None]:
    now = runtime.clock.now()
    day = delivery_day(context)
    devices = runtime.devices(now)
    _horizon(context, runtime, now)  # refuses a day that is over, whatever envelopes it has
    envelopes = _envelopes(runtime, day, now)
    if envelopes.is_empty():
        raise LookupError(f"{day} has no envelopes: materialise flexibility_envelopes first")
    horizon = envelopes["interval_start"].unique().sort()
    market = _prices(runtime, horizon, now)
    made = plan(
        devices, envelopes, market.select("interval_start", "price_eur_per_mwh"), PlanSettings()
    )
    digest = input_hash({"devices": devices, "envelopes": envelopes, "prices": market})
    cause = context.run.tags.get("vpp/cause", kind)
    certificate = asdict(made.certificate)
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
                "as_of": now,
                "horizon_start": horizon[0],
                "horizon_end": horizon[-1] + market_day.STEP,
                "fleet_version": connection.frame("warehouse_fleet_at", as_of=now)["fleet_version"],
                "input_hash": digest,
                "code_version": version("vpp-pipeline"),
                **{
                    name: pl.Series([value], dtype=pl.Float64) if value is None else value
                    for name, value in certificate.items()
                },
            }
        )
        connection.append("plans", row)
        connection.append("schedules", made.schedules.with_columns(plan_id=pl.lit(plan_id)))
    metadata: dict[str, dg.MetadataValue | str | int | float] = {
        "plan_id": plan_id,
        "cause": cause,
        "dagster/row_count": made.schedules.height,
        "certificate": table(
            pl.DataFrame(
                {
                    "figure": list(certificate),
                    "value": [str(value) for value in certificate.values()],
                }
            )
        ),
    }
    if kind == "day_ahead":
        typed = made.schedules.join(devices.select("device_id", "device_type"), on="device_id")
        metadata["prices_and_plan"] = picture(
            pictures.prices_and_plan(typed, market, MARKET_TZ, "png"), "prices and plan"
        )
        metadata["stored_energy"] = picture(
            pictures.stored_energy(
                typed.filter(pl.col("device_type") == "battery")
                .group_by("interval_start")
                .agg(pl.col("energy_kwh").sum()),
                pl.DataFrame(
                    schema={
                        "interval_start": typed.schema["interval_start"],
                        "energy_kwh": pl.Float64,
                    }
                ),
                MARKET_TZ,
                "png",
            ),
            "stored energy",
        )
    return dg.MaterializeResult(metadata=metadata)


def _newest_plan(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, runtime: Runtime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the delivery day's newest plan, released or not, and its schedule."""
    with runtime.warehouse.read() as connection:
        newest = connection.frame("defs_newest_plan", delivery_day=delivery_day(context))
        if newest.is_empty():
            raise LookupError("there is no plan of this delivery day: materialise day_ahead_plan")
        return newest, connection.frame("warehouse_schedule", plan_id=newest["plan_id"][0])


def _soundness(
    newest: pl.DataFrame, schedule: pl.DataFrame, runtime: Runtime
) -> dict[str, bool | float]:
    """Return whether a plan is `sound`, so that it may be released, and what that stands on."""
    steps = (newest["horizon_end"][0] - newest["horizon_start"][0]) // market_day.STEP
    complete = schedule.height == steps * runtime.devices(runtime.clock.now()).height
    finite = bool(schedule["power_kw"].is_finite().all())
    worst = float(max(newest["worst_violation_kw"][0], newest["worst_violation_kwh"][0]))
    simultaneous_steps = newest["simultaneous_steps"][0]
    return {
        "sound": complete and finite and worst <= VIOLATION_TOLERANCE and simultaneous_steps == 0,
        "complete": complete,
        "finite": finite,
        "worst_violation": worst,
        "simultaneous_steps": simultaneous_steps,
    }


def _certified(context: dg.AssetCheckExecutionContext, runtime: Runtime) -> dg.AssetCheckResult:
    newest, schedule = _newest_plan(context, runtime)
    figures = _soundness(newest, schedule, runtime)
    return dg.AssetCheckResult(
        passed=bool(figures["sound"]),
        metadata={
            "plan_id": newest["plan_id"][0],
            "label": newest["label"][0],
            "tolerance": VIOLATION_TOLERANCE,
            **figures,
        },
    )


def _horizon(context: dg.AssetExecutionContext, runtime: Runtime, now: datetime) -> pl.Series:
    """Return what of the delivery day can still be planned."""
    start, end = market_day.bounds(delivery_day(context), MARKET_TZ)
    earliest = market_day.floor_interval(now + runtime.plan_lead) + market_day.STEP
    horizon = market_day.intervals(max(start, earliest), end)
    if horizon.is_empty():
        raise dg.Failure(
            f"delivery day {context.partition_key} is over at {now:%Y-%m-%d %H:%M} UTC: "
            "plan a later day; a past day is never planned for dispatch",
            allow_retries=False,
        )
    return horizon


def _envelopes(runtime: Runtime, day: date, now: datetime) -> pl.DataFrame:
    start, end = market_day.bounds(day, MARKET_TZ)
    with runtime.warehouse.read() as connection:
        return connection.frame("defs_envelopes", start=start, end_=end, as_of=now)


def _prices(runtime: Runtime, horizon: pl.Series, now: datetime) -> pl.DataFrame:
    if horizon.is_empty():
        return prices.complete(
            horizon,
            pl.DataFrame(schema={"interval_start": horizon.dtype, "price_eur_per_mwh": pl.Float64}),
            pl.DataFrame(schema={"interval_start": horizon.dtype, "p50": pl.Float64}),
        )
    span: dict[str, Any] = {
        "start": horizon[0],
        "end_": horizon[-1] + market_day.STEP,
        "as_of": now,
    }
    with runtime.warehouse.read() as connection:
        published = connection.frame("warehouse_prices", market=MARKET, **span)
        forecast = connection.frame("warehouse_forecasts", target="price", **span)
    return prices.complete(horizon, published, forecast.filter(pl.col("subject_id") == MARKET))
