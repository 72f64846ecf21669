"""Whether a reversion timer that says it runs does run.

Belongs here: the last look at each device's timer, and the comparison. Does not: reading it
(`sunspec_look`, `register_map_look`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from vpp_pipeline.devices.protocol import ReadBack

_LOOKS_APART_S = 5.0


class TimersSeen:
    """What is left on each device's timer, as first seen after its last write."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, datetime]] = {}

    def forget(self, device_id: str) -> None:
        """Forget a device that is about to be written: its timer begins anew."""
        self._first.pop(device_id, None)

    def judged(self, back: ReadBack, at: datetime) -> ReadBack:
        """Return the read-back, without a timer where it did not move between two looks."""
        left_s = back.timer_remaining_s
        if left_s is None:
            return back
        first_s, first_at = self._first.setdefault(back.device_id, (left_s, at))
        passed_s = (at - first_at).total_seconds()
        if passed_s < _LOOKS_APART_S or left_s < first_s:
            return back
        frozen = f"its timer stands at {left_s:g} s for {passed_s:g} s: nothing ends this by itself"
        return replace(
            back,
            timer_remaining_s=None,
            has_timer=False,
            detail="; ".join(part for part in (back.detail, frozen) if part),
        )
