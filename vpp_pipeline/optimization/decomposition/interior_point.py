"""Mehrotra's predictor-corrector method on blocks, compiled.

Belongs here: a block's residuals, banded Newton system, directions and step lengths; its answer
to the shared rows' prices; solving blocks alone. Does not: what a block is (`assembly`), the
shared rows' own variables and the order of steps over all blocks (`coupled`).

For  min ½x'Qx + q'x,  Ax = b, low <= x <= high  the iterate is (x, y, zl, zu); with
theta = 1 / (Q + zl/(x-low) + zu/(high-x) + rho/(high-low)) and M = A theta A' the Newton step is
M dy = r_p - A theta r,  dx = theta (A'dy + r)  (Nocedal & Wright, Numerical Optimization, 2nd
ed., ch. 16.6; rho as in Friedlander & Orban, Math. Prog. Comp. 4, 2012: where no bound holds a
variable, rounding would move it). Rows are in the order of time, so that M has a band:
`band[i, d]` is its element (i, i-d).

B takes a block's variables to the shared rows. With G = A theta B' the block answers their prices
by E = B theta B' - G' M⁻¹ G, found without a solve from end to end: see `_answer`.

All kernels stand in one file, long as it is: Numba's cache does not notice a change of a kernel
that is imported from another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from vpp_pipeline.optimization.decomposition.assembly import Programmes
    from vpp_pipeline.optimization.problem import Floats, Places

_kernel = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
_STEPS_AT_MOST = 60
NEAR_BOUND = 0.9995  # of the way to the nearest bound
_LEAST_SLACK = 1e-14
_LEAST_PIVOT = 1e-30
_NO_PIVOT = 1e-30  # a row that says nothing new is left out, as by an infinite pivot: its inverse
LEAST_SHARE = 1e-13  # of its range, that a variable keeps from each bound
LEAST_MULTIPLIER = 1e-16
NARROW = 4  # so many diagonals below the main one, or fewer, are told by four numbers
PROXIMAL_EUR = 1e-5  # rho: what its whole range changes a variable's price by, in a step
_STEPS_AS_ONE = 8  # quarter-hours in a part of the day
_ROWS_AS_ONE = 64  # rows that are multiplied at once: these, or as many as one block brings
LENGTHS = 256  # how finely the lengths of steps are counted


class _Sums(NamedTuple):
    """Sums over blocks of what they answer the shared rows' prices, these in time's order (L).

    The day is cut into parts of so many shared rows. For two that are in different parts, rows of
    `left` and `right` are collected and, when there are many, multiplied at once.
    """

    place: Places  # (L,) of a shared row, in time's order
    size: int
    total: Floats  # (L, L) of two equal elements one
    left: Floats  # (parts, rows, size)
    right: Floats  # (parts, rows · L) of each row only the shared rows after the part: `_right`
    filled: Places  # (1,) rows of `left` and `right` in use


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
    given: Floats  # (M, W) G: a shared row's column, from the first of the block's rows it meets
    inverse_pivot: Floats  # (R,)


def begin(programmes: Programmes, complementarity_eur: float) -> Iterate:
    """Return the middle of all boxes, every pair of bound and multiplier at one product."""
    variables, rows = len(programmes.linear), len(programmes.right)
    x = 0.5 * (programmes.low + programmes.high)
    multiplier = complementarity_eur / np.maximum(x - programmes.low, _LEAST_SLACK)
    empty = [np.zeros(variables) for _ in range(8)]
    width = max(int(programmes.width.max(initial=1)), NARROW) + 1
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
        given=np.zeros((len(programmes.meeting_link), width)),
        inverse_pivot=np.zeros(rows),
    )


@_kernel
def _factor(band, first, last, width, inverse_pivot):
    """Turn rows [first, last) of `band` into the unit factor L of L·D·Lᵀ; keep D⁻¹."""
    for i in range(first, last):
        begin = max(first, i - width)
        for j in range(begin + 1, i):
            total = band[i, i - j]
            for k in range(max(begin, j - width), j):
                total -= band[i, i - k] * band[j, j - k]
            band[i, i - j] = total
        pivot = band[i, 0]
        for k in range(begin, i):
            factor = band[i, i - k] * inverse_pivot[k]
            pivot -= band[i, i - k] * factor
            band[i, i - k] = factor
        inverse_pivot[i] = 1.0 / pivot if pivot > _LEAST_PIVOT else _NO_PIVOT


@_kernel
def _back_narrow(band, first, last, inverse_pivot, rhs):
    """Do what `_back` does, the last four rows at hand: loops over so few would be mostly loop."""
    a = b = c = d = 0.0
    for i in range(first, last):
        apart = band[i, 4] * d + band[i, 3] * c + band[i, 2] * b
        a, b, c, d = rhs[i] - apart - band[i, 1] * a, a, b, c
        rhs[i] = a
    a = b = c = d = 0.0
    for i in range(last - 1, first - 1, -1):
        value = rhs[i] * inverse_pivot[i] - a
        a, b = b + band[i, 1] * value, c + band[i, 2] * value
        c, d = d + band[i, 3] * value, band[i, 4] * value
        rhs[i] = value


@_kernel
def _back(band, first, last, width, inverse_pivot, rhs):
    """Solve in place for rows [first, last) of `rhs`."""
    if width <= NARROW:
        _back_narrow(band, first, last, inverse_pivot, rhs)
        return
    for i in range(first, last):
        total = rhs[i]
        for k in range(max(first, i - width), i):
            total -= band[i, i - k] * rhs[k]
        rhs[i] = total
    for i in range(last - 1, first - 1, -1):
        total = rhs[i] * inverse_pivot[i]
        for k in range(i + 1, min(last, i + width + 1)):
            total -= band[k, k - i] * rhs[k]
        rhs[i] = total


@_kernel
def _linearise(of, at, b, price):
    """Compute a block's residuals and factored Newton system.

    Return its complementarity, what its rows' residuals cost at their multipliers, and what its
    reduced costs leave between its cost and the bound they prove, EUR: of a variable, its reduced
    cost times its way to the bound where that would be cheapest.
    """
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    r0, r1 = of.row_first[b], of.row_first[b + 1]
    width = of.width[b]
    band, row_residual, y = at.band[r0:r1], at.row_residual[r0:r1], at.y[r0:r1]
    row_residual[:] = of.right[r0:r1]
    band[:, : max(width, NARROW) + 1] = 0.0
    x, low, high = at.x[v0:v1], of.low[v0:v1], of.high[v0:v1]
    at_low, at_high = at.at_low[v0:v1], at.at_high[v0:v1]
    by_low, by_high = at.by_low[v0:v1], at.by_high[v0:v1]
    theta, reduced = at.theta[v0:v1], at.dual_residual[v0:v1]
    linear, quadratic = of.linear[v0:v1], of.quadratic[v0:v1]
    link, link_value = of.link[v0:v1], of.link_value[v0:v1]
    entries, entry_row, entry_value = of.entry_first[v0 : v1 + 1], of.entry_row, of.entry_value
    gap = short = proof = 0.0
    for v in range(len(x)):
        below, above = x[v] - low[v], high[v] - x[v]
        inverse = 1.0 / (below * above)
        by_low[v], by_high[v] = above * inverse, below * inverse
        gap += at_low[v] * below + at_high[v] * above
        whole = below + above
        bent = quadratic[v] + at_low[v] * by_low[v] + at_high[v] * by_high[v]
        theta[v] = whole / (bent * whole + PROXIMAL_EUR)
        reduced[v] = linear[v] + quadratic[v] * x[v]
    for v in range(len(x)):
        if link[v] >= 0:
            reduced[v] -= link_value[v] * price[link[v]]
        first, last = entries[v], entries[v + 1]
        i, j = entry_row[first], entry_row[first + 1]
        p, q = entry_value[first], entry_value[first + 1]
        reduced[v] -= p * y[i] + q * y[j]
        row_residual[i] -= p * x[v]
        row_residual[j] -= q * x[v]
        band[i, 0] += theta[v] * p * p
        band[j, 0] += theta[v] * q * q
        band[j, j - i] += theta[v] * p * q
        for z in range(first + 2, last):
            row, value = entry_row[z], entry_value[z]
            row_residual[row] -= value * x[v]
            reduced[v] -= value * y[row]
            weighted = theta[v] * value
            for k in range(first, z):
                band[max(row, entry_row[k]), abs(row - entry_row[k])] += weighted * entry_value[k]
            band[row, 0] += weighted * value
    for v in range(len(x)):
        cost = reduced[v]
        proof += max(cost, 0.0) * (x[v] - low[v]) - min(cost, 0.0) * (high[v] - x[v])
        reduced[v] = at_low[v] - at_high[v] - cost
    for r in range(len(y)):
        short += abs(row_residual[r] * y[r])
    _factor(at.band, r0, r1, width, at.inverse_pivot)
    return gap, short, proof


@_kernel
def _aim(of, at, b, centre, bend):
    """Set the push towards complementarity `centre`, with so much of the second-order terms of the
    direction that is there as `bend` says, and begin `dy` with the rows' part: M⁻¹(r_p - A theta r).
    """
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    r0, r1 = of.row_first[b], of.row_first[b + 1]
    at_low, at_high = at.at_low[v0:v1], at.at_high[v0:v1]
    by_low, by_high = at.by_low[v0:v1], at.by_high[v0:v1]
    theta, residual = at.theta[v0:v1], at.dual_residual[v0:v1]
    push, dy = at.push[v0:v1], at.dy[r0:r1]
    dx, d_low, d_high = at.dx[v0:v1], at.d_low[v0:v1], at.d_high[v0:v1]
    for v in range(len(push)):
        low, high = centre, centre
        if bend:
            low -= bend * dx[v] * d_low[v]
            high += bend * dx[v] * d_high[v]
        push[v] = residual[v] + low * by_low[v] - at_low[v] - high * by_high[v] + at_high[v]
    dy[:] = at.row_residual[r0:r1]
    entries, entry_row, entry_value = of.entry_first[v0 : v1 + 1], of.entry_row, of.entry_value
    for v in range(len(push)):
        weighted, first = theta[v] * push[v], entries[v]
        dy[entry_row[first]] -= entry_value[first] * weighted
        dy[entry_row[first + 1]] -= entry_value[first + 1] * weighted
        for z in range(first + 2, entries[v + 1]):
            dy[entry_row[z]] -= entry_value[z] * weighted
    _back(at.band, r0, r1, of.width[b], at.inverse_pivot, at.dy)


@_kernel
def _direct(of, at, b, d_price, centre, bend, told):
    """Complete the direction for a change of the shared rows' prices.

    `at.dx`, `at.d_low` and `at.d_high` hold the last direction when this begins. Of `told` the
    first two become at most the longest primal and dual steps that all variables allow; to the
    others is added what `gap_after` needs. Return whether a variable allows less than a whole step.
    """
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    at_low, at_high = at.at_low[v0:v1], at.at_high[v0:v1]
    by_low, by_high = at.by_low[v0:v1], at.by_high[v0:v1]
    theta, push, dy = at.theta[v0:v1], at.push[v0:v1], at.dy[of.row_first[b] : of.row_first[b + 1]]
    dx, d_low, d_high = at.dx[v0:v1], at.d_low[v0:v1], at.d_high[v0:v1]
    link, link_value = of.link[v0:v1], of.link_value[v0:v1]
    entries, entry_row, entry_value = of.entry_first[v0 : v1 + 1], of.entry_row, of.entry_value
    for v in range(len(push)):
        first = entries[v]
        moved = push[v] + entry_value[first] * dy[entry_row[first]]
        moved += entry_value[first + 1] * dy[entry_row[first + 1]]
        for z in range(first + 2, entries[v + 1]):
            moved += entry_value[z] * dy[entry_row[z]]
        if link[v] >= 0:
            moved += link_value[v] * d_price[link[v]]
        push[v] = moved
    fastest, shrinking = 0.0, 0.0
    forced = curved = 0.0
    for v in range(len(push)):
        low, high = centre, centre
        if bend:
            low -= bend * dx[v] * d_low[v]
            high += bend * dx[v] * d_high[v]
        step = theta[v] * push[v]
        down = (low - at_low[v] * step) * by_low[v] - at_low[v]
        up = (high + at_high[v] * step) * by_high[v] - at_high[v]
        dx[v], d_low[v], d_high[v] = step, down, up
        forced += (at_low[v] - at_high[v]) * step
        curved += (down - up) * step
        fast = max(-step * by_low[v], step * by_high[v])
        shrink = max(-down / at_low[v], -up / at_high[v])
        fastest, shrinking = max(fastest, fast), max(shrinking, shrink)
    told[0] = min(told[0], 1.0 / max(fastest, NEAR_BOUND))
    told[1] = min(told[1], 1.0 / max(shrinking, NEAR_BOUND))
    told[2] += forced
    told[3] += curved
    return max(fastest, shrinking) > NEAR_BOUND


@_kernel
def _count(of, at, b, counts):
    """Count a direction's variables that allow less than a whole primal, or dual, step, by length."""
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    at_low, at_high = at.at_low[v0:v1], at.at_high[v0:v1]
    by_low, by_high = at.by_low[v0:v1], at.by_high[v0:v1]
    dx, d_low, d_high = at.dx[v0:v1], at.d_low[v0:v1], at.d_high[v0:v1]
    for v in range(len(dx)):
        fast = max(-dx[v] * by_low[v], dx[v] * by_high[v])
        if fast > NEAR_BOUND:
            counts[0, min(int(LENGTHS / fast), LENGTHS - 1)] += 1
        shrink = max(-d_low[v] / at_low[v], -d_high[v] / at_high[v])
        if shrink > NEAR_BOUND:
            counts[1, min(int(LENGTHS / shrink), LENGTHS - 1)] += 1


