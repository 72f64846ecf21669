from datetime import timedelta

import flexibility_fleets as given
import numpy as np
import polars as pl
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.flexibility.reach import Stores, viable_energies
from vpp_pipeline.flexibility.sustained import (
    group_sustained_powers,
    held_kw,
    sustained_powers,
)
from vpp_pipeline.flexibility.tubes import TubeError, Tubes, tubes

DAY = day_intervals(given.WINTER_DAY, "Europe/Berlin")


def of(device, duration_h, **inputs):
    devices = given.frame(given.site("home", [device]))
    powers = sustained_powers(devices, given.envelopes(devices, **inputs))
    return powers.filter(pl.col("duration_h") == duration_h)


def test_a_battery_keeps_up_what_its_energy_lasts_for():
    battery = given.battery("b", max_charge_kw=8, max_discharge_kw=8, min_soc=0, max_soc=1)
    assert of(battery, 0.25)["up_kw"][40] == 8.0
    hour, four_hours = of(battery, 1.0), of(battery, 4.0)
    assert hour["up_kw"][40] == 8.0  # full, 10 kWh, it could do 9.5
    assert four_hours["up_kw"][40] == pytest.approx(10 * 0.95 / 4)
    assert four_hours["down_kw"][40] == pytest.approx(-10 / 0.95 / 4)
    assert four_hours["up_kw"][0] == pytest.approx(5 * 0.95 / 4)  # it begins half full
    assert four_hours.height == 96 - 15


def test_a_vehicle_that_must_charge_cannot_stop_for_four_hours():
    """30 kWh at 0.92 x 11 kW take 2.96 h: of a stay of five hours 2.04 h can be waited."""
    stay = {"v": {"deadline": DAY[0] + timedelta(hours=5)}}
    four_hours = of(given.vehicle("v"), 4.0, of_device=stay)
    last_hour = 4 * STEP_H * 11 * 0.92
    assert four_hours["up_kw"][0] == pytest.approx(-(30 - last_hour) / 0.92 / 4)
    assert of(given.vehicle("v"), 1.0, of_device=stay)["up_kw"][0] == 0.0
    assert four_hours["down_kw"][8] == 0.0  # it leaves within those four hours


def test_the_sun_keeps_up_only_what_shines_all_the_while():
    hour = of(given.pv("p"), 1.0, sun_kw=3.0)
    assert hour["up_kw"][48] == 3.0
    assert hour["up_kw"][22] == 0.0
    assert hour["down_kw"].unique().to_list() == [0.0]


def test_a_load_keeps_up_what_it_draws():
    hour = of(given.load("l"), 1.0, load_kw=-2.0)
    assert hour["up_kw"].unique().to_list() == hour["down_kw"].unique().to_list() == [-2.0]


def test_a_groups_sustained_power_is_the_sum_of_its_devices():
    devices = given.frame(
        given.site("home", [given.battery("a"), given.battery("b"), given.load("l")]),
        groups=[given.group("pair", "a", "b")],
    )
    powers = sustained_powers(devices, given.envelopes(devices))
    one = powers.filter(pl.col("device_id") == "a")
    pair = group_sustained_powers(devices, powers)
    assert pair["group_id"].unique().to_list() == ["pair"]
    assert pair["up_kw"].to_list() == pytest.approx((2 * one["up_kw"]).to_list())
    assert pair["interval_start"].to_list() == one["interval_start"].to_list()


def test_envelopes_in_any_order_give_the_same():
    devices = given.mixed_fleet(4)
    envelopes = given.envelopes(devices)
    shuffled = envelopes.sample(fraction=1.0, shuffle=True, seed=3)
    assert sustained_powers(devices, shuffled).equals(sustained_powers(devices, envelopes))


@pytest.mark.parametrize("fault", ["is missing", "is there twice"])
def test_envelopes_that_are_not_one_row_each_are_told(fault):
    devices = given.mixed_fleet(2)
    envelopes = given.envelopes(devices)
    rows = envelopes[1:] if fault == "is missing" else pl.concat([envelopes[:1], envelopes])
    with pytest.raises(TubeError, match=f"'load-0', interval_start 2025-01-14 23:00.*{fault}"):
        tubes(devices, rows)


