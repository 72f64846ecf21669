"""Devices below their least power are switched by diving: each holds what it is left, and sites pay
little for it.
"""

from dataclasses import replace

import flexibility_fleets as given
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.optimization import solve as solve_module
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.decomposition.diving import dived, kept_on, run_through, with_ruled
from vpp_pipeline.optimization.exact import solve_exact
from vpp_pipeline.optimization.found import followed, market_prices
from vpp_pipeline.optimization.problem import at_sites
from vpp_pipeline.optimization.runs import ruled
from vpp_pipeline.optimization.sample import sample_problem
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve

INTERVALS = day_intervals(given.WINTER_DAY, "Europe/Berlin").slice(0, 48)
QUICK = PlanSettings(time_limit_s=20.0)
TOLD_KW = 2e-3


def narrow_home(import_kw, *others):
    """A charger of 4.2 kW at least behind a connection that takes less beside the load."""
    home = given.site(
        "home",
        [
            given.vehicle("v", min_charge_kw=4.2, max_charge_kw=11.0),
            given.load("l"),
            *others,
        ],
        import_kw=import_kw,
    )
    frame = given.frame(home)
    return build(
        frame,
        given.envelopes(frame, INTERVALS, load_kw=-1.0),
        given.prices(INTERVALS, 60 + 20 * np.sin(np.arange(48) / 5)),
        QUICK,
    )


def fleet(seed, *, steps=24, negative=False):
    problem = sample_problem(40, np.random.default_rng(seed), steps=steps)
    if not negative:
        return problem
    price = np.where(np.arange(steps) % 7 < 2, -0.2, problem.price_eur_per_kwh)
    portfolio = replace(problem.portfolio, surplus_eur_per_kwh=price, shortage_eur_per_kwh=price)
    return replace(problem, price_eur_per_kwh=price, portfolio=portfolio)


def trickles(power_kw, least_kw):
    return (power_kw > TOLD_KW) & (power_kw < least_kw - TOLD_KW)


@settings(max_examples=15, deadline=None)
@drawn(seed=st.integers(0, 2**32 - 1), negative=st.booleans())
def test_what_a_dive_leaves_each_device_can_hold(seed, negative):
    problem = fleet(seed, negative=negative)
    narrowed, answers = dived(problem, market_prices(problem))
    stores, sources = problem.stores, problem.sources
    charge, discharge = answers.charge_kw.T, answers.discharge_kw.T
    assert not trickles(charge, stores.min_active_kw).any()
    assert not trickles(discharge, stores.min_active_kw).any()
    assert not trickles(answers.source_kw.T, sources.min_active_kw).any()
    assert np.minimum(charge, discharge).max() <= TOLD_KW
    for kw, low, high, own_low, own_high in (
        (
            charge,
            narrowed.stores.charge_min_kw,
            narrowed.stores.charge_max_kw,
            stores.charge_min_kw,
            stores.charge_max_kw,
        ),
        (
            answers.source_kw.T,
            narrowed.sources.min_kw,
            narrowed.sources.max_kw,
            sources.min_kw,
            sources.max_kw,
        ),
    ):
        assert (low >= own_low).all()
        assert (high <= own_high).all()
        assert (low <= high).all()
        assert (kw >= low - TOLD_KW).all()
        assert (kw <= high + TOLD_KW).all()
    switched = stores.min_active_kw > 0
    held = narrowed.stores.charge_min_kw[:, switched]
    on = narrowed.stores.charge_max_kw[:, switched] > 0
    np.testing.assert_allclose(
        held[on], np.broadcast_to(stores.min_active_kw[switched], held.shape)[on]
    )


def test_a_dive_leaves_what_runs_in_one_go_to_its_pattern():
    problem = sample_problem(70, np.random.default_rng(1), steps=24)
    loads = problem.stores.owed.any(axis=0) & (problem.stores.min_active_kw == 0)
    problem = replace(problem, stores=replace(problem.stores, unbroken=loads))
    places, _ = ruled(problem)
    assert len(places)
    draw = np.zeros_like(problem.stores.charge_max_kw)
    draw[5:8, places] = problem.stores.charge_max_kw[5:8, places]
    pattern = replace(
        problem, stores=replace(problem.stores, charge_min_kw=draw, charge_max_kw=draw)
    )
    narrowed, answers = dived(with_ruled(problem, pattern), market_prices(problem))
    np.testing.assert_array_equal(narrowed.stores.charge_max_kw[:, places], draw[:, places])
    np.testing.assert_allclose(answers.charge_kw.T[:, places], draw[:, places], atol=1e-3)


