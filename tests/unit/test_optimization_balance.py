from dataclasses import replace

import flexibility_fleets as given
import numpy as np
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.flexibility.tubes import tubes
from vpp_pipeline.optimization.balance import balanced
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.fallback import greedy
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.verify import verify

DAY = day_intervals(given.WINTER_DAY, "Europe/Berlin")


def total_kw(problem, setpoints):
    own = setpoints.store_kw.sum(axis=1) + setpoints.source_kw.sum(axis=1)
    return problem.sites.base_kw.sum(axis=1) + own


def problem_of(devices, wish_kw):
    """Return a problem, its greedy set-points, the tubes; the position is those plus a wish."""
    envelopes = given.envelopes(devices)
    problem = build(devices, envelopes, given.prices(DAY, 50.0), PlanSettings())
    setpoints = greedy(problem)
    position = total_kw(problem, setpoints) + wish_kw
    problem = replace(problem, portfolio=replace(problem.portfolio, position_kw=position))
    of, place = tubes(devices, envelopes), problem.stores.place
    return problem, setpoints, of.low_kwh[place].T, of.high_kwh[place].T


@settings(max_examples=15, deadline=None)
@drawn(st.integers(1, 8), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 0.3, 20.0]))
def test_moving_towards_the_position_breaks_nothing(sites, seed, size_kw):
    rng = np.random.default_rng(seed)
    devices = given.mixed_fleet(sites, seed)
    problem, setpoints, low, high = problem_of(devices, size_kw * rng.standard_normal(96))
    moved = balanced(problem, setpoints, low, high)
    before, after = verify(problem, setpoints), verify(problem, moved)
    assert after.worst_violation_kw <= before.worst_violation_kw + 1e-9
    assert after.worst_violation_kwh <= before.worst_violation_kwh + 1e-9
    assert after.simultaneous_steps == 0
    assert after.unmet_kwh <= before.unmet_kwh + 1e-6

    def missed(of):
        return np.abs(total_kw(problem, of) - problem.portfolio.position_kw).sum()

    assert missed(moved) <= missed(setpoints) + 1e-9


def test_where_there_is_room_the_sum_is_exact_and_little_is_moved():
    devices = given.frame(given.site("home", [given.battery("a"), given.battery("b")]))
    wish = 0.4 * np.sin(np.arange(96))
    problem, setpoints, low, high = problem_of(devices, wish)
    moved = balanced(problem, setpoints, low, high)
    assert np.abs(total_kw(problem, moved) - problem.portfolio.position_kw).max() < 1e-9
    assert np.abs(moved.store_kw - setpoints.store_kw).sum() < np.abs(wish).sum() + 1e-9


def test_a_charger_is_not_stopped_nor_started_below_its_least_power():
    devices = given.frame(given.site("home", [given.vehicle("v", min_charge_kw=4.0)]))
    problem, setpoints, low, high = problem_of(devices, 3.0 * (np.arange(96) < 4))
    moved = balanced(problem, setpoints, low, high)
    ran, runs = setpoints.store_kw != 0, moved.store_kw != 0
    assert (ran == runs).all()
    assert (np.abs(moved.store_kw[runs]) >= 4.0 - 1e-9).all()
