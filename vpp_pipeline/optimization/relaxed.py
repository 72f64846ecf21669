"""The model solved as it stands, by OSQP, Clarabel or HiGHS.

Belongs here: the solvers' tuning, and their answers with the prices of the constraints. Does
not: the mathematics (`model`), making an answer fit for devices (`repair`, `exact`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cvxpy as cp
import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.model import formulate

if TYPE_CHECKING:
    from vpp_pipeline.optimization.model import Model
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem
    from vpp_pipeline.optimization.settings import Solver

_OPTIONS: dict[str, dict[str, Any]] = {
    # A fixed interval: an adaptive one is timed, and the same inputs would give other plans.
    "OSQP": {
        "eps_abs": 1e-5,
        "eps_rel": 1e-5,
        "rho": 1.0,
        "max_iter": 1_500,  # what it has not solved by then, the next solver does sooner
        "adaptive_rho_interval": 50,
    },
    "CLARABEL": {},
    "HIGHS": {},
}
# OSQP needs curvature: full power for a quarter-hour costs this share of the prices' spread.
_SMOOTHING = {"OSQP": 1e-4}
_LEAST_SPREAD_EUR_PER_KWH = 0.01  # where all prices are equal


class SolverError(RuntimeError):
    """A solver ended without a solution."""


@dataclass(frozen=True)
class Multipliers:
    """What the constraints are worth in EUR per unit; any numbers at all give a valid bound."""

    store_law: Floats  # (T, S) kWh
    over_export: Floats  # (T, K) kW
    over_import: Floats  # (T, K) kW
    ramp_up: Floats  # (T-1, G) kW
    ramp_down: Floats  # (T-1, G) kW

    def at(self, stores: Bools, sources: Bools, sites: Bools) -> Multipliers:
        """Return those of the chosen stores (S,), sources (G,) and sites (K,)."""
        return Multipliers(
            store_law=self.store_law[:, stores],
            over_export=self.over_export[:, sites],
            over_import=self.over_import[:, sites],
            ramp_up=self.ramp_up[:, sources],
            ramp_down=self.ramp_down[:, sources],
        )


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
    model = formulate(problem)
    smooth = _SMOOTHING[solver] * _curvature(problem, model) if solver in _SMOOTHING else 0.0
    status = run(
        cp.Problem(cp.Minimize(model.cost_eur + smooth), model.laws.all()),
        solver,
        time_limit_s,
        **_OPTIONS[solver],
    )
    laws, starts = model.laws, problem.stores.starts
    return Relaxed(
        status=status,
        charge_kw=model.charge_kw.value,
        discharge_kw=model.discharge_of_all(),
        energy_kwh=model.energy_kwh.value,
        source_kw=model.source_kw.value,
        multipliers=Multipliers(
            store_law=np.vstack(
                [
                    _prices(laws.first, np.ones_like(starts[:1])),
                    _prices(laws.store, np.ones_like(starts[1:])),
                ]
            ),
            over_export=_prices(laws.over_export, laws.may_export),
            over_import=_prices(laws.over_import, laws.may_import),
            ramp_up=_prices(laws.ramp_up, laws.ramped),
            ramp_down=_prices(laws.ramp_down, laws.ramped),
        ),
    )


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


def _curvature(problem: Problem, model: Model) -> cp.Expression:
    """Return a quadratic wear, EUR: at full power the prices' spread over the quarter-hour."""
    stores, sources = problem.stores, problem.sources
    spread = max(float(np.ptp(problem.price_eur_per_kwh)), _LEAST_SPREAD_EUR_PER_KWH)
    return (
        spread
        * STEP_H
        * sum(
            cp.sum(cp.multiply(_inverse_peak(most_kw), cp.square(power)))
            for power, most_kw in (
                (model.charge_kw, stores.charge_max_kw),
                (model.discharge_kw, stores.discharge_max_kw[:, model.two_way]),
                (model.source_kw, sources.max_kw),
            )
            if power.size
        )
    )


def _prices(law: cp.Constraint, where: Bools) -> Floats:
    """Return a constraint's multipliers on the full grid; zeros where a solver tells none."""
    prices = np.zeros(where.shape)
    if law.dual_value is not None:
        prices[where] = np.ravel(law.dual_value)
    return prices


def _inverse_peak(power_kw: Floats) -> Floats:
    peak_kw = np.maximum(power_kw.max(axis=0, initial=0.0), 1e-3)
    return np.broadcast_to(1 / peak_kw, power_kw.shape)
