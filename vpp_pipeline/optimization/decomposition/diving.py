"""Trickles made whole: the least of what a convex answer asks below a least power is turned off.

Belongs here: from a site's convex answer to one that keeps its devices' least powers. Does not:
patterns that prices alone tell (`integers`), what runs in one go (`runs`), whole sites solved with
their switches (`exact`).

At a narrow connection a charger's trickle fits at any time, its least power only while something
else, a battery or the sun, lends a hand; a pattern made at prices does not see that. So a few of
the smallest trickles are turned off and the site is solved again, and again: what is left grows to
powers that the device can hold (diving: Berthold, *Primal Heuristics for Mixed Integer Programs*,
TU Berlin 2006, ch. 2). A CHP whose connection takes less than its least power dives from the other
side, all on at first: its trickle asks no store to make room.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.decomposition.answers import Answers
from vpp_pipeline.optimization.decomposition.at_prices import solve_sites
from vpp_pipeline.optimization.decomposition.site_plans import SitePlans
from vpp_pipeline.optimization.integers import (
    Loose,
    Part,
    local_price,
    too_little,
    with_bounds,
)
from vpp_pipeline.optimization.runs import ruled, running_kw, with_switches

if TYPE_CHECKING:
    from vpp_pipeline.optimization.found import Prices
    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem

_TOLD_KW = 1e-3
_AT_A_TIME = 0.1  # of a device's trickles
_ROUNDS = 60


def dived(problem: Problem, prices: Prices) -> tuple[Problem, Answers]:
    """Return the problem narrowed to powers that devices can hold, and its answer at these prices."""
    narrowed = problem
    answers = Answers.blank(problem)
    still: Bools = np.ones(len(problem.sites.import_limit_kw), dtype=np.bool_)
    for _ in range(_ROUNDS):
        solve_sites(narrowed, still, prices, answers)
        narrowed, still = _without_the_least(narrowed, answers)
        if not still.any():
            break
    return kept_on(narrowed, answers), answers


def with_ruled(problem: Problem, patterned: Problem) -> Problem:
    """Return the problem in which what runs in one go, or for a least time, keeps to its pattern."""
    loads, timed = ruled(problem)
    stores = np.zeros(len(problem.stores.site), dtype=np.bool_)
    sources = np.zeros(len(problem.sources.site), dtype=np.bool_)
    stores[loads], sources[timed] = True, True
    return with_bounds(problem, [Part.of(patterned, stores, sources)])


def run_through(problem: Problem, prices: Prices) -> Problem:
    """Return the problem, one of `each_alone`, with each CHP on or off.

    At first they are on wherever a convex answer has any of their power, for a trickle that is
    turned off never learns what room stores could make. Then those quarter-hours are turned off in
    which the connection can't take it, or which at their local price cost most. Of all that was
    tried each site keeps what cost least.
    """
    sources, sites = problem.sources, problem.sites
    count = len(sites.import_limit_kw)
    _, timed = ruled(problem)
    switched = (sources.min_active_kw > 0) & ~sources.curtailable
    switched[timed] = False
    chosen = np.flatnonzero(switched)
    site, least_kw = sources.site[chosen], running_kw(problem, chosen)
    may_rest = sources.min_kw[:, chosen] <= 0
    answers = Answers.blank(problem)
    still: Bools = np.ones(count, dtype=np.bool_)
    solve_sites(problem, still, prices, answers)
    able = least_kw <= sources.max_kw[:, chosen]
    on = (able & (answers.source_kw[chosen].T > _TOLD_KW)) | ~may_rest
    beyond_kw = np.bincount(site, sources.min_active_kw[chosen], count)
    wide = replace(sites, export_overload_kw=sites.export_overload_kw + beyond_kw)
    least_eur, best = np.full(count, np.inf), on.copy()
    for _ in range(_ROUNDS):
        narrowed = with_switches(problem, chosen, np.where(on, least_kw, 0.0))
        solve_sites(replace(narrowed, sites=wide), still, prices, answers)
        cost_eur = SitePlans.of_answers(problem, answers).costs_eur(problem)
        cheaper = (cost_eur < least_eur)[site]
        best[:, cheaper] = on[:, cheaper]
        least_eur = np.minimum(least_eur, cost_eur)
        can_stop = on & may_rest
        still = np.bincount(site, can_stop.any(axis=0), count) > 0
        if not still.any():
            break
        on &= ~_least_of(-_cost_of_running(problem, prices, answers, chosen), can_stop)
    return with_switches(problem, chosen, np.where(best, least_kw, 0.0))


def _cost_of_running(problem: Problem, prices: Prices, answers: Answers, chosen: Places) -> Floats:
    """Return what a kWh of these sources costs more than it earns at its site (T, chosen)."""
    sources = problem.sources
    earned = local_price(answers.multipliers(problem, prices))[:, sources.site[chosen]]
    bent = sources.curvature_eur_per_kw2h[chosen] * answers.source_kw[chosen].T
    cost: Floats = sources.cost_eur_per_kwh[chosen] + bent - earned
    return cost


def _without_the_least(problem: Problem, answers: Answers) -> tuple[Problem, Bools]:
    """Turn off each device's smallest trickles, and of both ways at once the smaller.

    Return also the sites (K,) where anything was turned off.
    """
    stores, sources = problem.stores, problem.sources
    charge, discharge, source = answers.charge_kw.T, answers.discharge_kw.T, answers.source_kw.T
    both = np.minimum(charge, discharge) > _TOLD_KW
    least = stores.min_active_kw
    may_rest_in, may_rest_out = stores.charge_min_kw <= 0, stores.discharge_min_kw <= 0
    no_more_in = _least_of(charge, too_little(charge, least) & may_rest_in)
    no_more_in |= both & (charge < discharge) & may_rest_in
    no_more_out = _least_of(discharge, too_little(discharge, least) & may_rest_out)
    no_more_out |= both & (charge >= discharge) & may_rest_out
    off = _least_of(source, too_little(source, sources.min_active_kw) & (sources.min_kw <= 0))
    still = Loose(np.any(no_more_in | no_more_out, axis=0), np.any(off, axis=0)).sites(problem)
    return replace(
        problem,
        stores=replace(
            stores,
            charge_max_kw=np.where(no_more_in, 0.0, stores.charge_max_kw),
            discharge_max_kw=np.where(no_more_out, 0.0, stores.discharge_max_kw),
        ),
        sources=replace(sources, max_kw=np.where(off, 0.0, sources.max_kw)),
    ), still


def _least_of(power_kw: Floats, trickles: Bools) -> Bools:
    """Return a share of each device's trickles (T, n), its smallest: one at least, if there is one."""
    order = np.argsort(np.where(trickles, power_kw, np.inf), axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(len(order))[:, None], axis=0)
    least: Bools = trickles & (rank < np.ceil(_AT_A_TIME * trickles.sum(axis=0)))
    return least


