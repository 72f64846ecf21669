"""The next prices: the portfolio against what the fleet would do a little off its last prices.

Belongs here: one small programme in cvxpy, and its solver. Does not: the fleet's answer
(`at_prices`), the portfolio's rows (`shared`).

With E the fleet's answer to prices (kW for a EUR/kW), the fleet near prices y is taken to cost
y'D + ½ w'Ew for a change of power D = E w, so that it follows the prices y + w. What is then still
missing, s, can be had at the prices' trust beyond y, which keeps all rows' prices together there:

    minimise    cost'v + y'(E w + s) + ½ w'E w + trust |s|
    subject to  matrix v + power + E w + s = right,   low <= v <= high
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np
from scipy.linalg import LinAlgError, cholesky

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
    try:
        root = cholesky(scaled + _ROUNDING * np.trace(scaled) / links * np.eye(links))
    except LinAlgError:
        raise MasterError("the fleet's power does not follow its prices") from None
    v = cp.Variable(len(shared.cost))
    change, beside = cp.Variable(links), cp.Variable(links)
    own_cost, last = shared.cost / trust_eur_per_kw, price / trust_eur_per_kw
    follow, stand_in = (np.zeros((len(shared.right), links)) for _ in range(2))
    follow[:links], stand_in[:links] = scaled, np.eye(links)
    right = shared.right / size_kw
    right[:links] -= power_kw / size_kw
    rows = shared.matrix @ v + follow @ change + stand_in @ beside == right
    problem = cp.Problem(
        cp.Minimize(
            own_cost @ v
            + last @ (scaled @ change + beside)
            + 0.5 * cp.sum_squares(root @ change)
            + cp.norm1(beside)
        ),
        [rows, v >= shared.low / size_kw, v <= shared.high / size_kw],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an inexact price is a price
        try:
            problem.solve(solver="OSQP", **_OPTIONS)
        except cp.SolverError as error:
            raise MasterError(str(error)) from error
    if rows.dual_value is None:
        raise MasterError(f"the solver ended {problem.status}")
    told: Floats = -rows.dual_value * trust_eur_per_kw
    return told
