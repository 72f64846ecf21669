"""Fleets solved by prices: as cheap as solved whole, with a proof, whatever the portfolio asks."""

import time
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.optimization.bound import constant_eur, lower_bound_eur
from vpp_pipeline.optimization.decomposition import coupled, decompose, fleet
from vpp_pipeline.optimization.decomposition.answers import link_prices
from vpp_pipeline.optimization.decomposition.at_prices import answer
from vpp_pipeline.optimization.decomposition.coupled import CoupledError
from vpp_pipeline.optimization.decomposition.decompose import cost_eur, relaxations
from vpp_pipeline.optimization.decomposition.master import MasterError, next_prices
from vpp_pipeline.optimization.decomposition.shared import Shared
from vpp_pipeline.optimization.decomposition.together import (
    prices_of,
    shared_of,
    solve_together,
)
from vpp_pipeline.optimization.fallback import greedy
from vpp_pipeline.optimization.found import followed, market_prices
from vpp_pipeline.optimization.model import formulate
from vpp_pipeline.optimization.multipliers import consistent
from vpp_pipeline.optimization.problem import at_sites
from vpp_pipeline.optimization.sample import sample_problem
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve
from vpp_pipeline.optimization.verify import verify

MARKETS = ("none", "peak", "peak_and_event", "position", "reserve")
COUPLED = MARKETS[1:]
IN_TIME = np.inf


def convex(problem):
    """The problem without switches, which the convex solvers leave to others."""
    stores, sources = problem.stores, problem.sources
    return replace(
        problem,
        stores=replace(stores, min_active_kw=0 * stores.min_active_kw),
        sources=replace(sources, min_active_kw=0 * sources.min_active_kw),
    )


def sample(devices, seed, market, steps=24, **asked):
    problem = sample_problem(
        devices, np.random.default_rng(seed), steps=steps, portfolio=market, **asked
    )
    if market == "peak_and_event":
        problem = early_event(problem)
    return convex(problem)


def early_event(problem):
    """An event in the third and fourth hour: the sample's own is in the evening."""
    portfolio, steps = problem.portfolio, len(problem.price_eur_per_kwh)
    during = (np.arange(steps) >= 8) & (np.arange(steps) < 16)
    least_kw = problem.sites.base_kw.sum(axis=1) + 0.4 * (
        problem.stores.discharge_max_kw[:, problem.stores.reserve].sum(axis=1)
    )
    return replace(
        problem,
        portfolio=replace(
            portfolio,
            event_min_kw=np.where(during, least_kw, -np.inf),
            event_max_kw=np.where(during, least_kw + 10, np.inf),
            event_eur_per_kwh=np.where(during, 0.4, 0.0),
        ),
    )


def optimum_eur(problem):
    model = formulate(problem)
    whole = cp.Problem(cp.Minimize(model.cost_eur), model.laws.all())
    whole.solve(solver="CLARABEL")
    return whole.value + constant_eur(problem)


def relaxed(*asked):
    """The last, and nearest, answer."""
    *_, found = relaxations(*asked)
    return found


def nothing_beside(problem):
    return np.zeros(problem.links)


def narrow(problem, share):
    """Connections with only a share of the room that they have beyond their own load."""
    sites = problem.sites
    alone_kw = -sites.base_kw.min(axis=0)
    import_kw = alone_kw + share * (sites.import_limit_kw - alone_kw)
    return replace(
        problem,
        sites=replace(
            sites, import_limit_kw=import_kw, export_limit_kw=share * sites.export_limit_kw
        ),
    )


@pytest.fixture
def in_passes(monkeypatch):
    """Let even a small fleet be too large to be solved together."""
    monkeypatch.setattr(decompose, "_TOGETHER_AT_MOST", 0)
    monkeypatch.setattr(decompose, "_KINKED_TOGETHER_AT_MOST", 0)
    monkeypatch.setattr(decompose, "_SAMPLE_LEAST", (120, 120))


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_fleet_costs_what_another_solver_makes_of_it_whole_and_is_proven(market, seed):
    problem = sample(45, seed, market)
    best = optimum_eur(problem)
    found = relaxed(problem, 1e-7, IN_TIME, None)
    assert found.cost_eur == pytest.approx(best, rel=1e-5)
    reserved = 5e-4 if market == "reserve" else 1e-5
    assert best - reserved * abs(best) <= found.bound_eur <= best + 1e-6
    _, verdict = followed(problem, found.answers.energy_kwh.T, found.answers.source_kw.T)
    assert verdict.worst_violation_kw <= 1e-6
    assert verdict.worst_violation_kwh <= 1e-6
    assert verdict.objective_eur == pytest.approx(best, rel=1e-3, abs=1e-3)


