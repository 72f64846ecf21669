"""Which days are planned again, and on what was known when.

Belongs here: reading `2022-03-01..2022-03-31` and `gate-closure`. Does not: planning (`replay`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.settings import MARKET_TZ

GATE_CLOSURE = "gate-closure"
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2099, 12, 31)
"""The delivery days that can be replayed: Python's calendar has no day before its first one."""


@dataclass(frozen=True)
class AsOf:
    """A moment of every delivery day: its gate closure, a market time in it, or one for them all.

    Make one with `as_of`.
    """

    text: str
    at: time | datetime | None
    """None: the gate closure."""

    def of(self, day: date) -> datetime:
        """Return the instant of a delivery day, in UTC."""
        if self.at is None:
            return market_day.gate_closure(day, MARKET_TZ)
        if isinstance(self.at, datetime):
            return self.at.astimezone(UTC)
        return datetime.combine(day, self.at, ZoneInfo(MARKET_TZ)).astimezone(UTC)


def as_of(text: str) -> AsOf:
    """Read `gate-closure`, a market time such as `09:30`, or an instant with its zone."""
    if text == GATE_CLOSURE:
        return AsOf(text, None)
    remedy = (
        f"write {GATE_CLOSURE}, a market time of the delivery day such as 09:30, or an instant "
        "with its zone such as 2022-03-01T09:30+01:00"
    )
    for kind in (time, datetime):
        try:
            at = kind.fromisoformat(text)
        except ValueError:
            continue
        if (at.tzinfo is None) == (kind is time):
            if isinstance(at, datetime):
                _require_known(text, at.date())
            return AsOf(text, at)
    raise ValueError(f"{text!r} is no moment to plan at: {remedy}")


def days(text: str) -> list[date]:
    """Read a delivery day, or two with `..` between as all from the first to the last."""
    first, _, last = text.partition("..")
    try:
        start, end = date.fromisoformat(first), date.fromisoformat(last or first)
    except ValueError as error:
        raise ValueError(
            f"{text!r} names no delivery days: write 2022-03-01 or 2022-03-01..2022-03-31"
        ) from error
    if end < start:
        raise ValueError(f"{text!r} ends before it begins: write the earlier day first")
    _require_known(text, start)
    _require_known(text, end)
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]


def _require_known(text: str, day: date) -> None:
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError(
            f"{text!r} is out of range: days from {FIRST_DAY} to {LAST_DAY} can be replayed"
        )
