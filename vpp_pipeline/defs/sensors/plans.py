"""Days to plan: before gate closure, where a plan is missing, and again when the picture changes.

Belongs here: the schedule and sensors of planning. Does not: what is due (`timetable`), what counts
as a change (`dispatch.deviation`), the assets.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs import jobs, timetable
from vpp_pipeline.defs.planning import RePlanConfig
from vpp_pipeline.defs.sensors.asking import is_under_way, sensor
from vpp_pipeline.dispatch import deviation
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.report import Tolerance
from vpp_pipeline.flexibility.states import usable_states
from vpp_pipeline.runtime import TELEMETRY_MAX_AGE, Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ

_LONGEST_TAG = 250
_LATE = timedelta(hours=12)
"""A schedule that ticks later than this has nothing left to plan before gate closure."""


@dg.schedule(
    job=jobs.day_ahead,
    cron_schedule=f"{timetable.PLAN_AT.minute} {timetable.PLAN_AT.hour} * * *",
    execution_timezone=MARKET_TZ,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Plan tomorrow an hour before the day-ahead auction closes.",
)
def before_gate_closure(
    context: dg.ScheduleEvaluationContext, runtime: dg.ResourceParam[Runtime]
) -> dg.RunRequest | dg.SkipReason:
    """Plan tomorrow at 11:00 market time, an hour before the day-ahead auction closes.

    Dagster's schedules run by the wall clock: where the plant's is simulated, `unplanned_day` asks.
    """
    now = runtime.clock.now()
    if abs(now - context.scheduled_execution_time) > _LATE:
        return dg.SkipReason(f"the plant's clock shows {now:%Y-%m-%d %H:%M} UTC")
    tomorrow = market_day.delivery_day_of(context.scheduled_execution_time, MARKET_TZ) + timedelta(
        days=1
    )
    return dg.RunRequest(
        run_key=f"day-ahead:{tomorrow}",
        partition_key=str(tomorrow),
        tags={jobs.CAUSE: "gate closure"},
    )


@sensor(jobs.day_ahead, every_s=10)
def unplanned_day(
    context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for a plan that is due and missing: the schedule was down, or the clock is simulated."""
    if is_under_way(context, jobs.day_ahead.name):
        yield dg.SkipReason("a plan is on its way")
        return
    now = runtime.clock.now()
    today = market_day.delivery_day_of(now, MARKET_TZ)
    if not runtime.knows_a_fleet() or runtime.latest_telemetry(now).is_empty():
        yield dg.SkipReason("nothing is known of the fleet yet: is the collector running?")
        return
    with runtime.warehouse.read() as connection:
        planned = set(
            connection.frame("defs_planned_days", from_day=today, as_of=now)["delivery_day"]
        )
    due = [
        day for day in timetable.unplanned_days(now, planned) if _can_be_planned(day, runtime, now)
    ]
    if not due:
        yield dg.SkipReason("every day that is due has a released plan")
    for day in due:
        yield dg.RunRequest(
            run_key=f"day-ahead:{day}:{timetable.attempt(now)}",
            partition_key=str(day),
            tags={jobs.CAUSE: "no plan yet"},
        )


@sensor(jobs.re_plan, every_s=15)
def changed_picture(
    context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Plan again when prices, an outage, a vehicle or a deviation have changed the picture.

    The run key names the plan that was found wanting and why: one cause asks once a
    quarter-hour, and none while a re-plan is still on its way.
    """
    if is_under_way(context, jobs.re_plan.name):
        yield dg.SkipReason("a re-plan is on its way")
        return
    now = runtime.clock.now()
    today = market_day.delivery_day_of(now, MARKET_TZ)
    quiet = True
    for day in (today, today + timedelta(days=1)):
        causes = _causes(runtime, day, now) if _can_be_planned(day, runtime, now) else []
        if causes:
            quiet = False
            words = "; ".join(cause.words for cause in causes)
            kinds = ", ".join(sorted({cause.kind for cause in causes}))
            yield dg.RunRequest(
                run_key="|".join([*sorted(cause.key for cause in causes), timetable.attempt(now)]),
                partition_key=str(day),
                run_config=dg.RunConfig(ops={"intraday_plan": RePlanConfig(cause=words)}),
                tags={jobs.CAUSE: _as_tag(words), jobs.CAUSE_KIND: kinds},
            )
    if quiet:
        yield dg.SkipReason("the picture is as planned")


def _as_tag(words: str) -> str:
    return words if len(words) <= _LONGEST_TAG else f"{words[: _LONGEST_TAG - 2]} …"


def _can_be_planned(day: date, runtime: Runtime, now: datetime) -> bool:
    """Tell whether enough of the day is left to plan, and the fleet was heard of."""
    _, end = market_day.bounds(day, MARKET_TZ)
    return now + runtime.plan_lead + market_day.STEP < end


def _causes(runtime: Runtime, day: date, now: datetime) -> list[deviation.Cause]:
    """Return why the newest plan of the day should be made again."""
    with runtime.warehouse.read() as connection:
        plans = connection.frame("defs_newest_released_plan", delivery_day=day, as_of=now)
        if plans.is_empty():
            return []
        plan = plans.row(0, named=True)
        span: dict[str, Any] = {"start": plan["horizon_start"], "end_": plan["horizon_end"]}
        in_force = deviation.PlanInForce(
            plan["plan_id"],
            plan["as_of"],
            connection.frame("warehouse_schedule", plan_id=plan["plan_id"]),
            connection.frame("defs_envelopes", **span, as_of=plan["as_of"]),
        )
        versions = connection.frame("defs_price_versions", market=MARKET, **span, as_of=now)
    devices = runtime.devices(now)
    states = usable_states(devices, runtime.believed_telemetry(now), now, TELEMETRY_MAX_AGE)
    newest = Ledger(runtime.warehouse).newest(market_day.floor_interval(now))
    return [
        *deviation.deviations(
            in_force, states, devices, versions, now=now, settings=deviation.DeviationSettings()
        ),
        *deviation.shortfall(plan["plan_id"], newest, states, Tolerance()),
    ]