@_kernel
def _nothing_told():
    """Return what `_direct` tells of no variables: steps that end whole, and nothing to add."""
    told = np.zeros(4)
    told[:2] = 1.0 / NEAR_BOUND
    return told


@_kernel
def gap_after(gap, primal, dual, forced, curved):
    """Return the complementarity after such steps straight to 0, from what `_direct` added up."""
    return max((1.0 - dual) * gap + (primal - dual) * forced + primal * dual * curved, 0.0)


@_kernel
def _move(of, at, b, primal, dual, keep):
    """Take the step; every bound keeps a share of its room, and every multiplier of its size."""
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    x, lows, highs = at.x[v0:v1], of.low[v0:v1], of.high[v0:v1]
    at_low, at_high = at.at_low[v0:v1], at.at_high[v0:v1]
    dx, d_low, d_high = at.dx[v0:v1], at.d_low[v0:v1], at.d_high[v0:v1]
    for v in range(len(x)):
        low, high = lows[v], highs[v]
        least = LEAST_SHARE * (high - low)
        below = max(keep * (x[v] - low), least)
        above = max(keep * (high - x[v]), least)
        x[v] = min(max(x[v] + primal * dx[v], low + below), high - above)
        at_low[v] = max(at_low[v] + dual * d_low[v], keep * at_low[v], LEAST_MULTIPLIER)
        at_high[v] = max(at_high[v] + dual * d_high[v], keep * at_high[v], LEAST_MULTIPLIER)
    for r in range(of.row_first[b], of.row_first[b + 1]):
        at.y[r] += dual * at.dy[r]


