"""A clock that can be set wrong, as a machine's can.

Belongs here: the clock. Does not: what follows from it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from vpp_pipeline.clock import ManualClock


class FaultClock:
    """Shows the `true` clock's time, wrong by `error`; its monotonic seconds are never wrong."""

    rate = 1.0

    def __init__(self, true: ManualClock) -> None:
        self.true = true
        self.error = timedelta(0)

    def now(self) -> datetime:
        return self.true.now() + self.error

    def monotonic_s(self) -> float:
        return self.true.monotonic_s()

    def sleep_until(self, moment: datetime) -> None:
        self.true.sleep_until(moment - self.error)