def most_held(of, i, first, steps):
    """Solve the definition as a linear program (charging and discharging at once loses more)."""
    count = 3 * steps + 2  # charge, discharge, energy; the energy at the start; the power held
    rows, equal_rows, equal_to = [], [], []
    for m in range(steps):
        t = first + m
        held = np.zeros(count)
        held[[m, steps + m, -1]] = 1.0, -1.0, 1.0
        rows.append(held)  # held <= discharge - charge
        law = np.zeros(count)
        before = -2 if m == 0 else 2 * steps + m - 1
        law[2 * steps + m], law[before] = 1.0, -of.retention[i]
        law[m] = -STEP_H * of.charge_efficiency[i]
        law[steps + m] = STEP_H / of.discharge_efficiency[i]
        equal_rows.append(law)
        equal_to.append(of.drift_kwh[i, t])
    window = slice(first, first + steps)
    start = (
        (of.initial_kwh[i, first], of.initial_kwh[i, first])
        if first == 0
        else (of.low_kwh[i, first - 1], of.high_kwh[i, first - 1])
    )
    bounds = [
        *[(0, -p) for p in of.min_kw[i, window]],
        *[(0, p) for p in of.max_kw[i, window]],
        *zip(of.low_kwh[i, window], of.high_kwh[i, window], strict=True),
        start,
        (None, None),
    ]
    cost = np.zeros(count)
    cost[-1] = -1.0
    best = linprog(
        cost, np.array(rows), np.zeros(steps), np.array(equal_rows), np.array(equal_to), bounds
    )
    assert best.status == 0
    return -best.fun


def random_tubes(rng, steps=12, count=4):
    """Batteries, buildings and vehicles that stay all the while, with their viable energies."""
    capacity = rng.uniform(2, 15, count)
    charge = rng.uniform(0.5, 10, count) * np.ones((steps, 1))
    discharge = charge * (rng.random(count) < 0.5)
    efficiency = rng.uniform(0.8, 1, count), rng.uniform(0.8, 1, count)
    retention = np.where(rng.random(count) < 0.5, 1.0, rng.uniform(0.9, 1, count))
    drift = rng.uniform(-0.3, 0.3, (steps, count)) * (retention < 1)
    starts = np.zeros((steps, count), dtype=bool)
    starts[0] = True
    initial = rng.uniform(0, 1, count) * capacity * np.ones((steps, 1))
    floor = np.zeros((steps, count))
    floor[-1] = rng.uniform(0, 1, count) * capacity
    low, high = viable_energies(
        Stores(
            present=np.ones((steps, count), dtype=bool),
            starts=starts,
            initial_kwh=initial,
            floor_kwh=floor,
            ceiling_kwh=capacity * np.ones((steps, 1)),
            charge_kw=charge,
            discharge_kw=discharge,
            charge_efficiency=efficiency[0],
            discharge_efficiency=efficiency[1],
            retention=retention,
            drift_kwh=drift,
        )
    )
    of_device = np.ascontiguousarray
    return Tubes(
        device_ids=pl.Series([f"d{i}" for i in range(count)]),
        intervals=DAY.head(steps),
        min_kw=of_device(-charge.T),
        max_kw=of_device(discharge.T),
        expected_kw=np.zeros((count, steps)),
        low_kwh=of_device(low.T),
        high_kwh=of_device(high.T),
        initial_kwh=of_device(np.where(starts, initial, np.nan).T),
        drift_kwh=of_device(drift.T),
        retention=retention,
        charge_efficiency=efficiency[0],
        discharge_efficiency=efficiency[1],
    )


@settings(max_examples=25, deadline=None)
@drawn(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_what_is_held_is_what_a_linear_program_finds(seed, steps):
    """Where charging and discharging at once is no use; the program may, the device may not."""
    of = random_tubes(np.random.default_rng(seed))
    up, _ = held_kw(of, steps)
    for i in range(len(up)):
        for first in (0, 3, 12 - steps):
            found = most_held(of, i, first, steps)
            assert up[i, first] == pytest.approx(found, abs=1e-6)


@settings(max_examples=50, deadline=None)
@drawn(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_what_is_held_down_is_reached_and_cannot_be_undercut(seed, steps):
    of = random_tubes(np.random.default_rng(seed))
    _, down = held_kw(of, steps)
    assert drawn_along(of, down, steps).all()
    deeper = down - 1e-3
    assert not drawn_along(of, deeper, steps)[deeper >= _least(of, steps)].any()


def _least(of, steps):
    windows = np.lib.stride_tricks.sliding_window_view(of.min_kw, steps, axis=1)
    return windows.max(axis=2)


def drawn_along(of, ceiling_kw, steps):
    """Return whether a store, begun as empty as may be, can stay below a power (N, windows)."""
    stored, taken = STEP_H * of.charge_efficiency, STEP_H / of.discharge_efficiency
    possible = ceiling_kw >= _least(of, steps) - 1e-9
    for first in range(ceiling_kw.shape[1]):
        energy = of.initial_kwh[:, 0] if first == 0 else of.low_kwh[:, first - 1]
        for t in range(first, first + steps):
            power = np.minimum(ceiling_kw[:, first], of.max_kw[:, t])
            change = -np.where(power > 0, power * taken, power * stored)
            energy = of.retention * energy + of.drift_kwh[:, t] + change
            possible[:, first] &= energy <= of.high_kwh[:, t] + 1e-8
            energy = np.maximum(energy, of.low_kwh[:, t])
    return possible
