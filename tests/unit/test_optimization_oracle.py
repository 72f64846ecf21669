from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.decomposition.oracle import respond
from vpp_pipeline.optimization.problem import Stores

STEPS = 16
SEEDS = st.integers(0, 2**32 - 1)


def some_stores(rng, count=8, steps=STEPS):
    """Stores of every kind, each with a schedule that keeps its bounds, often just so."""
    shape = (steps, count)

    def either(chance, one, other):
        return np.where(rng.random(shape) < chance, one, other)

    rated = 10 ** rng.uniform(-0.5, 2.5, count)
    charge_max = either(0.15, 0.0, rated)
    discharge_max = either(0.15, 0.0, rated * (rng.random(count) < 0.6))
    charge_min = either(0.9, 0.0, 0.3 * charge_max)
    discharge_min = either(0.95, 0.0, 0.3 * discharge_max)
    retention = np.where(rng.random(count) < 0.5, 1.0, rng.uniform(0.7, 1.0, count))
    charge_efficiency = rng.choice([0.8, 0.95, 1.0, 3.0], count)
    discharge_efficiency = rng.choice([0.8, 0.95, 1.0], count)
    starts = either(0.08, True, False).astype(bool)
    starts[0] = True
    initial = rng.uniform(0, 3, shape) * rated
    drift = either(0.5, 0.0, rng.normal(0, 0.2, shape)) * rated

    energy = np.empty(shape)
    before = np.zeros(count)
    for t in range(steps):
        charge = charge_min[t] + rng.choice([0, 0.5, 1], count) * (charge_max - charge_min)[t]
        give = (
            discharge_min[t] + rng.choice([0, 0.5, 1], count) * (discharge_max - discharge_min)[t]
        )
        before = retention * np.where(starts[t], initial[t], before) + drift[t]
        before = before + STEP_H * (charge * charge_efficiency - give / discharge_efficiency)
        energy[t] = before
    room = np.abs(rng.normal(0, 1, (2, *shape))) * rated
    floor = np.where(rng.random(shape) < 0.3, energy, energy - room[0])
    ceiling = np.where(rng.random(shape) < 0.3, energy, energy + room[1])
    wished = energy + rng.normal(0, 0.5, shape) * rated
    return Stores(
        place=np.arange(count),
        site=rng.integers(0, 3, count),
        charge_min_kw=charge_min,
        charge_max_kw=charge_max,
        discharge_min_kw=discharge_min,
        discharge_max_kw=discharge_max,
        starts=starts,
        initial_kwh=initial,
        present=np.ones(shape, dtype=bool),
        drift_kwh=drift,
        floor_kwh=floor,
        ceiling_kwh=ceiling,
        wished_kwh=wished,
        shortfall_eur_per_kwh=either(0.4, rng.choice([0.05, 0.5, 5.0], shape), 0.0),
        comfort_kwh=wished + either(0.3, 0.0, 0.2 * rated),
        excess_eur_per_kwh=either(0.3, 0.1, 0.0),
        owed=np.zeros(shape, dtype=bool),
        retention=retention,
        charge_efficiency=charge_efficiency,
        discharge_efficiency=discharge_efficiency,
        wear_eur_per_kwh=rng.choice([0.0, 0.03], count),
        end_value_eur_per_kwh=rng.choice([0.0, 0.06], count),
        min_active_kw=np.zeros(count),
        curvature_eur_per_kw2h=rng.choice([0.001, 0.02, 0.2], count) / rated,
        kwh_per_c=np.full(count, np.nan),
        unbroken=np.zeros(count, dtype=bool),
        reserve=np.zeros(count, dtype=bool),
    )


def some_prices(rng, columns=2, steps=STEPS):
    return rng.normal(rng.choice([0.05, -0.2]), 0.1, (steps, columns))


def reference_eur(stores, price, solver):
    """The least cost of all, by a solver that knows nothing of curves; price is (T, S)."""
    shape = stores.drift_kwh.shape
    charge, give, energy = cp.Variable(shape), cp.Variable(shape), cp.Variable(shape)
    laws = [
        charge >= stores.charge_min_kw,
        charge <= stores.charge_max_kw,
        give >= stores.discharge_min_kw,
        give <= stores.discharge_max_kw,
        energy >= stores.floor_kwh,
        energy <= stores.ceiling_kwh,
    ]
    for t in range(shape[0]):
        before = stores.initial_kwh[t] if t == 0 else energy[t - 1]
        if t > 0:
            before = cp.multiply(~stores.starts[t], before) + np.where(
                stores.starts[t], stores.initial_kwh[t], 0.0
            )
        gain = cp.multiply(stores.charge_efficiency, charge[t]) - cp.multiply(
            1 / stores.discharge_efficiency, give[t]
        )
        laws.append(
            energy[t] == cp.multiply(stores.retention, before) + STEP_H * gain + stores.drift_kwh[t]
        )
    half_wear = 0.5 * stores.wear_eur_per_kwh
    bend = 0.5 * np.broadcast_to(stores.curvature_eur_per_kw2h, shape)
    cost = (
        STEP_H * cp.sum(cp.multiply(price + half_wear, charge))
        + STEP_H * cp.sum(cp.multiply(half_wear - price, give))
        + cp.sum(cp.multiply(stores.shortfall_eur_per_kwh, cp.pos(stores.wished_kwh - energy)))
        + cp.sum(cp.multiply(stores.excess_eur_per_kwh, cp.pos(energy - stores.comfort_kwh)))
        - stores.end_value_eur_per_kwh @ energy[-1]
    )
    if bend.any():
        cost += STEP_H * cp.sum(cp.multiply(bend, cp.square(charge) + cp.square(give)))
    problem = cp.Problem(cp.Minimize(cost), laws)
    problem.solve(solver=solver)
    return problem.value


