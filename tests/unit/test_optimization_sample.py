from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.fallback import greedy
from vpp_pipeline.optimization.repair import Setpoints
from vpp_pipeline.optimization.sample import FEWEST, committed, perturbed, sample_problem
from vpp_pipeline.optimization.verify import verify

MARKETS = ["none", "peak", "peak_and_event", "position", "reserve"]
SIZES = st.integers(FEWEST, 120)
STEPS = st.sampled_from([8, 24, 96, 100])
SEEDS = st.integers(0, 2**32 - 1)


def sample(devices, seed=0, **asked):
    return sample_problem(devices, np.random.default_rng(seed), **asked)


def arrays(problem):
    """Every array of a problem, by where it stands."""
    parts = {
        "problem": problem,
        "stores": problem.stores,
        "sources": problem.sources,
        "sites": problem.sites,
        "portfolio": problem.portfolio,
    }
    return {
        f"{name}.{field.name}": value
        for name, part in parts.items()
        for field in fields(part)
        if isinstance(value := getattr(part, field.name), np.ndarray)
    }


def resting_kwh(stores):
    """The energies if no store is charged or discharged."""
    energy = np.zeros(stores.drift_kwh.shape)
    for t in range(len(energy)):
        start = np.where(stores.starts[t], stores.initial_kwh[t], energy[t - 1])
        energy[t] = stores.retention * start + stores.drift_kwh[t]
    return energy


def reach_kwh(stores):
    """The energies if every store is charged with all it has."""
    energy = np.zeros(stores.drift_kwh.shape)
    for t in range(len(energy)):
        start = np.where(stores.starts[t], stores.initial_kwh[t], energy[t - 1])
        gained = STEP_H * stores.charge_efficiency * stores.charge_max_kw[t]
        energy[t] = stores.retention * start + stores.drift_kwh[t] + gained
    return energy


def at_rest(problem):
    """No store moves and no CHP runs; sun and wind come in, as far as the connection lets them."""
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    source_kw = np.where(sources.curtailable, sources.max_kw, 0.0)
    injected = np.zeros(sites.base_kw.shape)
    np.add.at(injected.T, sources.site, source_kw.T)
    room = np.maximum(sites.export_limit_kw - sites.base_kw, 0)
    share = np.minimum(1, room / np.maximum(injected, 1e-9))
    power = np.zeros(stores.drift_kwh.shape)
    return Setpoints(power, resting_kwh(stores), source_kw * share[:, sources.site])


@settings(deadline=None, max_examples=40)
@given(SIZES, SEEDS, STEPS, st.booleans(), st.sampled_from(MARKETS))
def test_doing_nothing_and_the_greedy_plan_are_feasible_in_every_sample(
    devices, seed, steps, site_limits, market
):
    problem = sample(devices, seed, steps=steps, site_limits=site_limits, portfolio=market)
    for problem_now in (problem, perturbed(problem, np.random.default_rng(seed))):
        for plan in (at_rest(problem_now), greedy(problem_now)):
            verdict = verify(problem_now, plan)
            assert verdict.worst_violation_kw < 1e-9
            assert verdict.worst_violation_kwh < 1e-9
            assert verdict.simultaneous_steps == 0


@settings(deadline=None, max_examples=40)
@given(SIZES, SEEDS, STEPS, st.sampled_from(MARKETS))
def test_every_array_has_its_shape_and_only_events_are_without_end(devices, seed, steps, market):
    problem = sample(devices, seed, steps=steps, portfolio=market)
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    s, g, k = len(stores.place), len(sources.place), len(sites.import_limit_kw)
    assert len(problem.device_ids) == problem.device_ids.n_unique() == s + g == devices
    assert sorted([*stores.place, *sources.place]) == list(range(devices))
    assert set(stores.site) | set(sources.site) == set(range(k))
    allowed = {
        "stores": {(steps, s), (s,)},
        "sources": {(steps, g), (g,)},
        "sites": {(steps, k), (k,)},
        "portfolio": {(steps,)},
        "problem": {(steps,), (steps, devices), (devices,)},
    }
    partly = {"portfolio.event_min_kw", "portfolio.event_max_kw", "sources.ramp_kw"}
    partly |= {"stores.kwh_per_c", "problem.curtailable_up_to_kw"}
    for name, value in arrays(problem).items():
        assert value.shape in allowed[name.split(".")[0]], name
        assert np.isfinite(value).all() or name in partly, name
    assert len(problem.intervals) == steps


@settings(deadline=None, max_examples=30)
@given(SIZES, SEEDS, STEPS)
def test_a_store_is_bounded_as_one_that_was_built_from_envelopes(devices, seed, steps):
    stores = sample(devices, seed, steps=steps).stores
    heated, away = ~np.isnan(stores.kwh_per_c), ~stores.present
    assert (stores.floor_kwh <= stores.ceiling_kwh).all()
    assert (stores.charge_max_kw[away] == 0).all()
    assert (stores.discharge_max_kw[away] == 0).all()
    assert (stores.floor_kwh[away] <= 0).all()
    assert stores.starts[0].all()
    assert np.allclose(stores.floor_kwh[:, heated], resting_kwh(stores)[:, heated])
    assert (stores.ceiling_kwh <= reach_kwh(stores) + 1e-9)[stores.present].all()
    assert (stores.wished_kwh[stores.owed] > 0).all()
    assert stores.present[stores.owed].all()
    assert not stores.present[1:][stores.owed[:-1]].any()  # a debt falls due where a stay ends
    assert (stores.wished_kwh[~stores.owed] == 0).all()
    assert ((stores.shortfall_eur_per_kwh > 0) == (stores.owed | heated)).all()
    assert (stores.shortfall_eur_per_kwh[:, heated] == stores.excess_eur_per_kwh[:, heated]).all()
    assert (stores.excess_eur_per_kwh[:, ~heated] == 0).all()
    assert (stores.min_active_kw <= stores.charge_max_kw.max(axis=0)).all()
    two_way = (stores.discharge_max_kw > 0).any(axis=0)
    assert ((stores.end_value_eur_per_kwh > 0) == (two_way & stores.present[-1])).all()


