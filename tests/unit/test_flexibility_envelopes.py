from datetime import time, timedelta

import flexibility_fleets as given
import numpy as np
import polars as pl
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP, STEP_H, day_intervals
from vpp_pipeline.flexibility.envelopes import (
    EnvelopeError,
    device_envelopes,
    group_envelopes,
)
from vpp_pipeline.flexibility.reach import Stores, viable_energies
from vpp_pipeline.flexibility.states import project, usable_states
from vpp_pipeline.optimization.planner import plan

BERLIN = "Europe/Berlin"
DAY = day_intervals(given.WINTER_DAY, BERLIN)


def of(device, **inputs):
    devices = given.frame(given.site("home", [device]))
    return given.envelopes(devices, **inputs)


def test_a_battery_can_do_what_its_energy_lets_it_reach():
    envelope = of(given.battery("b", min_soc=0.1, max_soc=0.9))
    assert envelope["min_power_kw"].unique().to_list() == [-5.0]
    assert envelope["max_power_kw"].unique().to_list() == [5.0]
    assert envelope["max_energy_kwh"][0] == pytest.approx(5 + 5 * STEP_H * 0.95)
    assert envelope["min_energy_kwh"][0] == pytest.approx(5 - 5 * STEP_H / 0.95)
    assert envelope["max_energy_kwh"][-1] == pytest.approx(9.0)
    assert envelope["min_energy_kwh"][-1] == pytest.approx(1.0)
    assert envelope["initial_energy_kwh"].drop_nulls().to_list() == [5.0]


def test_a_battery_below_its_window_may_rest_there_but_not_sink():
    envelope = of(given.battery("b", min_soc=0.3), of_device={"b": {"energy_kwh": 1.0}})
    assert envelope["min_energy_kwh"].unique().to_list() == [1.0]


def test_an_unavailable_device_is_pinned_to_what_it_does_by_itself():
    devices = given.frame(
        given.site("home", [given.battery("b"), given.pv("p"), given.vehicle("v")])
    )
    offline = {"status": "offline"}
    envelope = given.envelopes(devices, of_device={"b": offline, "p": offline, "v": offline})
    assert not envelope["available"].any()
    assert envelope["min_power_kw"].equals(envelope["expected_power_kw"], null_equal=False)
    assert envelope["max_power_kw"].equals(envelope["expected_power_kw"], null_equal=False)
    by_device = envelope.group_by("device_id").agg(pl.col("expected_power_kw").max())
    assert dict(by_device.iter_rows()) == {"b": 0.0, "p": 4.0, "v": 0.0}
    assert envelope["min_energy_kwh"].is_null().all()


def test_the_sun_can_be_curtailed_and_a_load_can_not():
    devices = given.frame(given.site("home", [given.load("l"), given.pv("p")]))
    envelope = given.envelopes(devices, load_kw=-2.0, sun_kw=3.0)
    load, sun = envelope.partition_by("device_id")
    assert load["min_power_kw"].to_list() == load["max_power_kw"].to_list() == [-2.0] * 96
    assert sun["min_power_kw"].unique().to_list() == [0.0]
    assert sun["max_power_kw"].max() == 3.0


def test_a_forecast_never_exceeds_the_nameplate():
    envelope = of(given.pv("p", rated_power_kw=5), sun_kw=9.0)
    assert envelope["max_power_kw"].max() == 5.0


def test_a_vehicle_must_have_its_target_at_its_deadline():
    deadline = DAY[0] + timedelta(hours=6, minutes=7)
    envelope = of(given.vehicle("v"), of_device={"v": {"deadline": deadline}})
    here = envelope.filter(pl.col("min_energy_kwh").is_not_null())
    assert here.height == 24
    assert here["required_end_kwh"].to_list() == [None] * 23 + [40.0]
    assert here["min_energy_kwh"][-1] == 40.0
    assert here["min_energy_kwh"][-2] == pytest.approx(40 - 11 * STEP_H * 0.92)
    assert envelope.filter(pl.col("min_energy_kwh").is_null())["min_power_kw"].max() == 0.0


