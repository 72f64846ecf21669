"""A large fleet's plan: its convex answer, the switches that devices have, and the proof.

Belongs here: from the convex answer to powers that every device can follow. Does not: finding
that answer (`decompose`), a device's best switches (`integers`), whole sites with theirs (`exact`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.bound import lower_bound_eur
from vpp_pipeline.optimization.decomposition.at_prices import solve_sites
from vpp_pipeline.optimization.decomposition.decompose import balanced, cost_eur, relaxations
from vpp_pipeline.optimization.duty import kept_on, now_and_then, starved
from vpp_pipeline.optimization.exact import solve_exact
from vpp_pipeline.optimization.found import Found, Stages, followed
from vpp_pipeline.optimization.integers import (
    local_price,
    loose_devices,
    patterned,
    proven_bound_eur,
)
from vpp_pipeline.optimization.multipliers import consistent
from vpp_pipeline.optimization.problem import at_sites, no_portfolio, select
from vpp_pipeline.optimization.relaxed import SolverError

if TYPE_CHECKING:
    from vpp_pipeline.optimization.decomposition.answers import Answers
    from vpp_pipeline.optimization.decomposition.decompose import Relaxation
    from vpp_pipeline.optimization.found import Prices
    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem
    from vpp_pipeline.optimization.settings import PlanSettings

_SOLVER = "interior point"
_SITE_S, _SITE_AT_MOST_S = 2.0, 5.0  # a site with its switches takes about, and gets at most
_SITES_SHARE = 0.3  # of the time left, for such sites
_CONVEX_SHARE = 0.7  # of the gap allowed, for the convex answer


@dataclass(frozen=True)
class _Wish:
    """The answers as `integers` reads them, time first."""

    charge_kw: Floats
    discharge_kw: Floats
    energy_kwh: Floats
    source_kw: Floats


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
        best, fixed, again = _switched(problem, best, found, tolerance)
    if best.proven(tolerance) or fixed is None:
        return best
    with stages.timed("sites"):
        return _exact_sites(problem, best, found, fixed, again, settings, deadline)


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
    problem: Problem, best: Found, found: Relaxation, tolerance: float
) -> tuple[Found, Relaxation | None, Bools]:
    """Fix the switches of devices that need them, and solve their sites again at the same prices.

    Return also what came out, and the sites (K,) of such devices; nothing where there are none.
    """
    answers = found.answers
    loose = loose_devices(problem, _wish(answers))
    again = loose.sites(problem)
    if not again.any():
        return best, None, again
    prices = consistent(problem, answers.multipliers(problem, found.prices))
    pattern = patterned(problem, loose, local_price(prices))
    best = best.bounded(proven_bound_eur(problem, prices, pattern))
    answers = answers.copied()
    narrowed = pattern.problem
    solve_sites(narrowed, again, found.prices, answers)
    narrowed = _fed(problem, narrowed, found, answers)
    fixed = replace(found, answers=answers, limited=found.limited | again)
    fixed = replace(fixed, cost_eur=cost_eur(problem, answers))
    if problem.portfolio.couples:
        fixed = balanced(narrowed, fixed, tolerance * _CONVEX_SHARE, 0)
    return _followed(problem, best, fixed.answers), fixed, again


def _fed(problem: Problem, narrowed: Problem, found: Relaxation, answers: Answers) -> Problem:
    """Let the devices that a pattern starved charge now and then; return the problem they keep to.

    `answers` are written over.
    """
    chosen = starved(problem, found.answers.energy_kwh.T, answers.energy_kwh.T)
    if not len(chosen):
        return narrowed
    sites: Bools = np.zeros(len(problem.sites.import_limit_kw), dtype=np.bool_)
    sites[problem.stores.site[chosen]] = True
    wider = _unpatterned(problem, narrowed, chosen)
    tried = now_and_then(wider, chosen, found.answers.charge_kw.T)
    solve_sites(tried, sites, found.prices, answers)
    kept = kept_on(tried, chosen, answers.charge_kw.T)
    solve_sites(kept, sites, found.prices, answers)
    return kept


def _unpatterned(problem: Problem, narrowed: Problem, chosen: Places) -> Problem:
    """Give chosen stores' charging its own bounds back."""
    low, high = narrowed.stores.charge_min_kw.copy(), narrowed.stores.charge_max_kw.copy()
    low[:, chosen] = problem.stores.charge_min_kw[:, chosen]
    high[:, chosen] = problem.stores.charge_max_kw[:, chosen]
    stores = replace(narrowed.stores, charge_min_kw=low, charge_max_kw=high)
    return replace(narrowed, stores=stores)


