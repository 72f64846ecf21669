"""A block's factor, its answer to prices and its optimum, against dense algebra and other solvers."""

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.bound import constant_eur, lower_bound_eur
from vpp_pipeline.optimization.decomposition import interior_point as method
from vpp_pipeline.optimization.decomposition.answers import Answers
from vpp_pipeline.optimization.decomposition.assembly import assemble
from vpp_pipeline.optimization.decomposition.at_prices import answer
from vpp_pipeline.optimization.decomposition.blocks import cut, pack, piece
from vpp_pipeline.optimization.decomposition.decompose import cost_eur
from vpp_pipeline.optimization.decomposition.oracle import respond, respond_sources
from vpp_pipeline.optimization.found import market_prices
from vpp_pipeline.optimization.model import formulate
from vpp_pipeline.optimization.repair import Setpoints
from vpp_pipeline.optimization.sample import sample_problem
from vpp_pipeline.optimization.verify import verify

SEEDS = st.integers(0, 2**32 - 1)


def convex(problem):
    """The problem without switches, which the blocks leave to others."""
    stores, sources = problem.stores, problem.sources
    return replace(
        problem,
        stores=replace(stores, min_active_kw=0 * stores.min_active_kw),
        sources=replace(sources, min_active_kw=0 * sources.min_active_kw),
    )


def sample(devices, seed, **asked):
    return convex(sample_problem(devices, np.random.default_rng(seed), **asked))


def narrower(problem, import_share=1.0, export_share=1.0):
    """The problem with smaller connections, never too small for what is there already."""
    sites = problem.sites
    alone_kw = -sites.base_kw.min(axis=0)
    return replace(
        problem,
        sites=replace(
            sites,
            import_limit_kw=alone_kw + import_share * (sites.import_limit_kw - alone_kw),
            export_limit_kw=export_share * sites.export_limit_kw,
        ),
    )


def behind_one_connection(problem):
    """The problem with all devices at a single site."""
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    return replace(
        problem,
        stores=replace(stores, site=0 * stores.site),
        sources=replace(sources, site=0 * sources.site),
        sites=replace(
            sites,
            base_kw=sites.base_kw.sum(axis=1, keepdims=True),
            import_limit_kw=sites.import_limit_kw.sum(keepdims=True),
            export_limit_kw=sites.export_limit_kw.sum(keepdims=True),
            import_overload_kw=sites.import_overload_kw.sum(axis=1, keepdims=True),
            export_overload_kw=sites.export_overload_kw.sum(axis=1, keepdims=True),
        ),
    )


def programmes_of(problem, *, limited):
    everywhere = np.ones(len(problem.sites.import_limit_kw), dtype=bool)
    blocks = cut(problem, everywhere, everywhere & limited)
    return blocks, assemble(pack(problem, blocks))


def link_price(problem):
    """The market's prices of the rows that blocks share."""
    prices = market_prices(problem)
    parts = (
        prices.energy_eur_per_kwh,
        prices.reserve_up_eur_per_kwh,
        prices.reserve_down_eur_per_kwh,
    )
    return np.concatenate(parts) * STEP_H


def dense(of):
    """The rows' and the shared rows' coefficients as whole matrices (R, V), (L, V)."""
    variables = len(of.linear)
    rows = np.zeros((len(of.right), variables))
    links = np.zeros((3 * of.steps, variables))
    for b in range(len(of.width)):
        for v in range(of.variable_first[b], of.variable_first[b + 1]):
            entries = slice(of.entry_first[v], of.entry_first[v + 1])
            np.add.at(rows[:, v], of.row_first[b] + of.entry_row[entries], of.entry_value[entries])
    linked = of.link >= 0
    links[of.link[linked], np.flatnonzero(linked)] = of.link_value[linked]
    return rows, links


def somewhere(of, rng):
    """An iterate strictly within all bounds, with no other sense."""
    at = method.begin(of, 1.0)
    at.x[:] = of.low + rng.uniform(0.05, 0.95, len(at.x)) * (of.high - of.low)
    at.at_low[:], at.at_high[:] = np.exp(rng.normal(0, 1, (2, len(at.x))))
    at.y[:] = rng.normal(0, 1, len(at.y))
    return at


def linearised(of, at, price, links):
    half, power, pushed = np.zeros((links, links)), np.zeros(links), np.zeros(links)
    told = method.linearise(of, at, 0, len(of.width), price, half, power, pushed)
    return told, half + half.T - np.diag(np.diag(half)), power, pushed