def test_a_target_out_of_reach_is_best_effort_and_stays_the_wish():
    deadline = DAY[0] + timedelta(hours=1)
    envelope = of(given.vehicle("v"), of_device={"v": {"deadline": deadline}})
    last = envelope.row(3, named=True)
    assert last["required_end_kwh"] == 40.0
    assert last["min_energy_kwh"] == pytest.approx(10 + 11 * 0.92)
    assert last["max_energy_kwh"] == last["min_energy_kwh"]


@pytest.mark.parametrize("minutes", [-300, -5, 0, 10])
def test_a_vehicle_still_there_is_charged_at_once_and_what_it_lacks_is_told(minutes):
    devices = given.frame(given.site("home", [given.vehicle("v")]))
    due = {"v": {"deadline": DAY[0] + timedelta(minutes=minutes)}}
    envelope = given.envelopes(devices, DAY, of_device=due)
    assert envelope["required_end_kwh"].drop_nulls().to_list() == [40.0]
    assert envelope["min_energy_kwh"].is_not_null().arg_true().to_list() == [0]
    made = plan(devices, envelope, given.prices(DAY, 90.0))
    assert made.schedules["power_kw"][0] == pytest.approx(-11.0, abs=1e-3)
    ((device_id, owed_by, unmet_kwh),) = made.unmet.rows()
    assert (device_id, owed_by) == ("v", DAY[1])
    assert unmet_kwh == pytest.approx(30 - 11 * STEP_H * 0.92, abs=1e-3)


def test_a_vehicle_that_stays_on_owes_now_what_can_not_be_charged_later():
    deadline = DAY[-1] + STEP + timedelta(hours=1)
    target = {"deadline": deadline, "target_energy_kwh": 55.0}
    envelope = of(given.vehicle("v"), of_device={"v": target})
    assert envelope["required_end_kwh"][-1] == pytest.approx(55 - 11 * 0.92)


def test_a_vehicle_without_a_deadline_stays_to_the_end_and_is_to_be_full():
    unknown = {"deadline": None, "target_energy_kwh": None}
    envelope = of(given.vehicle("v"), of_device={"v": unknown})
    assert envelope["required_end_kwh"][-1] == 60.0


def absent():
    return {"v": {"plugged_in": False, "energy_kwh": None, "deadline": None}}


def session(arrival_h, departure_h, energy_kwh=20.0, probability=0.9, known_h=0.0):
    start = DAY[0]
    return (
        "v",
        given.hour(start, arrival_h),
        given.hour(start, departure_h),
        energy_kwh,
        probability,
        given.hour(start, known_h),
    )


def test_an_expected_vehicle_is_a_new_store_that_wants_to_leave_full():
    expected = given.sessions(session(10.1, 14.9))
    envelope = of(given.vehicle("v"), of_device=absent(), expected=expected)
    here = envelope.with_row_index("step").filter(pl.col("min_energy_kwh").is_not_null())
    assert (here["step"][0], here["step"][-1]) == (41, 58)
    assert envelope["session_start"].arg_true().to_list() == [41]
    assert here["initial_energy_kwh"][0] == 40.0
    assert here["required_end_kwh"][-1] == 60.0


def test_unlikely_later_known_and_overlapping_sessions_are_not_planned_for():
    expected = given.sessions(
        session(10, 14),
        session(12, 16),
        session(18, 20, probability=0.4),
    )
    envelope = of(given.vehicle("v"), of_device=absent(), expected=expected)
    assert envelope["session_start"].arg_true().to_list() == [40]
    unknown = given.sessions(session(10, 14, known_h=1.0))
    envelope = of(given.vehicle("v"), of_device=absent(), expected=unknown)
    assert envelope["min_energy_kwh"].is_null().all()


