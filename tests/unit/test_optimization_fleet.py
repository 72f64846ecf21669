"""Whole plans of fleets with switches: what devices can do, no worse than proven, by either way."""

from dataclasses import replace

import flexibility_fleets as given
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.optimization import solve as solve_module
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.exact import solve_exact
from vpp_pipeline.optimization.problem import select
from vpp_pipeline.optimization.room import begun_runs_kw
from vpp_pipeline.optimization.sample import sample_problem
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve
from vpp_pipeline.optimization.verify_runs import hasty_kw, interrupted_kw

MARKETS = ("none", "peak", "peak_and_event", "position", "reserve")
QUICK = PlanSettings(solvers=("CLARABEL",), time_limit_s=60.0)


def sample(devices, seed, market="none", steps=24):
    return sample_problem(devices, np.random.default_rng(seed), steps=steps, portfolio=market)


def with_rules(problem, seed):
    """Loads that run in one go, and CHPs in place of some wind that keep times on and off."""
    rng = np.random.default_rng(seed)
    stores, sources = problem.stores, problem.sources
    loads = stores.owed.any(axis=0) & (stores.min_active_kw == 0)
    chps = ~sources.curtailable | (rng.random(len(sources.site)) < 0.1)
    return replace(
        problem,
        stores=replace(stores, unbroken=loads),
        sources=replace(
            sources,
            curtailable=~chps,
            max_kw=np.where(chps, 8.0, sources.max_kw),
            cost_eur_per_kwh=np.where(chps, 0.09, sources.cost_eur_per_kwh),
            ramp_kw=np.where(chps, 6.0, sources.ramp_kw),
            min_active_kw=np.where(chps, 3.0, sources.min_active_kw),
            min_run_steps=np.where(chps, 6, 0),
            min_rest_steps=np.where(chps, 4, 0),
        ),
    )


def at_negative_prices(problem):
    """A third of the quarter-hours at prices that pay for drawing power."""
    steps = len(problem.price_eur_per_kwh)
    price = np.where(np.arange(steps) % 9 < 3, -0.15, problem.price_eur_per_kwh)
    portfolio = replace(problem.portfolio, surplus_eur_per_kwh=price, shortage_eur_per_kwh=price)
    return replace(problem, price_eur_per_kwh=price, portfolio=portfolio)


def only(problem, stores, sources):
    """The problem with the chosen devices and no others."""
    return replace(
        problem, stores=select(problem.stores, stores), sources=select(problem.sources, sources)
    )


@pytest.fixture
def by_prices(monkeypatch):
    monkeypatch.setattr(solve_module, "MONOLITH_AT_MOST", 0)


def assert_sound(problem, plan):
    verdict = plan.verdict
    assert verdict.worst_violation_kw <= 1e-6
    assert verdict.worst_violation_kwh <= 1e-6
    assert verdict.simultaneous_steps == 0
    assert plan.bound_eur <= verdict.objective_eur + 1e-6
    for values in vars(plan.setpoints).values():
        assert np.isfinite(values).all()
    for values in vars(plan.prices).values():
        assert np.isfinite(values).all()


@pytest.mark.parametrize("market", MARKETS)
def test_a_fleet_with_switches_keeps_them_and_is_proven_near_the_best(market):
    problem = with_rules(sample(70, 1, market), 1)
    plan = solve(problem, QUICK)
    assert plan.method == "decomposition"
    assert_sound(problem, plan)
    assert plan.gap < 0.02
    kw, stores = plan.setpoints.store_kw, problem.stores
    size = np.abs(kw)
    assert not ((size > 1e-9) & (size < stores.min_active_kw - 1e-6)).any()
    before = np.vstack([stores.initial_kwh[:1], plan.setpoints.energy_kwh[:-1]])
    before = np.where(stores.starts, stores.initial_kwh, before)
    begun = begun_runs_kw(problem).any(axis=0)
    assert interrupted_kw(stores, np.maximum(-kw, 0), before, begun) <= 1e-6
    assert hasty_kw(problem.sources, plan.setpoints.source_kw) <= 1e-6
    chp = ~problem.sources.curtailable
    assert (plan.setpoints.source_kw[:, chp] >= 3.0 - 1e-9).any()  # some run, for long enough


@settings(max_examples=6, deadline=None)
@drawn(market=st.sampled_from(MARKETS), seed=st.integers(0, 2**32 - 1), ruled=st.booleans())
def test_no_fleet_and_market_makes_a_device_do_what_it_can_not(market, seed, ruled):
    problem = at_negative_prices(sample(60, seed, market, steps=16))
    plan = solve(with_rules(problem, seed) if ruled else problem, QUICK)
    assert plan.method == "decomposition"
    assert_sound(problem, plan)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_bound_passes_the_optimum_that_a_milp_proves(seed, by_prices):
    problem = at_negative_prices(sample(10, seed, "peak", steps=12))
    problem = replace(  # a linear problem, which HiGHS solves as it is
        problem,
        stores=replace(
            problem.stores, curvature_eur_per_kw2h=0 * problem.stores.curvature_eur_per_kw2h
        ),
        sources=replace(
            problem.sources, curvature_eur_per_kw2h=0 * problem.sources.curvature_eur_per_kw2h
        ),
    )
    plan = solve(problem, replace(QUICK, gap_tolerance=1e-6))
    assert_sound(problem, plan)
    best = solve_exact(problem, 20.0, 1e-6)
    assert plan.bound_eur <= best.bound_eur + 1e-4 * (1 + abs(best.bound_eur))
    assert plan.verdict.objective_eur >= best.bound_eur - 1e-4


