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

    def monotonic_s(self) -> float:
        """Return clock seconds since a moment of its own; never set back, never set forward."""
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

    def monotonic_s(self) -> float:
        """Return the machine's monotonic seconds at this clock's speed."""
        return time.monotonic() * self.rate

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

    def monotonic_s(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()

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

    def monotonic_s(self) -> float:
        """Return how far it is from the epoch: it never moves backwards."""
        return self.now().timestamp()

    def sleep_until(self, moment: datetime) -> None:
        """Move to `moment`, never backwards."""
        with self._lock:
            moved = moment > self._now
            self._now = max(self._now, moment)
        if moved and self.on_move is not None:
            self.on_move()


class SteadyClock:
    """Another clock's time when this one was made, carried on by its monotonic seconds.

    For deadlines that begin and end in one process: whoever sets the machine's clock moves none.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.now()
        self._start_s = clock.monotonic_s()

    @property
    def rate(self) -> float:
        """The other clock's speed."""
        return self._clock.rate

    def now(self) -> datetime:
        """Return the time, as if the machine's clock had not been set since."""
        return self._start + timedelta(seconds=self.monotonic_s() - self._start_s)

    def monotonic_s(self) -> float:
        """Return the other clock's monotonic seconds."""
        return self._clock.monotonic_s()

    def sleep_until(self, moment: datetime) -> None:
        """Sleep what is left until `moment` by this clock."""
        self._clock.sleep_until(self._clock.now() + (moment - self.now()))
