"""Days that are over: to settle, and then to judge the forecasts of.

Belongs here: the sensors after delivery. Does not: when a day is to be settled (`timetable`), the
assets.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs import jobs, timetable
from vpp_pipeline.defs.sensors.asking import is_under_way, sensor
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET_TZ


@sensor(jobs.settle, every_s=60)
def finished_day(
    context: dg.SensorEvaluationContext, runtime: dg.ResourceParam[Runtime]
) -> dg.RunRequest | dg.SkipReason:
    """Settle yesterday, once its last telemetry has landed."""
    if is_under_way(context, jobs.settle.name):
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


@sensor(jobs.judge_forecasts, every_s=60)
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