@settings(max_examples=8, deadline=None)
@drawn(
    market=st.sampled_from(COUPLED),
    seed=st.integers(0, 2**32 - 1),
    devices=st.integers(5, 40),
    steps=st.integers(8, 24),
)
def test_every_fleet_is_solved_together_to_the_gap_asked_for(market, seed, devices, steps):
    problem = sample(devices, seed, market, steps)
    found = relaxed(problem, 1e-5, IN_TIME, None)
    assert found.bound_eur <= found.cost_eur + 1e-6
    assert found.gap <= (1e-3 if market == "reserve" else 2e-5)


def test_limits_that_were_thought_not_to_bind_are_kept_all_the_same():
    problem = narrow(sample(45, 3, "position"), 0.3)
    nowhere = np.zeros(len(problem.sites.import_limit_kw), dtype=bool)
    unlimited = solve_together(
        replace(
            problem,
            sites=replace(
                problem.sites,
                import_limit_kw=problem.sites.import_limit_kw + 1e3,
                export_limit_kw=problem.sites.export_limit_kw + 1e3,
            ),
        ),
        nowhere,
        nothing_beside(problem),
        None,
        1e-6,
    )
    limits = problem.sites

    def beyond(found):
        kw = found.answers.site_kw(problem)
        over = np.maximum(kw - limits.export_limit_kw, 0) - limits.export_overload_kw
        under = np.maximum(-kw - limits.import_limit_kw, 0) - limits.import_overload_kw
        return max(over.max(), under.max())

    assert beyond(unlimited) > 0.1
    assert beyond(solve_together(problem, nowhere, nothing_beside(problem), None, 1e-6)) < 1e-5


@pytest.mark.parametrize("market", COUPLED)
def test_a_part_beside_the_rests_power_finds_the_wholes_optimum(market):
    """What all others do at the optimum is given: the part can but do what it does in the whole."""
    problem = sample(45, 4, market)
    whole = relaxed(problem, 1e-8, IN_TIME, None)
    some = np.arange(len(problem.sites.import_limit_kw)) % 2 == 0
    part = at_sites(problem, some)
    stores, sources = some[problem.stores.site], some[problem.sources.site]
    answers = whole.answers
    rest_kw = (answers.discharge_kw - answers.charge_kw)[~stores].sum(axis=0)
    rest_kw += answers.source_kw[~sources].sum(axis=0)
    rest_kw += problem.sites.base_kw[:, ~some].sum(axis=1)
    if market == "reserve":
        rest_kw = np.concatenate([rest_kw, *answers.reserve_kw[:, ~stores].sum(axis=1)])
    fitted = solve_together(part, some[some], rest_kw, None, 1e-8).answers
    np.testing.assert_allclose(fitted.charge_kw, answers.charge_kw[stores], atol=0.05)
    np.testing.assert_allclose(fitted.source_kw, answers.source_kw[sources], atol=0.05)


@pytest.mark.parametrize("market", COUPLED)
def test_passes_over_a_fleet_reach_the_gap_that_solving_it_together_does(market, in_passes):
    problem = sample(250, 5, market, 24)
    tolerance = 3e-3 if market == "reserve" else 5e-4
    found = relaxed(problem, tolerance, IN_TIME, market_prices(problem))
    assert found.passes > 0
    assert found.gap <= tolerance
    assert found.bound_eur <= optimum_eur(problem) + 1e-5


def test_more_passes_never_make_the_answer_worse_nor_its_proof(in_passes, monkeypatch):
    problem = sample(250, 6, "position")
    found = []
    for passes in (1, 2, 4):
        monkeypatch.setattr(decompose, "_PASSES_AT_MOST", passes)
        found.append(relaxed(problem, 1e-9, IN_TIME, None))
    costs, bounds = [f.cost_eur for f in found], [f.bound_eur for f in found]
    assert [f.passes for f in found] == [1, 2, 4]
    assert costs == sorted(costs, reverse=True)
    assert bounds == sorted(bounds)
    assert found[-1].gap < found[0].gap


def test_the_bound_of_mixed_passes_is_that_of_their_prices_and_multipliers(in_passes):
    problem = sample(250, 6, "position")
    found = relaxed(problem, 1e-9, IN_TIME, None)
    assert found.passes > 2
    multipliers = consistent(problem, found.answers.multipliers(problem, found.prices))
    assert lower_bound_eur(problem, multipliers) == pytest.approx(found.bound_eur, rel=1e-12)


