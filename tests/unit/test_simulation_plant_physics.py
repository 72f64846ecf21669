"""Each type's physics: energy is neither made nor lost, and limits hold whatever is asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.simulation.physics import (
    Batteries,
    Chps,
    EvChargers,
    FlexibleLoads,
    Generators,
    HeatPumps,
    Loads,
)
from vpp_pipeline.simulation.stays import Stays

T0 = datetime(2020, 8, 10, tzinfo=UTC)
T0_S = T0.timestamp()
NOBODY = np.array([np.nan])

bounded = settings(deadline=None)
setpoints = st.one_of(st.just(float("nan")), st.floats(-30, 30))
steps = st.lists(st.tuples(setpoints, st.floats(0.5, 60)), min_size=1, max_size=60)
efficiency = st.floats(0.5, 1)


def device(**columns):
    every = {
        "device_id": "d",
        "max_inject_kw": 0.0,
        "max_draw_kw": 0.0,
        "min_active_kw": 0.0,
        "energy_capacity_kwh": None,
        "min_energy_kwh": None,
        "max_energy_kwh": None,
        "charge_efficiency": None,
        "discharge_efficiency": None,
        "ramp_kw_per_min": None,
    }
    return pl.DataFrame([{**every, **columns}], infer_schema_length=None)


def stays(*rows):
    """Minutes after T0: (arrival, departure, arrival energy, target energy)."""
    minute = timedelta(minutes=1)
    frame = pl.DataFrame(
        [("d", T0 + a * minute, T0 + b * minute, e, target) for a, b, e, target in rows],
        schema={
            "device_id": pl.String,
            "arrival": pl.Datetime("us", "UTC"),
            "departure": pl.Datetime("us", "UTC"),
            "arrival_energy_kwh": pl.Float64,
            "target_energy_kwh": pl.Float64,
        },
        orient="row",
    )
    return Stays(pl.Series(["d"]), lambda _start, _end: frame)


def battery(charge=0.95, discharge=0.9, ramp=None):
    return Batteries(
        device(
            max_inject_kw=30.0,
            max_draw_kw=30.0,
            min_energy_kwh=2.0,
            max_energy_kwh=19.0,
            charge_efficiency=charge,
            discharge_efficiency=discharge,
            ramp_kw_per_min=ramp,
        ),
        np.random.default_rng(7),
    )


@bounded
@given(steps, efficiency, efficiency)
def test_a_battery_stores_what_it_took_less_its_losses_and_stays_in_its_window(
    moves, charge, discharge
):
    machine, at_s = battery(charge, discharge), T0_S
    for setpoint_kw, seconds in moves:
        before, hours = machine.energy_kwh.item(), seconds / 3600
        power_kw = machine.step(at_s, np.array([setpoint_kw]), hours).item()
        stored = charge * max(-power_kw, 0) * hours - max(power_kw, 0) * hours / discharge
        assert machine.energy_kwh.item() - before == pytest.approx(stored, abs=1e-9)
        assert 2.0 - 1e-9 <= machine.energy_kwh.item() <= 19.0 + 1e-9
        assert np.isnan(setpoint_kw) or abs(power_kw) <= abs(setpoint_kw)
        at_s += seconds


def test_a_battery_rests_by_default():
    assert battery().step(T0_S, NOBODY, 1 / 60).item() == 0


def test_a_battery_that_fills_up_takes_exactly_what_fits():
    machine = battery(charge=0.8)
    room = 19.0 - machine.energy_kwh.item()
    machine.step(T0_S, np.array([-30.0]), 1.0)
    assert machine.energy_kwh.item() == pytest.approx(19.0, abs=1e-12)
    assert room > 0
    assert machine.step(T0_S, np.array([-30.0]), 1.0).item() == pytest.approx(0, abs=1e-9)


def test_a_battery_ramps():
    machine = battery(ramp=2.0)
    powers = [machine.step(T0_S, np.array([5.0]), 1 / 60).item() for _ in range(4)]
    assert powers == pytest.approx([2, 4, 5, 5])


@bounded
@given(setpoints, st.floats(0, 20))
def test_sun_and_wind_give_what_they_can_or_the_limit(limit, available):
    machine = Generators(lambda _: np.array([available]))
    power_kw = machine.step(T0_S, np.array([abs(limit)]), 1 / 60).item()
    assert power_kw == (available if np.isnan(limit) else min(available, abs(limit)))
    assert machine.report()["available_power_kw"].item() == available


def test_nobody_steers_a_load():
    machine = Loads(lambda _: np.array([-3.2]))
    assert machine.step(T0_S, np.array([10.0]), 1 / 60).item() == -3.2


def charger(*rows, inject=0.0, minimum=1.4):
    return EvChargers(
        device(
            max_draw_kw=11.0,
            max_inject_kw=inject,
            min_active_kw=minimum,
            energy_capacity_kwh=60.0,
            charge_efficiency=0.92,
            discharge_efficiency=0.9,
        ),
        stays(*rows),
    )


@bounded
@given(
    steps,
    st.sampled_from([0.0, 11.0]),
    st.floats(0, 40),
    st.floats(0, 20),
)
def test_a_vehicle_is_never_overcharged_nor_emptied_and_its_energy_adds_up(
    moves, inject, arrival_kwh, need_kwh
):
    target = arrival_kwh + need_kwh
    machine, at_s = charger((0, 4000, arrival_kwh, target), inject=inject), T0_S
    machine.power(at_s, NOBODY, 1.0)
    for setpoint_kw, minutes in moves:
        before, hours = machine.energy_kwh.item(), minutes / 60
        power_kw = machine.step(at_s, np.array([setpoint_kw]), hours).item()
        stored = 0.92 * max(-power_kw, 0) * hours - max(power_kw, 0) * hours / 0.9
        after = machine.energy_kwh.item()
        assert after - before == pytest.approx(stored, abs=1e-9)
        ceiling = target if np.isnan(setpoint_kw) else 60.0
        assert -1e-9 <= after <= max(ceiling, before) + 1e-9
        assert power_kw <= inject
        at_s += minutes * 60


def test_a_vehicle_charges_at_once_by_default_and_stops_at_its_target():
    machine = charger((0, 600, 20.0, 31.04))
    powers = [machine.step(T0_S + 3600 * h, NOBODY, 1.0).item() for h in range(3)]
    assert powers[0] == -11.0
    assert machine.energy_kwh.item() == pytest.approx(31.04)
    assert powers[2] == pytest.approx(0, abs=1e-9)


def test_no_vehicle_no_power():
    machine = charger((10, 20, 20.0, 40.0))
    assert machine.step(T0_S, np.array([-11.0]), 1 / 60).item() == 0
    assert np.isnan(machine.report()["energy_kwh"].item())
    assert machine.step(T0_S + 600, np.array([-11.0]), 1 / 60).item() == -11.0
    assert machine.report()["plugged_in"].item() == 1.0
    assert machine.step(T0_S + 1200, np.array([-11.0]), 1 / 60).item() == 0


def test_each_vehicle_brings_its_own_energy():
    machine = charger((0, 10, 20.0, 40.0), (10, 20, 5.0, 6.0))
    machine.step(T0_S, NOBODY, 1 / 60)
    machine.step(T0_S + 600, np.array([0.0]), 1 / 60)
    assert machine.report()["energy_kwh"].item() == 5.0
    assert machine.report()["target_energy_kwh"].item() == 6.0


@pytest.mark.parametrize("setpoint_kw", [-1.3, 1.3])
def test_below_the_smallest_current_nothing_flows(setpoint_kw):
    machine = charger((0, 600, 20.0, 40.0), inject=11.0)
    assert machine.step(T0_S, np.array([setpoint_kw]), 1 / 60).item() == 0


def test_a_one_way_charger_takes_nothing_back():
    machine = charger((0, 600, 20.0, 40.0))
    assert machine.step(T0_S, np.array([11.0]), 1 / 60).item() == 0


def pump(outdoor_c=5.0, temperature_c=None):
    machine = HeatPumps(
        device(
            max_draw_kw=4.0,
            charge_efficiency=3.0,
            thermal_resistance_k_per_kw=6.0,
            thermal_capacity_kwh_per_k=4.0,
            comfort_min_c=20.0,
            comfort_max_c=22.5,
        ),
        lambda _: np.array([outdoor_c]),
        np.random.default_rng(3),
    )
    if temperature_c is not None:
        machine.temperature_c = np.array([temperature_c])
    return machine


@bounded
@given(st.floats(-4, 0), st.floats(19.5, 23), st.floats(0.01, 2))
def test_a_building_is_solved_exactly_however_long_the_step(setpoint_kw, start_c, hours):
    """dT/dt = (COP·P - (T - T_outdoor)/R)/C: half a step twice is one step."""
    whole, halves = pump(temperature_c=start_c), pump(temperature_c=start_c)
    whole.step(T0_S, np.array([setpoint_kw]), hours)
    halves.step(T0_S, np.array([setpoint_kw]), hours / 2)
    if 19.0 <= halves.temperature_c.item() <= 23.5:
        halves.step(T0_S, np.array([setpoint_kw]), hours / 2)
        assert halves.temperature_c.item() == pytest.approx(whole.temperature_c.item(), abs=1e-9)
    small = 1e-5
    slope = pump(temperature_c=start_c)
    slope.step(T0_S, np.array([setpoint_kw]), small)
    expected = (3.0 * -setpoint_kw - (start_c - 5.0) / 6.0) / 4.0
    assert (slope.temperature_c.item() - start_c) / small == pytest.approx(expected, abs=1e-3)


@bounded
@given(st.lists(setpoints, min_size=1, max_size=40), st.floats(-10, 15), st.floats(18, 25))
def test_a_building_is_protected_whatever_it_is_told(moves, outdoor_c, start_c):
    machine = pump(outdoor_c, start_c)
    for k, setpoint_kw in enumerate(moves):
        before = machine.temperature_c.item()
        power_kw = machine.step(T0_S + 60 * k, np.array([setpoint_kw]), 1 / 60).item()
        if before < 19.0:
            assert power_kw == -4.0
        if before > 23.5:
            assert power_kw == 0


def test_a_thermostat_stays_in_the_comfort_band_and_switches_seldom():
    machine = pump()
    powers, temperatures = [], []
    for minute in range(24 * 60):
        powers.append(machine.step(T0_S + 60 * minute, NOBODY, 1 / 60).item())
        temperatures.append(machine.temperature_c.item())
    assert min(temperatures) >= 20.0
    assert max(temperatures) <= 22.5
    switches = int((np.diff(powers) != 0).sum())
    assert 2 <= switches <= 48


def test_a_dead_pump_does_not_even_protect():
    machine = pump(temperature_c=15.0)
    machine.out_of_service = np.array([True])
    assert machine.step(T0_S, NOBODY, 1 / 60).item() == 0


def shiftable(*rows):
    return FlexibleLoads(device(max_draw_kw=3.0), stays(*rows))


@bounded
@given(st.lists(setpoints, min_size=60, max_size=60))
def test_a_flexible_load_draws_only_in_its_window_and_never_more_than_it_needs(moves):
    machine, drawn = shiftable((10, 40, 0.0, 1.0)), []
    for minute, setpoint_kw in enumerate(moves):
        drawn.append(-machine.step(T0_S + 60 * minute, np.array([setpoint_kw]), 1 / 60).item())
    assert sum(drawn[:10]) == sum(drawn[40:]) == 0
    assert min(drawn) >= 0
    assert max(drawn) <= 3.0
    assert sum(drawn) / 60 <= 1.0 + 1e-9


def test_a_flexible_load_runs_as_early_as_it_may():
    machine = shiftable((10, 40, 0.0, 1.0), (1450, 1480, 0.0, 1.0))
    powers = [machine.step(T0_S + 60 * m, NOBODY, 1 / 60).item() for m in range(45)]
    assert powers[9] == 0
    assert powers[10:30] == pytest.approx([-3.0] * 20)
    assert powers[31:] == pytest.approx([0] * 14, abs=1e-9)
    assert machine.report()["energy_kwh"].item() == 0
    assert machine.report()["deadline_s"].item() == T0_S + 1480 * 60


@bounded
@given(steps)
def test_a_chp_is_off_or_at_least_at_its_minimum(moves):
    machine = Chps(device(max_inject_kw=20.0, min_active_kw=8.0, ramp_kw_per_min=2.0))
    at_s = T0_S
    for setpoint_kw, seconds in moves:
        power_kw = machine.step(at_s, np.array([setpoint_kw]), seconds / 3600).item()
        assert power_kw == 0 or power_kw >= 8.0
        at_s += seconds


def test_a_chp_stands_still_by_default_and_ramps_up_and_down():
    machine = Chps(device(max_inject_kw=20.0, min_active_kw=8.0, ramp_kw_per_min=4.0))
    up = [machine.step(T0_S, np.array([15.0]), 1 / 60).item() for _ in range(3)]
    down = [machine.step(T0_S, NOBODY, 1 / 60).item() for _ in range(3)]
    assert up == pytest.approx([12, 15, 15])
    assert down == pytest.approx([11, 0, 0])


def in_steps(machine, quarters, step_s):
    """Return the mean powers of quarter-hours with nobody steering, in steps as `step_s` says."""
    means = []
    for quarter in range(quarters):
        at_s, end_s = T0_S + 900 * quarter, T0_S + 900 * (quarter + 1)
        energy_kws = 0.0
        while at_s < end_s:
            held_s = step_s(machine, at_s, end_s - at_s)
            energy_kws += machine.step(at_s, NOBODY, held_s / 3600).item() * held_s
            at_s += held_s
        assert at_s == end_s
        means.append(energy_kws / 900)
    return means


def by_the_minute(_machine, _at_s, _most_s):
    return 60.0


def as_long_as_steady(machine, at_s, most_s):
    held_s = machine.steady_s(at_s, most_s)
    assert 0 < held_s <= most_s
    assert held_s % 60 == 0
    return held_s


def ramping(machine, power_kw):
    machine.power_kw = np.array([power_kw])
    return machine


minutes = st.lists(st.integers(1, 110), min_size=4, max_size=4, unique=True).map(sorted)


@bounded
@given(minutes, st.floats(5, 40), st.floats(17, 26), st.floats(-15, 20), st.floats(-20, 20))
def test_a_long_steady_step_is_the_same_as_its_minutes(times, need, start_c, outdoor_c, last_kw):
    first, second = times[:2], times[2:]
    for new in (
        lambda: charger((*first, 10.0, 10.0 + need), (*second, 30.0, 35.0)),
        lambda: shiftable((*first, 0.0, need / 10), (*second, 0.0, need / 10)),
        lambda: pump(outdoor_c, start_c),
        lambda: ramping(battery(ramp=0.7), last_kw),
    ):
        whole, parts = new(), new()
        expected = in_steps(parts, 8, by_the_minute)
        assert in_steps(whole, 8, as_long_as_steady) == pytest.approx(expected, abs=1e-9)


def test_a_steady_quarter_hour_is_one_step():
    assert charger((0, 60, 10.0, 40.0)).steady_s(T0_S, 900.0) == 900.0
    assert shiftable((15, 60, 0.0, 6.0)).steady_s(T0_S, 900.0) == 900.0
    assert battery(ramp=1.0).steady_s(T0_S, 900.0) == 900.0
    assert pump(temperature_c=23.0).steady_s(T0_S, 900.0) == 900.0
