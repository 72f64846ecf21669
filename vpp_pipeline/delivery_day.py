"""The market's calendar: delivery days, their intervals and gate closures.

Belongs here: arithmetic on market days and quarter-hours. Does not: clocks (`clock`), prices.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl

STEP = timedelta(minutes=15)
STEP_H = 0.25


def bounds(day: date, market_tz: str) -> tuple[datetime, datetime]:
    """Return the UTC start and end of a delivery day (23, 24 or 25 hours apart)."""
    zone = ZoneInfo(market_tz)
    start = datetime.combine(day, time(), zone).astimezone(UTC)
    end = datetime.combine(day + timedelta(days=1), time(), zone).astimezone(UTC)
    return start, end


def intervals(start: datetime, end: datetime) -> pl.Series:
    """Return the starts of the quarter-hours in [start, end): `Datetime("us", "UTC")`."""
    return pl.datetime_range(
        start, end, STEP, closed="left", time_unit="us", time_zone="UTC", eager=True
    ).alias("interval_start")


def day_intervals(day: date, market_tz: str) -> pl.Series:
    """Return the 92, 96 or 100 quarter-hours of a delivery day, as UTC starts."""
    return intervals(*bounds(day, market_tz))


def delivery_day_of(moment: datetime, market_tz: str) -> date:
    """Return the delivery day that `moment` falls in."""
    return moment.astimezone(ZoneInfo(market_tz)).date()


def gate_closure(day: date, market_tz: str) -> datetime:
    """Return when bids for `day` close: noon, market time, the day before (EPEX/SDAC rule)."""
    return datetime.combine(day - timedelta(days=1), time(12), ZoneInfo(market_tz)).astimezone(UTC)


def floor_interval(moment: datetime) -> datetime:
    """Return the start of the quarter-hour that holds `moment`."""
    epoch_s = int(moment.timestamp())
    return datetime.fromtimestamp(epoch_s - epoch_s % int(STEP.total_seconds()), UTC)
