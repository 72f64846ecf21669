"""The next prices: the portfolio against what the fleet would do a little off its last prices.

Belongs here: one small programme in cvxpy, and its solver. Does not: the fleet's answer
(`at_prices`), the portfolio's rows (`shared`).

With E the fleet's answer to prices (kW for a EUR/kW), the fleet near prices y is taken to cost
y'D + ½ w'Ew for a change of power D = E w, so that it follows the prices y + w:

    minimise    cost'v + y'E w + ½ w'E w
    subject to  matrix v + power + E w = right,   low <= v <= high,   |w| <= trust
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np
from scipy.linalg import cholesky

if TYPE_CHECKING:
    from vpp_pipeline.optimization.decomposition.shared import Shared
    from vpp_pipeline.optimization.problem import Floats

_ROUNDING = 1e-9
_OPTIONS = {
    "eps_abs": 1e-6,
    "eps_rel": 1e-6,
    "max_iter": 20_000,
    "adaptive_rho_interval": 50,  # a fixed one: an adaptive one is timed
}


class MasterError(RuntimeError):
    """The solver gave no prices."""


def next_prices(
    shared: Shared, price: Floats, power_kw: Floats, answer: Floats, trust_eur_per_kw: float
) -> Floats:
    """Return prices of all shared rows (rows,), EUR/kW; those of blocks within the trust.

    `price` and `power_kw` (links,) are the last pass's, `answer` is (links, links). Raises
    `MasterError`.
    """
    links = shared.links
    size_kw = max(float(np.abs(power_kw).mean()), 1.0)
    scaled = answer * (trust_eur_per_kw / size_kw)  # both unknowns are near 1
    root = cholesky(scaled + _ROUNDING * np.trace(scaled) / links * np.eye(links))
    v = cp.Variable(len(shared.cost))
    change = cp.Variable(links)
    own_cost = shared.cost / trust_eur_per_kw
    pull = scaled @ (price / trust_eur_per_kw)
    follow = np.zeros((len(shared.right), links))
    follow[:links] = scaled
    right = shared.right / size_kw
    right[:links] -= power_kw / size_kw
    rows = shared.matrix @ v + follow @ change == right
    problem = cp.Problem(
        cp.Minimize(own_cost @ v + pull @ change + 0.5 * cp.sum_squares(root @ change)),
        [
            rows,
            v >= shared.low / size_kw,
            v <= shared.high / size_kw,
            change <= 1,
            change >= -1,
        ],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an inexact price is a price
        try:
            problem.solve(solver="OSQP", **_OPTIONS)
        except cp.SolverError as error:
            raise MasterError(str(error)) from error
    if change.value is None or rows.dual_value is None:
        raise MasterError(f"the solver ended {problem.status}")
    told: Floats = -rows.dual_value * trust_eur_per_kw
    told[:links] = price + trust_eur_per_kw * np.clip(change.value, -1, 1)
    return told
