"""Wrong data, wrong clocks and orders that come in between, survived end to end."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from faults_story import QUARTER, START, usual_schedule
from flexibility_fleets import envelopes

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.markets.feeds import CANDIDATES, judge
from vpp_pipeline.optimization.planner import plan

two = pytest.mark.plant(["modbus", "http"])
three = pytest.mark.plant(["modbus", "http", "mqtt"])
HOUR = timedelta(hours=1)


def fault(name, *invariants):
    return pytest.mark.fault(family="Data and time", fault=name, invariants=invariants)


@pytest.mark.core
@three
@fault("the clock is set by an hour in mid-dispatch", 16)
@pytest.mark.parametrize("error", [HOUR, -HOUR])
def test_a_clock_that_is_set_in_mid_dispatch_moves_no_deadline(story, error):
    story.before_send["modbus"] = lambda: story.set_clock(error)
    assert story.push().counts == {"VERIFIED": 6}
    assert story.plant.setpoint("modbus-1").until == START + QUARTER + timedelta(minutes=5)


@three
@fault("the clock is an hour fast, and right again", 1, 15, 16)
def test_a_dispatcher_an_hour_ahead_does_no_harm_and_the_right_hour_is_dispatched(story):
    story.set_clock(HOUR)
    story.push(4, version=2)
    story.set_clock(timedelta(0))
    assert story.push(0, version=1, kw=1.5).counts["VERIFIED"] >= 4
    assert story.applications("http-1")[-1:] == [1.5]
    story.recheck()


@two
@fault("the clock is an hour slow, and right again", 15, 16, 21)
def test_a_dispatcher_an_hour_behind_writes_nothing_into_the_past(story):
    story.set_clock(-HOUR)
    report = story.push(-4)
    assert story.applications("http-1") == []
    assert report.counts.get("REJECTED", 0) >= 2
    story.set_clock(timedelta(0))
    story.push(0, version=2, kw=1.5)
    assert story.path("http-1")[-1] == "VERIFIED"


AUTUMN = datetime(2020, 10, 25, 0, 45, tzinfo=UTC)  # 02:45 summer time; then 02:00 again
SPRING = datetime(2021, 3, 28, 0, 45, tzinfo=UTC)  # 01:45; then 03:00


def across(story, day, quarters):
    assert len(day_intervals(day, "Europe/Berlin")) == quarters
    assert story.push().counts == {"VERIFIED": 4}
    assert story.next_interval().counts == {"VERIFIED": 4}
    commands, _ = story.ledger()
    assert commands["sequence"].n_unique() == 2
    assert story.applications("modbus-1") == [3.0, 2.0]


@pytest.mark.plant(["modbus", "http"], start=AUTUMN)
@fault("the hour that comes twice", 4, 16)
def test_the_repeated_hour_is_dispatched_like_any_other(story):
    across(story, AUTUMN.date(), 100)


@pytest.mark.plant(["modbus", "http"], start=SPRING)
@fault("the hour that is left out", 4, 16)
def test_the_missing_hour_is_dispatched_like_any_other(story):
    across(story, SPRING.date(), 92)


def planned(story, *rows):
    """Judge price rows of (minutes after START, price) as a feed does; plan on what is good."""
    candidates = [
        (n, "{}", "DE-LU", START + timedelta(minutes=at), "", price, str(price), 15)
        for n, (at, price) in enumerate(rows, start=1)
    ]
    frame = pl.DataFrame(candidates, schema=CANDIDATES, orient="row")
    judged = judge(frame, [], "feed", START - HOUR, "test")
    intervals = pl.Series(
        "interval_start", [START + n * QUARTER for n in range(4)], pl.Datetime("us", "UTC")
    )
    covered = intervals.is_in(judged.rows["interval_start"].implode()).all()
    if not covered:
        return judged, None
    prices = judged.rows.sort("interval_start")
    made = plan(story.devices, envelopes(story.devices, intervals), prices)
    return judged, made.schedules


FLAT = [(0, 50.0), (15, 60.0), (30, 70.0), (45, 80.0)]


@two
@fault("prices come late, or in the wrong unit: the plan in force stands", 1)
@pytest.mark.parametrize(
    "rows",
    [FLAT[:1], [(at, price * 100_000) for at, price in FLAT], [(at, math.nan) for at, _ in FLAT]],
)
def test_prices_that_can_not_be_used_leave_the_plan_in_force_as_it_is(story, rows):
    judged, schedules = planned(story, *rows)
    assert schedules is None
    assert judged.rows.height + judged.rejected.height == len(rows)
    assert story.push().counts == {"VERIFIED": 4}
    assert story.applications("modbus-1") == [3.0]


@two
@fault("prices come doubled, with the wrong sign, or truly negative", 1)
@pytest.mark.parametrize(
    "rows",
    [
        [*FLAT, *FLAT],
        [(at, -price) for at, price in FLAT],
        [(at, -499.0 + at) for at, _ in FLAT],
    ],
)
def test_whatever_prices_say_the_devices_are_asked_for_what_they_can_do(story, rows):
    _, schedules = planned(story, *rows)
    assert schedules is not None
    assert np.isfinite(schedules["power_kw"].to_numpy()).all()
    report = story.push(schedules=schedules)
    assert report.counts == {"VERIFIED": 4}


@pytest.mark.core
@two
@fault("NaN or infinity in a schedule", 1)
@pytest.mark.parametrize("kw", [math.nan, math.inf, -math.inf])
def test_a_wish_that_is_no_number_is_refused_and_the_others_are_dispatched(story, kw):
    report = story.push(kw={"modbus-1": kw})
    assert report.counts == {"VERIFIED": 3, "REJECTED": 1}
    assert report.not_verified["device_id"].to_list() == ["modbus-1"]
    assert story.applications("modbus-1") == []


@two
@fault("a wish far beyond the nameplate", 1)
@pytest.mark.parametrize("kw", [1e6, -1e6])
def test_a_wish_of_a_gigawatt_becomes_what_the_device_and_its_site_can_do(story, kw):
    story.push(kw=kw)
    for name in story.devices["device_id"]:
        assert all(abs(applied) <= 10.0 for applied in story.applications(name))


@pytest.mark.core
@two
@fault("a grid limit arrives in mid-dispatch", 1, 8)
def test_a_grid_limit_binds_what_is_sent_after_it_and_the_recheck_brings_the_rest(story):
    def limited():
        story.order("grid_limit", "site:site", min_kw=-4.0, max_kw=4.0)
        story.before_send.clear()

    story.after_send["http"] = limited
    story.collect()
    story.push(collect=False)
    assert story.plant.obeyed_kw("http-1") == 3.0
    story.after_send.clear()
    story.recheck()
    obeyed = [story.plant.obeyed_kw(name) or 0.0 for name in story.devices["device_id"]]
    assert sum(obeyed) <= 4.0
    story.bound(None, -4.0, 4.0)
    story.next_interval(kw=5.0)
    assert "grid" in story.words("modbus-1", 1)


@pytest.mark.core
@two
@fault("a kill switch in mid-dispatch", 8, 10)
def test_after_a_stop_nothing_more_is_sent(story):
    def stopped():
        story.order("stop", "fleet")
        story.bound("modbus-1", 0.0, 0.0)
        story.bound("modbus-2", 0.0, 0.0)

    story.after_send["http"] = stopped
    assert story.push().counts == {"VERIFIED": 2, "REJECTED": 2}
    assert "kill switch" in story.words("modbus-1")
    assert story.applications("modbus-1") == []


@two
@fault("an override that asks for more than the grid operator allows", 8)
def test_an_override_acts_only_inside_the_grid_operators_bounds(story):
    story.order("grid_limit", "device:modbus-1", min_kw=0.0, max_kw=2.0)
    story.order("override", "device:modbus-1", power_kw=9.0)
    story.bound("modbus-1", 0.0, 2.0)
    assert story.push().counts == {"VERIFIED": 4}
    assert story.applications("modbus-1") == [2.0]


@two
@fault("telemetry stops: stale", 15)
def test_on_stale_telemetry_nothing_is_sent_and_on_fresh_it_is_again(story):
    story.collect()
    story.true_clock.sleep_until(START + QUARTER - timedelta(minutes=1))
    assert story.push(1, collect=False).counts == {"REJECTED": 4}
    assert "stale" in story.words("modbus-1", 1)
    assert story.plant.record == []
    story.true_clock.sleep_until(START + 2 * QUARTER - timedelta(minutes=1))
    assert story.push(2, version=2).counts == {"VERIFIED": 4}


@pytest.mark.plant(["http", "mqtt"])
@fault("telemetry with a timestamp in the future", 15)
def test_a_reading_from_the_future_is_no_evidence(story):
    for name in ("http-1", "mqtt-1"):
        story.plant.twists[name] = lambda reading: replace(
            reading, measured_at=reading.measured_at + HOUR
        )
    assert story.push().counts == {"VERIFIED": 2, "REJECTED": 2}
    assert story.applications("http-1") == story.applications("mqtt-1") == []


@two
@fault("a meter's sign is flipped", 1)
def test_a_flipped_meter_moves_no_set_point_out_of_its_bounds(story):
    story.plant.twists["http-1"] = lambda reading: replace(reading, power_kw=-(reading.power_kw))
    story.push(kw=9.0)
    assert story.next_interval(kw=-9.0).counts == {"VERIFIED": 4}
    assert story.applications("http-1") == [9.0, -9.0]


@two
@fault("one device twice in a plan", 4)
def test_two_rows_for_one_device_are_both_refused(story):
    rows = usual_schedule(story.devices, START, 0)
    twice = pl.concat([rows, rows.filter(pl.col("device_id") == "modbus-1")])
    report = story.push(schedules=twice)
    assert report.not_verified["device_id"].unique().to_list() == ["modbus-1"]
    assert story.applications("modbus-1") == []
