"""A large fleet's plan: its convex answer, the switches that devices have, and the proof.

Belongs here: from the convex answer to powers that every device can follow. Does not: finding
that answer (`decompose`), a device's best switches (`integers`), whole sites with theirs (`exact`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.bound import lower_bound_eur
from vpp_pipeline.optimization.decomposition.at_prices import solve_sites
from vpp_pipeline.optimization.decomposition.decompose import cost_eur, rebalanced, relaxations
from vpp_pipeline.optimization.decomposition.diving import (
    dived,
    kept_on,
    run_through,
    with_ruled,
)
from vpp_pipeline.optimization.decomposition.site_plans import SitePlans, each_alone
from vpp_pipeline.optimization.exact import solve_exact
from vpp_pipeline.optimization.found import Found, Stages, followed, tracked
from vpp_pipeline.optimization.integers import (
    Part,
    local_price,
    loose_devices,
    patterned,
    proven_bound_eur,
    with_bounds,
)
from vpp_pipeline.optimization.multipliers import consistent
from vpp_pipeline.optimization.problem import at_sites
from vpp_pipeline.optimization.relaxed import SolverError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vpp_pipeline.optimization.decomposition.answers import Answers
    from vpp_pipeline.optimization.decomposition.decompose import Relaxation
    from vpp_pipeline.optimization.found import Prices
    from vpp_pipeline.optimization.multipliers import Multipliers
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem
    from vpp_pipeline.optimization.settings import PlanSettings

_SOLVER = "interior point"
_SITE_S, _SITE_AT_MOST_S = 2.0, 5.0  # a site with its switches takes about, and gets at most
_DIVES_SHARE = 0.7  # of the time left: a balance, the repair and some sites follow
_SITES_AT_A_TIME = 50  # between two looks at the clock
_WORTH_SITES = 0.5  # of what is too much, at the sites that there is time for
_LEFT_SHARE = 0.1  # of the gap allowed, by sites that no dive is made at
_SITES_SHARE = 0.3  # of the time left, for such sites
_CONVEX_SHARE = 0.7  # of the gap allowed, for the convex answer


@dataclass(frozen=True)
class _Fixed:
    """The sites whose devices need switches: what they cost without, and what they do with them."""

    convex: Relaxation
    answers: Answers  # of all devices; written over as better ones are found
    sites: Bools  # (K,)
    prices: Multipliers
    alone: Problem  # the sites at these prices, each by itself

    def convex_costs(self) -> Floats:
        """Return what the convex answers cost at each of the sites."""
        part = at_sites(self.alone, self.sites)
        convex = _at(self.alone, self.convex.answers, self.sites)
        return SitePlans.of_answers(part, convex).costs_eur(part)

    def costs(self, sites: Bools) -> Floats:
        """Return what a plan that follows the answers costs at each of these sites (K,)."""
        chosen = _at(self.alone, self.answers, sites)
        return _costs(at_sites(self.alone, sites), chosen.energy_kwh.T, chosen.source_kw.T)


def solve_fleet(
    problem: Problem, settings: PlanSettings, deadline: float, warm: Prices | None
) -> Found:
    """Return the best plan found before the deadline (of `time.perf_counter`).

    `warm` are the prices of a plan like this one. Raises `CoupledError` where no prices can be
    found.
    """
    stages, tolerance = Stages(), settings.gap_tolerance
    nearer = relaxations(problem, tolerance * _CONVEX_SHARE, deadline, warm)
    with stages.timed("prices"):
        found = next(nearer)
    best = _repaired(problem, found, stages)
    while not best.proven(tolerance):
        if time.perf_counter() > deadline:
            return best
        with stages.timed("prices"):
            going_on = next(nearer, None)
        if going_on is None:
            break
        found = going_on
        best = best.or_cheaper(_repaired(problem, found, stages))
    if best.proven(tolerance):
        return best
    with stages.timed("switches"):
        best, fixed = _switched(problem, best, found, tolerance, deadline)
    if best.proven(tolerance) or fixed is None:
        return best
    with stages.timed("sites"):
        return _exact_sites(problem, best, fixed, settings, deadline)


def _repaired(problem: Problem, found: Relaxation, stages: Stages) -> Found:
    """Return the plan that follows a convex answer, and what that proves of it."""
    with stages.timed("repair"):
        setpoints, verdict = followed(
            problem, found.answers.energy_kwh.T, found.answers.source_kw.T
        )
    return Found(
        setpoints,
        verdict,
        "decomposition",
        _SOLVER,
        "solved",
        found.prices,
        bound_eur=found.bound_eur,
        relaxed_gap=found.gap,
        passes=found.passes,
        stages=stages,
    )


def _followed(problem: Problem, best: Found, answers: Answers) -> Found:
    return best.or_better(
        problem, answers.energy_kwh.T, answers.source_kw.T, solver=_SOLVER, status="solved"
    )


def _switched(
    problem: Problem, best: Found, found: Relaxation, tolerance: float, deadline: float
) -> tuple[Found, _Fixed | None]:
    """Fix the switches of devices that need them, and solve their sites again at the same prices.

    Return also what came out; nothing where there are no such devices.
    """
    until = time.perf_counter() + _DIVES_SHARE * (deadline - time.perf_counter())
    loose = loose_devices(problem, SitePlans.of_answers(problem, found.answers))
    again = loose.sites(problem)
    if not again.any():
        return best, None
    prices = consistent(problem, found.answers.multipliers(problem, found.prices))
    pattern = patterned(problem, loose, local_price(prices))
    best = best.bounded(proven_bound_eur(problem, prices, pattern))
    answers = found.answers.copied()
    solve_sites(pattern.problem, again, found.prices, answers)
    fixed = _Fixed(found, answers, again, prices, each_alone(problem, prices))
    narrowed = with_bounds(pattern.problem, list(_dives(fixed, pattern.problem, tolerance, until)))
    if problem.portfolio.couples:
        misfit = replace(found, answers=answers, limited=found.limited | again)
        misfit = replace(misfit, cost_eur=cost_eur(problem, answers))
        rebalanced(kept_on(narrowed, answers), misfit, tolerance * _CONVEX_SHARE)
    return _followed(problem, best, answers), fixed


def _dives(fixed: _Fixed, patterned: Problem, tolerance: float, until: float) -> Iterator[Part]:
    """Dive at the sites that lose most, while there is time; yield the bounds kept to.

    The answers are written over.
    """
    convex_eur = fixed.convex_costs()
    cost_eur = np.zeros(len(fixed.sites))
    cost_eur[fixed.sites] = fixed.costs(fixed.sites)
    loss = cost_eur[fixed.sites] - convex_eur
    enough_eur = _LEFT_SHARE * tolerance * abs(fixed.convex.cost_eur)
    for sites in _worst_first(loss, fixed.sites, enough_eur):
        if time.perf_counter() > until:
            return
        yield from _dived(fixed, patterned, cost_eur, sites)


def _dived(fixed: _Fixed, patterned: Problem, cost_eur: Floats, sites: Bools) -> Iterator[Part]:
    """Dive at these sites (K,) and keep, a site each, what is cheapest; yield the bounds kept to.

    The answers, and what all sites cost (K,), are written over.
    """
    alone, prices = fixed.alone, fixed.convex.prices
    chps = np.zeros_like(sites)
    chps[alone.sources.site[~alone.sources.curtailable]] = True
    for chosen, from_above in ((sites, False), (sites & chps, True)):
        if not chosen.any():
            continue
        part = at_sites(alone, chosen)
        free = with_ruled(part, at_sites(patterned, chosen))
        bounds, made = dived(run_through(free, prices) if from_above else free, prices)
        dive_eur = _costs(part, made.energy_kwh.T, made.source_kw.T)
        here = dive_eur < cost_eur[chosen]
        cheaper = chosen.copy()
        cheaper[chosen] = here
        cost_eur[cheaper] = dive_eur[here]
        stores, sources = cheaper[alone.stores.site], cheaper[alone.sources.site]
        fixed.answers.exchange(_at(part, made, here), stores, sources)
        yield Part(at_sites(bounds, here), stores, sources)


def _worst_first(loss: Floats, sites: Bools, left_eur: float) -> Iterator[Bools]:
    """Yield some sites at a time, of those that lose most, until all others lose this little."""
    order = np.argsort(-loss)
    left = np.maximum(loss, 0)[order[::-1]].cumsum()[::-1]  # from each on
    worst = np.flatnonzero(sites)[order[left > left_eur]]
    for first in range(0, len(worst), _SITES_AT_A_TIME):
        chosen = np.zeros_like(sites)
        chosen[worst[first : first + _SITES_AT_A_TIME]] = True
        yield chosen


def _costs(part: Problem, energy_kwh: Floats, source_kw: Floats) -> Floats:
    """Return what a plan that follows these paths costs at each site."""
    return SitePlans.of_setpoints(tracked(part, energy_kwh, source_kw)).costs_eur(part)


def _at(problem: Problem, answers: Answers, sites: Bools) -> Answers:
    return answers.of(sites[problem.stores.site], sites[problem.sources.site])


def _exact_sites(
    problem: Problem, best: Found, fixed: _Fixed, settings: PlanSettings, deadline: float
) -> Found:
    """Solve the sites that lose most by their switches with them, where that closes half the gap."""
    budget_s = _SITES_SHARE * (deadline - time.perf_counter())
    at_most = int(budget_s / _SITE_S)
    if at_most <= 0:
        return best
    loss = fixed.costs(fixed.sites) - fixed.convex_costs()
    order = np.argsort(-loss)
    too_much = best.verdict.objective_eur - (best.bound_eur or 0.0)
    too_much -= settings.gap_tolerance * abs(best.verdict.objective_eur)
    lost = np.cumsum(loss[order])
    needed = 1 + int(np.searchsorted(lost, too_much))
    if needed > at_most and lost[at_most - 1] < _WORTH_SITES * too_much:
        return best
    sites = np.flatnonzero(fixed.sites)[order[: min(needed, at_most)]]
    bound = fixed.convex.bound_eur
    for site in sites:
        one = np.arange(len(fixed.sites)) == site
        part = at_sites(fixed.alone, one)
        try:
            exact = solve_exact(
                part, min(budget_s / len(sites), _SITE_AT_MOST_S), settings.gap_tolerance / 4
            )
        except SolverError:
            continue
        convex = lower_bound_eur(part, fixed.prices.at_sites(problem, one))
        bound += max(exact.bound_eur - convex, 0.0)
        if _costs(part, exact.energy_kwh, exact.source_kw) < fixed.costs(one):
            fixed.answers.energy_kwh[one[problem.stores.site]] = exact.energy_kwh.T
            fixed.answers.source_kw[one[problem.sources.site]] = exact.source_kw.T
    return _followed(problem, best.bounded(bound), fixed.answers)