def test_sites_solved_with_their_switches_tighten_the_proof():
    problem = with_rules(sample(60, 4), 4)
    asked = replace(QUICK, gap_tolerance=1e-6)
    plan = solve(problem, asked)
    hurried = solve(problem, replace(asked, time_limit_s=2.0))
    assert "sites" in plan.stages.seconds
    assert plan.bound_eur > hurried.bound_eur
    assert plan.verdict.objective_eur <= hurried.verdict.objective_eur + 1e-9
    assert plan.gap < hurried.gap


@pytest.mark.parametrize("market", ["none", "peak", "reserve"])
def test_equal_inputs_give_equal_plans_bit_for_bit(market):
    problem = with_rules(sample(70, 5, market), 5)
    asked = replace(QUICK, gap_tolerance=2e-2)  # no solver that is stopped by a clock
    one, other = solve(problem, asked), solve(problem, asked)
    for name, values in vars(one.setpoints).items():
        np.testing.assert_array_equal(values, getattr(other.setpoints, name))
    assert one.bound_eur == other.bound_eur
    assert one.verdict == other.verdict


@pytest.mark.parametrize("market", ["none", "peak_and_event", "position"])
@pytest.mark.parametrize("devices", [30, 55])
def test_both_ways_to_solve_a_fleet_agree_within_what_they_prove(market, devices, monkeypatch):
    problem = sample(devices, devices, market)
    plans = []
    for at_most in (0, 1000):
        monkeypatch.setattr(solve_module, "MONOLITH_AT_MOST", at_most)
        plans.append(solve(problem, QUICK))
    assert [plan.method for plan in plans] == ["decomposition", "monolith"]
    for plan in plans:
        assert_sound(problem, plan)
    bound = max(plan.bound_eur for plan in plans)
    for plan in plans:
        assert plan.verdict.objective_eur >= bound - 1e-6
        assert plan.verdict.objective_eur <= bound + 0.03 * abs(bound)


@pytest.mark.parametrize(("day", "steps"), [(given.SPRING_CHANGE, 92), (given.AUTUMN_CHANGE, 100)])
def test_days_on_which_the_clocks_change_are_planned_by_prices_too(day, steps, by_prices):
    intervals = day_intervals(day, "Europe/Berlin")
    devices = given.mixed_fleet(5)
    price = 60 + 40 * np.sin(np.arange(steps) / 10)
    problem = build(
        devices, given.envelopes(devices, intervals), given.prices(intervals, price), QUICK
    )
    plan = solve(problem, QUICK)
    assert plan.setpoints.store_kw.shape[0] == steps
    assert_sound(problem, plan)
    assert plan.gap < 0.02


@pytest.mark.parametrize("market", MARKETS)
def test_one_quarter_hour_is_a_horizon(market, by_prices):
    whole = sample(20, 6, market, steps=8)
    problem = first_steps(whole, 1)
    plan = solve(problem, QUICK)
    assert_sound(problem, plan)
    assert plan.method == "decomposition"


def first_steps(problem, steps):
    def cut(fleet):
        return replace(
            fleet,
            **{
                name: value[:steps]
                for name, value in vars(fleet).items()
                if isinstance(value, np.ndarray) and value.ndim == 2
            },
        )

    portfolio = problem.portfolio
    return replace(
        problem,
        intervals=problem.intervals.head(steps),
        price_eur_per_kwh=problem.price_eur_per_kwh[:steps],
        fixed_kw=problem.fixed_kw[:steps],
        stores=cut(problem.stores),
        sources=cut(problem.sources),
        sites=cut(problem.sites),
        portfolio=replace(
            portfolio,
            **{
                name: value[:steps]
                for name, value in vars(portfolio).items()
                if isinstance(value, np.ndarray)
            },
        ),
    )


CLASSES = {
    "sun": lambda stores, sources: (stores.reserve & False, sources.curtailable),
    "chps": lambda stores, sources: (stores.reserve & False, ~sources.curtailable),
    "batteries": lambda stores, sources: (stores.reserve, sources.curtailable & False),
    "heat pumps": lambda stores, sources: (
        np.isfinite(stores.kwh_per_c),
        sources.curtailable & False,
    ),
    "stores": lambda stores, sources: (stores.reserve | True, sources.curtailable & False),
    "nothing": lambda stores, sources: (stores.reserve & False, sources.curtailable & False),
}


@pytest.mark.parametrize("market", ["none", "peak_and_event", "reserve"])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_fleet_of_one_kind_is_planned_beside_sites_without_devices(kind, market, by_prices):
    whole = sample(60, 7, market)
    problem = only(whole, *CLASSES[kind](whole.stores, whole.sources))
    plan = solve(problem, QUICK)
    assert_sound(problem, plan)
    assert plan.gap < 0.05  # a handful of switches among a fleet that costs almost nothing
    assert plan.method == ("none" if kind == "nothing" else "decomposition")


def test_warm_prices_lead_to_a_plan_as_good():
    problem = sample(70, 8, "position")
    cold = solve(problem, QUICK)
    warm = solve(problem, QUICK, cold.prices)
    wrong = solve(
        problem, QUICK, replace(cold.prices, energy_eur_per_kwh=cold.prices.energy_eur_per_kwh - 1)
    )
    for plan in (warm, wrong):
        assert_sound(problem, plan)
        assert plan.gap <= max(1e-3, 1.5 * cold.gap)


def test_a_price_taking_fleet_is_proven_at_the_markets_prices(by_prices):
    problem = sample(30, 9)
    plan = solve(problem, QUICK)
    np.testing.assert_array_equal(plan.prices.energy_eur_per_kwh, problem.price_eur_per_kwh)
    assert plan.passes == 1
