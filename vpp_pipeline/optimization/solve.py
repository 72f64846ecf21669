"""From a problem to the best plan that could be found and proven in time.

Belongs here: the order of solvers, the clean-up after each, and when to stop. Does not: the
model (`model`), the repair (`repair`), frames (`planner`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.bound import lower_bound_eur
from vpp_pipeline.optimization.exact import solve_exact
from vpp_pipeline.optimization.fallback import greedy
from vpp_pipeline.optimization.problem import at_sites
from vpp_pipeline.optimization.relaxed import SolverError, solve_relaxed
from vpp_pipeline.optimization.repair import loose_sites, track
from vpp_pipeline.optimization.reserves import held
from vpp_pipeline.optimization.verify import Verdict, verify

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem
    from vpp_pipeline.optimization.repair import Setpoints
    from vpp_pipeline.optimization.settings import PlanSettings, Solver

_LEAST_TIME_S = 0.5  # no solver is started with less
_SITES_AT_A_TIME = 3  # one site gets at most this part of the time left, unless few are left


@dataclass(frozen=True)
class Found:
    """Set-points, who made them, and what is known of them."""

    setpoints: Setpoints
    verdict: Verdict
    solver: str
    status: str
    bound_eur: float | None
    complaints: tuple[str, ...]
    """Why solvers gave nothing better, in words."""
    passes: int = 0
    """How many solvers gave an answer."""

    @property
    def gap(self) -> float | None:
        """Return (objective - bound) / max(1, |objective|); null without a bound."""
        if self.bound_eur is None:
            return None
        objective = self.verdict.objective_eur
        return max(objective - self.bound_eur, 0.0) / max(1.0, abs(objective))


@dataclass(frozen=True)
class _Progress:
    """What is wanted of each device so far, and which sites are solved with all their switches."""

    energy_kwh: Floats  # (T, S)
    source_kw: Floats  # (T, G)
    settled: Bools  # (K,)
    settled_bound_eur: float


def solve(problem: Problem, settings: PlanSettings) -> Found:
    """Return the best plan found within the time limit: never none.

    The greedy plan is there before any solver starts. Each solver's answer is repaired; the sites
    where it was too loose for a device are solved again with their switches, one by one, for
    sites share nothing but prices. The next solver is asked, for the sites that are left, only
    while the gap is not within tolerance.
    """
    deadline = time.perf_counter() + settings.time_limit_s
    setpoints = held(problem, greedy(problem))
    verdict = verify(problem, setpoints)
    if not setpoints.store_kw.size and not setpoints.source_kw.size:
        return Found(setpoints, verdict, "none", "nothing to decide", verdict.objective_eur, ())
    best = Found(setpoints, verdict, "greedy", "not solved", None, ())
    progress = _Progress(
        setpoints.energy_kwh,
        setpoints.source_kw,
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
        proven = best.gap is not None and best.gap <= settings.gap_tolerance
        if proven or progress.settled.all():
            break
    return best


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
    relaxed = solve_relaxed(part, solver, (deadline - time.perf_counter()) / 2)
    progress = _with(problem, progress, open_sites, relaxed.energy_kwh, relaxed.source_kw)
    bound = lower_bound_eur(part, relaxed.multipliers) + progress.settled_bound_eur
    best = replace(_bounded(best, bound), passes=best.passes + 1)
    best = _better(problem, best, progress, solver, relaxed.status)
    if problem.portfolio.couples:
        return best, progress  # no site can be solved by itself

    loose = np.flatnonzero(open_sites)[loose_sites(part, relaxed)]
    progress = _settled(problem, progress, loose, deadline, gap)
    left = ~progress.settled[open_sites]
    rest = lower_bound_eur(
        at_sites(part, left),
        relaxed.multipliers.at_sites(part, left),
    )
    best = _bounded(best, rest + progress.settled_bound_eur)
    return _better(problem, best, progress, solver, relaxed.status), progress


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


def _bounded(best: Found, bound_eur: float) -> Found:
    known = best.bound_eur
    return replace(best, bound_eur=bound_eur if known is None else max(known, bound_eur))


def _with(
    problem: Problem, progress: _Progress, sites: Bools, energy_kwh: Floats, source_kw: Floats
) -> _Progress:
    energy, source = progress.energy_kwh.copy(), progress.source_kw.copy()
    energy[:, sites[problem.stores.site]] = energy_kwh
    source[:, sites[problem.sources.site]] = source_kw
    return replace(progress, energy_kwh=energy, source_kw=source)


def _better(problem: Problem, best: Found, progress: _Progress, solver: str, status: str) -> Found:
    setpoints = held(problem, track(problem, progress.energy_kwh, progress.source_kw))
    verdict = verify(problem, setpoints)
    if verdict.objective_eur > best.verdict.objective_eur:
        return best
    return replace(best, setpoints=setpoints, verdict=verdict, solver=solver, status=status)