@settings(max_examples=30, deadline=None)
@drawn(seed=SEEDS, count=st.integers(1, 25), width=st.integers(1, 6), before=st.integers(0, 3))
def test_a_banded_system_is_solved_as_the_whole_matrix_is(seed, count, width, before):
    rng = np.random.default_rng(seed)
    lower = np.tril(np.triu(rng.normal(size=(count, count)), -width))
    whole = lower @ lower.T + np.eye(count)
    kept = max(width, method.NARROW)
    band = np.full((before + count + 1, kept + 1), np.nan)  # others' rows are not touched
    band[before : before + count] = 0.0
    for d in range(width + 1):
        band[before + d : before + count, d] = np.diagonal(whole, -d)
    inverse_pivot = np.full(before + count + 1, np.nan)
    right = np.full(before + count + 1, np.nan)
    own = slice(before, before + count)
    right[own] = b = rng.normal(size=count)
    method._factor(band, before, before + count, width, inverse_pivot)
    method._back(band, before, before + count, width, inverse_pivot, right)
    np.testing.assert_allclose(right[own], np.linalg.solve(whole, b), rtol=1e-8, atol=1e-8)
    assert np.isnan(np.delete(right, np.arange(before, before + count))).all()


def test_a_row_that_says_nothing_new_is_left_out():
    whole = np.array([[2.0, 2.0], [2.0, 2.0]])
    band, inverse, right = np.array([[2.0, 0.0], [2.0, 2.0]]), np.zeros(2), np.array([3.0, 3.0])
    method._factor(band, 0, 2, 1, inverse)
    method._back(band, 0, 2, 1, inverse, right)
    np.testing.assert_allclose(whole @ right, [3.0, 3.0])


SMALL_CONNECTIONS = [
    narrower(sample(15, 4, steps=steps, portfolio=market), 0.6, 0.6)
    for steps in (12, 29)  # the day is cut into parts of 8
    for market in ("none", "reserve")
]
MANY_DEVICES = behind_one_connection(sample(100, 4, steps=20))


@pytest.mark.parametrize(
    ("problem", "limited"),
    [
        *((problem, limited) for problem in SMALL_CONNECTIONS for limited in (False, True)),
        (MANY_DEVICES, True),
    ],
)
def test_the_answer_to_shared_prices_is_what_dense_algebra_gives(problem, limited):
    _, of = programmes_of(problem, limited=limited)
    at = somewhere(of, np.random.default_rng(1))
    price = link_price(problem)
    (gap, short, proof), answered, power, pushed = linearised(of, at, price, len(price))

    rows, links = dense(of)
    held = method.PROXIMAL_EUR / (of.high - of.low)
    theta = 1 / (of.quadratic + at.at_low / (at.x - of.low) + at.at_high / (of.high - at.x) + held)
    system = (rows * theta) @ rows.T + np.diag(~rows.any(axis=1))  # an empty row says nothing
    both = (rows * theta) @ links.T
    expected = (links * theta) @ links.T - both.T @ np.linalg.solve(system, both)
    np.testing.assert_allclose(answered, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())
    assert np.linalg.eigvalsh(answered).min() > -1e-9  # dearer power is never injected less
    np.testing.assert_allclose(power, links @ at.x, rtol=1e-12, atol=1e-9)

    stationary = of.linear + of.quadratic * at.x - at.at_low + at.at_high
    stationary -= links.T @ price + rows.T @ at.y
    missing = of.right - rows @ at.x
    assert short == pytest.approx(np.abs(missing) @ np.abs(at.y))
    reduced = stationary + at.at_low - at.at_high
    ways = np.where(reduced > 0, at.x - of.low, at.x - of.high)
    assert proof == pytest.approx(reduced @ ways)
    assert gap == pytest.approx(at.at_low @ (at.x - of.low) + at.at_high @ (of.high - at.x))

    push = -stationary - at.at_low + at.at_high
    dy = np.linalg.solve(system, missing - (rows * theta) @ push)
    dx = theta * (rows.T @ dy + push)
    np.testing.assert_allclose(pushed, links @ dx, rtol=1e-7, atol=1e-7 * np.abs(pushed).max())