def test_a_vehicle_plugged_in_now_keeps_its_own_times():
    expected = given.sessions(session(-1, 20), session(21, 23))
    deadline = DAY[0] + timedelta(hours=6)
    envelope = of(given.vehicle("v"), of_device={"v": {"deadline": deadline}}, expected=expected)
    assert envelope["required_end_kwh"].is_not_null().arg_true().to_list() == [23, 91]


def test_a_vehicle_that_arrives_before_the_horizon_is_taken_to_charge_at_once():
    devices = given.frame(given.site("home", [given.vehicle("v")]))
    noon = DAY[0] - timedelta(hours=11)
    states = usable_states(
        devices, given.telemetry(devices, noon, **absent()), noon, timedelta(minutes=10)
    )
    expected = given.sessions(session(-1, 6, known_h=-12))
    envelope = device_envelopes(
        devices,
        states,
        given.forecasts(devices, DAY, noon),
        expected,
        given.temperatures(devices, DAY),
        DAY,
        noon,
    )
    assert envelope["initial_energy_kwh"][0] == pytest.approx(40 + 11 * 0.92)
    assert not envelope["session_start"].any()


def windows(envelope):
    present = envelope["min_energy_kwh"].is_not_null().to_numpy().astype(int)
    edges = np.diff(np.concatenate([[0], present, [0]]))
    return list(zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True))


@pytest.mark.parametrize(
    ("day", "steps"),
    [(given.WINTER_DAY, 48), (given.SPRING_CHANGE, 44), (given.AUTUMN_CHANGE, 52)],
)
def test_a_window_follows_the_local_clock_over_a_change_of_time(day, steps):
    washer = given.flexible_load("w", earliest=time(1), latest=time(13))
    (window,) = windows(of(washer, intervals=day_intervals(day, BERLIN)))
    assert window == (4, 4 + steps)


@pytest.mark.parametrize(("day", "steps"), [(given.SPRING_CHANGE, 4), (given.AUTUMN_CHANGE, 8)])
def test_a_window_survives_an_hour_that_is_missing_or_doubled(day, steps):
    washer = given.flexible_load("w", earliest=time(2, 30), latest=time(3, 30))
    (window,) = windows(of(washer, intervals=day_intervals(day, BERLIN)))
    assert window[1] - window[0] == steps


def test_a_window_over_midnight_goes_on_in_the_morning_and_begins_anew_at_night():
    washer = given.flexible_load("w", earliest=time(22), latest=time(6))
    envelope = of(washer, of_device={"w": {"energy_kwh": 3.0}})
    assert windows(envelope) == [(0, 24), (88, 96)]
    assert envelope["initial_energy_kwh"].drop_nulls().to_list() == [3.0, 0.0]
    assert envelope["required_end_kwh"].drop_nulls().to_list() == [4.0]
    assert envelope["max_energy_kwh"].max() == 4.0


def test_a_running_window_with_an_unknown_content_is_not_planned():
    washer = given.flexible_load("w", earliest=time(22), latest=time(6))
    assert windows(of(washer, of_device={"w": {"energy_kwh": None}})) == [(88, 96)]


def test_a_cold_building_heats_as_fast_as_it_can():
    envelope = of(given.heat_pump("h"), of_device={"h": {"temperature_c": 15.0}}, outdoor_c=-5.0)
    assert envelope["min_energy_kwh"][0] < 0
    assert envelope["min_energy_kwh"][0] == envelope["max_energy_kwh"][0]


def test_a_hot_summer_does_not_invert_a_building():
    envelope = of(given.heat_pump("h"), outdoor_c=38.0)
    assert envelope["min_energy_kwh"][-1] > 10.0
    assert (envelope["min_energy_kwh"] <= envelope["max_energy_kwh"]).all()


def test_a_running_chp_can_not_jump():
    envelope = of(
        given.chp("c", rated_power_kw=40, min_power_kw=5, ramp_kw_per_min=0.5),
        of_device={"c": {"power_kw": 20.0}},
    )
    assert envelope["min_power_kw"].head(3).to_list() == [12.5, 5.0, 0.0]
    assert envelope["max_power_kw"].head(3).to_list() == [27.5, 35.0, 40.0]


