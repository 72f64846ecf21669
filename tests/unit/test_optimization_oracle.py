from dataclasses import fields, replace
from datetime import date

import cvxpy as cp
import numpy as np
import polars as pl
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.optimization.bound import constant_eur, lower_bound_eur
from vpp_pipeline.optimization.decomposition.oracle import respond, respond_sources
from vpp_pipeline.optimization.multipliers import Multipliers
from vpp_pipeline.optimization.problem import Problem, Sites, Sources, Stores, no_portfolio, select

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


def some_sources(rng, count=5, steps=STEPS):
    rated = 10 ** rng.uniform(0, 3, count)
    most = rng.uniform(0, 1, (steps, count)) * rated
    return Sources(
        place=np.arange(count),
        site=rng.integers(0, 3, count),
        curtailable=np.ones(count, dtype=bool),
        min_kw=rng.choice([0.0, 0.3], (steps, count)) * most,
        max_kw=most,
        cost_eur_per_kwh=rng.choice([0.0, 0.05], count),
        ramp_kw=np.full(count, np.inf),
        min_active_kw=np.zeros(count),
        curvature_eur_per_kw2h=rng.choice([0.001, 0.2], count) / rated,
        min_run_steps=np.zeros(count, dtype=np.int64),
        min_rest_steps=np.zeros(count, dtype=np.int64),
    )


def flat(devices):
    """The same without curvature."""
    return replace(devices, curvature_eur_per_kw2h=0.0 * devices.curvature_eur_per_kw2h)


def reference_eur(stores, price, solver):
    """The least cost of all, by a solver that knows nothing of curves; price is (T, S)."""
    shape = stores.drift_kwh.shape
    charge, give, energy = cp.Variable(shape), cp.Variable(shape), cp.Variable(shape)
    gain = STEP_H * (
        charge @ np.diag(stores.charge_efficiency) - give @ np.diag(1 / stores.discharge_efficiency)
    )
    begins = np.where(stores.starts, stores.retention * stores.initial_kwh, 0.0)
    begins += stores.drift_kwh
    keeps = np.where(stores.starts, 0.0, stores.retention)[1:]
    laws = [
        charge >= stores.charge_min_kw,
        charge <= stores.charge_max_kw,
        give >= stores.discharge_min_kw,
        give <= stores.discharge_max_kw,
        energy >= stores.floor_kwh,
        energy <= stores.ceiling_kwh,
        energy[0] == begins[0] + gain[0],
        energy[1:] == cp.multiply(keeps, energy[:-1]) + begins[1:] + gain[1:],
    ]
    half_wear = 0.5 * stores.wear_eur_per_kwh
    cost = (
        STEP_H * cp.sum(cp.multiply(price + half_wear, charge))
        + STEP_H * cp.sum(cp.multiply(half_wear - price, give))
        + cp.sum(cp.multiply(stores.shortfall_eur_per_kwh, cp.pos(stores.wished_kwh - energy)))
        + cp.sum(cp.multiply(stores.excess_eur_per_kwh, cp.pos(energy - stores.comfort_kwh)))
        - stores.end_value_eur_per_kwh @ energy[-1]
    )
    bend = np.broadcast_to(0.5 * STEP_H * stores.curvature_eur_per_kw2h, shape)
    if bend.any():
        cost += cp.sum(cp.multiply(bend, cp.square(charge) + cp.square(give)))
    problem = cp.Problem(cp.Minimize(cost), laws)
    problem.solve(solver=solver)
    return problem.value


def proven_eur(stores, sources, price, law):
    """What `bound` proves of the devices at the law's multipliers; price is (T,)."""
    none = np.zeros((STEPS, 3))
    problem = Problem(
        device_ids=pl.Series([], dtype=pl.String),
        intervals=day_intervals(date(2026, 1, 20), "Europe/Brussels")[:STEPS],
        price_eur_per_kwh=price,
        fixed_kw=none,
        curtailable_up_to_kw=np.full(3, np.nan),
        stores=stores,
        sources=sources,
        sites=Sites(none, *np.full((2, 3), 1e9), none, none),
        portfolio=no_portfolio(price),
        overload_eur_per_kwh=10.0,
    )
    multipliers = Multipliers.price_taker(problem, law)
    return lower_bound_eur(problem, multipliers) - constant_eur(problem)


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