def test_the_gap_after_a_step_is_known_before_it_is_taken():
    problem = narrower(sample(15, 4, steps=12), 0.6, 0.6)
    _, of = programmes_of(problem, limited=True)
    at = somewhere(of, np.random.default_rng(2))
    price = link_price(problem)
    (gap, _, _), *_ = linearised(of, at, price, 36)
    counts = np.zeros((2, method.LENGTHS), dtype=np.int64)
    d_price = np.random.default_rng(3).normal(0, 1e-3, 36)
    told = method.direct(of, at, 0, len(of.width), d_price, 0.0, 0.0, counts, 1)
    for primal, dual in ((0.3, 0.7), (0.7, 0.3), (1.0, 1.0)):
        low = (at.at_low + dual * at.d_low) @ (at.x + primal * at.dx - of.low)
        high = (at.at_high + dual * at.d_high) @ (of.high - at.x - primal * at.dx)
        after = method.gap_after(gap, primal, dual, told[2], told[3])
        assert after == pytest.approx(max(low + high, 0.0), rel=1e-9, abs=1e-9 * gap)


def on_the_central_path(of, price, centre):
    """The blocks' power where every bound times its multiplier is `centre`, and its answer."""
    at = method.begin(of, centre)
    still = np.zeros_like(price)
    blocks = len(of.width)
    for _ in range(60):
        (_, short, _), answered, power, _ = linearised(of, at, price, len(price))
        doubt = np.abs(at.dual_residual) @ (of.high - of.low)
        if max(doubt, short) < 1e-9 and np.ptp(at.at_low * (at.x - of.low)) < 1e-9 * centre:
            return power, answered
        method.aim(of, at, 0, blocks, centre, 0.0, np.zeros_like(price))
        counts = np.zeros((2, method.LENGTHS), dtype=np.int64)
        primal, dual, *_ = method.direct(of, at, 0, blocks, still, centre, 0.0, counts, 1)
        lengths = (1.0 if way >= 1.0 else 0.9 * way for way in (primal, dual))
        method.move(of, at, 0, blocks, *lengths, 0.0)
    raise AssertionError(f"not there: {doubt} {short}")


@pytest.mark.parametrize(
    ("market", "limited"), [("none", True), ("none", False), ("reserve", True)]
)
def test_power_follows_the_shared_prices_as_the_answer_says(market, limited):
    problem = narrower(sample(10, 8, steps=8, portfolio=market), 0.6, 0.6)
    _, of = programmes_of(problem, limited=limited)
    price = link_price(problem)
    _, answered = on_the_central_path(of, price, 1.0)
    told = [link for link in range(len(price)) if answered[link, link] > 0]
    assert len(told) >= 8
    for link in told[::3]:
        step = np.zeros_like(price)
        step[link] = 1e-6
        up, _ = on_the_central_path(of, price + step, 1.0)
        down, _ = on_the_central_path(of, price - step, 1.0)
        moved = (up - down) / 2e-6
        np.testing.assert_allclose(
            moved, answered[:, link], rtol=1e-4, atol=1e-4 * answered[link, link]
        )


@settings(max_examples=12, deadline=None)
@drawn(seed=SEEDS)
def test_blocks_that_no_limit_binds_do_what_the_oracle_says(seed):
    problem = sample(20, seed, steps=24, site_limits=False)
    stores, sources = problem.stores, problem.sources
    blocks, of = programmes_of(problem, limited=False)
    at = method.begin(of, 1e-2)
    assert method.solve_alone(of, at, 0, len(of.width), link_price(problem), 1e-10) < 1e-10
    found = Answers.blank(problem)
    found.fill(blocks, of, at)
    price = problem.price_eur_per_kwh[:, None]
    sites = len(problem.sites.import_limit_kw)
    alone = respond(stores, price, np.zeros(len(stores.site), dtype=np.int64), sites, keep=True)
    np.testing.assert_allclose(found.charge_kw.T, alone.charge_kw, atol=2e-3)
    np.testing.assert_allclose(found.discharge_kw.T, alone.discharge_kw, atol=2e-3)
    here = stores.present
    np.testing.assert_allclose(found.energy_kwh.T[here], alone.energy_kwh[here], atol=2e-3)
    free = np.flatnonzero(sources.curtailable)
    sun = replace(
        sources,
        **{
            name: value[..., free] for name, value in vars(sources).items() if name != "curtailable"
        },
        curtailable=sources.curtailable[free],
    )
    given = respond_sources(sun, price, np.zeros(len(free), dtype=np.int64), sites)
    np.testing.assert_allclose(found.source_kw[free].T, given.source_kw, atol=2e-3)


def optimum_eur(problem, solver="CLARABEL"):
    model = formulate(problem)
    whole = cp.Problem(cp.Minimize(model.cost_eur), model.laws.all())
    whole.solve(solver=solver)
    return whole.value + constant_eur(problem)


