"""The model with its switches: no device both ways at once, none below its least power.

Belongs here: the mixed-integer form and its bound, for a few sites or a small fleet. Does not: the
mathematics they share (`model`), choosing the sites (`monolith`, `decomposition.fleet`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np

from vpp_pipeline.optimization.bound import constant_eur
from vpp_pipeline.optimization.model import formulate
from vpp_pipeline.optimization.problem import select
from vpp_pipeline.optimization.relaxed import run
from vpp_pipeline.optimization.room import begun_runs_kw
from vpp_pipeline.optimization.runs import LEAST_RUNNING_KW, possible_runs, ruled

if TYPE_CHECKING:
    from vpp_pipeline.optimization.model import Model
    from vpp_pipeline.optimization.problem import Floats, Places, Problem


@dataclass(frozen=True)
class Exact:
    """A solution with all switches obeyed, and the solver's own bound on every such solution."""

    energy_kwh: Floats  # (T, S)
    source_kw: Floats  # (T, G)
    bound_eur: float


def solve_exact(problem: Problem, time_limit_s: float, relative_gap: float) -> Exact:
    """Solve with HiGHS to `relative_gap` or as far as time goes; raises `SolverError` when there is no solution in time."""
    model = formulate(problem, linear=True)
    whole = cp.Problem(
        cp.Minimize(model.cost_eur),
        model.laws.all() + _store_switches(problem, model) + _source_switches(problem, model),
    )
    run(whole, "HIGHS", time_limit_s, mip_rel_gap=relative_gap)
    info = whole.solver_stats.extra_stats
    left_open = max(info.objective_function_value - info.mip_dual_bound, 0.0)
    return Exact(
        energy_kwh=model.energy_kwh.value,
        source_kw=model.source_kw.value,
        bound_eur=float(whole.value) - left_open + constant_eur(problem),
    )


def _store_switches(problem: Problem, model: Model) -> list[cp.Constraint]:
    """Off, or one way and at least the least power; in one run where it may not be broken."""
    stores, two_way = problem.stores, model.two_way
    charges = cp.Variable(model.charge_kw.shape, boolean=True)
    discharges = cp.Variable(model.discharge_kw.shape, boolean=True)
    least_in = np.broadcast_to(stores.min_active_kw, charges.shape)
    least_out = np.broadcast_to(stores.min_active_kw[two_way], discharges.shape)
    begins = [
        _one_run(model.charge_kw[:, load], runs_kw) for load, runs_kw in possible_runs(problem)
    ]
    begun_kw = begun_runs_kw(problem)
    under_way = begun_kw[0] > 0
    return [
        model.charge_kw <= cp.multiply(stores.charge_max_kw, charges),
        model.charge_kw >= cp.multiply(least_in, charges),
        model.discharge_kw <= cp.multiply(stores.discharge_max_kw[:, two_way], discharges),
        model.discharge_kw >= cp.multiply(least_out, discharges),
        charges[:, np.flatnonzero(two_way)] + discharges <= 1,
        *(law for laws in begins for law in laws),
        model.charge_kw[0, under_way] >= begun_kw[0, under_way],
    ]


def _one_run(charge_kw: cp.Expression, runs_kw: list[Floats]) -> list[cp.Constraint]:
    """One of the runs (each (T, beginnings)) of every stay, or none."""
    chosen = [cp.Variable(of_stay.shape[1], boolean=True) for of_stay in runs_kw]
    drawn = sum(of_stay @ begins for of_stay, begins in zip(runs_kw, chosen, strict=True))
    return [charge_kw == drawn, *(cp.sum(begins) <= 1 for begins in chosen)]


def _source_switches(problem: Problem, model: Model) -> list[cp.Constraint]:
    """Off, or at least the least power; on and off for their least times."""
    _, timed = ruled(problem)
    least_kw = problem.sources.min_active_kw.copy()
    least_kw[timed] = np.maximum(least_kw[timed], LEAST_RUNNING_KW)
    switched = np.flatnonzero(least_kw > 0)
    sources = select(problem.sources, least_kw > 0)
    runs = cp.Variable((len(problem.sources.max_kw), len(switched)), boolean=True)
    source = model.source_kw[:, switched]
    return [
        source <= cp.multiply(sources.max_kw, runs),
        source >= cp.multiply(np.broadcast_to(least_kw[switched], runs.shape), runs),
        *_lasting(runs, sources.min_run_steps),
        *_lasting(1 - runs, sources.min_rest_steps),
    ]


def _lasting(state: cp.Expression, least_steps: Places) -> list[cp.Constraint]:
    """What a source changes to (T, G) it stays in for so many steps, or to the horizon's end."""
    laws = []
    for ahead in range(1, int(least_steps.max(initial=0))):
        bound = np.flatnonzero(least_steps > ahead)
        of = state[:, bound]
        if ahead + 1 < of.shape[0]:
            laws.append(of[1:-ahead] - of[: -ahead - 1] <= of[ahead + 1 :])
    return laws
