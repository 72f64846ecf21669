"""The clocks and the market's calendar."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpp_pipeline import delivery_day
from vpp_pipeline.clock import ManualClock, ScaledClock, SteadyClock

BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("day", "quarter_hours"),
    [(date(2020, 10, 4), 96), (date(2020, 10, 25), 100), (date(2021, 3, 28), 92)],
)
def test_invariant_16_a_delivery_day_has_92_96_or_100_quarter_hours(
    day: date, quarter_hours: int
) -> None:
    intervals = delivery_day.day_intervals(day, BERLIN)
    assert intervals.len() == quarter_hours
    assert intervals.is_sorted()
    assert intervals.n_unique() == quarter_hours


@given(st.dates(date(2015, 1, 1), date(2035, 12, 31)))
def test_delivery_days_tile_time_without_gap_or_overlap(day: date) -> None:
    _, end = delivery_day.bounds(day, BERLIN)
    next_start, _ = delivery_day.bounds(day + timedelta(days=1), BERLIN)
    assert end == next_start
    assert delivery_day.delivery_day_of(end - timedelta(microseconds=1), BERLIN) == day
    assert delivery_day.delivery_day_of(end, BERLIN) == day + timedelta(days=1)


@given(st.integers(1_420_070_400, 2_051_222_400).map(lambda s: datetime.fromtimestamp(s, UTC)))
def test_a_quarter_hour_holds_the_moment_it_is_named_for(moment: datetime) -> None:
    start = delivery_day.floor_interval(moment)
    assert start <= moment < start + delivery_day.STEP
    assert start.minute % 15 == 0


def test_the_gate_closes_at_noon_market_time_the_day_before() -> None:
    assert delivery_day.gate_closure(date(2020, 10, 4), BERLIN) == datetime(
        2020, 10, 3, 10, tzinfo=UTC
    )
    assert delivery_day.gate_closure(date(2020, 12, 4), BERLIN) == datetime(
        2020, 12, 3, 11, tzinfo=UTC
    )


def test_a_manual_clock_moves_only_forwards_and_takes_its_plant_along() -> None:
    clock = ManualClock(datetime(2020, 10, 4, tzinfo=UTC))
    arrived = []
    clock.on_move = lambda: arrived.append(clock.now())
    later = datetime(2020, 10, 4, 1, tzinfo=UTC)
    clock.sleep_until(later)
    clock.sleep_until(later - timedelta(minutes=5))
    assert clock.now() == later
    assert arrived == [later]


def test_two_processes_with_the_same_anchor_share_one_scaled_time() -> None:
    start = datetime(2020, 9, 14, tzinfo=UTC)
    anchor = time.time() - 1.0
    one, other = (ScaledClock(start, anchor_epoch_s=anchor, rate=300.0) for _ in range(2))
    before, after = one.now(), other.now()
    assert before <= after
    assert (before - start).total_seconds() >= 300.0


class _SetClock(ManualClock):
    """A machine's clock that somebody sets while its monotonic seconds go on."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        self.set_by = timedelta()

    def now(self) -> datetime:
        return super().now() + self.set_by

    def monotonic_s(self) -> float:
        return super().now().timestamp()

    def sleep_until(self, moment: datetime) -> None:
        super().sleep_until(moment - self.set_by)


@pytest.mark.parametrize("hours", [-1, 1])
def test_invariant_16_a_deadline_does_not_move_when_the_machines_clock_is_set(hours: int) -> None:
    start = datetime(2026, 3, 1, 10, tzinfo=UTC)
    machine = _SetClock(start)
    steady = SteadyClock(machine)
    machine.set_by = timedelta(hours=hours)
    assert steady.now() == start
    steady.sleep_until(start + timedelta(minutes=5))
    assert steady.now() == start + timedelta(minutes=5)
    assert machine.now() == start + timedelta(hours=hours, minutes=5)