def dual_eur(stores, price, law):
    """The least cost with the energy law priced instead of kept: a bound at any `law` (T, S)."""

    def least(slope, bend, low, high):
        with np.errstate(divide="ignore", invalid="ignore"):
            free = np.where(bend > 0, -slope / bend, np.where(slope > 0, -np.inf, np.inf))
        at = np.clip(free, low, high)
        return np.sum(slope * at + 0.5 * bend * at**2)

    half_wear, bend = 0.5 * stores.wear_eur_per_kwh, STEP_H * stores.curvature_eur_per_kw2h
    charge = STEP_H * (price + half_wear - law * stores.charge_efficiency)
    give = STEP_H * (half_wear - price + law / stores.discharge_efficiency)
    keeps = np.where(stores.starts, 0.0, stores.retention)
    slope = law.copy()
    slope[:-1] -= keeps[1:] * law[1:]
    slope[-1] -= stores.end_value_eur_per_kwh
    low, high = stores.floor_kwh, stores.ceiling_kwh
    energies = np.stack(
        [low, high, np.clip(stores.wished_kwh, low, high), np.clip(stores.comfort_kwh, low, high)]
    )
    at_energy = (
        slope * energies
        + stores.shortfall_eur_per_kwh * np.maximum(stores.wished_kwh - energies, 0)
        + stores.excess_eur_per_kwh * np.maximum(energies - stores.comfort_kwh, 0)
    )
    begins = np.where(stores.starts, stores.retention * stores.initial_kwh, 0.0)
    return (
        least(charge, bend, stores.charge_min_kw, stores.charge_max_kw)
        + least(give, bend, stores.discharge_min_kw, stores.discharge_max_kw)
        + np.sum(at_energy.min(axis=0))
        - np.sum(law * (begins + stores.drift_kwh))
    )


def broken(stores, response):
    """What a response breaks at most: powers, floors, ceilings (relative to the store's size)."""
    size = 1 + np.abs(response.energy_kwh).max(axis=0)
    return max(
        np.max((low - value) / size)
        for low, value in (
            (stores.charge_min_kw, response.charge_kw),
            (response.charge_kw, stores.charge_max_kw),
            (stores.discharge_min_kw, response.discharge_kw),
            (response.discharge_kw, stores.discharge_max_kw),
            (stores.floor_kwh, response.energy_kwh),
            (response.energy_kwh, stores.ceiling_kwh),
        )
    )


def off_the_law(stores, response):
    before = np.vstack([stores.initial_kwh[:1], response.energy_kwh[:-1]])
    before = np.where(stores.starts, stores.initial_kwh, before)
    follows = (
        stores.retention * before
        + STEP_H * stores.charge_efficiency * response.charge_kw
        - STEP_H / stores.discharge_efficiency * response.discharge_kw
        + stores.drift_kwh
    )
    return np.max(np.abs(response.energy_kwh - follows) / (1 + np.abs(follows)))


@settings(max_examples=40, deadline=None)
@drawn(SEEDS)
def test_no_solver_finds_a_cheaper_schedule(seed):
    rng = np.random.default_rng(seed)
    stores, price = some_stores(rng), some_prices(rng)
    column = rng.integers(0, 2, 8)
    response = respond(stores, price, column, 3, keep=True)
    best = reference_eur(stores, price[:, column], "CLARABEL")
    assert response.cost_eur == pytest.approx(best, rel=1e-6, abs=1e-5)


@settings(max_examples=300, deadline=None)
@drawn(SEEDS, st.sampled_from([0.0, 1.0]))
def test_the_laws_multipliers_prove_the_cost_to_be_the_least(seed, curved):
    rng = np.random.default_rng(seed)
    stores, price = some_stores(rng), some_prices(rng)
    stores = replace(stores, curvature_eur_per_kw2h=curved * stores.curvature_eur_per_kw2h)
    column = rng.integers(0, 2, 8)
    response = respond(stores, price, column, 3, keep=True)
    bound = dual_eur(stores, price[:, column], response.law_eur_per_kwh)
    tolerance = 1e-9 if curved else 1e-6
    assert response.cost_eur == pytest.approx(bound, rel=tolerance, abs=tolerance)


@settings(max_examples=300, deadline=None)
@drawn(SEEDS, st.sampled_from([0.0, 1.0]))
def test_every_bound_and_the_energy_law_are_kept(seed, curved):
    rng = np.random.default_rng(seed)
    stores = some_stores(rng)
    stores = replace(stores, curvature_eur_per_kw2h=curved * stores.curvature_eur_per_kw2h)
    response = respond(stores, some_prices(rng), rng.integers(0, 2, 8), 3, keep=True)
    assert broken(stores, response) < 1e-9
    assert off_the_law(stores, response) < 1e-12
