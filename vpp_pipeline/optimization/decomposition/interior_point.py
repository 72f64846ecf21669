"""Mehrotra's predictor-corrector method on a block, compiled, step by step.

Belongs here: residuals, the banded Newton system, directions and step lengths of one block, and
solving blocks at given prices of the shared rows. Does not: what a block is (`assembly`), blocks
that wait for each other (`coupled`).

For  min ½x'Qx + q'x,  Ax = b, low <= x <= high  the iterate is (x, y, zl, zu); with
theta = 1 / (Q + zl/(x-low) + zu/(high-x)) the Newton step is (A theta A') dy = r_p - A theta r,
dx = theta (A'dy + r)  (Nocedal & Wright, Numerical Optimization, 2nd ed., ch. 16.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from vpp_pipeline.optimization.decomposition import band as banded

if TYPE_CHECKING:
    from vpp_pipeline.optimization.decomposition.assembly import Programmes
    from vpp_pipeline.optimization.problem import Floats

_STEPS_AT_MOST = 60
NEAR_BOUND = 0.9995  # of the way to the nearest bound
_LEAST_SLACK = 1e-14
_SLOWEST = 1e-30


class Iterate(NamedTuple):
    """Where the method stands, for all blocks' variables (V) and rows (R)."""

    x: Floats
    at_low: Floats  # (V,) multiplier of x >= low
    at_high: Floats
    y: Floats  # (R,)
    theta: Floats  # (V,)
    by_low: Floats  # (V,) 1 / (x - low)
    by_high: Floats
    dual_residual: Floats  # (V,)
    row_residual: Floats  # (R,)
    push: Floats  # (V,) the direction's right-hand side
    dx: Floats
    d_low: Floats
    d_high: Floats
    dy: Floats  # (R,)
    band: Floats  # (R, W)
    pivot: Floats  # (R,)


def begin(programmes: Programmes, complementarity_eur: float) -> Iterate:
    """Return the middle of all boxes, every pair of bound and multiplier at one product."""
    variables, rows = len(programmes.linear), len(programmes.right)
    x = 0.5 * (programmes.low + programmes.high)
    multiplier = complementarity_eur / np.maximum(x - programmes.low, _LEAST_SLACK)
    empty = [np.zeros(variables) for _ in range(8)]
    width = int(programmes.width.max(initial=1)) + 1
    return Iterate(
        x=x,
        at_low=multiplier,
        at_high=multiplier.copy(),
        y=np.zeros(rows),
        theta=empty[0],
        dual_residual=empty[1],
        row_residual=np.zeros(rows),
        push=empty[2],
        dx=empty[3],
        d_low=empty[4],
        d_high=empty[5],
        by_low=empty[6],
        by_high=empty[7],
        dy=np.zeros(rows),
        band=np.zeros((rows, width)),
        pivot=np.zeros(rows),
    )


@njit(cache=True, nogil=True)
def linearise(of, at, b, price):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Compute a block's residuals and factored Newton system; return (gap, worst residuals)."""
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    r0, r1 = of.row_first[b], of.row_first[b + 1]
    width = of.width[b]
    gap = worst_dual = worst_row = 0.0
    for r in range(r0, r1):
        at.row_residual[r] = of.right[r]
        for d in range(width + 1):
            at.band[r, d] = 0.0
    for v in range(v0, v1):
        x = at.x[v]
        below, above = x - of.low[v], of.high[v] - x
        at.by_low[v], at.by_high[v] = 1.0 / below, 1.0 / above
        gap += at.at_low[v] * below + at.at_high[v] * above
        residual = of.linear[v] + of.quadratic[v] * x - at.at_low[v] + at.at_high[v]
        if of.link[v] >= 0:
            residual -= of.link_value[v] * price[of.link[v]]
        theta = 1.0 / (
            of.quadratic[v] + at.at_low[v] * at.by_low[v] + at.at_high[v] * at.by_high[v]
        )
        first, last = of.entry_first[v], of.entry_first[v + 1]
        for z in range(first, last):
            row, value = r0 + of.entry_row[z], of.entry_value[z]
            at.row_residual[row] -= value * x
            residual -= value * at.y[row]
            weighted = theta * value
            for k in range(first, last):
                other = r0 + of.entry_row[k]
                if other <= row:
                    at.band[row, row - other] += weighted * of.entry_value[k]
        at.theta[v] = theta
        at.dual_residual[v] = -residual
        worst_dual = max(worst_dual, abs(residual))
    for r in range(r0, r1):
        worst_row = max(worst_row, abs(at.row_residual[r]))
    banded.factor(at.band, r0, r1, width, at.pivot)
    return gap, worst_dual, worst_row