def kept_on(problem: Problem, answers: Answers) -> Problem:
    """Hold every device with a least power to it where it reaches it, and off elsewhere."""
    stores, sources = problem.stores, problem.sources

    def between(
        power_kw: Floats, least_kw: Floats, low_kw: Floats, high_kw: Floats
    ) -> tuple[Floats, Floats]:
        on = power_kw >= least_kw - _TOLD_KW
        least_on_kw = np.maximum(low_kw, np.minimum(least_kw, high_kw))
        return np.where(on, least_on_kw, low_kw), np.where(on, high_kw, low_kw)

    least = stores.min_active_kw
    charge_min, charge_max = between(
        answers.charge_kw.T, least, stores.charge_min_kw, stores.charge_max_kw
    )
    discharge_min, discharge_max = between(
        answers.discharge_kw.T, least, stores.discharge_min_kw, stores.discharge_max_kw
    )
    low, high = between(answers.source_kw.T, sources.min_active_kw, sources.min_kw, sources.max_kw)
    return replace(
        problem,
        stores=replace(
            stores,
            charge_min_kw=charge_min,
            charge_max_kw=charge_max,
            discharge_min_kw=discharge_min,
            discharge_max_kw=discharge_max,
        ),
        sources=replace(sources, min_kw=low, max_kw=high),
    )
