"""Time, injected: the one place that reads the machine's clocks.

Belongs here: the clocks. Does not: market calendars and delivery days (`delivery_day`).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock(Protocol):
    """Tells the time (UTC) and waits; every deadline in the pipeline goes through one."""

    @property
    def rate(self) -> float:
        """Clock seconds that pass in one wall second."""
        ...

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...

    def sleep_until(self, moment: datetime) -> None:
        """Return once `now() >= moment`; at once if it is already past."""
        ...


@dataclass(frozen=True)
class ScaledClock:
    """A clock that runs from `start` at `rate` times the machine's speed.

    `anchor_epoch_s` is the wall time (seconds since the epoch) at which it showed `start`, so
    that several processes which share the three numbers agree on the time.
    """

    start: datetime
    anchor_epoch_s: float
    rate: float

    def now(self) -> datetime:
        """Return the scaled time."""
        return self.start + timedelta(seconds=(time.time() - self.anchor_epoch_s) * self.rate)

    def sleep_until(self, moment: datetime) -> None:
        """Sleep the wall time that is left, on the machine's monotonic clock."""
        deadline = time.monotonic() + (moment - self.now()).total_seconds() / self.rate
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(left)


class SystemClock:
    """The machine's own clock."""

    rate = 1.0

    def now(self) -> datetime:
        """Return the wall time."""
        return datetime.now(UTC)

    def sleep_until(self, moment: datetime) -> None:
        """Sleep until `moment`, on the machine's monotonic clock."""
        deadline = time.monotonic() + (moment - self.now()).total_seconds()
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(left)


class ManualClock:
    """A clock that stands still until it is moved: simulated days and tests.

    `sleep_until` moves it, so that code which waits for a boundary arrives there at once;
    `on_move`, if set, is called after each move, so that a simulated plant arrives with it.
    """

    rate = 1.0

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._lock = threading.Lock()
        self.on_move: Callable[[], None] | None = None

    def now(self) -> datetime:
        """Return the time it was last moved to."""
        with self._lock:
            return self._now

    def sleep_until(self, moment: datetime) -> None:
        """Move to `moment`, never backwards."""
        with self._lock:
            moved = moment > self._now
            self._now = max(self._now, moment)
        if moved and self.on_move is not None:
            self.on_move()