@njit(cache=True, nogil=True)
def aim(of, at, b, centre, corrected):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Set the push towards complementarity `centre` (with the second-order terms of the direction
    that is there, where `corrected`), and begin `dy` with the rows' part: M⁻¹(r_p - A theta r).
    """
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    r0, r1 = of.row_first[b], of.row_first[b + 1]
    for r in range(r0, r1):
        at.dy[r] = at.row_residual[r]
    for v in range(v0, v1):
        low, high = centre, centre
        if corrected:
            low -= at.dx[v] * at.d_low[v]
            high += at.dx[v] * at.d_high[v]
        push = (
            at.dual_residual[v]
            + low * at.by_low[v]
            - at.at_low[v]
            - high * at.by_high[v]
            + at.at_high[v]
        )
        at.push[v] = push
        for z in range(of.entry_first[v], of.entry_first[v + 1]):
            at.dy[r0 + of.entry_row[z]] -= of.entry_value[z] * at.theta[v] * push
    banded.solve(at.band, r0, r1, of.width[b], at.pivot, at.dy)


@njit(cache=True, nogil=True)
def direct(of, at, b, d_price, centre, corrected):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Complete the direction for a change of the shared rows' prices; return (primal, dual) steps.

    `at.dx`, `at.d_low` and `at.d_high` hold the last direction when this begins.
    """
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    r0 = of.row_first[b]
    fast = dual = 0.0  # the inverse of the longest steps
    for v in range(v0, v1):
        low, high = centre, centre
        if corrected:
            low -= at.dx[v] * at.d_low[v]
            high += at.dx[v] * at.d_high[v]
        push = at.push[v]
        for z in range(of.entry_first[v], of.entry_first[v + 1]):
            push += of.entry_value[z] * at.dy[r0 + of.entry_row[z]]
        if of.link[v] >= 0:
            push += of.link_value[v] * d_price[of.link[v]]
        dx = at.theta[v] * push
        d_low = (low - at.at_low[v] * dx) * at.by_low[v] - at.at_low[v]
        d_high = (high + at.at_high[v] * dx) * at.by_high[v] - at.at_high[v]
        fast = max(fast, -dx * at.by_low[v], dx * at.by_high[v])
        if d_low < -dual * at.at_low[v]:
            dual = -d_low / at.at_low[v]
        if d_high < -dual * at.at_high[v]:
            dual = -d_high / at.at_high[v]
        at.dx[v], at.d_low[v], at.d_high[v] = dx, d_low, d_high
    return 1.0 / max(fast, _SLOWEST), 1.0 / max(dual, _SLOWEST)


@njit(cache=True, nogil=True)
def gap_after(of, at, b, primal, dual):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return the block's complementarity after steps of these lengths."""
    gap = 0.0
    for v in range(of.variable_first[b], of.variable_first[b + 1]):
        x = at.x[v] + primal * at.dx[v]
        gap += (at.at_low[v] + dual * at.d_low[v]) * (x - of.low[v])
        gap += (at.at_high[v] + dual * at.d_high[v]) * (of.high[v] - x)
    return gap


@njit(cache=True, nogil=True)
def move(of, at, b, primal, dual):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Take the step, never onto a bound."""
    for v in range(of.variable_first[b], of.variable_first[b + 1]):
        least = 1e-13 * (of.high[v] - of.low[v])
        x = at.x[v] + primal * at.dx[v]
        at.x[v] = min(max(x, of.low[v] + least), of.high[v] - least)
        at.at_low[v] = max(at.at_low[v] + dual * at.d_low[v], 1e-16)
        at.at_high[v] = max(at.at_high[v] + dual * at.d_high[v], 1e-16)
    for r in range(of.row_first[b], of.row_first[b + 1]):
        at.y[r] += dual * at.dy[r]


@njit(cache=True, nogil=True)
def solve_alone(of, at, first, last, price, tolerance_eur):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Solve blocks [first, last) at fixed prices of the shared rows; return the worst gap, EUR."""
    worst = 0.0
    still = np.zeros(len(price))
    for b in range(first, last):
        variables = of.variable_first[b + 1] - of.variable_first[b]
        if variables == 0:
            continue
        gap = 0.0
        for _ in range(_STEPS_AT_MOST):
            gap, off, short = linearise(of, at, b, price)
            if gap < tolerance_eur and off < 1e-7 and short < 1e-7:
                break
            mean = gap / (2 * variables)
            aim(of, at, b, 0.0, False)
            primal, dual = direct(of, at, b, still, 0.0, False)
            after = gap_after(of, at, b, min(1.0, primal), min(1.0, dual))
            centre = mean * (after / gap) ** 3
            aim(of, at, b, centre, True)
            primal, dual = direct(of, at, b, still, centre, True)
            move(of, at, b, min(1.0, NEAR_BOUND * primal), min(1.0, NEAR_BOUND * dual))
        worst = max(worst, gap)
    return worst


@njit(cache=True, nogil=True)
def collect(of, at, result, multiplier):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Add the variables to the flat results, and write the rows' multipliers."""
    for v in range(len(of.linear)):
        if of.target[v] >= 0:
            result[of.target[v]] += at.x[v]
    for r in range(len(of.right)):
        multiplier[of.row_target[r]] = at.y[r]
