"""What makes runs happen: gate closures, published prices, changes of the picture, boundaries.

Belongs here: schedules and sensors, each a thin question to a pure rule. Does not: the rules
(`timetable`, `dispatch.due`, `dispatch.deviation`), the assets.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from inspect import getdoc
from typing import Any

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs import jobs, timetable
from vpp_pipeline.defs.dispatch import DispatchConfig
from vpp_pipeline.defs.orders import order_mark
from vpp_pipeline.defs.verification import unmeasured
from vpp_pipeline.dispatch import deviation, due, recheck, reissue, settling
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.order_book import OrderBook, OrderBookDamaged
from vpp_pipeline.dispatch.report import Tolerance
from vpp_pipeline.flexibility.states import usable_states
from vpp_pipeline.runtime import TELEMETRY_MAX_AGE, Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.warehouse import landing

_COMPACT_FROM_FILES = 30
_LONGEST_TAG = 250
_LATE = timedelta(hours=12)
"""A schedule that ticks later than this has nothing left to plan before gate closure."""
_WAITING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
]
_UNDER_WAY = [*_WAITING, dg.DagsterRunStatus.STARTED]


def _sensor(job: Any, *, every_s: int) -> Callable[[Callable[..., Any]], dg.SensorDefinition]:
    """Make a function a sensor of `job`, switched on; its docstring is what the UI says of it."""

    def made(ask: Callable[..., Any]) -> dg.SensorDefinition:
        return dg.sensor(
            job=job,
            minimum_interval_seconds=every_s,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=getdoc(ask),
        )(ask)

    return made


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


@_sensor(jobs.register_fleet, every_s=10)
def changed_registry(runtime: dg.ResourceParam[Runtime]) -> dg.RunRequest | dg.SkipReason:
    """Register the fleet when its file is new or has changed."""
    path = runtime.settings.fleet_file
    if not path.exists():
        return dg.SkipReason(f"{path} does not exist: set VPP_FLEET to a registry")
    # when it was last written, too: going back to an older registry is a change
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return dg.RunRequest(run_key=f"fleet:{content}:{path.stat().st_ctime_ns}")


@_sensor(jobs.day_ahead, every_s=10)
def unplanned_day(
    context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for a plan that is due and missing: the schedule was down, or the clock is simulated."""
    if _is_under_way(context, jobs.day_ahead.name):
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


@_sensor(jobs.collect_prices, every_s=10)
def published_prices(runtime: dg.ResourceParam[Runtime]) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Fetch prices once they are due, and again until they are whole."""
    now = runtime.clock.now()
    today = market_day.delivery_day_of(now, MARKET_TZ)
    priced = {day for day in (today, today + timedelta(days=1)) if _is_priced(runtime, day, now)}
    due = timetable.unpriced_days(now, priced)
    if not due:
        yield dg.SkipReason("every day that is due has its prices")
    for day in due:
        yield dg.RunRequest(
            run_key=f"prices:{day}:{timetable.attempt(now)}", partition_key=str(day)
        )


@_sensor(jobs.collect_dropped_prices, every_s=10)
def dropped_price_files(runtime: dg.ResourceParam[Runtime]) -> dg.RunRequest | dg.SkipReason:
    """Load price files as soon as they are dropped, and again where that failed."""
    found = sorted(runtime.settings.drop_dir.glob("*.*"))
    if not found:
        return dg.SkipReason("the drop folder is empty")
    newest = max(path.stat().st_mtime_ns for path in found)
    attempt = timetable.attempt(runtime.clock.now())
    return dg.RunRequest(run_key=f"drop:{found[-1].name}:{newest}:{attempt}")


@_sensor(jobs.compact, every_s=30)
def landed_telemetry(runtime: dg.ResourceParam[Runtime]) -> dg.RunRequest | dg.SkipReason:
    """Compact telemetry when enough files have landed."""
    files = landing.waiting(runtime.settings.landing_dir, "telemetry")
    if not runtime.knows_a_fleet():
        return dg.SkipReason("no fleet is registered yet")
    if len(files) < _COMPACT_FROM_FILES:
        return dg.SkipReason(f"{len(files)} files have landed, fewer than {_COMPACT_FROM_FILES}")
    return dg.RunRequest(run_key=f"compact:{files[-1].name}")


@_sensor(jobs.push_interval, every_s=5)
def due_dispatch(runtime: dg.ResourceParam[Runtime]) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Push the commands of the quarter-hour that runs or is about to begin.

    The run key names plan, revision and quarter-hour: a newer plan is pushed over an older one,
    and no push is asked for twice.
    """
    now = runtime.clock.now()
    with runtime.warehouse.read() as connection:
        plans = connection.frame(
            "defs_released_plans", start=now, end_=now + runtime.dispatch_lead, as_of=now
        )
    pushes = due.due(plans, set(), now, runtime.dispatch_lead)
    if not pushes:
        yield dg.SkipReason("no released plan covers the quarter-hours that are due")
    for push in pushes:
        yield dg.RunRequest(
            run_key=push.run_key,
            partition_key=str(market_day.delivery_day_of(push.interval_start, MARKET_TZ)),
            run_config=dg.RunConfig(
                ops={
                    "dispatch_ledger": DispatchConfig(
                        plan_id=push.plan_id, interval_start=push.interval_start.isoformat()
                    )
                }
            ),
            tags={jobs.CAUSE: f"{push.plan_id} at {push.interval_start:%H:%M} UTC"},
        )


