"""Banded symmetric matrices, compiled: factor, solve, and the part of the inverse that is needed.

Belongs here: linear algebra on a band of rows. Does not: what the rows mean (`assembly`), the
interior-point method that needs them (`interior_point`).

A matrix with half-bandwidth w is stored by rows: `band[i, d]` is the element (i, i-d), d <= w.
"""

from __future__ import annotations

from numba import njit

_LEAST_PIVOT = 1e-30
_HUGE_PIVOT = 1e30  # a row that says nothing new is left out, as by an infinite pivot


@njit(cache=True, nogil=True)
def factor(band, first, last, width, pivot):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Turn rows [first, last) of `band` into the unit factor L of L·D·Lᵀ, D into `pivot`."""
    for i in range(first, last):
        begin = max(first, i - width)
        for j in range(begin, i):
            total = band[i, i - j]
            for k in range(max(begin, j - width), j):
                total -= band[i, i - k] * band[j, j - k] * pivot[k]
            band[i, i - j] = total / pivot[j]
        total = band[i, 0]
        for k in range(begin, i):
            total -= band[i, i - k] * band[i, i - k] * pivot[k]
        pivot[i] = total if total > _LEAST_PIVOT else _HUGE_PIVOT


@njit(cache=True, nogil=True)
def solve(band, first, last, width, pivot, rhs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Solve in place for rows [first, last) of `rhs`."""
    for i in range(first, last):
        total = rhs[i]
        for k in range(max(first, i - width), i):
            total -= band[i, i - k] * rhs[k]
        rhs[i] = total
    for i in range(last - 1, first - 1, -1):
        total = rhs[i] / pivot[i]
        for k in range(i + 1, min(last, i + width + 1)):
            total -= band[k, k - i] * rhs[k]
        rhs[i] = total


@njit(cache=True, nogil=True)
def inverse(band, first, last, width, pivot, found):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Write the inverse's elements within the band to `found` (rows counted from `first`).

    Takahashi's recursion: Z = D⁻¹L⁻¹ + (I - Lᵀ)Z (Erisman & Tinney, CACM 18, 1975).
    """
    count = last - first
    for i in range(count - 1, -1, -1):
        end = min(count - 1, i + width)
        for j in range(end, i - 1, -1):
            total = 1.0 / pivot[first + i] if i == j else 0.0
            for k in range(i + 1, end + 1):
                element = found[k, k - j] if k >= j else found[j, j - k]
                total -= band[first + k, k - i] * element
            found[j, j - i] = total
