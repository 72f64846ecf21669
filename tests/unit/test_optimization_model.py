"""What the model says is what is judged, proven and solved, whoever solves it."""

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.optimization import problem as problem_module
from vpp_pipeline.optimization.bound import constant_eur, lower_bound_eur
from vpp_pipeline.optimization.model import formulate
from vpp_pipeline.optimization.problem import no_portfolio
from vpp_pipeline.optimization.relaxed import solve_relaxed
from vpp_pipeline.optimization.repair import Setpoints
from vpp_pipeline.optimization.reserves import held
from vpp_pipeline.optimization.sample import sample_problem
from vpp_pipeline.optimization.verify import verify

MARKETS = ("none", "peak", "peak_and_event", "position", "reserve")


def sample(market, seed=1, devices=15, steps=16):
    return sample_problem(devices, np.random.default_rng(seed), steps=steps, portfolio=market)


def straight(problem):
    """The same without curvature: a linear programme."""
    return replace(
        problem,
        stores=replace(
            problem.stores, curvature_eur_per_kw2h=0 * problem.stores.curvature_eur_per_kw2h
        ),
        sources=replace(
            problem.sources, curvature_eur_per_kw2h=0 * problem.sources.curvature_eur_per_kw2h
        ),
    )


def optimum(problem, solver):
    """The least cost, and the set-points that reach it."""
    model = formulate(problem)
    whole = cp.Problem(cp.Minimize(model.cost_eur), model.laws.all())
    whole.solve(solver=solver)
    setpoints = Setpoints(
        model.discharge_of_all() - model.charge_kw.value,
        model.energy_kwh.value,
        model.source_kw.value,
    )
    return whole.value + constant_eur(problem), held(problem, setpoints)


@pytest.mark.parametrize("market", MARKETS)
def test_what_the_model_minimises_is_what_the_judge_adds_up(market):
    problem = sample(market)
    least_eur, setpoints = optimum(problem, "CLARABEL")
    verdict = verify(problem, replace_small(problem, setpoints))
    assert verdict.objective_eur == pytest.approx(least_eur, rel=1e-5, abs=1e-5)
    assert verdict.worst_violation_kwh < 1e-5


def replace_small(problem, setpoints):
    """Without the interior-point solver's last digits beyond the bounds."""
    stores = problem.stores
    return replace(
        setpoints,
        store_kw=np.clip(setpoints.store_kw, -stores.charge_max_kw, stores.discharge_max_kw),
        energy_kwh=np.clip(setpoints.energy_kwh, stores.floor_kwh, stores.ceiling_kwh),
    )


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize("seed", [2, 3])
def test_every_solvers_prices_prove_the_optimum_itself(market, seed):
    curved = sample(market, seed)
    linear = straight(curved)
    least_eur, _ = optimum(curved, "CLARABEL")
    bound_eur = lower_bound_eur(curved, solve_relaxed(curved, "CLARABEL", 60).multipliers)
    assert bound_eur == pytest.approx(least_eur, rel=1e-5, abs=1e-5)
    assert bound_eur <= least_eur + 1e-6
    straight_eur, _ = optimum(linear, "HIGHS")
    for solver in ("CLARABEL", "HIGHS"):
        proven = lower_bound_eur(linear, solve_relaxed(linear, solver, 60).multipliers)
        assert proven == pytest.approx(straight_eur, rel=1e-4, abs=1e-4)
        assert proven <= straight_eur + 1e-6
    # Tangents lie below the square.
    tangents = lower_bound_eur(curved, solve_relaxed(curved, "HIGHS", 60).multipliers)
    assert straight_eur - 1e-6 <= tangents <= least_eur + 1e-6
    assert tangents == pytest.approx(least_eur, rel=5e-3)


def test_a_fleet_that_sells_at_the_market_has_neither_fleet_nor_reserve_in_its_model():
    laws = formulate(sample("none")).laws
    assert laws.fleet is None
    assert laws.reserve is None
    assert len(laws.all()) == 5


def test_one_price_for_surplus_and_shortage_settles_all_power_at_it():
    problem = sample("none")
    other = problem.price_eur_per_kwh + 0.01
    position = np.linspace(-20, 20, len(other))
    settled = replace(
        problem,
        portfolio=replace(no_portfolio(other), position_kw=position),
    )
    least_eur, _ = optimum(settled, "CLARABEL")
    elsewhere = replace(problem, price_eur_per_kwh=other, portfolio=no_portfolio(other))
    as_market, _ = optimum(elsewhere, "CLARABEL")
    assert least_eur == pytest.approx(as_market + 0.25 * 0.01 * position.sum(), abs=1e-5)


