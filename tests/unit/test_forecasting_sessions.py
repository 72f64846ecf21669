"""Sessions that were and sessions to come."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import bounds, intervals
from vpp_pipeline.forecasting.sessions import WEEKDAY, session_forecast
from vpp_pipeline.forecasting.stay_model import train
from vpp_pipeline.forecasting.stays import past_sessions, words_and_outcomes

TZ = "Europe/Berlin"
ZONE = ZoneInfo(TZ)


def local(day: date, hour: float) -> datetime:
    wall = datetime.combine(day, time()) + timedelta(hours=hour)
    return wall.replace(tzinfo=ZONE).astimezone(UTC)


def told(
    start: datetime, end: datetime, stays: list[tuple[datetime, datetime]], device_id: str = "ev"
) -> pl.DataFrame:
    """What a charger tells by the quarter-hour: 40 kWh wanted, 28 + 1 kWh an hour there."""
    instant = pl.Datetime("us", "UTC")
    known = pl.DataFrame(stays, {"arrival": instant, "deadline": instant}, orient="row")
    rows = intervals(start, end).to_frame()
    rows = rows.join_asof(known, left_on="interval_start", right_on="arrival")
    here = (pl.col("interval_start") < pl.col("deadline")).fill_null(value=False)
    hours = (pl.col("interval_start") - pl.col("arrival")).dt.total_minutes() / 60
    return rows.select(
        "interval_start",
        device_id=pl.lit(device_id),
        plugged_in=here,
        energy_kwh=pl.when(here).then(28.0 + hours),
        target_energy_kwh=pl.when(here).then(40.0),
        deadline=pl.when(here).then("deadline"),
        power_kw=pl.lit(0.0),
    )


FIRST = date(2020, 9, 28)


def evenings(days: int, skipped: set[int] = frozenset()) -> list[tuple[datetime, datetime]]:
    """Home at 18:00, off at 07:30; days count from Monday, 28 September."""
    on = [FIRST + timedelta(days=d) for d in range(days) if d not in skipped]
    return [(local(day, 18), local(day + timedelta(days=1), 7.5)) for day in on]


def test_a_session_is_told_with_its_energies_and_its_deadline():
    stays = evenings(2)
    sessions = past_sessions(told(local(FIRST, 0), local(FIRST + timedelta(days=3), 0), stays))
    assert sessions.select("arrival", "departure", "deadline").rows() == [
        (a, d, d) for a, d in stays
    ]
    assert sessions["first_energy_kwh"].to_list() == [28.0, 28.0]
    assert sessions["last_energy_kwh"].to_list() == [41.25, 41.25]
    assert sessions["ongoing"].to_list() == [False, False]


def test_a_vehicle_that_follows_at_once_is_a_session_of_its_own():
    noon = local(FIRST, 12)
    stays = [(local(FIRST, 8), noon), (noon, local(FIRST, 17))]
    rows = told(local(FIRST, 0), local(FIRST, 15), stays)
    sessions = past_sessions(rows)
    assert sessions.select("arrival", "departure").rows() == [stays[0], (noon, local(FIRST, 15))]
    assert sessions["ongoing"].to_list() == [False, True]


def test_a_gap_in_what_was_told_does_not_cut_a_session():
    rows = told(local(FIRST, 0), local(FIRST + timedelta(days=2), 0), evenings(1))
    gap = pl.col("interval_start").is_between(local(FIRST, 20), local(FIRST, 23))
    assert past_sessions(rows.filter(~gap)).height == 1


def test_a_postponed_deadline_does_not_cut_a_session():
    rows = told(local(FIRST, 0), local(FIRST + timedelta(days=2), 0), evenings(1))
    later = rows.with_columns(
        pl.when(pl.col("interval_start") > local(FIRST, 20))
        .then(pl.col("deadline") + timedelta(hours=1))
        .otherwise("deadline")
        .alias("deadline")
    )
    assert past_sessions(later).height == 1


def test_a_habit_is_expected_at_its_local_time_on_the_day_the_clocks_change():
    day = date(2020, 10, 25)
    history = told(local(FIRST, 0), local(day, 0), evenings(26))
    answers = session_forecast(history, *bounds(day, TZ), TZ, local(day - timedelta(days=1), 12))
    assert answers.select("arrival_p50", "departure_p50", "model").rows() == [
        (local(day - timedelta(days=1), 18), local(day, 7.5), "own-days"),
        (local(day, 18), local(day + timedelta(days=1), 7.5), "own-days"),
    ]
    assert answers["energy_p50_kwh"].to_list() == [12.0, 12.0]
    assert answers["probability"].to_list() == [1.0, 1.0]


def test_a_weekend_without_sessions_expects_none_and_half_the_workdays_half():
    workdays = {d for d in range(28) if d % 7 >= 5 or d % 2}
    history = told(local(FIRST, 0), local(FIRST, 24 * 21), evenings(21, workdays))
    known_at = local(date(2020, 10, 18), 23)
    saturday = session_forecast(history, *bounds(date(2020, 10, 24), TZ), TZ, known_at)
    assert saturday.filter(pl.col("arrival_p50") >= local(date(2020, 10, 24), 0)).is_empty()
    monday = session_forecast(history, *bounds(date(2020, 10, 19), TZ), TZ, known_at)
    assert 0.4 < monday["probability"].item() < 0.65


def test_a_vehicle_that_is_there_is_not_expected_again_and_keeps_the_place_until_it_leaves():
    today = FIRST + timedelta(days=21)
    now = local(today, 19)
    history = told(local(FIRST, 0), now, evenings(22))
    answers = session_forecast(history, *bounds(today, TZ), TZ, now)
    (begun,) = answers.to_dicts()  # 21 sessions teach nothing yet: its own word holds
    assert (begun["arrival_p50"], begun["model"]) == (local(today, 18), "stated")
    leaves = local(today + timedelta(days=1), 7.5)
    assert {begun[f"departure_{q}"] for q in ("p10", "p50", "p90")} == {leaves}
    assert begun["energy_p50_kwh"] == pytest.approx(40.0 - 28.75)
    tomorrow = session_forecast(history, *bounds(today + timedelta(days=1), TZ), TZ, now)
    assert tomorrow["arrival_p50"].to_list() == [
        local(today, 18),
        local(today + timedelta(days=1), 18),
    ]


def test_a_vehicle_that_says_nothing_and_of_which_nothing_is_learned_has_no_end():
    today = FIRST + timedelta(days=21)
    now = local(today, 19)
    history = told(local(FIRST, 0), now, evenings(22)).with_columns(
        deadline=pl.lit(None, pl.Datetime("us", "UTC"))
    )
    answers = session_forecast(history, *bounds(today, TZ), TZ, now)
    assert answers.filter(pl.col("arrival_p50") < now).is_empty()


def test_drivers_who_always_leave_early_are_learned_and_expected_to():
    """Sixteen chargers, three weeks: all say 07:30 and leave at 05:30, with half of what they ask."""
    today = FIRST + timedelta(days=21)
    now = local(today, 22)
    one = told(local(FIRST, 0), now, evenings(22))
    leaves = pl.col("deadline") - timedelta(hours=2)
    there = (pl.col("interval_start") < leaves).fill_null(value=False)
    early = one.with_columns(
        plugged_in=there,
        deadline=pl.when(there).then("deadline"),
        energy_kwh=pl.when(there).then(pl.col("energy_kwh").clip(upper_bound=34.0)),
    )
    history = pl.concat([early.with_columns(device_id=pl.lit(f"ev-{n:02}")) for n in range(16)])
    learned = train(words_and_outcomes(past_sessions(history)).filter(~pl.col("ongoing")), TZ)
    answers = session_forecast(history, *bounds(today, TZ), TZ, now, learned)
    begun = answers.filter(pl.col("arrival_p50") < now)
    assert begun.height == 16
    assert set(begun["model"]) == {"learned"}
    off = (begun["departure_p50"] - local(today + timedelta(days=1), 5.5)).dt.total_minutes().abs()
    assert off.max() <= 15
    assert (begun["energy_p50_kwh"] - (34.0 - 31.75)).abs().max() < 1.0


def test_a_new_charger_answers_as_its_fleet_does_and_a_new_fleet_as_a_household_does():
    known_at = local(FIRST, 24 * 21)
    rows = told(local(FIRST, 0), known_at, evenings(21))
    new = told(local(FIRST, 24 * 20), known_at, [], "new")
    start, end = bounds(FIRST + timedelta(days=21), TZ)
    answers = session_forecast(pl.concat([rows, new]), start, end, TZ, known_at)
    by_device = dict(answers.select("device_id", "model").rows())
    assert by_device == {"ev": "own-days", "new": "fleet"}
    alone = session_forecast(new, start, end, TZ, known_at)
    assert set(alone["model"]) == {"typical"}
    assert session_forecast(new.clear(), start, end, TZ, known_at).is_empty()


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), hours=st.integers(0, 48), holes=st.sampled_from([0.0, 0.2, 0.9]))
def test_sessions_of_one_charger_never_overlap_and_stand_in_order(seed, hours, holes):
    rng = np.random.default_rng(seed)
    end = local(FIRST, 24 * 21)
    frames = []
    for device_id in ("one", "two"):
        marks = np.sort(rng.integers(0, 21 * 96, 2 * int(rng.integers(0, 50))))
        at = [local(FIRST, 0) + timedelta(minutes=15 * int(mark)) for mark in marks]
        stays = [(a, d) for a, d in zip(at[::2], at[1::2], strict=True) if a < d]
        frames.append(told(local(FIRST, 0), end, stays, device_id))
    rows = pl.concat(frames)
    rows = rows.filter(pl.Series(rng.random(rows.height) >= holes))
    known_at = end - timedelta(hours=hours)
    answers = session_forecast(rows, end - timedelta(days=1), end + timedelta(days=1), TZ, known_at)
    for event in ("arrival", "departure"):
        assert (answers[f"{event}_p10"] <= answers[f"{event}_p50"]).all()
        assert (answers[f"{event}_p50"] <= answers[f"{event}_p90"]).all()
    assert (answers["arrival_p50"] < answers["departure_p50"]).all()
    to_come = answers["arrival_p50"] >= known_at
    assert (answers["arrival_p10"].filter(to_come) >= known_at).all()
    assert set(answers["model"].filter(~to_come)) <= {"stated"}
    assert (answers["departure_p10"] > known_at).all()
    free = answers.select(
        (pl.col("arrival_p50") >= pl.col("departure_p50").shift(1).over("device_id")).fill_null(
            value=True
        )
    )
    assert free.to_series().all()
    later = pl.col("interval_start") + timedelta(minutes=15) > known_at
    changed = rows.with_columns(
        plugged_in=pl.when(later).then(~pl.col("plugged_in")).otherwise("plugged_in")
    )
    again = session_forecast(
        changed, end - timedelta(days=1), end + timedelta(days=1), TZ, known_at
    )
    assert again.equals(answers)


def comings(rng: np.random.Generator, days: int, device_id: str) -> pl.DataFrame:
    """A vehicle that comes between noon and 22:00 on every workday, as it happens."""
    workdays = [FIRST + timedelta(days=d) for d in range(days) if d % 7 < 5]
    stays = [(local(day, h), local(day, h + 1)) for day, h in zip(
        workdays, rng.integers(48, 88, len(workdays)) / 4, strict=True
    )]  # fmt: skip
    return told(local(FIRST, 0), local(FIRST + timedelta(days=days), 0), stays, device_id)


def test_four_fifths_of_arrivals_lie_between_the_outer_quantiles_of_those_before():
    rng = np.random.default_rng(5)
    day = FIRST + timedelta(days=21)  # a Monday after 15 workdays
    known = pl.concat([comings(rng, 21, f"ev-{n}") for n in range(40)])
    answers = session_forecast(known, *bounds(day, TZ), TZ, local(day - timedelta(days=1), 12))
    first, last = local(day, 12), local(day, 22)
    width = (pl.col("arrival_p90") - pl.col("arrival_p10")) / (last - first)
    assert answers.height == 40
    # what lies beyond is as much on each side: of evenly spread arrivals the width is the share
    assert answers.select(width.mean()).item() == pytest.approx(0.8, abs=0.05)


def test_too_few_sessions_of_its_own_reach_out_to_those_of_the_fleet():
    rng = np.random.default_rng(5)
    day = FIRST + timedelta(days=7)
    known_at = local(day - timedelta(days=1), 12)
    steady = told(local(FIRST, 0), local(day, 0), evenings(7), "steady")
    others = [comings(rng, 7, f"ev-{n}") for n in range(9)]
    alone, among = (
        session_forecast(pl.concat(known), *bounds(day, TZ), TZ, known_at).row(
            by_predicate=(pl.col("device_id") == "steady")
            & (pl.col("arrival_p50") == local(day, 18)),
            named=True,
        )
        for known in ([steady], [steady, *others])
    )
    assert alone["arrival_p10"] == alone["arrival_p90"] == local(day, 18)
    assert among["arrival_p10"] < local(day, 18) < among["arrival_p90"]
    assert alone["model"] == among["model"] == "own-days"


def test_who_comes_on_tuesdays_alone_is_expected_on_a_tuesday_where_weekdays_are_told_apart():
    weeks = [FIRST + timedelta(weeks=n) for n in range(4)]
    tuesdays = [
        (local(day + timedelta(days=1), 9), local(day + timedelta(days=1), 17)) for day in weeks
    ]
    monday = FIRST + timedelta(weeks=4)
    rows = told(local(FIRST, 0), local(monday, 12), tuesdays)

    def likely(day: date, **kinds: pl.Expr) -> list[float]:
        sessions = session_forecast(rows, *bounds(day, TZ), TZ, local(monday, 12), **kinds)
        return sessions["probability"].to_list()

    assert likely(monday + timedelta(days=1), day_type=WEEKDAY) == [1.0]
    assert likely(monday + timedelta(days=2), day_type=WEEKDAY) == []
    assert likely(monday + timedelta(days=1)) == likely(monday + timedelta(days=2)) == [0.2]