@settings(max_examples=12, deadline=None)
@drawn(SEEDS)
def test_no_solver_finds_a_cheaper_schedule(seed):
    rng = np.random.default_rng(seed)
    stores, price = some_stores(rng, count=12), some_prices(rng)
    column = rng.integers(0, 2, 12)
    response = respond(stores, price, column, 3, keep=True)
    best = reference_eur(stores, price[:, column], "CLARABEL")
    assert response.cost_eur == pytest.approx(best, rel=1e-6, abs=1e-5)


@settings(max_examples=8, deadline=None)
@drawn(SEEDS)
def test_without_curvature_it_finds_the_linear_programmes_optimum(seed):
    rng = np.random.default_rng(seed)
    stores, price = flat(some_stores(rng, count=12)), some_prices(rng)
    column = rng.integers(0, 2, 12)
    response = respond(stores, price, column, 3, keep=True)
    best = reference_eur(stores, price[:, column], "HIGHS")
    assert response.cost_eur == pytest.approx(best, rel=1e-6, abs=1e-5)


@settings(deadline=None)
@drawn(SEEDS)
def test_the_laws_multipliers_prove_the_cost_to_be_the_least(seed):
    rng = np.random.default_rng(seed)
    stores, sources, price = some_stores(rng), some_sources(rng), some_prices(rng, columns=1)
    response = respond(stores, price, np.zeros(8, dtype=np.int64), 3, keep=True)
    sun = respond_sources(sources, price, np.zeros(5, dtype=np.int64), 3)
    proven = proven_eur(stores, sources, price[:, 0], response.law_eur_per_kwh)
    assert response.cost_eur + sun.cost_eur == pytest.approx(proven, rel=1e-10, abs=1e-10)


@settings(deadline=None)
@drawn(SEEDS)
def test_without_curvature_the_proof_leaves_next_to_nothing_open(seed):
    rng = np.random.default_rng(seed)
    stores, sources, price = some_stores(rng), some_sources(rng), some_prices(rng, columns=1)
    stores, sources = flat(stores), flat(sources)
    response = respond(stores, price, np.zeros(8, dtype=np.int64), 3, keep=True)
    sun = respond_sources(sources, price, np.zeros(5, dtype=np.int64), 3)
    proven = proven_eur(stores, sources, price[:, 0], response.law_eur_per_kwh)
    moved_kwh = STEP_H * np.sum(response.charge_kw + response.discharge_kw)
    moved_kwh += STEP_H * np.sum(sources.max_kw)
    gap = response.cost_eur + sun.cost_eur - proven
    assert -1e-10 * (1 + abs(proven)) <= gap <= 1e-8 * (1 + moved_kwh)


@settings(deadline=None)
@drawn(SEEDS, st.booleans())
def test_every_bound_and_the_energy_law_are_kept(seed, curved):
    rng = np.random.default_rng(seed)
    stores = some_stores(rng)
    stores = stores if curved else flat(stores)
    response = respond(stores, some_prices(rng), rng.integers(0, 2, 8), 3, keep=True)
    assert broken(stores, response) < 1e-12
    assert off_the_law(stores, response) < 1e-12


@settings(deadline=None)
@drawn(SEEDS, st.sampled_from(["floor_kwh", "ceiling_kwh"]))
def test_bounds_that_contradict_each_other_still_get_a_schedule(seed, wrong):
    rng = np.random.default_rng(seed)
    stores = some_stores(rng)
    bounds = rng.permuted(getattr(stores, wrong) * rng.choice([-1, 1, 5]), axis=0)
    stores = replace(stores, **{wrong: bounds})
    response = respond(stores, some_prices(rng), rng.integers(0, 2, 8), 3, keep=True)
    values = [getattr(response, field.name) for field in fields(response)]
    assert all(np.isfinite(value).all() for value in values)
    everything = replace(
        stores,
        floor_kwh=np.full_like(bounds, -np.inf),
        ceiling_kwh=np.full_like(bounds, np.inf),
    )
    assert broken(everything, response) < 1e-12
    assert off_the_law(stores, response) < 1e-12


