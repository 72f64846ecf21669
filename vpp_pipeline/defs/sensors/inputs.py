"""What comes in: the registry, prices, files that are dropped, telemetry that has landed.

Belongs here: the sensors before a plan. Does not: when prices are due (`timetable`), the assets.
"""

import hashlib
from collections.abc import Iterator
from datetime import date, datetime, timedelta

import dagster as dg

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs import jobs, timetable
from vpp_pipeline.defs.market import dropped
from vpp_pipeline.defs.sensors.asking import sensor
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.warehouse import landing

_COMPACT_FROM_FILES = 30


@sensor(jobs.register_fleet, every_s=10)
def changed_registry(runtime: dg.ResourceParam[Runtime]) -> dg.RunRequest | dg.SkipReason:
    """Register the fleet when its file is new or has changed."""
    path = runtime.settings.fleet_file
    if not path.exists():
        return dg.SkipReason(f"{path} does not exist: set VPP_FLEET to a registry")
    # when it was last written, too: going back to an older registry is a change
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return dg.RunRequest(run_key=f"fleet:{content}:{path.stat().st_ctime_ns}")


@sensor(jobs.collect_prices, every_s=10)
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


@sensor(jobs.collect_dropped_prices, every_s=10)
def dropped_price_files(runtime: dg.ResourceParam[Runtime]) -> dg.RunRequest | dg.SkipReason:
    """Load price files as soon as they are dropped, and again where that failed."""
    found = dropped(runtime.settings.drop_dir)
    if not found:
        return dg.SkipReason("the drop folder is empty")
    newest = max(path.lstat().st_mtime_ns for path in found)
    attempt = timetable.attempt(runtime.clock.now())
    return dg.RunRequest(run_key=f"drop:{found[-1].name}:{newest}:{attempt}")


@sensor(jobs.compact, every_s=30)
def landed_telemetry(runtime: dg.ResourceParam[Runtime]) -> dg.RunRequest | dg.SkipReason:
    """Compact telemetry when enough files have landed."""
    files = landing.waiting(runtime.settings.landing_dir, "telemetry")
    if not runtime.knows_a_fleet():
        return dg.SkipReason("no fleet is registered yet")
    if len(files) < _COMPACT_FROM_FILES:
        return dg.SkipReason(f"{len(files)} files have landed, fewer than {_COMPACT_FROM_FILES}")
    return dg.RunRequest(run_key=f"compact:{files[-1].name}")


def _is_priced(runtime: Runtime, day: date, now: datetime) -> bool:
    start, end = market_day.bounds(day, MARKET_TZ)
    with runtime.warehouse.read() as connection:
        known = connection.frame(
            "defs_priced_quarter_hours", market=MARKET, start=start, end_=end, as_of=now
        )
    return known.height == market_day.day_intervals(day, MARKET_TZ).len()
