"""Quarter-hours to push, to look at again, and to judge; and orders that have changed.

Belongs here: the sensors of dispatch. Does not: what is due (`dispatch.due`, `dispatch.recheck`,
`dispatch.settling`), the assets.
"""

import hashlib
from collections.abc import Iterator

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs import jobs
from vpp_pipeline.defs.dispatch import DispatchConfig
from vpp_pipeline.defs.orders import order_mark
from vpp_pipeline.defs.sensors.asking import WAITING, is_under_way, sensor
from vpp_pipeline.defs.verification import unmeasured
from vpp_pipeline.dispatch import due, recheck, reissue, settling
from vpp_pipeline.dispatch.commands import interval_number
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.order_book import OrderBook, OrderBookDamaged
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET_TZ


@sensor(jobs.push_interval, every_s=5)
def due_dispatch(runtime: dg.ResourceParam[Runtime]) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Push the commands of the quarter-hour that runs or is about to begin.

    The run key names plan, revision and quarter-hour: a newer plan is pushed over an older one,
    and no push is asked for twice. Where pushes queue up, the newest goes first: by their turn the
    others can only note that their quarter-hour is over.
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
            tags={
                jobs.CAUSE: f"{push.plan_id} at {push.interval_start:%H:%M} UTC",
                jobs.URGENCY: str(interval_number(push.interval_start)),
            },
        )


@sensor(jobs.recheck_interval, every_s=5)
def due_recheck(
    context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
) -> dg.RunRequest | dg.SkipReason:
    """Read set-points back again within their quarter-hour, and follow orders at once.

    The run key names what is to be done: the newest version out, how long ago the quarter-hour
    began in steps of a look's age, and the devices other orders stand for. Where no plan follows,
    what earlier quarter-hours left open is ended too.
    """
    if is_under_way(context, jobs.recheck_interval.name, WAITING):
        return dg.SkipReason("a look is about to begin, and will see all that is due by then")
    now = runtime.clock.now()
    start = market_day.floor_interval(now)
    too_late = now >= start + market_day.STEP - recheck.ENOUGH
    if too_late or not runtime.knows_a_fleet():
        pushed_soon = "the next quarter-hour's push comes soon enough"
        return dg.SkipReason(pushed_soon if too_late else "no fleet is registered yet")
    ledger = Ledger(runtime.warehouse)
    newest = ledger.newest(start)
    if newest.is_empty() and (left := ledger.overdue(now).height):
        return dg.RunRequest(
            run_key=f"overdue:{start:%Y%m%dT%H%MZ}",
            tags={jobs.CAUSE: f"{left} set-points of earlier quarter-hours to end"},
        )
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


@sensor(jobs.verify_power, every_s=15)
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


@sensor(jobs.show_orders, every_s=10)
def changed_orders(runtime: dg.ResourceParam[Runtime]) -> dg.RunRequest | dg.SkipReason:
    """Show the orders when one was given or has run out, and what was released or is held."""
    mark = order_mark(runtime)
    return dg.RunRequest(run_key=mark) if mark else dg.SkipReason("no order was ever given")