def test_the_same_seed_draws_the_same_problem_and_another_one_another():
    one, again, other = sample(50, 1), sample(50, 1), sample(50, 2)
    for name, value in arrays(one).items():
        assert np.array_equal(value, arrays(again)[name], equal_nan=True)
    assert one.device_ids.equals(again.device_ids)
    assert not np.array_equal(one.stores.initial_kwh, other.stores.initial_kwh)
    assert not np.array_equal(one.price_eur_per_kwh, other.price_eur_per_kwh)


def test_a_large_sample_has_all_kinds_in_their_shares():
    problem = sample(10_000)
    kinds = problem.device_ids.str.replace(r"-\d+$", "").value_counts()
    count = dict(kinds.iter_rows())
    assert count["battery"] == count["ev"] == count["heat_pump"] == count["pv"] == 2400
    assert count["chp"] == 100
    assert count["load"] > 100
    assert count["wind"] > 50
    stores, sources = problem.stores, problem.sources
    vehicle = stores.place[problem.device_ids.gather(stores.place).str.starts_with("ev").to_numpy()]
    two_way = (stores.discharge_max_kw[:, vehicle] > 0).any(axis=0).mean()
    assert two_way == pytest.approx(0.3, abs=0.05)
    chp = ~sources.curtailable
    assert (sources.ramp_kw[chp] >= sources.min_active_kw[chp]).all()
    assert (sources.min_active_kw[chp] > 0).all()


def test_only_tight_connections_bind_and_only_their_own_load_may_overload_them():
    problem = sample(4_000)
    stores, sites = problem.stores, problem.sites
    count = len(sites.import_limit_kw)
    most_kw = np.bincount(stores.site, stores.charge_max_kw.max(axis=0), count)
    most_kw += -sites.base_kw.min(axis=0)
    tight = most_kw > sites.import_limit_kw + 1e-9
    assert tight.mean() == pytest.approx(0.35, abs=0.05)
    own = -sites.base_kw - sites.import_limit_kw
    assert (sites.import_overload_kw <= np.maximum(own, 0)).all()
    assert (sites.import_overload_kw > 0).any()
    free = sample(4_000, site_limits=False).sites
    assert (free.import_overload_kw == 0).all()
    assert (-free.base_kw <= free.import_limit_kw).all()


def test_the_market_asked_for_is_the_market_given():
    given_by = {market: sample(100, portfolio=market).portfolio for market in MARKETS}
    price = sample(100).price_eur_per_kwh
    assert given_by["none"].peak_eur_per_kw == given_by["position"].peak_eur_per_kw == 0
    for market in ("peak", "peak_and_event", "reserve"):
        assert given_by[market].peak_eur_per_kw > 0
        assert np.isfinite(given_by[market].event_min_kw).any() == (market != "peak")
        assert (given_by[market].reserve_up_eur_per_kwh > 0).all() == (market == "reserve")
    assert np.array_equal(np.unique(given_by["reserve"].reserve_block), np.arange(6))
    assert (given_by["position"].surplus_eur_per_kwh < price).all()
    assert (given_by["position"].shortage_eur_per_kwh > price).all()
    assert np.ptp(given_by["position"].position_kw) > 0


def test_a_perturbed_problem_keeps_the_market_s_rules_and_the_vehicles_stays():
    problem = sample(200, portfolio="position")
    later = perturbed(problem, np.random.default_rng(1))
    moved = later.price_eur_per_kwh - problem.price_eur_per_kwh
    assert 0 < np.abs(moved).max() < 0.02
    assert (later.portfolio.surplus_eur_per_kwh < later.price_eur_per_kwh).all()
    assert (later.portfolio.shortage_eur_per_kwh > later.price_eur_per_kwh).all()
    assert np.array_equal(later.stores.starts, problem.stores.starts)
    assert not np.array_equal(later.stores.drift_kwh, problem.stores.drift_kwh)
    selling = perturbed(sample(200), np.random.default_rng(1))
    assert np.array_equal(selling.portfolio.surplus_eur_per_kwh, selling.price_eur_per_kwh)


def test_a_committed_position_is_kept_as_it_was_sold():
    problem = sample(20)
    sold = committed(problem, np.arange(96.0), np.random.default_rng(0)).portfolio
    assert np.array_equal(sold.position_kw, np.arange(96.0))
    assert (sold.surplus_eur_per_kwh < sold.shortage_eur_per_kwh).all()


def test_what_is_constant_takes_no_memory_and_what_varies_lies_device_by_device():
    stores = sample(100).stores
    for steady in (stores.charge_min_kw, stores.comfort_kwh, stores.excess_eur_per_kwh):
        assert steady.strides[0] == 0
    for varying in (stores.floor_kwh, stores.drift_kwh, stores.charge_max_kw):
        assert varying.flags.f_contiguous


@pytest.mark.parametrize(("devices", "steps"), [(4, 96), (0, 96), (100, 7)])
def test_too_small_a_sample_is_refused_with_what_to_ask_for(devices, steps):
    with pytest.raises(ValueError, match="ask for 5 devices and 8 quarter-hours or more"):
        sample(devices, steps=steps)
