"""The model solved as it stands, by OSQP, Clarabel or HiGHS.

Belongs here: the solvers' tuning, and their answers with the prices of the constraints. Does
not: the mathematics (`model`), making an answer fit for devices (`repair`, `exact`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cvxpy as cp
import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.model import formulate
from vpp_pipeline.optimization.multipliers import Multipliers, consistent

if TYPE_CHECKING:
    from vpp_pipeline.optimization.model import Laws, Model
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem
    from vpp_pipeline.optimization.settings import Solver

_OPTIONS: dict[str, dict[str, Any]] = {
    # A fixed interval: an adaptive one is timed, and the same inputs would give other plans.
    "OSQP": {
        "eps_abs": 1e-5,
        "eps_rel": 1e-5,
        "rho": 0.01,
        "max_iter": 1_500,  # what it has not solved by then, the next solver does sooner
        "adaptive_rho_interval": 50,
    },
    "CLARABEL": {},
    "HIGHS": {},
}
# OSQP needs curvature: at full power a kWh costs at least this share of the prices' spread more.
_LEAST_CURVATURE = 2e-4
_LEAST_SPREAD_EUR_PER_KWH = 0.01  # where all prices are equal
# HiGHS is for what is linear: its solver of quadratic problems is slow and not robust.
_LINEAR = ("HIGHS",)


class SolverError(RuntimeError):
    """A solver ended without a solution."""


@dataclass(frozen=True)
class Relaxed:
    """A solver's answer as it gave it: not to be trusted."""

    status: str
    charge_kw: Floats  # (T, S)
    discharge_kw: Floats  # (T, S)
    energy_kwh: Floats  # (T, S)
    source_kw: Floats  # (T, G)
    multipliers: Multipliers


def solve_relaxed(problem: Problem, solver: Solver, time_limit_s: float) -> Relaxed:
    """Solve the relaxation with OSQP, CLARABEL or HIGHS, within about `time_limit_s`.

    Raises `SolverError` when there is no solution to use.
    """
    posed = _curved(problem) if solver == "OSQP" else problem
    model = formulate(posed, linear=solver in _LINEAR)
    status = run(
        cp.Problem(cp.Minimize(model.cost_eur), [*model.laws.all(), *_turns(posed, model)]),
        solver,
        time_limit_s,
        **_OPTIONS[solver],
    )
    return Relaxed(
        status=status,
        charge_kw=model.charge_kw.value,
        discharge_kw=model.discharge_of_all(),
        energy_kwh=model.energy_kwh.value,
        source_kw=model.source_kw.value,
        multipliers=_multipliers(problem, model.laws),
    )


def _turns(problem: Problem, model: Model) -> list[cp.Constraint]:
    """Share each quarter-hour between charging and discharging: convex, and nearest to either.

    Only where energy is worth less than nothing does a store gain by both at once.
    """
    stores, two_way = problem.stores, np.flatnonzero(model.two_way)
    most_in, most_out = stores.charge_max_kw[:, two_way], stores.discharge_max_kw[:, two_way]
    unwanted = problem.portfolio.surplus_eur_per_kwh[:, None] < 0
    step, store = np.nonzero(unwanted & (most_in > 0) & (most_out > 0))
    if not len(step):
        return []
    share_in = cp.multiply(1 / most_in[step, store], model.charge_kw[step, two_way[store]])
    share_out = cp.multiply(1 / most_out[step, store], model.discharge_kw[step, store])
    return [share_in + share_out <= 1]


def run(problem: cp.Problem, solver: Solver, time_limit_s: float, **options: Any) -> str:
    """Solve and return the solver's status; raises `SolverError` where no solution came out."""
    with warnings.catch_warnings():
        # cvxpy warns of an inexact solution; every solution is checked and repaired anyway.
        warnings.simplefilter("ignore")
        try:
            problem.solve(solver=solver, canon_backend="COO", time_limit=time_limit_s, **options)
        except cp.SolverError as error:
            raise SolverError(f"{solver}: {error}") from error
    if any(variable.value is None for variable in problem.variables()):
        raise SolverError(f"{solver} ended {problem.status} without a solution")
    return str(problem.status)


def _curved(problem: Problem) -> Problem:
    """Return the problem with at least so much curvature as makes OSQP converge."""
    stores, sources = problem.stores, problem.sources
    spread = max(float(np.ptp(problem.price_eur_per_kwh)), _LEAST_SPREAD_EUR_PER_KWH)

    def at_least(curvature: Floats, most_kw: Floats) -> Floats:
        rated_kw = np.maximum(most_kw.max(axis=0, initial=0.0), 1e-3)
        least: Floats = _LEAST_CURVATURE * spread / rated_kw
        return np.where(curvature > least, curvature, least)

    most_kw = np.maximum(stores.charge_max_kw, stores.discharge_max_kw)
    return replace(
        problem,
        stores=replace(
            stores, curvature_eur_per_kw2h=at_least(stores.curvature_eur_per_kw2h, most_kw)
        ),
        sources=replace(
            sources,
            curvature_eur_per_kw2h=at_least(sources.curvature_eur_per_kw2h, sources.max_kw),
        ),
    )


def _multipliers(problem: Problem, laws: Laws) -> Multipliers:
    """Return the constraints' prices on their full grids, within what the portfolio can pay."""
    prices = Multipliers.price_taker(
        problem,
        _prices(laws.store, np.ones_like(problem.stores.starts)),
        over_export=_prices(laws.over_export, laws.may_export),
        over_import=_prices(laws.over_import, laws.may_import),
        ramp_up=_prices(laws.ramp_up, laws.ramped),
        ramp_down=_prices(laws.ramp_down, laws.ramped),
    )
    if laws.fleet:
        fleet, count = (
            laws.fleet,
            problem.stores.drift_kwh.shape[1] + problem.sources.max_kw.shape[1],
        )
        surplus = problem.portfolio.surplus_eur_per_kwh
        per_kw = _prices(fleet.total, fleet.counted) / np.sqrt(count)
        prices = replace(
            prices,
            energy_eur_per_kwh=surplus + per_kw / STEP_H,
            peak_eur_per_kw=_prices(fleet.peak, fleet.counted) / np.sqrt(count),
        )
    if laws.reserve:
        reserve, ready = laws.reserve, prices.power_up.shape[1]
        where = np.broadcast_to(reserve.asked[:, None], prices.power_up.shape)
        per_kwh = 1 / (STEP_H * np.sqrt(ready))
        prices = replace(
            prices,
            reserve_up_eur_per_kwh=_prices(reserve.offered_up, reserve.asked) * per_kwh,
            reserve_down_eur_per_kwh=_prices(reserve.offered_down, reserve.asked) * per_kwh,
            power_up=_prices(reserve.power_up, where),
            power_down=_prices(reserve.power_down, where),
            energy_up=_prices(reserve.energy_up, where),
            energy_down=_prices(reserve.energy_down, where),
        )
    return consistent(problem, prices)


def _prices(law: cp.Constraint, where: Bools) -> Floats:
    """Return a constraint's multipliers on the full grid; zeros where a solver tells none."""
    prices = np.zeros(where.shape)
    if law.dual_value is not None:
        prices[where] = np.ravel(law.dual_value)
    return prices