def plain_store(charge_kw=4.0, discharge_kw=4.0, **changes):
    """One lossless 10 kWh store with 2 kWh in it."""
    stores = select(some_stores(np.random.default_rng(0)), np.arange(8) == 0)
    still = np.zeros((STEPS, 1))
    starts = still.astype(bool)
    starts[0] = True
    return replace(
        stores,
        site=np.zeros(1, dtype=np.int64),
        charge_min_kw=still,
        charge_max_kw=still + charge_kw,
        discharge_min_kw=still,
        discharge_max_kw=still + discharge_kw,
        starts=starts,
        initial_kwh=still + 2.0,
        drift_kwh=still,
        floor_kwh=still,
        ceiling_kwh=still + 10.0,
        wished_kwh=still,
        shortfall_eur_per_kwh=still,
        comfort_kwh=still + 10.0,
        excess_eur_per_kwh=still,
        **{
            "retention": np.ones(1),
            "charge_efficiency": np.ones(1),
            "discharge_efficiency": np.ones(1),
            "wear_eur_per_kwh": np.zeros(1),
            "end_value_eur_per_kwh": np.zeros(1),
            "curvature_eur_per_kw2h": np.zeros(1),
            **changes,
        },
    )


ONE = np.zeros(1, dtype=np.int64)


def test_a_floor_that_is_out_of_reach_is_come_as_near_to_as_can_be():
    stores = plain_store(charge_kw=1.0)
    floor = stores.floor_kwh.copy()
    floor[7] = 9.0
    dear = np.ones((STEPS, 1))
    response = respond(replace(stores, floor_kwh=floor), dear, ONE, 1, keep=True)
    assert response.energy_kwh[7, 0] == pytest.approx(4.0)
    assert response.energy_kwh[-1, 0] == pytest.approx(0.0)  # and then it sells everything


def test_a_store_over_its_ceiling_empties_as_fast_as_it_can():
    stores = replace(plain_store(), ceiling_kwh=np.full((STEPS, 1), 0.5))
    response = respond(stores, np.full((STEPS, 1), -1.0), ONE, 1, keep=True)
    assert response.energy_kwh[:3, 0] == pytest.approx([1.0, 0.5, 0.5])


def test_a_new_episode_owes_nothing_to_the_one_before():
    rng = np.random.default_rng(5)
    stores, price = some_stores(rng, count=200), some_prices(rng, columns=1)
    starts = stores.starts.copy()
    starts[9] = True
    stores = replace(stores, starts=starts)
    first, second = (
        replace(
            stores,
            **{
                field.name: getattr(stores, field.name)[part]
                for field in fields(stores)
                if getattr(stores, field.name).ndim == 2
            },
            end_value_eur_per_kwh=end_value * stores.end_value_eur_per_kwh,
        )
        for part, end_value in ((slice(9), 0.0), (slice(9, None), 1.0))
    )
    column = np.zeros(200, dtype=np.int64)
    whole = respond(stores, price, column, 3, keep=True)
    one = respond(first, price[:9], column, 3, keep=True)
    other = respond(second, price[9:], column, 3, keep=True)
    np.testing.assert_allclose(
        whole.energy_kwh, np.vstack([one.energy_kwh, other.energy_kwh]), rtol=1e-9, atol=1e-9
    )
    assert whole.cost_eur == pytest.approx(one.cost_eur + other.cost_eur)


def test_at_negative_prices_a_lossless_store_with_wear_never_burns():
    stores = plain_store(wear_eur_per_kwh=np.full(1, 0.02))
    price = np.random.default_rng(1).normal(-0.3, 0.2, (STEPS, 1))
    response = respond(stores, price, ONE, 1, keep=True)
    assert np.minimum(response.charge_kw, response.discharge_kw).max() == 0.0
    assert response.charge_kw.max() > 1.0
    assert response.discharge_kw.max() > 1.0


def test_each_store_answers_its_own_column_of_prices():
    rng = np.random.default_rng(2)
    stores, price = some_stores(rng), some_prices(rng)
    column = rng.integers(0, 2, 8)
    mixed = respond(stores, price, column, 3, keep=True)
    for chosen in (0, 1):
        alone = respond(stores, price, np.full(8, chosen), 3, keep=True)
        there = column == chosen
        np.testing.assert_array_equal(mixed.charge_kw[:, there], alone.charge_kw[:, there])


