"""What a block does to the rows that all blocks share, compiled.

Belongs here: how a block's power answers the shared rows' prices, and its part in their Newton
step. Does not: a block's own Newton step (`interior_point`), the shared rows' own variables
(`portfolio`).

With M = A theta A' and G = A theta B', where B takes a block's variables to the shared rows, its
answer is E = B theta B' - G' M⁻¹ G. M is banded and G has few entries a column, so E's columns
follow from the band of M⁻¹ by the recursion of the factor: no solve from end to end.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from vpp_pipeline.optimization.decomposition import band as banded
from vpp_pipeline.optimization.decomposition import interior_point

_NOWHERE = 1 << 40


@njit(cache=True, nogil=True)
def answer(of, at, b, shared):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, C901, PLR0912
    """Add a block's E, from its factored system, to `shared` (L, L).

    Of two shared rows only one of the two equal elements is added to: E = shared + shared' less
    the diagonal.
    """
    v0, v1 = of.variable_first[b], of.variable_first[b + 1]
    r0, r1 = of.row_first[b], of.row_first[b + 1]
    width, count, links = of.width[b], r1 - r0, len(shared)
    lowest = np.full(links, _NOWHERE, dtype=np.int64)
    for v in range(v0, v1):
        link = of.link[v]
        if link < 0:
            continue
        shared[link, link] += at.theta[v] * of.link_value[v] ** 2
        for z in range(of.entry_first[v], of.entry_first[v + 1]):
            lowest[link] = min(lowest[link], of.entry_row[z])
    order = np.argsort(lowest)
    columns = 0
    while columns < links and lowest[order[columns]] < _NOWHERE:
        columns += 1
    if columns == 0:
        return
    given = np.zeros((links, width + 1))
    for v in range(v0, v1):
        link = of.link[v]
        if link >= 0:
            weighted = at.theta[v] * of.link_value[v]
            for z in range(of.entry_first[v], of.entry_first[v + 1]):
                given[link, of.entry_row[z] - lowest[link]] += weighted * of.entry_value[z]
    near = np.zeros((count, width + 1))
    banded.inverse(at.band, r0, r1, width, at.pivot, near)
    found = np.zeros((count, columns))  # M⁻¹ G, where it is needed
    for c in range(columns):
        first = lowest[order[c]]
        last = min(count - 1, first + width)
        for d in range(last - first + 1):
            value = given[order[c], d]
            if value != 0.0:
                j = first + d
                for i in range(first, last + 1):
                    found[i, c] += value * (near[i, i - j] if i >= j else near[j, j - i])
    begin = columns
    for i in range(count - 1, -1, -1):
        while begin > 0 and lowest[order[begin - 1]] > i:
            begin -= 1
        for k in range(i + 1, min(i + width, count - 1) + 1):
            value = at.band[r0 + k, k - i]
            if value != 0.0:
                for c in range(begin, columns):
                    found[i, c] -= value * found[k, c]
    total = np.empty(columns)
    for o in range(columns):
        link = order[o]
        total[o:] = 0.0
        for d in range(min(width, count - 1 - lowest[link]) + 1):
            value = given[link, d]
            if value != 0.0:
                row = lowest[link] + d
                for c in range(o, columns):
                    total[c] += value * found[row, c]
        for c in range(o, columns):
            shared[link, order[c]] -= total[c]


@njit(cache=True, nogil=True)
def linearise(of, at, first, last, price, shared, link):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, PLR0917
    """Linearise blocks [first, last), adding their E and what they put on the shared rows.

    Return (gap, worst dual residual, worst row residual).
    """
    gap = worst_dual = worst_row = 0.0
    for b in range(first, last):
        here, dual, row = interior_point.linearise(of, at, b, price)
        gap += here
        worst_dual = max(worst_dual, dual)
        worst_row = max(worst_row, row)
        answer(of, at, b, shared)
        for v in range(of.variable_first[b], of.variable_first[b + 1]):
            if of.link[v] >= 0:
                link[of.link[v]] += of.link_value[v] * at.x[v]
    return gap, worst_dual, worst_row


@njit(cache=True, nogil=True)
def aim(of, at, first, last, centre, corrected, pushed):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, PLR0917
    """Begin the blocks' directions; add what they push onto the shared rows by themselves."""
    for b in range(first, last):
        interior_point.aim(of, at, b, centre, corrected)
        r0 = of.row_first[b]
        for v in range(of.variable_first[b], of.variable_first[b + 1]):
            link = of.link[v]
            if link < 0:
                continue
            push = at.push[v]
            for z in range(of.entry_first[v], of.entry_first[v + 1]):
                push += of.entry_value[z] * at.dy[r0 + of.entry_row[z]]
            pushed[link] += of.link_value[v] * at.theta[v] * push


@njit(cache=True, nogil=True)
def direct(of, at, first, last, d_price, centre, corrected):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, PLR0917
    """Complete the blocks' directions for a change of the shared rows' prices."""
    primal = dual = 1e30
    shift = np.zeros(len(at.dy))
    for b in range(first, last):
        r0, r1 = of.row_first[b], of.row_first[b + 1]
        for v in range(of.variable_first[b], of.variable_first[b + 1]):
            link = of.link[v]
            if link < 0:
                continue
            moved = at.theta[v] * of.link_value[v] * d_price[link]
            for z in range(of.entry_first[v], of.entry_first[v + 1]):
                shift[r0 + of.entry_row[z]] += of.entry_value[z] * moved
        banded.solve(at.band, r0, r1, of.width[b], at.pivot, shift)
        for r in range(r0, r1):
            at.dy[r] -= shift[r]
        here = interior_point.direct(of, at, b, d_price, centre, corrected)
        primal = min(primal, here[0])
        dual = min(dual, here[1])
    return primal, dual


@njit(cache=True, nogil=True)
def gap_after(of, at, first, last, primal, dual):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, PLR0917
    """Return the blocks' complementarity after steps of these lengths."""
    gap = 0.0
    for b in range(first, last):
        gap += interior_point.gap_after(of, at, b, primal, dual)
    return gap


@njit(cache=True, nogil=True)
def move(of, at, first, last, primal, dual):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, PLR0917
    """Take the step in all blocks."""
    for b in range(first, last):
        interior_point.move(of, at, b, primal, dual)
