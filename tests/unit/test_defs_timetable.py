"""When plans, prices and settlements are due."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.defs import timetable
from vpp_pipeline.delivery_day import gate_closure

BERLIN = ZoneInfo("Europe/Berlin")
TODAY, TOMORROW = date(2020, 10, 3), date(2020, 10, 4)


def _at(day: date, moment: time) -> datetime:
    return datetime.combine(day, moment, BERLIN)


def test_tomorrow_is_planned_before_its_gate_closes_in_summer_and_winter() -> None:
    for day in (date(2020, 7, 1), date(2020, 10, 25), date(2020, 12, 1)):
        planned_at = _at(day - timedelta(days=1), timetable.PLAN_AT)
        assert planned_at < gate_closure(day, "Europe/Berlin")


def test_a_missing_plan_of_today_is_always_due() -> None:
    assert timetable.unplanned_days(_at(TODAY, time(3)), set()) == [TODAY]
    assert timetable.unplanned_days(_at(TODAY, time(3)), {TODAY}) == []


def test_the_catch_up_leaves_the_schedule_its_turn() -> None:
    assert timetable.unplanned_days(_at(TODAY, time(11, 1)), {TODAY}) == []
    assert timetable.unplanned_days(_at(TODAY, time(11, 30)), {TODAY}) == [TOMORROW]


def test_prices_are_asked_for_once_published_and_until_whole() -> None:
    assert timetable.unpriced_days(_at(TODAY, time(12, 0)), {TODAY}) == []
    assert timetable.unpriced_days(_at(TODAY, time(13, 0)), {TODAY}) == [TOMORROW]
    assert timetable.unpriced_days(_at(TODAY, time(13, 0)), {TODAY, TOMORROW}) == []


def test_a_day_is_settled_once_after_its_end() -> None:
    early, late = _at(TOMORROW, time(0, 10)), _at(TOMORROW, time(0, 31))
    assert timetable.unsettled_day(early, {TODAY}, set()) is None
    assert timetable.unsettled_day(late, {TODAY}, set()) == TODAY
    assert timetable.unsettled_day(late, {TODAY}, {TODAY}) is None
    assert timetable.unsettled_day(late, set(), set()) is None


@given(st.integers(0, 4_000_000_000))
@settings(max_examples=100, deadline=None)
def test_what_failed_is_asked_again_within_a_quarter_hour(epoch_s: int) -> None:
    now = datetime.fromtimestamp(epoch_s, UTC)
    assert timetable.attempt(now) != timetable.attempt(now + timetable.RETRY_EVERY)