def test_warm_prices_change_the_way_and_not_where_it_leads(in_passes):
    problem = sample(250, 7, "position")
    cold = relaxed(problem, 5e-4, IN_TIME, None)
    for warm in (cold.prices, market_prices(problem)):
        again = relaxed(problem, 5e-4, IN_TIME, warm)
        assert again.gap <= 5e-4
        assert again.cost_eur == pytest.approx(cold.cost_eur, rel=1e-3)


@pytest.mark.parametrize("market", COUPLED)
def test_a_start_from_near_prices_leads_where_the_middle_of_all_boxes_does(market):
    problem = sample(60, 4, market)
    limited = np.ones(len(problem.sites.import_limit_kw), dtype=bool)
    cold = solve_together(problem, limited, nothing_beside(problem), None, 1e-5)
    near = replace(problem, price_eur_per_kwh=1.1 * problem.price_eur_per_kwh)
    prices = solve_together(near, limited, nothing_beside(near), None, 1e-3).prices
    warm = solve_together(problem, limited, nothing_beside(problem), prices, 1e-5)
    reached = [cost_eur(problem, found.answers) for found in (cold, warm)]
    assert reached[0] == pytest.approx(reached[1], rel=1e-3 if market == "reserve" else 1e-4)


@pytest.fixture
def nearer_and_nearer(monkeypatch):
    """Let even a small fleet be one that is repaired before it is solved to the end."""
    monkeypatch.setattr(decompose, "_SAMPLE_LEAST", (20, 20))
    aims = []
    run = coupled._Method.run

    def noted(method, aim):
        aims.append(aim)
        return run(method, aim)

    monkeypatch.setattr(coupled._Method, "run", noted)
    return aims


def test_a_plan_whose_repair_is_good_enough_is_solved_no_further(nearer_and_nearer):
    problem = sample(120, 8, "position")
    asked = PlanSettings(gap_tolerance=5e-3, time_limit_s=60.0)
    found = solve(problem, asked, market_prices(problem))
    assert len(nearer_and_nearer) == 1
    assert nearer_and_nearer[0].residuals < 1
    assert found.proven(asked.gap_tolerance)


def test_a_plan_whose_repair_is_not_enough_goes_on_from_where_it_stands(
    nearer_and_nearer, monkeypatch
):
    monkeypatch.setattr(decompose, "_BEFORE_A_REPAIR", (1e3,))
    problem = sample(120, 8, "position")
    asked = PlanSettings(gap_tolerance=1e-3, time_limit_s=60.0)
    began = []
    begin = coupled._Method.__init__

    def noted(method, *given, **few):
        began.append(method)
        begin(method, *given, **few)

    monkeypatch.setattr(coupled._Method, "__init__", noted)
    found = solve(problem, asked, market_prices(problem))
    assert len(nearer_and_nearer) > 1
    assert len(began) == 1
    assert found.proven(asked.gap_tolerance)


def test_the_prices_of_the_step_that_proved_most_are_kept(monkeypatch):
    problem = sample(120, 8, "position")
    linearised = coupled._Method._linearised
    prices = []

    def proves_most_once(method):
        here = linearised(method)
        prices.append(method.own.price[: problem.links])
        return here if len(prices) == 5 else replace(here, proof=1e9)

    monkeypatch.setattr(coupled._Method, "_linearised", proves_most_once)
    everywhere = np.ones(len(problem.sites.import_limit_kw), dtype=bool)
    found = solve_together(problem, everywhere, np.zeros(problem.links), None, 1e-3)
    assert len(prices) > 5
    np.testing.assert_array_equal(link_prices(problem, found.prices), prices[4])


def test_the_cheaper_plan_stands_with_the_higher_bound_where_the_nearer_answer_is_worse(
    monkeypatch,
):
    problem = sample(120, 8, "position")
    asked = PlanSettings(gap_tolerance=1e-9, time_limit_s=60.0)
    good = relaxed(problem, 1e-6, IN_TIME, market_prices(problem))
    idle = replace(
        good.answers,
        charge_kw=0 * good.answers.charge_kw,
        energy_kwh=0 * good.answers.energy_kwh,
        discharge_kw=0 * good.answers.discharge_kw,
    )
    worse = replace(good, answers=idle, bound_eur=good.bound_eur + 1e-9)
    alone = {}
    for name, answers in (("good", [good]), ("worse", [worse]), ("both", [good, worse])):
        monkeypatch.setattr(fleet, "relaxations", lambda *_, found=answers: iter(found))
        monkeypatch.setattr(fleet, "_switched", lambda _, best, *rest: (best, None))
        alone[name] = solve(problem, asked)
    cost = {name: found.verdict.objective_eur for name, found in alone.items()}
    assert cost["good"] < cost["worse"]
    assert cost["both"] == cost["good"]
    assert alone["both"].bound_eur == worse.bound_eur


