"""A small fleet solved whole by a cvxpy solver, its switches by integers, site by site or whole.

Belongs here: the order of solvers, the clean-up after each, and when to stop. Does not: the
model (`model`), the repair (`repair`), fleets too large for it (`decomposition`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.bound import lower_bound_eur
from vpp_pipeline.optimization.exact import solve_exact
from vpp_pipeline.optimization.found import Found, Prices
from vpp_pipeline.optimization.integers import loose_devices, settled
from vpp_pipeline.optimization.problem import at_sites
from vpp_pipeline.optimization.relaxed import SolverError, solve_relaxed

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem
    from vpp_pipeline.optimization.settings import PlanSettings, Solver

_LEAST_TIME_S = 0.5  # no solver is started with less
_SITES_AT_A_TIME = 3  # one site gets at most this part of the time left, unless few are left


@dataclass(frozen=True)
class _Progress:
    """What is wanted of each device so far, and which sites are solved with all their switches."""

    energy_kwh: Floats  # (T, S)
    source_kw: Floats  # (T, G)
    settled: Bools  # (K,)
    settled_bound_eur: float


def solve_whole(problem: Problem, settings: PlanSettings, deadline: float, best: Found) -> Found:
    """Return the best plan found before the deadline (of `time.perf_counter`), `best` at worst.

    Each solver's answer is repaired. Where sites share nothing but prices, those for whose
    devices it was too loose are solved again with their switches, one by one; where they share
    more, its switches are fixed and the rest is solved again. The next solver is asked, for what
    is left, only while the gap is not within tolerance; after the last one, sites that share more
    than prices are solved all together with their switches.
    """
    progress = _Progress(
        best.setpoints.energy_kwh,
        best.setpoints.source_kw,
        np.zeros(len(problem.sites.import_limit_kw), dtype=np.bool_),
        0.0,
    )
    for solver in settings.solvers:
        if deadline - time.perf_counter() < _LEAST_TIME_S:
            return replace(best, complaints=(*best.complaints, f"no time left for {solver}"))
        try:
            best, progress = _improved(
                problem,
                best,
                progress,
                solver=solver,
                deadline=deadline,
                gap=settings.gap_tolerance,
            )
        except SolverError as error:
            best = replace(best, complaints=(*best.complaints, str(error)))
        if best.proven(settings.gap_tolerance) or progress.settled.all():
            break
    if problem.portfolio.couples and not best.proven(settings.gap_tolerance):
        return _with_all_switches(problem, best, deadline, settings.gap_tolerance)
    return best


def _with_all_switches(problem: Problem, best: Found, deadline: float, gap: float) -> Found:
    """Solve all sites together with their switches, for what is left of the time."""
    left_s = deadline - time.perf_counter()
    if left_s < _LEAST_TIME_S:
        return best
    try:
        with best.stages.timed("switches"):
            exact = solve_exact(problem, left_s, gap / 4)
    except SolverError as error:
        return replace(best, complaints=(*best.complaints, str(error)))
    return best.bounded(exact.bound_eur).or_better(
        problem, exact.energy_kwh, exact.source_kw, solver="HIGHS", status="with all switches"
    )


def _improved(
    problem: Problem,
    best: Found,
    progress: _Progress,
    *,
    solver: Solver,
    deadline: float,
    gap: float,
) -> tuple[Found, _Progress]:
    """Ask one solver for the sites that are not settled, then settle those it was too loose for."""
    open_sites = ~progress.settled
    part = at_sites(problem, open_sites)
    with best.stages.timed("solve"):
        relaxed = solve_relaxed(part, solver, (deadline - time.perf_counter()) / 2)
    progress = _with(problem, progress, open_sites, relaxed.energy_kwh, relaxed.source_kw)
    prices = relaxed.multipliers
    bound = lower_bound_eur(part, prices) + progress.settled_bound_eur
    best = replace(
        best.bounded(bound),
        method="monolith",
        passes=best.passes + 1,
        prices=Prices(
            prices.energy_eur_per_kwh,
            prices.peak_eur_per_kw,
            prices.reserve_up_eur_per_kwh,
            prices.reserve_down_eur_per_kwh,
        ),
    )
    best = best.or_better(
        problem, progress.energy_kwh, progress.source_kw, solver=solver, status=relaxed.status
    )
    if best.proven(gap):
        return best, progress
    if problem.portfolio.couples:
        with best.stages.timed("switches"):
            fixed = settled(problem, relaxed, solver, (deadline - time.perf_counter()) / 2)
        best = best.bounded(fixed.bound_eur)
        if fixed.verdict.objective_eur < best.verdict.objective_eur:
            best = replace(best, setpoints=fixed.setpoints, verdict=fixed.verdict, solver=solver)
        return best, progress

    with best.stages.timed("switches"):
        loose = np.flatnonzero(open_sites)[loose_devices(part, relaxed).sites(part)]
        progress = _settled(problem, progress, loose, deadline, gap)
    left = ~progress.settled[open_sites]
    rest = lower_bound_eur(at_sites(part, left), relaxed.multipliers.at_sites(part, left))
    best = best.bounded(rest + progress.settled_bound_eur)
    return (
        best.or_better(
            problem, progress.energy_kwh, progress.source_kw, solver=solver, status=relaxed.status
        ),
        progress,
    )


def _settled(
    problem: Problem, progress: _Progress, sites: Places, deadline: float, gap: float
) -> _Progress:
    """Solve sites with their switches, one at a time, while there is time."""
    for nth, site in enumerate(sites):
        left_s = deadline - time.perf_counter()
        if left_s < _LEAST_TIME_S:
            break
        one = np.arange(len(progress.settled)) == site
        try:
            share_s = left_s / min(len(sites) - nth, _SITES_AT_A_TIME)
            exact = solve_exact(at_sites(problem, one), share_s, gap / 4)
        except SolverError:
            continue
        progress = replace(
            _with(problem, progress, one, exact.energy_kwh, exact.source_kw),
            settled=progress.settled | one,
            settled_bound_eur=progress.settled_bound_eur + exact.bound_eur,
        )
    return progress


def _with(
    problem: Problem, progress: _Progress, sites: Bools, energy_kwh: Floats, source_kw: Floats
) -> _Progress:
    energy, source = progress.energy_kwh.copy(), progress.source_kw.copy()
    energy[:, sites[problem.stores.site]] = energy_kwh
    source[:, sites[problem.sources.site]] = source_kw
    return replace(progress, energy_kwh=energy, source_kw=source)