def _exact_sites(  # noqa: PLR0917 - a plan and what is known of it
    problem: Problem,
    best: Found,
    found: Relaxation,
    fixed: Relaxation,
    again: Bools,
    settings: PlanSettings,
    deadline: float,
) -> Found:
    """Solve the sites that lose most by their switches with them, where few make up the gap."""
    if problem.portfolio.wants_reserve:
        return best  # a site's reserve is not a matter of its own
    multipliers = consistent(problem, found.answers.multipliers(problem, found.prices))
    price = multipliers.energy_eur_per_kwh
    alone = replace(problem, price_eur_per_kwh=price, portfolio=no_portfolio(price))
    loss = _site_costs(alone, fixed.answers, again) - _site_costs(alone, found.answers, again)
    order = np.argsort(-loss)
    too_much = best.verdict.objective_eur - (best.bound_eur or 0.0)
    too_much -= settings.gap_tolerance * abs(best.verdict.objective_eur)
    needed = 1 + int(np.searchsorted(np.cumsum(loss[order]), too_much))
    budget_s = _SITES_SHARE * (deadline - time.perf_counter())
    if needed * _SITE_S > budget_s:
        return best
    sites = np.flatnonzero(again)[order[:needed]]
    answers = fixed.answers.copied()
    bound = found.bound_eur
    for site in sites:
        one = np.arange(len(again)) == site
        part = at_sites(alone, one)
        try:
            exact = solve_exact(
                part, min(budget_s / needed, _SITE_AT_MOST_S), settings.gap_tolerance / 4
            )
        except SolverError:
            continue
        answers.energy_kwh[one[problem.stores.site]] = exact.energy_kwh.T
        answers.source_kw[one[problem.sources.site]] = exact.source_kw.T
        convex = lower_bound_eur(part, multipliers.at_sites(problem, one))
        bound += max(exact.bound_eur - convex, 0.0)
    return _followed(problem, best.bounded(bound), answers)


def _site_costs(problem: Problem, answers: Answers, sites: Bools) -> Floats:
    """Return what the devices at the chosen sites cost at the market's prices, a site each."""
    at_stores, at_sources = sites[problem.stores.site], sites[problem.sources.site]
    stores, sources = select(problem.stores, at_stores), select(problem.sources, at_sources)
    charge, discharge = answers.charge_kw[at_stores].T, answers.discharge_kw[at_stores].T
    energy, source = answers.energy_kwh[at_stores].T, answers.source_kw[at_sources].T
    price = problem.price_eur_per_kwh
    moved = np.where(sources.curtailable, sources.max_kw - source, source)
    of_stores = (
        STEP_H * (price @ (charge - discharge))
        + 0.5 * STEP_H * stores.wear_eur_per_kwh * (charge + discharge).sum(axis=0)
        + 0.5 * STEP_H * stores.curvature_eur_per_kw2h * (charge**2 + discharge**2).sum(axis=0)
        + (stores.shortfall_eur_per_kwh * np.maximum(stores.wished_kwh - energy, 0)).sum(axis=0)
        + (stores.excess_eur_per_kwh * np.maximum(energy - stores.comfort_kwh, 0)).sum(axis=0)
        - stores.end_value_eur_per_kwh * energy[-1]
    )
    of_sources = STEP_H * (
        sources.cost_eur_per_kwh * source.sum(axis=0)
        - price @ source
        + 0.5 * sources.curvature_eur_per_kw2h * (moved**2).sum(axis=0)
    )
    total: Floats = np.zeros(len(sites))
    np.add.at(total, stores.site, of_stores)
    np.add.at(total, sources.site, of_sources)
    return total[sites]


def _wish(answers: Answers) -> _Wish:
    return _Wish(
        answers.charge_kw.T, answers.discharge_kw.T, answers.energy_kwh.T, answers.source_kw.T
    )