@_kernel
def solve_alone(of, at, first, last, price, tolerance_eur):
    """Solve blocks [first, last) at fixed prices of the shared rows, each to this gap, EUR.

    Return the worst gap, or cost of residuals, that is left.
    """
    worst = 0.0
    still = np.zeros(len(price))
    for b in range(first, last):
        variables = of.variable_first[b + 1] - of.variable_first[b]
        if variables == 0:
            continue
        left = 0.0
        for _ in range(_STEPS_AT_MOST):
            gap, short, proof = _linearise(of, at, b, price)
            left = max(short, proof)
            if left < tolerance_eur:
                break
            told = _nothing_told()
            _aim(of, at, b, 0.0, 0.0)
            _direct(of, at, b, still, 0.0, 0.0, told)
            after = gap_after(gap, min(1.0, told[0]), min(1.0, told[1]), told[2], told[3])
            centre = gap / (2 * variables) * (after / gap) ** 3
            told[:] = _nothing_told()
            _aim(of, at, b, centre, 1.0)
            _direct(of, at, b, still, centre, 1.0, told)
            _move(of, at, b, NEAR_BOUND * told[0], NEAR_BOUND * told[1], 0.0)
        worst = max(worst, left)
    return worst


@_kernel
def unbind(of, at, first, last, share, complementarity_eur):
    """Move blocks [first, last) away from their bounds, and let each bound and multiplier have at
    least this product: near where they were, but free to go elsewhere.
    """
    for v in range(of.variable_first[first], of.variable_first[last]):
        low, high = of.low[v], of.high[v]
        away = share * (high - low)
        x = min(max(at.x[v], low + away), high - away)
        reduced = at.at_low[v] - at.at_high[v]
        at.x[v] = x
        at.at_low[v] = max(reduced, 0.0) + complementarity_eur / (x - low)
        at.at_high[v] = max(-reduced, 0.0) + complementarity_eur / (high - x)