def test_a_chp_ramps_on_from_the_power_planned_until_the_horizon_begins():
    devices = given.frame(given.site("home", [given.chp("c", ramp_kw_per_min=0.4)]))
    now, horizon = DAY[39] + timedelta(minutes=2), DAY[42:]
    states = usable_states(devices, given.telemetry(devices, now), now, timedelta(minutes=10))
    rests = pl.DataFrame(
        {"device_id": "c", "interval_start": DAY[39:42], "power_kw": 0.0}
    ).with_columns(energy_kwh=pl.lit(None, pl.Float64), begin_kwh=pl.lit(None, pl.Float64))
    envelope = device_envelopes(
        devices,
        project(states, devices, rests, horizon[0]),
        given.forecasts(devices, horizon, now),
        given.sessions(),
        given.temperatures(devices, horizon),
        horizon,
        now,
    )
    assert envelope["max_power_kw"].head(3).to_list() == pytest.approx([6.0, 12.0, 18.0])


def test_a_missing_forecast_is_told_with_device_time_and_remedy():
    devices = given.frame(given.site("home", [given.load("l")]))
    states = usable_states(devices, given.telemetry(devices, DAY[0]), DAY[0], timedelta(minutes=10))
    short = given.forecasts(devices, DAY.head(95), DAY[0])
    with pytest.raises(EnvelopeError, match=r"p50 forecast of l at 2025-01-15 22:45.*again"):
        device_envelopes(
            devices,
            states,
            short,
            given.sessions(),
            given.temperatures(devices, DAY),
            DAY,
            DAY[0],
        )


def test_a_forecast_known_later_is_not_read():
    devices = given.frame(given.site("home", [given.load("l")]))
    later = given.forecasts(devices, DAY, DAY[0] + timedelta(seconds=1), load_kw=-9.0)
    both = pl.concat([given.forecasts(devices, DAY, DAY[0], load_kw=-2.0), later])
    states = usable_states(devices, given.telemetry(devices, DAY[0]), DAY[0], timedelta(minutes=10))
    envelope = device_envelopes(
        devices, states, both, given.sessions(), given.temperatures(devices, DAY), DAY, DAY[0]
    )
    assert envelope["expected_power_kw"].unique().to_list() == [-2.0]


def test_a_groups_envelope_is_the_sum_of_its_devices():
    homes = given.site("home", [given.battery("a"), given.battery("b"), given.pv("p")])
    devices = given.frame(
        homes, groups=[given.group("all", "a", "b", "p"), given.group("sun", "p")]
    )
    envelope = given.envelopes(devices)
    groups = group_envelopes(devices, envelope)
    whole = groups.filter(pl.col("group_id") == "all")
    assert whole["devices"].unique().to_list() == [3]
    assert whole["min_power_kw"].unique().to_list() == [-10.0]
    assert whole["max_power_kw"].max() == 14.0
    batteries = envelope.filter(pl.col("device_id").is_in(["a", "b"]))
    assert whole["max_energy_kwh"][-1] == pytest.approx(
        batteries.filter(pl.col("interval_start") == DAY[-1])["max_energy_kwh"].sum()
    )
    assert groups.filter(pl.col("group_id") == "sun")["min_energy_kwh"].is_null().all()


@pytest.mark.parametrize(
    ("day", "steps"),
    [(given.SPRING_CHANGE, 92), (given.WINTER_DAY, 96), (given.AUTUMN_CHANGE, 100)],
)
def test_every_device_has_every_quarter_hour_of_the_day(day, steps):
    devices = given.mixed_fleet(5)
    envelope = given.envelopes(devices, day_intervals(day, BERLIN))
    assert envelope.height == steps * devices.height
    assert envelope["device_id"].unique(maintain_order=True).equals(devices["device_id"])