@_sensor(jobs.recheck_interval, every_s=5)
def due_recheck(
    context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
) -> dg.RunRequest | dg.SkipReason:
    """Read set-points back again within their quarter-hour, and follow orders at once.

    The run key names what is to be done: the newest version out, how long ago the quarter-hour
    began in steps of a look's age, and the devices other orders stand for.
    """
    if _is_under_way(context, jobs.recheck_interval.name, _WAITING):
        return dg.SkipReason("a look is about to begin, and will see all that is due by then")
    now = runtime.clock.now()
    start = market_day.floor_interval(now)
    if not runtime.knows_a_fleet():
        return dg.SkipReason("no fleet is registered yet")
    if now >= start + market_day.STEP - recheck.ENOUGH:
        return dg.SkipReason("the next quarter-hour's push comes soon enough")
    newest = Ledger(runtime.warehouse).newest(start)
    waiting = recheck.due(newest, now)
    try:
        orders = OrderBook(runtime.settings.order_dir).read()
    except OrderBookDamaged as damage:
        return dg.SkipReason(str(damage))
    devices = runtime.devices(now)
    concerned = pl.concat(
        [
            reissue.changed(newest, orders, devices, now),
            reissue.resumed(newest, orders, devices),
        ]
    )
    if waiting.is_empty() and concerned.is_empty():
        return dg.SkipReason("what was sent stands, as far as was looked, on the orders of now")
    named = hashlib.sha256("|".join(concerned.unique().sort()).encode()).hexdigest()
    look = (now - start) // recheck.EVERY
    version = newest.select(pl.col("plan_version").max()).item()
    return dg.RunRequest(
        run_key=f"recheck:{start:%Y%m%dT%H%MZ}:v{version}:{look}:{len(orders)}:{named[:16]}",
        tags={jobs.CAUSE: f"{waiting.height} to look at, {concerned.len()} under other orders"},
    )


@_sensor(jobs.verify_power, every_s=15)
def finished_interval(
    context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
) -> dg.RunRequest | dg.SkipReason:
    """Hold the power against the set-points of a quarter-hour once its last readings have landed.

    The cursor is the quarter-hour that was last looked for; a run takes up all that are open.
    """
    now = runtime.clock.now()
    end = market_day.floor_interval(settling.judged_until(now, runtime.clock.rate)).isoformat()
    if context.cursor == end:
        return dg.SkipReason("the quarter-hour is not over yet")
    waiting = unmeasured(runtime)
    context.update_cursor(end)
    if waiting.is_empty():
        return dg.SkipReason("no set-point waits for its power")
    return dg.RunRequest(
        run_key=f"power:{end}", tags={jobs.CAUSE: f"the power of {waiting.height} set-points"}
    )


