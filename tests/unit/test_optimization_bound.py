import flexibility_fleets as given
import numpy as np
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.optimization.bound import lower_bound_eur
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.fallback import greedy
from vpp_pipeline.optimization.multipliers import Multipliers
from vpp_pipeline.optimization.problem import at_sites
from vpp_pipeline.optimization.relaxed import solve_relaxed
from vpp_pipeline.optimization.repair import track
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.verify import verify

INTERVALS = day_intervals(given.WINTER_DAY, "Europe/Berlin").slice(40, 24)


def problem(sites=5, seed=3):
    devices = given.mixed_fleet(sites, seed)
    price = np.random.default_rng(seed).normal(40, 80, len(INTERVALS))
    return build(
        devices,
        given.envelopes(devices, INTERVALS),
        given.prices(INTERVALS, price),
        PlanSettings(),
    )


PROBLEM = problem()
GREEDY_EUR = verify(PROBLEM, greedy(PROBLEM)).objective_eur


def random_multipliers(rng, scale):
    steps, stores = PROBLEM.stores.drift_kwh.shape
    sources, sites = PROBLEM.sources.max_kw.shape[1], PROBLEM.sites.base_kw.shape[1]

    def some(*shape):
        return rng.normal(0, scale, shape)

    return Multipliers.price_taker(
        PROBLEM,
        some(steps, stores),
        over_export=some(steps, sites),
        over_import=some(steps, sites),
        ramp_up=some(steps - 1, sources),
        ramp_down=some(steps - 1, sources),
    )


@settings(max_examples=100, deadline=None)
@drawn(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-3, 0.1, 10.0]))
def test_no_prices_of_the_constraints_give_a_bound_above_a_feasible_plan(seed, scale):
    rng = np.random.default_rng(seed)
    best = min(GREEDY_EUR, feasible(rng))
    assert lower_bound_eur(PROBLEM, random_multipliers(rng, scale)) <= best + 1e-9


def feasible(rng):
    stores, sources = PROBLEM.stores, PROBLEM.sources
    goal = rng.uniform(stores.floor_kwh, stores.ceiling_kwh)
    return verify(
        PROBLEM, track(PROBLEM, goal, rng.uniform(sources.min_kw, sources.max_kw))
    ).objective_eur


def test_an_exact_solvers_prices_give_its_optimum():
    part = at_sites(PROBLEM, np.arange(5) != 4)  # without the CHP, whose least power is a switch
    relaxed = solve_relaxed(part, "HIGHS", 60)
    plan = verify(part, track(part, relaxed.energy_kwh, relaxed.source_kw))
    bound = lower_bound_eur(part, relaxed.multipliers)
    assert bound <= plan.objective_eur
    assert plan.objective_eur - bound < 0.02 * abs(bound)


def test_the_bounds_of_parts_add_up_to_the_wholes():
    relaxed = solve_relaxed(PROBLEM, "HIGHS", 60)
    parts = []
    for chosen in (np.arange(5) < 2, np.arange(5) >= 2):
        multipliers = relaxed.multipliers.at_sites(PROBLEM, chosen)
        parts.append(lower_bound_eur(at_sites(PROBLEM, chosen), multipliers))
    assert np.isclose(sum(parts), lower_bound_eur(PROBLEM, relaxed.multipliers))