@st.composite
def stores(draw):
    steps, count = draw(st.integers(2, 12)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    start = rng.integers(0, steps, count)
    end = rng.integers(start + 1, steps + 1)
    clock = np.arange(steps)[:, None]
    present = (clock >= start) & (clock < end)
    starts = clock == start
    capacity = rng.uniform(1, 20, count)
    floor = np.where(present, rng.uniform(-0.2, 0.4, count) * capacity, np.nan)
    debt = rng.uniform(0, 1.3, count) * capacity
    owes = (clock == end - 1) & (rng.random(count) < 0.6)
    floor = np.where(owes, np.fmax(floor, debt), floor)
    return Stores(
        present=present,
        starts=starts,
        initial_kwh=rng.uniform(-0.3, 1.2, count) * capacity * np.ones((steps, 1)),
        floor_kwh=floor,
        ceiling_kwh=np.where(present, np.fmax(capacity, floor), np.nan),
        charge_kw=rng.uniform(0, 10, (steps, count)),
        discharge_kw=rng.uniform(0, 10, count) * (rng.random(count) < 0.6) * np.ones((steps, 1)),
        charge_efficiency=rng.uniform(0.7, 4, count),
        discharge_efficiency=rng.uniform(0.7, 1, count),
        retention=np.where(rng.random(count) < 0.5, 1.0, rng.uniform(0.5, 1, count)),
        drift_kwh=rng.uniform(-1, 1, (steps, count)) * (rng.random(count) < 0.5),
    )


@settings(deadline=None)
@drawn(stores())
def test_the_lowest_energy_is_never_above_the_highest(fleet):
    low, high = viable_energies(fleet)
    assert (np.isnan(low) == ~fleet.present).all()
    assert (np.isnan(high) == ~fleet.present).all()
    assert not (low > high).any()


@settings(deadline=None)
@drawn(stores(), st.integers(0, 2**32 - 1))
def test_a_path_that_keeps_the_energy_bounds_can_be_kept_to_the_end(fleet, seed):
    """Walk at random inside the bounds: there is always a power for the next step."""
    low, high = viable_energies(fleet)
    rng = np.random.default_rng(seed)
    energy = np.zeros(fleet.present.shape[1])
    for t in range(len(low)):
        here = fleet.present[t]
        before = np.where(fleet.starts[t], fleet.initial_kwh[t], energy)
        idle = fleet.retention * before + fleet.drift_kwh[t]
        most = idle + fleet.charge_kw[t] * STEP_H * fleet.charge_efficiency
        least = idle - fleet.discharge_kw[t] * STEP_H / fleet.discharge_efficiency
        reach_low, reach_high = np.maximum(least, low[t]), np.minimum(most, high[t])
        assert (reach_low[here] <= reach_high[here] + 1e-9).all()
        step = reach_low + rng.choice([0.0, 1.0, rng.random()]) * (reach_high - reach_low)
        energy = np.where(here, step, 0.0)


@settings(deadline=None)
@drawn(stores())
def test_resting_lies_inside_the_bounds_wherever_resting_is_feasible(fleet):
    low, high = viable_energies(fleet)
    energy = np.zeros(fleet.present.shape)
    before = np.zeros(fleet.present.shape[1])
    for t in range(len(low)):
        before = np.where(fleet.starts[t], fleet.initial_kwh[t], before)
        before = energy[t] = fleet.retention * before + fleet.drift_kwh[t]
    wished = (energy >= fleet.floor_kwh) & (energy <= fleet.ceiling_kwh)
    restful = (wished | ~fleet.present).all(axis=0)
    inside = (low - 1e-9 <= energy) & (energy <= high + 1e-9)
    assert (inside | ~fleet.present)[:, restful].all()


@settings(deadline=None)
@drawn(stores())
def test_a_wish_that_can_be_met_is_met(fleet):
    """Where charging all the way meets every wish, the bounds keep them as they are."""
    low, high = viable_energies(fleet)
    full = np.where(fleet.present, high, 0.0)
    met = (full >= np.nan_to_num(fleet.floor_kwh, nan=-np.inf) - 1e-9).all(axis=0)
    assert (low >= fleet.floor_kwh - 1e-9)[fleet.present & met].all()