def test_the_sums_are_those_of_the_schedules_whether_they_are_kept_or_not():
    rng = np.random.default_rng(3)
    stores, price = some_stores(rng, count=1_200), some_prices(rng)
    column = rng.integers(0, 2, 1_200)
    kept = respond(stores, price, column, 4, keep=True)
    summed = respond(stores, price, column, 4, keep=False)
    power = kept.discharge_kw - kept.charge_kw
    at_site = np.stack([power[:, stores.site == k].sum(axis=1) for k in range(4)], axis=1)
    np.testing.assert_allclose(kept.power_kw, power.sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(kept.site_kw, at_site, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(summed.site_kw, kept.site_kw)
    assert summed.cost_eur == kept.cost_eur
    assert summed.energy_kwh.shape == (STEPS, 0)


def test_the_arrays_layout_in_memory_does_not_matter():
    rng = np.random.default_rng(4)
    stores, price = some_stores(rng), some_prices(rng)
    stores = replace(stores, drift_kwh=np.broadcast_to(-0.01, stores.drift_kwh.shape))
    turned = replace(
        stores,
        **{field.name: np.asfortranarray(getattr(stores, field.name)) for field in fields(stores)},
    )
    column = np.zeros(8, dtype=np.int64)
    one, other = (respond(each, price, column, 3, keep=True) for each in (stores, turned))
    np.testing.assert_array_equal(one.energy_kwh, other.energy_kwh)


def test_a_fleet_without_stores_does_nothing():
    stores = select(plain_store(), np.zeros(1, dtype=bool))
    response = respond(stores, np.ones((STEPS, 1)), ONE[:0], 2, keep=True)
    assert response.cost_eur == 0.0
    np.testing.assert_array_equal(response.site_kw, np.zeros((STEPS, 2)))


def test_the_sun_is_curtailed_where_the_price_does_not_pay_for_it():
    sources = replace(
        select(some_sources(np.random.default_rng(0)), np.arange(5) == 0),
        min_kw=np.zeros((STEPS, 1)),
        max_kw=np.full((STEPS, 1), 10.0),
        cost_eur_per_kwh=np.zeros(1),
        curvature_eur_per_kw2h=np.full(1, 0.01),
    )
    price = np.full((STEPS, 1), 0.05)
    price[3:6, 0] = [-0.02, -0.2, 0.0]
    response = respond_sources(sources, price, ONE, 3)
    assert response.source_kw[2:7, 0] == pytest.approx([10.0, 8.0, 0.0, 10.0, 10.0])
    np.testing.assert_array_equal(response.power_kw, response.source_kw[:, 0])
    np.testing.assert_array_equal(response.site_kw[:, sources.site[0]], response.power_kw)


def test_a_chp_is_refused_because_its_ramps_tie_its_quarter_hours():
    sources = some_sources(np.random.default_rng(0))
    sources = replace(sources, curtailable=np.arange(5) != 3)
    with pytest.raises(ValueError, match=r"place 3 is a CHP.*ramps"):
        respond_sources(sources, np.ones((STEPS, 1)), np.zeros(5, dtype=np.int64), 3)


def test_a_site_that_is_not_there_is_refused():
    stores = replace(plain_store(), site=ONE + 3)
    with pytest.raises(ValueError, match=r"device 0 has the site 3 of 3"):
        respond(stores, np.ones((STEPS, 1)), ONE, 3, keep=False)


@pytest.mark.parametrize(
    ("price", "column", "told"),
    [
        (np.ones((STEPS - 1, 1)), ONE, r"\(15, 1\).*16 quarter-hours"),
        (np.ones(STEPS), ONE, r"\(16,\).*\(quarter-hours, columns\)"),
        (np.ones((STEPS, 1)), np.zeros(2, dtype=np.int64), r"1 devices and columns.*\(2,\)"),
        (np.ones((STEPS, 2)), ONE + 2, r"device 0 has the price column 2 of 2"),
    ],
)
def test_prices_that_do_not_fit_are_refused(price, column, told):
    with pytest.raises(ValueError, match=told):
        respond(plain_store(), price, column, 1, keep=False)
