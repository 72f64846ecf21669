"""When the market day asks for something: plans, prices, settlement.

Belongs here: pure rules from a moment (and what exists) to what is due. Does not: launching it
(`sensors`), dispatch's own rules (`dispatch.due`, `dispatch.deviation`).
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.settings import MARKET_TZ

PLAN_AT = time(11, 0)
"""When tomorrow is planned: an hour before the auction's gate closes (12:00, SDAC)."""

PRICES_AT = time(12, 57)
"""When tomorrow's prices are asked for: results come out at about 12:55."""

SETTLE_AFTER = timedelta(minutes=30)
"""How long after its end a day is settled, so that the last telemetry has landed."""

RETRY_EVERY = market_day.STEP
"""A thing that is due and did not come about is asked for again after this."""

_GRACE = timedelta(minutes=10)  # the schedule comes first; the sensor only catches up


def unplanned_days(now: datetime, planned: AbstractSet[date]) -> list[date]:
    """Return today, and from a little after PLAN_AT tomorrow, where they have no released plan."""
    today, clock = _local(now)
    due = [today]
    if clock >= _after(PLAN_AT, _GRACE):
        due.append(today + timedelta(days=1))
    return [day for day in due if day not in planned]


def unpriced_days(now: datetime, priced: AbstractSet[date]) -> list[date]:
    """Return today, and from PRICES_AT tomorrow, where not every quarter-hour has a price."""
    today, clock = _local(now)
    due = [today]
    if clock >= PRICES_AT:
        due.append(today + timedelta(days=1))
    return [day for day in due if day not in priced]


def unsettled_day(
    now: datetime, dispatched: AbstractSet[date], settled: AbstractSet[date]
) -> date | None:
    """Return yesterday once it may be settled, if it was dispatched and is not settled yet."""
    today, _ = _local(now)
    yesterday = today - timedelta(days=1)
    _, ended = market_day.bounds(yesterday, MARKET_TZ)
    due = yesterday in dispatched and yesterday not in settled and now >= ended + SETTLE_AFTER
    return yesterday if due else None


def attempt(now: datetime) -> str:
    """Return the name of the current attempt: it changes every RETRY_EVERY."""
    return f"{market_day.floor_interval(now):%Y%m%dT%H%M}"


def _local(now: datetime) -> tuple[date, time]:
    local = now.astimezone(ZoneInfo(MARKET_TZ))
    return local.date(), local.time()


def _after(moment: time, delay: timedelta) -> time:
    return (datetime.combine(date(2000, 1, 1), moment) + delay).time()
