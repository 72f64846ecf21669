"""What must not be planned, released or dispatched is not, and the reason is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import time, timedelta

import duckdb
import polars as pl
import pytest
from defs_plant import (
    TODAY,
    TOMORROW,
    check_of,
    copied,
    failure_of,
    market_time,
    open_plant,
    records,
)

from vpp_pipeline.delivery_day import STEP, bounds
from vpp_pipeline.planning import plans
from vpp_pipeline.settings import MARKET, MARKET_TZ

START, END = bounds(TOMORROW, MARKET_TZ)
YESTERDAY = TODAY - timedelta(days=1)
ENVELOPE = {
    "device_id": "alba-battery",
    "interval_start": START,
    "min_power_kw": -5.0,
    "max_power_kw": 5.0,
    "expected_power_kw": 0.0,
    "session_start": False,
    "retention": 1.0,
    "drift_kwh": 0.0,
    "available": True,
}


def fire(plant, *, fresh=True):
    plant.at(time(11))
    if fresh:
        plant.tell()
    (result,) = plant.daemon.fire("before_gate_closure")
    return result


def assert_refused(plant, result, *expected):
    """No plan, nothing released, nothing due, and problems told that have all `expected`."""
    check = check_of(result, "plan_inputs_are_sound")
    assert not check.passed
    assert not result.success
    problems = records(check.metadata["problems"].value)
    for each in expected:
        assert any(problem.items() >= each.items() for problem in problems), problems
    assert all(problem["remedy"] for problem in problems)
    assert plant.count("plans") == 0
    assert_nothing_is_due(plant)


def assert_nothing_is_due(plant):
    assert plant.count("plan_releases") == 0
    plant.clock.sleep_until(START + timedelta(minutes=1))
    assert plant.tick("due_dispatch").run_requests == []
    assert "no released plan" in plant.tick("due_dispatch").skip_message


def test_no_plan_is_made_on_envelopes_that_are_no_numbers_or_misaligned(plant):
    plant.at(time(11))
    known_at = plant.clock.now()
    rows = [
        {**ENVELOPE, "max_power_kw": float("nan"), "known_at": known_at},
        {**ENVELOPE, "device_id": "stranger", "known_at": known_at},
    ]
    plant.append("envelopes", pl.DataFrame(rows))
    again = "materialise the forecasts and flexibility_envelopes of this delivery day again"
    result = fire(plant)
    assert_refused(
        plant,
        result,
        {
            "subject": "alba-battery",
            "field": "max_power_kw",
            "problem": "is not a finite number",
            "remedy": "materialise flexibility_envelopes again",
        },
        {
            "subject": "alba-battery",
            "field": "interval_start",
            "problem": "quarter-hour is there twice",
            "remedy": again,
        },
        {
            "subject": "stranger",
            "field": "interval_start",
            "problem": "quarter-hour is not in the horizon",
            "remedy": again,
        },
    )


def test_no_plan_is_made_on_a_price_that_is_no_number(plant):
    plant.append(
        "prices",
        pl.DataFrame(
            {
                "market": MARKET,
                "interval_start": START,
                "price_eur_per_mwh": float("nan"),
                "resolution_minutes": 15,
                "source": "test",
                "known_at": plant.clock.now(),
            }
        ),
    )
    assert_refused(
        plant,
        fire(plant),
        {
            "subject": "market",
            "field": "price_eur_per_mwh",
            "problem": "is not a finite number",
            "remedy": "materialise day_ahead_prices and price_forecast again",
        },
    )


def test_a_forecast_that_is_no_number_releases_no_plan(planned_plant):
    planned_plant.at(time(11, 5))
    planned_plant.tell()
    forecast = planned_plant.rows("forecasts").filter(
        pl.col("subject_id") == "alba-load", pl.col("interval_start") == START
    )
    planned_plant.append(
        "forecasts",
        forecast.with_columns(p50=float("nan"), known_at=pl.lit(planned_plant.clock.now())),
    )
    result = planned_plant.materialise(
        "day_ahead", TOMORROW, "flexibility_envelopes", "day_ahead_plan", "device_schedules"
    )
    assert not result.success
    assert "the p50 forecast of alba-load at 2020-10-24 22:00 UTC" in failure_of(result)
    assert "forecast the whole horizon again" in failure_of(result)
    assert planned_plant.count("plans") == 1
    assert planned_plant.count("plan_releases") == 1


def test_no_plan_is_made_when_most_devices_are_silent(plant):
    result = fire(plant, fresh=False)
    fresh = check_of(result, "telemetry_is_fresh")
    assert not fresh.passed
    assert fresh.metadata["count"].value == 7
    assert_refused(
        plant,
        result,
        {
            "subject": "telemetry",
            "field": "available",
            "value": "0% of the devices",
            "remedy": "see that the collector runs and the devices answer, then plan again",
        },
    )


def test_no_plan_is_made_where_no_price_was_ever_known(seeded_home, tmp_path):
    home = copied(seeded_home, tmp_path / "plant")
    with duckdb.connect(home / "warehouse" / "vpp.duckdb") as session:
        session.execute("DELETE FROM prices")
    cut_off = {"price_source": "energy-charts", "energy_charts_url": "http://127.0.0.1:9"}
    with open_plant(home, market_time(TODAY, time(10, 30)), **cut_off) as plant:
        assert_refused(
            plant,
            fire(plant),
            {
                "subject": "market",
                "field": "known_at",
                "value": "None",
                "remedy": "see that the price feed answers, or drop a price file",
            },
        )


@pytest.fixture(scope="module")
def unsound_plant(seeded_home, tmp_path_factory):
    """A plant whose newest plan lacks a quarter-hour of one device, and the run that made it."""
    sound = plans.plan

    def lossy(*arguments):
        made = sound(*arguments)
        return replace(made, schedules=made.schedules.slice(1))

    home = copied(seeded_home, tmp_path_factory.mktemp("unsound") / "plant")
    with open_plant(home, market_time(TODAY, time(10, 30))) as plant:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plans, "plan", lossy)
            result = fire(plant)
        yield plant, result


def test_a_plan_whose_check_failed_is_not_released(unsound_plant):
    plant, result = unsound_plant
    check = check_of(result, "day_ahead_plan_is_feasible")
    assert not check.passed
    assert not check.metadata["complete"].value
    assert check.metadata["plan_id"].value == plant.rows("plans")["plan_id"][0]
    assert_nothing_is_due(plant)


def test_a_plan_whose_check_failed_is_not_dispatched_and_that_is_told(unsound_plant):
    plant, _ = unsound_plant
    (plan_id,) = plant.rows("plans")["plan_id"]
    pushed = plant.push(plan_id, START)
    assert not pushed.success
    assert f"plan {plan_id} is not released: its blocking checks" in failure_of(pushed)
    assert plant.count("commands") == 0


def test_a_plan_whose_check_failed_can_not_be_released_by_hand(unsound_plant):
    plant, _ = unsound_plant
    (plan_id,) = plant.rows("plans")["plan_id"]
    released = plant.materialise("day_ahead", TOMORROW, "device_schedules")
    assert not released.success
    assert f"plan {plan_id} is not released" in failure_of(released)
    assert "'complete': False" in failure_of(released)
    assert plant.count("plan_releases") == 0


def test_a_plan_that_was_never_made_can_not_be_dispatched(plant):
    pushed = plant.push("2020-10-25-r000-0000000000", START)
    assert "2020-10-25-r000-0000000000 is not released" in failure_of(pushed)


def test_a_backfill_of_a_past_day_plans_nothing(plant):
    plant.tell()
    result = plant.daemon.launch("day_ahead", partition_key=str(YESTERDAY))
    assert not result.success
    assert f"delivery day {YESTERDAY} is over" in failure_of(result)
    assert plant.count("plans") == 0
    assert plant.count("plan_releases") == 0
    assert plant.tick("due_dispatch").run_requests == []


def test_a_past_day_is_not_planned_on_its_old_envelopes_either(planned_plant):
    planned_plant.clock.sleep_until(END + timedelta(hours=1))
    made = planned_plant.materialise("day_ahead", TOMORROW, "day_ahead_plan")
    assert not made.success
    assert f"delivery day {TOMORROW} is over" in failure_of(made)
    assert planned_plant.count("plans") == 1


def test_a_backfill_of_a_past_quarter_hour_sends_nothing(planned_plant):
    (plan_id,) = planned_plant.rows("plans")["plan_id"]
    planned_plant.clock.sleep_until(END + timedelta(hours=1))
    result = planned_plant.push(plan_id, START)
    assert result.success, failure_of(result)
    events = planned_plant.rows("command_events")
    assert set(events["state"]) == {"PLANNED", "EXPIRED"}
    assert events.filter(pl.col("sent") != "").is_empty()
    assert planned_plant.tick("due_dispatch").run_requests == []


def test_what_is_left_of_today_is_planned_from_the_next_quarter_hour_that_can_be_reached(plant):
    plant.tell()
    result = plant.daemon.launch("day_ahead", partition_key=str(TODAY))
    assert result.success, failure_of(result)
    (plan,) = plant.rows("plans").to_dicts()
    now = market_time(TODAY, time(10, 30))
    assert plan["horizon_start"] == now + STEP
    assert plan["horizon_end"] == START