def test_what_breaks_down_on_the_way_to_a_nearer_answer_leaves_the_one_before(
    nearer_and_nearer, monkeypatch
):
    monkeypatch.setattr(decompose, "_BEFORE_A_REPAIR", (1e6,))
    noted = coupled._Method.run

    def breaks(method, aim):
        if nearer_and_nearer:
            raise CoupledError("broke down")
        return noted(method, aim)

    monkeypatch.setattr(coupled._Method, "run", breaks)
    problem = sample(120, 8, "position")
    nearest = relaxed(problem, 1e-9, IN_TIME, market_prices(problem))
    assert len(nearer_and_nearer) == 1
    assert 1e-9 < nearest.gap < 1e-1


def test_after_the_deadline_the_first_answer_stands_with_its_proof(in_passes):
    problem = sample(250, 6, "position")
    late = relaxed(problem, 1e-12, time.perf_counter(), None)
    assert late.passes == 1
    assert late.bound_eur <= late.cost_eur
    plan = solve(problem, PlanSettings(gap_tolerance=1e-12, time_limit_s=0.0))
    assert plan.method == "decomposition"
    assert plan.verdict.worst_violation_kw <= 1e-6
    assert plan.verdict.objective_eur < verify(problem, greedy(problem)).objective_eur


@pytest.mark.parametrize("market", ["peak", "position", "reserve"])
def test_variables_that_lag_behind_a_step_change_no_answer(market, monkeypatch):
    problem = sample(150, 4, market)
    monkeypatch.setattr(coupled, "_FEWEST", 1)  # so that a small fleet may be solved in haste
    hasty = relaxed(problem, 1e-6, IN_TIME, None)
    monkeypatch.setattr(coupled, "_FEW", 0.0)
    careful = relaxed(problem, 1e-6, IN_TIME, None)
    assert hasty.cost_eur == pytest.approx(careful.cost_eur, rel=1e-4)
    assert hasty.bound_eur == pytest.approx(careful.bound_eur, rel=1e-4)


def test_a_reserve_wanted_nearer_than_numbers_can_tell_is_as_near_as_they_can():
    plan = solve(sample(70, 2, "reserve", steps=96), PlanSettings(gap_tolerance=1e-8))
    assert plan.solver == "interior point"
    assert plan.gap < 1e-3


def test_what_fails_in_haste_is_solved_with_care(monkeypatch):
    problem = sample(150, 4, "peak")
    before = relaxed(problem, 1e-4, IN_TIME, None)
    attempts = []
    run = coupled._Method.run

    def failing_in_haste(method, tolerance):
        attempts.append(method.few)
        if method.few:
            raise CoupledError("the gap is still 1 after 100 steps")
        return run(method, tolerance)

    monkeypatch.setattr(coupled, "_FEWEST", 1)  # so that a small fleet may be solved in haste
    monkeypatch.setattr(coupled._Method, "run", failing_in_haste)
    again = relaxed(problem, 1e-4, IN_TIME, None)
    assert attempts[0] > 0
    assert attempts[1] == 0
    assert again.cost_eur == pytest.approx(before.cost_eur, rel=1e-4)


def test_where_no_prices_are_found_the_greedy_plan_stands_and_says_why(monkeypatch):
    problem = sample(60, 1, "peak")

    def indefinite(system):
        raise coupled.LinAlgError

    monkeypatch.setattr(coupled, "_factored", indefinite)
    with pytest.raises(CoupledError, match="no Newton step after 0 steps"):
        relaxed(problem, 1e-4, IN_TIME, None)
    plan = solve(problem, PlanSettings())
    assert plan.solver == "greedy"
    assert plan.method == "none"
    assert plan.complaints
    assert plan.complaints[0].startswith("no Newton step")


