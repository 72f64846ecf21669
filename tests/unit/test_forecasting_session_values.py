"""What is said of vehicles' arrivals, departures and energies, held against what came."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from vpp_pipeline.delivery_day import bounds, day_intervals
from vpp_pipeline.forecasting.naive import naive
from vpp_pipeline.forecasting.session_values import TARGETS, expected, happened
from vpp_pipeline.forecasting.skill import skill

TZ = "Europe/Berlin"
DAY = date(2020, 9, 10)
START, END = bounds(DAY, TZ)
KNOWN_AT = datetime(2020, 9, 9, 9, tzinfo=UTC)
NOBODY = pl.DataFrame({"target": [], "forecaster": [], "euros_lost": []}).cast(
    {"target": pl.String, "forecaster": pl.String, "euros_lost": pl.Float64}
)


def hour(at: float) -> datetime:
    return START + timedelta(hours=at)


def said(arrives: float, leaves: float, kwh: float = 10.0, *, sure: float = 1.0, by: float = 1.0):
    """A session expected at these hours of the day, all of it uncertain by `by`."""
    outer = {"p10": -by, "p50": 0.0, "p90": by}
    return pl.DataFrame(
        [
            {"device_id": "charger"}
            | {f"arrival_{q}": hour(arrives + off) for q, off in outer.items()}
            | {f"departure_{q}": hour(leaves + off) for q, off in outer.items()}
            | {f"energy_{q}_kwh": kwh + off for q, off in outer.items()}
            | {"probability": sure, "model": "own-days", "known_at": KNOWN_AT}
        ]
    )


def came(arrived: float, left: float, kwh: float | None = 10.0, *, ongoing: bool = False):
    """A past session that asked for `kwh`; None: its vehicle did not say."""
    return pl.DataFrame(
        {
            "device_id": ["charger"],
            "arrival": [hour(arrived)],
            "departure": [hour(left)],
            "first_energy_kwh": [20.0],
            "first_power_kw": [0.0],
            "target_energy_kwh": [None if kwh is None else 20.0 + kwh],
            "ongoing": [ongoing],
        },
        schema_overrides={"target_energy_kwh": pl.Float64},
    )


def scored(expectation: pl.DataFrame, *sessions: pl.DataFrame, before: pl.DataFrame | None = None):
    """The skill of `expectation` on the day, by target; the rule looks back on `before`."""
    of_day = pl.col("interval_start").is_between(START, END, closed="left")
    told = expected(expectation, TZ).filter(of_day)
    known = happened(came(0, 1).clear() if before is None else before, TZ)
    rows = skill(
        told.with_columns(forecaster=pl.lit("ours"), champion=pl.lit(value=True)),
        happened(pl.concat(sessions), TZ),
        naive(known, day_intervals(DAY, TZ), TZ),
        NOBODY,
        DAY,
        KNOWN_AT,
    )
    return {row["target"]: row for row in rows.to_dicts()}


def test_arrival_and_departure_err_in_hours_and_energy_in_kwh():
    rows = scored(said(8.0, 16.0, 10.0), came(8.5, 14.0, 13.0))
    assert set(rows) == set(TARGETS)
    assert [rows[target]["mae"] for target in TARGETS] == pytest.approx([0.5, 2.0, 3.0])
    assert [rows[target]["coverage_p10_p90"] for target in TARGETS] == [1.0, 0.0, 0.0]
    assert {row["euros_lost"] for row in rows.values()} == {None}


def test_the_nth_of_a_day_is_held_against_the_nth_whatever_order_they_are_told_in():
    expectation = pl.concat([said(17.0, 20.0), said(7.0, 9.0)])
    rows = scored(expectation, came(7.5, 9.0), came(18.0, 20.0))
    assert rows["session_arrival"]["mae"] == pytest.approx((0.5 + 1.0) / 2)
    assert rows["session_departure"]["mae"] == pytest.approx(0.0)
    assert rows["session_arrival"]["intervals"] == 2
    alone = scored(expectation, came(7.5, 9.0))
    assert (alone["session_arrival"]["mae"], alone["session_arrival"]["intervals"]) == (0.5, 1)


def test_a_night_is_scored_on_the_day_its_vehicle_leaves_and_on_the_day_it_comes():
    rows = scored(
        pl.concat([said(-6.0, 7.0), said(18.0, 31.0)]),
        came(-5.0, 7.5),
        came(18.0, 24.0, ongoing=True),  # still there as the day ends
    )
    assert rows["session_arrival"]["mae"] == pytest.approx(0.0)
    assert rows["session_departure"]["mae"] == pytest.approx(0.5)
    assert rows["session_departure"]["intervals"] == 1


def test_a_session_that_no_plan_expects_has_no_error_and_who_says_nothing_none_in_energy():
    assert scored(said(8.0, 16.0, sure=0.4), came(8.0, 16.0)) == {}
    assert scored(said(8.0, 16.0).clear(), came(8.0, 16.0)) == {}
    assert set(scored(said(8.0, 16.0), came(8.0, 16.0, None))) == set(TARGETS[:2])


def test_the_naive_rule_says_what_the_nth_of_the_day_before_did():
    before = came(10.0 - 24, 12.0 - 24)  # of Wednesday, for a Thursday
    rows = scored(said(8.0, 12.0), came(9.0, 12.5), before=before)
    assert rows["session_arrival"]["rmae"] == pytest.approx(1.0 / 1.0)
    assert rows["session_departure"]["rmae"] == pytest.approx(0.5 / 0.5)
    assert rows["session_energy"]["rmae"] is None  # the rule was right
    none = scored(said(8.0, 12.0), came(9.0, 12.5))
    assert {row["rmae"] for row in none.values()} == {None}


def test_hours_are_counted_from_a_midnight_of_the_local_clock():
    (arrival,) = (
        happened(came(23.75, 25.0), TZ).filter(pl.col("target") == "session_arrival").to_dicts()
    )
    assert (arrival["interval_start"], arrival["value"]) == (START, 23.75)
    (departure,) = (
        happened(came(23.75, 25.0), TZ).filter(pl.col("target") == "session_departure").to_dicts()
    )
    assert (departure["interval_start"], departure["value"]) == (END, 1.0)