def told(problem, answers):
    """The verdict on an answer as it stands."""
    return verify(
        problem,
        Setpoints(
            (answers.discharge_kw - answers.charge_kw).T,
            answers.energy_kwh.T,
            answers.source_kw.T,
        ),
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sites_at_their_limits_cost_what_another_solver_makes_of_them(seed):
    problem = narrower(sample(40, seed, steps=24), 0.5, 0.5)
    found, decided = answer(problem, market_prices(problem))
    assert decided.sum() >= 3
    best = optimum_eur(problem)
    assert cost_eur(problem, found) == pytest.approx(best, rel=1e-6, abs=1e-5)
    bound = lower_bound_eur(problem, found.multipliers(problem, market_prices(problem)))
    assert best - 1e-4 <= bound <= best + 1e-6
    assert told(problem, found).worst_violation_kw < 1e-5


def test_a_connection_too_small_for_its_load_is_passed_by_no_more_than_it_must():
    problem = sample(40, 5, steps=24)
    load_kw = -problem.sites.base_kw
    limit_kw = 0.5 * load_kw.min(axis=0)  # a battery bridges hours, not the day
    problem = replace(
        problem,
        sites=replace(
            problem.sites, import_limit_kw=limit_kw, import_overload_kw=load_kw - limit_kw
        ),
    )
    cold = np.isfinite(problem.stores.kwh_per_c)  # nobody is owed what can't be had
    floor_kwh = np.where(cold, -1e3, problem.stores.floor_kwh)
    problem = replace(problem, stores=replace(problem.stores, floor_kwh=floor_kwh))
    found, _ = answer(problem, market_prices(problem))
    assert told(problem, found).overload_kw > 0.01
    assert told(problem, found).worst_violation_kw < 1e-5
    assert cost_eur(problem, found) == pytest.approx(optimum_eur(problem), rel=1e-6)


def test_a_plant_that_changes_its_output_slowly_starts_before_it_pays():
    problem = sample(5, 3, steps=24)
    price = np.where(np.arange(24) < 12, 0.0, 0.3)
    sources = problem.sources
    chp = ~sources.curtailable
    slow = replace(sources, ramp_kw=np.where(chp, sources.max_kw.max(axis=0) / 6, np.inf))
    problem = replace(
        problem,
        price_eur_per_kwh=price,
        sources=slow,
        portfolio=replace(problem.portfolio, surplus_eur_per_kwh=price, shortage_eur_per_kwh=price),
    )
    found, _ = answer(problem, market_prices(problem))
    output = found.source_kw[chp][0]
    assert output[11] > 0.5
    assert np.abs(np.diff(output)).max() == pytest.approx(slow.ramp_kw[chp][0], abs=1e-6)
    assert np.abs(found.ramp).max() > 1e-3
    assert cost_eur(problem, found) == pytest.approx(optimum_eur(problem), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("site_share", [1.0, 0.3])
def test_power_ready_at_its_price_is_what_the_whole_model_sells(site_share):
    """One product a quarter-hour and direction: blocks then sell by themselves."""
    problem = narrower(sample(20, 6, steps=16, portfolio="reserve"), site_share, site_share)
    portfolio = replace(
        problem.portfolio,
        reserve_block=np.arange(16),
        reserve_symmetric=False,
        peak_eur_per_kw=0.0,
        event_eur_per_kwh=np.zeros(16),
    )
    problem = replace(problem, portfolio=portfolio)
    found, _ = answer(problem, market_prices(problem))
    assert found.reserve_kw.sum(axis=(1, 2)).min() > 1.0
    best = optimum_eur(problem)
    assert cost_eur(problem, found) == pytest.approx(best, rel=1e-5, abs=1e-4)
    bound = lower_bound_eur(problem, found.multipliers(problem, market_prices(problem)))
    assert best - 2e-3 * abs(best) <= bound <= best + 1e-6


def test_a_piece_of_blocks_is_solved_as_among_all():
    problem = narrower(sample(30, 9, steps=16), 0.5, 0.5)
    price = link_price(problem)
    whole, of = programmes_of(problem, limited=True)
    at = method.begin(of, 1e-2)
    method.solve_alone(of, at, 0, len(of.width), price, 1e-8)
    together, alone = Answers.blank(problem), Answers.blank(problem)
    together.fill(whole, of, at)
    for first in range(len(whole.site)):
        part = piece(whole, first, first + 1)
        own = assemble(pack(problem, part))
        own_at = method.begin(own, 1e-2)
        method.solve_alone(own, own_at, 0, 1, price, 1e-8)
        alone.fill(part, own, own_at)
    for name in ("charge_kw", "discharge_kw", "energy_kwh", "source_kw", "law", "export"):
        np.testing.assert_allclose(getattr(alone, name), getattr(together, name), atol=1e-9)