def test_where_the_master_gives_no_prices_the_best_pass_stands(in_passes, monkeypatch):
    problem = sample(250, 6, "position")

    def without(*_):
        raise MasterError("the solver ended infeasible")

    monkeypatch.setattr(decompose, "next_prices", without)
    found = relaxed(problem, 1e-12, IN_TIME, None)
    assert found.passes < decompose._PASSES_AT_MOST
    assert found.bound_eur <= found.cost_eur


def toy(rng, steps=4):
    """A fleet whose power follows prices along a line, and a portfolio with a kink."""
    lower = rng.normal(size=(steps, steps))
    answered = 50 * (lower @ lower.T + np.eye(steps))
    price, power = rng.uniform(0.01, 0.03, steps), rng.normal(0, 5, steps)
    # Bought at one price, sold at a lower: over = bought, under = sold.
    matrix = np.hstack([np.eye(steps), -np.eye(steps)])
    shared = Shared(
        links=steps,
        matrix=matrix,
        right=rng.normal(0, 5, steps),
        cost=np.concatenate([np.full(steps, 0.04), np.full(steps, -0.005)]),
        low=np.zeros(2 * steps),
        high=np.full(2 * steps, 1e3),
        fixed_eur=0.0,
    )
    return shared, price, power, answered


@pytest.mark.parametrize("seed", range(4))
def test_the_next_prices_are_exact_where_the_fleet_answers_along_a_line(seed):
    shared, price, power, answered = toy(np.random.default_rng(seed))
    told = next_prices(shared, price, power, answered, 1.0)
    # At these prices the portfolio takes exactly what the fleet then gives.
    short = shared.right - power - answered @ (told - price)
    bought, sold = short > 1e-3, short < -1e-3
    np.testing.assert_allclose(told[bought], 0.04, atol=1e-5)
    np.testing.assert_allclose(told[sold], 0.005, atol=1e-5)
    assert (told > 0.005 - 1e-5).all()
    assert (told < 0.04 + 1e-5).all()
    assert bought.any() or sold.any()


def test_the_next_prices_stay_within_the_trust():
    shared, price, power, answered = toy(np.random.default_rng(3))
    told = next_prices(shared, price, power, answered, 1e-3)
    assert np.abs(told - price).max() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("market", ["peak", "peak_and_event", "reserve"])
def test_within_the_trust_all_prices_still_fit_the_portfolio(market):
    """Else the bound is taken at prices that the fleet was not asked at."""
    problem = sample(45, 9, market)
    guess = market_prices(problem)
    answers, limited = answer(problem, guess)
    follows = solve_together(problem, limited, nothing_beside(problem), None, 1e-4).follows
    shared, links = shared_of(problem, nothing_beside(problem)), link_prices(problem, guess)
    power = answers.links_kw(problem)
    told = prices_of(problem, next_prices(shared, links, power, follows, 1e-4))
    moved = np.abs(told.energy_eur_per_kwh - guess.energy_eur_per_kwh).max()
    assert moved == pytest.approx(1e-4 / 0.25, rel=0.1)
    fits = consistent(problem, answers.multipliers(problem, told))
    np.testing.assert_allclose(told.energy_eur_per_kwh, fits.energy_eur_per_kwh, atol=1e-4)
    np.testing.assert_allclose(told.peak_eur_per_kw, fits.peak_eur_per_kw, atol=1e-4)


def test_a_fleet_that_no_price_moves_has_no_next_prices():
    shared, price, power, answered = toy(np.random.default_rng(3))
    with pytest.raises(MasterError, match="does not follow its prices"):
        next_prices(shared, price, power, 0 * answered, 1e-3)


@pytest.mark.parametrize("market", COUPLED)
def test_the_fleets_own_optimum_is_where_the_master_stays(market):
    problem = sample(45, 8, market)
    still = nothing_beside(problem)
    _, limited = answer(problem, market_prices(problem))
    found = solve_together(problem, limited, still, None, 1e-8)
    told = prices_of(
        problem,
        next_prices(
            shared_of(problem, still),
            link_prices(problem, found.prices),
            found.answers.links_kw(problem),
            found.follows,
            0.005,
        ),
    )
    np.testing.assert_allclose(told.energy_eur_per_kwh, found.prices.energy_eur_per_kwh, atol=2e-3)


def test_equal_inputs_give_equal_answers_bit_for_bit(in_passes):
    problem = sample(250, 6, "peak")
    one, other = (relaxed(problem, 1e-5, IN_TIME, None) for _ in range(2))
    for name, values in vars(one.answers).items():
        np.testing.assert_array_equal(values, getattr(other.answers, name))
    assert one.bound_eur == other.bound_eur