def test_held_switches_let_a_device_move_above_its_least_power_only():
    problem = fleet(5)
    _, answers = dived(problem, market_prices(problem))
    kept = kept_on(problem, answers)
    stores = problem.stores
    on = stores.min_active_kw - 1e-3 <= answers.charge_kw.T
    switched = stores.min_active_kw > 0
    np.testing.assert_array_equal(
        kept.stores.charge_max_kw[:, switched],
        np.where(on, stores.charge_max_kw, 0.0)[:, switched],
    )
    np.testing.assert_array_equal(
        kept.stores.charge_max_kw[:, ~switched], stores.charge_max_kw[:, ~switched]
    )


@pytest.mark.parametrize("seed", [1, 6, 9])
def test_a_dive_comes_near_what_a_milp_finds_at_a_tight_connection(seed):
    problem = sample_problem(60, np.random.default_rng(seed), steps=24)
    tight = np.zeros(len(problem.sites.import_limit_kw), dtype=bool)
    tight[np.argsort(problem.sites.import_limit_kw)[:2]] = True
    part = at_sites(problem, tight)
    _, answers = dived(part, market_prices(part))
    _, plan = followed(part, answers.energy_kwh.T, answers.source_kw.T)
    best = solve_exact(part, 20.0, 1e-4)
    assert plan.objective_eur <= best.bound_eur + 0.05 * abs(best.bound_eur) + 0.1


def works(export_kw):
    """A CHP of 12 kW at least behind a connection that takes less, beside a battery."""
    chp = given.chp("c", rated_power_kw=20, min_power_kw=12, marginal_cost_eur_per_mwh=50)
    devices = [chp, given.battery("b", energy_capacity_kwh=20), given.load("l")]
    frame = given.frame(given.site("works", devices, export_kw=export_kw))
    prices = given.prices(INTERVALS, 90 + 40 * np.sin(np.arange(48) / 5))
    return build(frame, given.envelopes(frame, INTERVALS, load_kw=-1.0), prices, QUICK)


def test_a_chp_beyond_its_connection_runs_when_stores_can_make_room():
    problem = works(6.0)
    through = run_through(problem, market_prices(problem))
    on = through.sources.min_kw[:, 0] > 0
    assert on.any()
    assert (through.sources.max_kw[~on, 0] == 0).all()
    _, answers = dived(through, market_prices(problem))
    _, plan = followed(problem, answers.energy_kwh.T, answers.source_kw.T)
    assert plan.worst_violation_kw <= 1e-6
    _, from_below = dived(problem, market_prices(problem))
    _, trickled = followed(problem, from_below.energy_kwh.T, from_below.source_kw.T)
    assert plan.objective_eur < trickled.objective_eur - 0.5
    assert plan.objective_eur <= solve_exact(problem, 20.0, 1e-4).bound_eur + 0.5


def test_a_chp_is_never_on_where_nothing_could_take_its_least_power():
    problem = works(3.0)  # and 1 kW of load, and at most 5 kW into the battery
    through = run_through(problem, market_prices(problem))
    assert (through.sources.max_kw == 0).all()


@pytest.fixture
def by_prices(monkeypatch):
    monkeypatch.setattr(solve_module, "MONOLITH_AT_MOST", 0)


def charged_kwh(problem, plan):
    charger = np.flatnonzero(problem.stores.min_active_kw > 0)
    return -plan.setpoints.store_kw[:, charger].clip(max=0).sum() * STEP_H


def test_a_charger_at_a_narrow_connection_gets_its_energy_with_a_batterys_help(by_prices):
    """4.2 kW and the load are more than the connection takes; the battery gives the rest."""
    helped = narrow_home(4.5, given.battery("b"))
    plan = solve(helped, QUICK)
    assert plan.verdict.worst_violation_kw <= 1e-6
    assert plan.verdict.worst_violation_kwh <= 1e-6
    assert plan.bound_eur <= plan.verdict.objective_eur + 1e-6
    alone = narrow_home(4.5)
    left_out = solve(alone, QUICK)
    assert charged_kwh(alone, left_out) == 0.0
    assert charged_kwh(helped, plan) > 5.0
    assert plan.verdict.unmet_kwh < left_out.verdict.unmet_kwh - 5.0
    charger = np.flatnonzero(helped.stores.min_active_kw > 0)[0]
    drawing = -plan.setpoints.store_kw[:, charger]
    assert drawing[drawing > 1e-6].min() >= 4.2 - 1e-9