@_kernel
def collect(of, at, result, multiplier):
    """Add the variables to the flat results, and write the rows' multipliers."""
    for v in range(len(of.linear)):
        if of.target[v] >= 0:
            result[of.target[v]] += at.x[v]
    for r in range(len(of.right)):
        multiplier[of.row_target[r]] = at.y[r]


@_kernel
def _add(into, other, times):
    """Add a multiple of a row; a loop from 0 is what the compiler knows to do in one stroke."""
    for c in range(len(into)):
        into[c] += times * other[c]


@_kernel
def _add_all(into, others, times, sign):
    """Add a multiple of each of the rows; a stroke for each would be mostly begin and end."""
    k = 0
    while k + 4 <= len(others):
        one, two, three, four = others[k], others[k + 1], others[k + 2], others[k + 3]
        a, b, c, d = sign * times[k], sign * times[k + 1], sign * times[k + 2], sign * times[k + 3]
        for i in range(len(into)):
            into[i] += (a * one[i] + b * two[i]) + (c * three[i] + d * four[i])
        k += 4
    for left in range(k, len(others)):
        _add(into, others[left], sign * times[left])


@_kernel
def _begin_sums(links, steps, widest):
    """Return room for the sums of so many shared rows over so many quarter-hours."""
    rows = max(_ROWS_AS_ONE, widest)
    each = links // steps
    size = _STEPS_AS_ONE * each
    parts = -(-links // size)
    place = np.empty(links, dtype=np.int64)
    for link in range(links):
        place[link] = link % steps * each + link // steps
    return _Sums(
        place=place,
        size=size,
        total=np.zeros((links, links)),
        left=np.empty((parts, rows, size)),
        right=np.empty((parts, rows * links)),
        filled=np.zeros(1, dtype=np.int64),
    )


@_kernel
def _right(sums, part):
    """Return a part's rows of `right`: as long as there are shared rows after it."""
    rows, count = sums.left.shape[1], max(len(sums.place) - (part + 1) * sums.size, 0)
    return sums.right[part, : rows * count].reshape((rows, count))


@_kernel
def _multiply(sums):
    """Add the products of `left` and `right` to the total, and begin them anew."""
    filled = sums.filled[0]
    for part in range(len(sums.left) - 1):
        first, end = part * sums.size, (part + 1) * sums.size
        sums.total[first:end, end:] += np.dot(
            sums.left[part, :filled].T, _right(sums, part)[:filled]
        )
    sums.filled[0] = 0


@_kernel
def _end_sums(sums, shared):
    """Take what was summed up from `shared` (L, L), of two equal elements from one."""
    _multiply(sums)
    for one in range(len(shared)):
        for other in range(len(shared)):
            if sums.place[other] >= sums.place[one]:
                shared[one, other] -= sums.total[sums.place[one], sums.place[other]]


@_kernel
def _meet(of, at, b, shared, power, place):
    """Write a block's G; add B theta B' to `shared`, and the shared rows' own power to `power`.

    `place` (L,) is written over.
    """
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    m0, m1 = of.meeting_first[b], of.meeting_first[b + 1]
    given, meeting_row = at.given, of.meeting_row
    entry_row, entry_value = of.entry_row, of.entry_value
    given[m0:m1, : of.width[b] + 1] = 0.0
    for m in range(m0, m1):
        place[of.meeting_link[m]] = m
    x, theta, entries = at.x[v0:v1], at.theta[v0:v1], of.entry_first[v0 : v1 + 1]
    links, link_value = of.link[v0:v1], of.link_value[v0:v1]
    for v in range(len(links)):
        link = links[v]
        if link < 0:
            continue
        power[link] += link_value[v] * x[v]
        weighted = theta[v] * link_value[v]
        shared[link, link] += weighted * link_value[v]
        for z in range(entries[v], entries[v + 1]):
            if entry_value[z] != 0.0:
                m = place[link]
                given[m, entry_row[z] - meeting_row[m]] += weighted * entry_value[z]


@_kernel
def _answer_of_chain(factor, inverse_pivot, rows, given, total, row):
    """Add G' M⁻¹ G to the total where M has three diagonals and each shared row meets one row.

    `row` is the row of M⁻¹ G at hand, from the last to the first: above the diagonal each row of
    the inverse of such an M is a multiple of the next.
    """
    begin = columns = len(rows)
    corner = 0.0  # the diagonal's element of M⁻¹
    for i in range(len(factor) - 1, -1, -1):
        below = -factor[i + 1] if i + 1 < len(factor) else 0.0
        corner = inverse_pivot[i] + below * below * corner
        for c in range(begin, columns):
            row[c] *= below
        if begin and rows[begin - 1] == i:
            begin -= 1
            row[begin] = corner * given[begin]
            _add(total[begin, begin:columns], row[begin:columns], given[begin])


@_kernel
def _answer(of, at, b, sums, room):
    """Add a block's G' M⁻¹ G, from its factored system, to the sums.

    Part by part of the day, from the last to the first: with P a part's rows, R the `width` rows
    that follow, Y = L_PP⁻¹ G_P and A' = G_R - L_RP Y, an element of two shared rows in the part is
    one of Y' D⁻¹ Y + A (M⁻¹)_RR A', and one of which the other is in a later part is one of
    A (M⁻¹ G)_R. The part before needs the same for the unit vectors of its own R beside G. Of all
    blocks' products sums are taken at once. `room` is written over.
    """
    m0, m1 = of.meeting_first[b], of.meeting_first[b + 1]
    if m0 == m1:
        return
    r0, r1 = of.row_first[b], of.row_first[b + 1]
    width, count = of.width[b], r1 - r0
    links, rows, given = of.meeting_link[m0:m1], of.meeting_row[m0:m1], at.given[m0:m1]
    band, inverse_pivot = at.band[r0:r1], at.inverse_pivot[r0:r1]
    y, weighted, met, told, row, places = room
    end, last, size = m1 - m0, count, sums.size
    place = sums.place[links[0]]
    in_a_row = sums.place[links[end - 1]] - place == end - 1
    if in_a_row and width == 1 and not np.any(given[:, 1]):
        total = sums.total[place : place + end, place : place + end]
        _answer_of_chain(band[:, 1], inverse_pivot, rows, given[:, 0], total, row)
        return
    if sums.filled[0] + width > sums.left.shape[1]:
        _multiply(sums)
    level = sums.filled[0]
    sums.filled[0] += width
    right = _right(sums, len(sums.left) - 1)
    for part in range(len(sums.left) - 1, -1, -1):
        begin = end
        while begin > 0 and sums.place[links[begin - 1]] >= part * size:
            begin -= 1
        first = rows[begin] if begin < end else last
        height, ahead, across = last - first, min(width, count - last), width + end - begin
        since = active = width
        for i in range(height + ahead):
            while active < across and rows[begin + active - width] <= first + i:
                active += 1
            while since < active and rows[begin + since - width] + width < first + i:
                since += 1
            _clear(y[i, :across])
            nearest, until = max(0, i - width), min(i, height)
            times = band[first + i, i - nearest : i - until : -1]
            _add_all(y[i, :active], y[nearest:until, :active], times, -1.0)
            if i < width:
                y[i, i] += 1.0
            for c in range(since, active):
                y[i, c] += given[begin + c - width, first + i - rows[begin + c - width]]
            if i < height:
                _set(weighted[i, :across], y[i, :across], inverse_pivot[first + i])
        beyond = y[height : height + ahead]
        for k in range(ahead):
            _clear(met[k, :across])
            _add_all(met[k, :across], beyond[:, :across], told[k], 1.0)
        for c in range(begin, end):
            places[c - begin] = sums.place[links[c]] - part * size
        within = sums.total[part * size :, part * size :]
        for o in range(width, across):
            _clear(row[o:across])
            _add_all(row[o:across], weighted[:height, o:across], y[:height, o], 1.0)
            _add_all(row[o:across], met[:ahead, o:across], beyond[:, o], 1.0)
            for c in range(o, across):
                within[places[o - width], places[c - width]] += row[c]
        for k in range(width):
            own = y[height + k, width : across if k < ahead else width]
            _spread(sums.left[part, level + k], own, places)
        if part:
            before = _right(sums, part - 1)
            for k in range(width):
                _clear(told[k, :across])
                _add_all(told[k, :across], weighted[:height, :across], y[:height, k], 1.0)
                _add_all(told[k, :across], met[:ahead, :across], beyond[:, k], 1.0)
                into = before[level + k]
                _spread(into[:size], told[k, width:across], places)
                _clear(into[size:])
                _add_all(into[size:], right[level : level + ahead], beyond[:, k], 1.0)
            right = before
        end, last = begin, first


@_kernel
def _set(into, other, times):
    for c in range(len(into)):
        into[c] = times * other[c]


@_kernel
def _clear(into):
    for c in range(len(into)):
        into[c] = 0.0


@_kernel
def _spread(into, values, places):
    """Write values to their places, and 0 to all others."""
    if len(values) < len(into):
        _clear(into)
        for c in range(len(values)):
            into[places[c]] = values[c]
    else:
        _set(into, values, 1.0)


@_kernel
def linearise(of, at, first, last, price, shared, power, pushed):
    """Linearise blocks [first, last), and begin their way straight to complementarity 0.

    Add their E to `shared`, what they put on the shared rows to `power`, and what they push onto
    them by themselves to `pushed`. Return sums of what `_linearise` does.
    """
    gap = short = proof = 0.0
    links, longest, widest = len(shared), 1, 1
    for b in range(first, last):
        longest = max(longest, of.row_first[b + 1] - of.row_first[b])
        widest = max(widest, of.width[b])
    sums = _begin_sums(links, of.steps, widest)
    wide = sums.size + widest
    room = (
        np.empty((longest + widest, wide)),
        np.empty((longest, wide)),
        np.empty((widest, wide)),
        np.empty((widest, wide)),
        np.empty(max(links, wide)),
        np.empty(sums.size, dtype=np.int64),
    )
    place = np.zeros(links, dtype=np.int64)
    for b in range(first, last):
        told = _linearise(of, at, b, price)
        gap += told[0]
        short += told[1]
        proof += told[2]
        _meet(of, at, b, shared, power, place)
        _aim(of, at, b, 0.0, 0.0)
        _push(of, at, b, pushed)
        _answer(of, at, b, sums, room)
    _end_sums(sums, shared)
    return gap, short, proof


@_kernel
def _push(of, at, b, pushed):
    """Add what a block whose direction has begun pushes onto the shared rows by itself."""
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    links, link_value = of.link[v0:v1], of.link_value[v0:v1]
    theta, push = at.theta[v0:v1], at.push[v0:v1]
    for v in range(len(links)):
        if links[v] >= 0:
            pushed[links[v]] += link_value[v] * theta[v] * push[v]
    dy = at.dy[of.row_first[b] : of.row_first[b + 1]]
    for m in range(of.meeting_first[b], of.meeting_first[b + 1]):
        first = of.meeting_row[m]
        for r in range(first, min(first + of.width[b] + 1, len(dy))):
            pushed[of.meeting_link[m]] += at.given[m, r - first] * dy[r]


@_kernel
def aim(of, at, first, last, centre, bend, pushed):
    """Begin the blocks' directions anew; add what they push onto the shared rows by themselves."""
    for b in range(first, last):
        _aim(of, at, b, centre, bend)
        _push(of, at, b, pushed)


@_kernel
def direct(of, at, first, last, d_price, centre, bend, counts, every):
    """Complete the blocks' directions for a change of the shared rows' prices.

    Return what `_direct` tells of all of them; `counts` (2, LENGTHS) are added to by `_count`, for
    one in `every` blocks.
    """
    told = _nothing_told()
    longest = 0
    for b in range(first, last):
        longest = max(longest, of.row_first[b + 1] - of.row_first[b])
    room = np.empty(longest)
    for b in range(first, last):
        r0, r1, width = of.row_first[b], of.row_first[b + 1], of.width[b]
        dy, shift = at.dy[r0:r1], room[: r1 - r0]
        shift[:] = 0.0
        for m in range(of.meeting_first[b], of.meeting_first[b + 1]):
            changed = d_price[of.meeting_link[m]]
            row = of.meeting_row[m]
            for r in range(row, min(row + width + 1, len(shift))):
                shift[r] += at.given[m, r - row] * changed
        _back(at.band[r0:r1], 0, r1 - r0, width, at.inverse_pivot[r0:r1], shift)
        _add(dy, shift, -1.0)
        cut_short = _direct(of, at, b, d_price, centre, bend, told)
        if cut_short and b % every == 0:
            _count(of, at, b, counts)
    return told


@_kernel
def move(of, at, first, last, primal, dual, keep):
    """Take the step in all blocks."""
    for b in range(first, last):
        _move(of, at, b, primal, dual, keep)
