"""Chargers below their least power charge now and then, with what a battery lends."""

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
from vpp_pipeline.optimization.duty import kept_on, now_and_then, starved
from vpp_pipeline.optimization.sample import sample_problem
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve

INTERVALS = day_intervals(given.WINTER_DAY, "Europe/Berlin").slice(0, 48)
QUICK = PlanSettings(time_limit_s=20.0)


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


def chargers(seed, steps=24):
    """The chargers of a made-up fleet, and a trickle for each."""
    rng = np.random.default_rng(seed)
    problem = sample_problem(60, rng, steps=steps)
    stores = problem.stores
    chosen = np.flatnonzero(stores.min_active_kw > 0)
    most = np.where(stores.charge_max_kw > 0, 1.5 * stores.min_active_kw, 0.0)
    trickle = most * rng.random(stores.charge_max_kw.shape) * rng.random(len(stores.site))
    return problem, chosen, np.minimum(trickle, stores.charge_max_kw)


@settings(max_examples=20, deadline=None)
@drawn(seed=st.integers(0, 2**32 - 1))
def test_a_trickle_becomes_whole_quarter_hours_of_as_much_energy(seed):
    problem, chosen, trickle = chargers(seed)
    tried = now_and_then(problem, chosen, trickle).stores
    stores = problem.stores
    least = stores.min_active_kw[chosen]
    on = tried.charge_max_kw[:, chosen] > 0
    np.testing.assert_array_equal(
        tried.charge_max_kw[:, chosen], np.where(on, stores.charge_max_kw[:, chosen], 0.0)
    )
    assert (stores.charge_max_kw[:, chosen][on] >= np.broadcast_to(least, on.shape)[on]).all()
    # At its least power where on, or at the wish where that is more: never a whole one too much,
    # and never one too few where it was able at all times.
    drawn = np.where(on, np.maximum(least, trickle[:, chosen]), 0.0)
    ahead = (drawn - trickle[:, chosen]).cumsum(axis=0)
    assert (ahead <= 0.5 * least + 1e-9).all()
    able = (stores.charge_max_kw[:, chosen] >= least).all(axis=0)
    assert (ahead[:, able] >= -0.5 * least[able] - 1e-9).all()
    others = np.setdiff1d(np.arange(len(stores.site)), chosen)
    np.testing.assert_array_equal(tried.charge_max_kw[:, others], stores.charge_max_kw[:, others])
    np.testing.assert_array_equal(tried.charge_min_kw[:, others], stores.charge_min_kw[:, others])


@settings(max_examples=20, deadline=None)
@drawn(seed=st.integers(0, 2**32 - 1))
def test_what_is_kept_on_reached_its_least_power_and_holds_it(seed):
    problem, chosen, charge = chargers(seed)
    kept = kept_on(problem, chosen, charge).stores
    least = problem.stores.min_active_kw[chosen]
    reached = charge[:, chosen] >= least - 1e-6
    np.testing.assert_array_equal(kept.charge_min_kw[:, chosen], np.where(reached, least, 0.0))
    np.testing.assert_array_equal(kept.charge_max_kw[:, chosen] > 0, reached)


def test_only_who_ends_shorter_of_a_debt_than_wished_is_starved():
    problem, _, _ = chargers(1)
    stores = problem.stores
    full = np.maximum(stores.wished_kwh, stores.floor_kwh)
    debtors = stores.owed.any(axis=0) & (stores.min_active_kw > 0)
    assert debtors.any()
    np.testing.assert_array_equal(starved(problem, full, full - 1.0), np.flatnonzero(debtors))
    assert len(starved(problem, full, full - 1e-4)) == 0
    assert len(starved(problem, full - 1.0, full - 1.0)) == 0
    free = replace(problem, stores=replace(stores, min_active_kw=0 * stores.min_active_kw))
    assert len(starved(free, full, full - 1.0)) == 0


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