@_sensor(jobs.show_orders, every_s=10)
def changed_orders(runtime: dg.ResourceParam[Runtime]) -> dg.RunRequest | dg.SkipReason:
    """Show the orders when one was given or has run out, and what was released or is held."""
    mark = order_mark(runtime)
    return dg.RunRequest(run_key=mark) if mark else dg.SkipReason("no order was ever given")


@_sensor(jobs.re_plan, every_s=15)
def changed_picture(
    context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Plan again when prices, an outage, a vehicle or a deviation have changed the picture.

    The run key names the plan that was found wanting and why: one cause asks once a
    quarter-hour, and none while a re-plan is still on its way.
    """
    if _is_under_way(context, jobs.re_plan.name):
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
                tags={jobs.CAUSE: words[:_LONGEST_TAG], jobs.CAUSE_KIND: kinds},
            )
    if quiet:
        yield dg.SkipReason("the picture is as planned")


@_sensor(jobs.settle, every_s=60)
def finished_day(
    context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
) -> dg.RunRequest | dg.SkipReason:
    """Settle yesterday, once its last telemetry has landed."""
    if _is_under_way(context, jobs.settle.name):
        return dg.SkipReason("a settlement is on its way")
    now = runtime.clock.now()
    today = market_day.delivery_day_of(now, MARKET_TZ)
    lately: dict[str, Any] = {"from_day": today - timedelta(days=2), "as_of": now}
    with runtime.warehouse.read() as connection:
        dispatched = set(connection.frame("defs_planned_days", **lately)["delivery_day"])
        settled = set(connection.frame("defs_settled_days", **lately)["delivery_day"])
    day = timetable.unsettled_day(now, dispatched, settled)
    if day is None:
        return dg.SkipReason("yesterday is settled, or was not dispatched")
    return dg.RunRequest(run_key=f"settle:{day}:{timetable.attempt(now)}", partition_key=str(day))


@_sensor(jobs.judge_forecasts, every_s=60)
def settled_day(runtime: dg.ResourceParam[Runtime]) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Judge the forecasts of a day once it is settled."""
    now = runtime.clock.now()
    since = market_day.delivery_day_of(now, MARKET_TZ) - timedelta(days=2)
    with runtime.warehouse.read() as connection:
        settled = connection.frame("defs_settled_days", from_day=since, as_of=now)
    if settled.is_empty():
        yield dg.SkipReason("no day of late is settled")
    for day in settled["delivery_day"].sort():
        yield dg.RunRequest(run_key=f"judge:{day}", partition_key=str(day))


SCHEDULES = [before_gate_closure]
SENSORS = [
    changed_registry,
    unplanned_day,
    published_prices,
    dropped_price_files,
    landed_telemetry,
    due_dispatch,
    changed_orders,
    due_recheck,
    finished_interval,
    changed_picture,
    finished_day,
    settled_day,
]


def _is_under_way(
    context: dg.SensorEvaluationContext,
    job_name: str,
    statuses: Sequence[dg.DagsterRunStatus] = _UNDER_WAY,
) -> bool:
    asked = dg.RunsFilter(job_name=job_name, statuses=list(statuses))
    return bool(context.instance.get_run_records(asked, limit=1))


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


def _is_priced(runtime: Runtime, day: date, now: datetime) -> bool:
    start, end = market_day.bounds(day, MARKET_TZ)
    with runtime.warehouse.read() as connection:
        known = connection.frame(
            "defs_priced_quarter_hours", market=MARKET, start=start, end_=end, as_of=now
        )
    return known.height == market_day.day_intervals(day, MARKET_TZ).len()