def test_equal_batteries_share_equally_where_a_kwh_is_dearer_at_full_power():
    problem = sample("none", devices=5)
    stores = problem.stores
    twice = np.repeat(np.flatnonzero(stores.reserve), 2)
    both = {name: value[..., twice] for name, value in vars(stores).items() if name != "place"}
    price = np.where(np.arange(16) < 8, 0.02, 0.4)
    pair = replace(
        problem,
        price_eur_per_kwh=price,
        portfolio=no_portfolio(price),
        stores=replace(stores, place=np.array([0, 1]), **both),
    )
    _, setpoints = optimum(pair, "CLARABEL")
    assert np.abs(setpoints.store_kw).max() > 0.1
    assert setpoints.store_kw[:, 0] == pytest.approx(setpoints.store_kw[:, 1], abs=1e-3)


def test_a_price_on_the_highest_draw_lowers_it():
    problem = sample("none")
    dear = replace(problem, portfolio=replace(problem.portfolio, peak_eur_per_kw=100.0))

    def highest(problem):
        _, setpoints = optimum(problem, "CLARABEL")
        fleet = problem.sites.base_kw.sum(axis=1)
        fleet = fleet + setpoints.store_kw.sum(axis=1) + setpoints.source_kw.sum(axis=1)
        return -fleet.min()

    assert highest(dear) < 0.9 * highest(problem)


@pytest.mark.parametrize("symmetric", [False, True])
def test_reserve_is_sold_in_whole_products_that_the_batteries_can_sustain(symmetric):
    problem = sample("reserve")
    portfolio = replace(problem.portfolio, reserve_symmetric=symmetric, reserve_sustain_h=0.5)
    problem = replace(problem, portfolio=portfolio)
    least_eur, setpoints = optimum(problem, "CLARABEL")
    up, down = setpoints.reserve_up_kw.sum(axis=1), setpoints.reserve_down_kw.sum(axis=1)
    assert up.max() > 0.1
    for block in np.unique(portfolio.reserve_block):
        for quantity in (up, down):
            assert np.ptp(quantity[portfolio.reserve_block == block]) < 1e-9
    if symmetric:
        assert up == pytest.approx(down)
    verdict = verify(problem, setpoints)
    assert verdict.worst_violation_kw < 1e-5
    more = replace(setpoints, reserve_up_kw=1.1 * setpoints.reserve_up_kw + 0.1)
    assert (
        max(verify(problem, more).worst_violation_kw, verify(problem, more).worst_violation_kwh)
        > 0.01
    )
    none = replace(
        problem,
        portfolio=replace(
            portfolio,
            reserve_up_eur_per_kwh=0 * up,
            reserve_down_eur_per_kwh=0 * up,
        ),
    )
    assert least_eur < optimum(none, "CLARABEL")[0] - 1e-3


@settings(max_examples=10, deadline=None)
@drawn(market=st.sampled_from(MARKETS), seed=st.integers(0, 1000))
def test_no_feasible_plan_is_below_the_bound_of_any_prices(market, seed):
    rng = np.random.default_rng(seed)
    problem = sample(market, seed, devices=12, steps=8)
    _, setpoints = optimum(problem, "CLARABEL")
    best = verify(problem, setpoints).objective_eur
    prices = solve_relaxed(problem, "CLARABEL", 60).multipliers
    for scale in (1e-3, 0.1, 10.0):
        garbage = replace(
            prices,
            **{
                name: value + rng.normal(0, scale, value.shape)
                for name, value in vars(prices).items()
            },
        )
        assert lower_bound_eur(problem, garbage) <= best + 1e-4


@pytest.mark.parametrize("market", MARKETS)
def test_bound_and_judgement_do_not_depend_on_how_many_columns_are_taken_at_a_time(
    market, monkeypatch
):
    problem = sample(market)
    prices = solve_relaxed(problem, "CLARABEL", 60).multipliers
    _, setpoints = optimum(problem, "CLARABEL")
    bound, verdict = lower_bound_eur(problem, prices), verify(problem, setpoints)
    monkeypatch.setattr(problem_module, "_AT_A_TIME", 2)
    assert lower_bound_eur(problem, prices) == pytest.approx(bound, rel=1e-12)
    again = verify(problem, setpoints)
    assert vars(again) == pytest.approx(vars(verdict), rel=1e-12, abs=1e-12)
