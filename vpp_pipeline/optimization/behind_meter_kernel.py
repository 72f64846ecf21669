"""The compiled plan of one battery behind a meter, by merging sorted slopes.

Belongs here: the kernel of `behind_meter`, a battery at a time. Does not: what the arrays mean
for a site, their checks.

V(e) is the least cost from a quarter-hour on, with e kWh in the battery at its start. What a
quarter-hour costs by the energy taken out is convex and piecewise linear, and so is V: the V of
the quarter-hour before is their infimal convolution, which is the pieces of both in the order of
their slopes, cut to what the battery holds. No grid, no rounding but the machine's.

Where two ways cost the same, energy is taken out early and put in late: what is known by then may
tell better, and the sun may still fill the room that is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from numba import njit

from vpp_pipeline.delivery_day import STEP_H

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats

_LEAST_WEAR_EUR_PER_KWH = 1e-8  # so that what is worth nothing now is kept
_PIECES_EACH = 16  # of V a quarter-hour, room for which is there from the start

_Function = TypeVar("_Function")


def _compiled(function: _Function) -> _Function:
    return cast("_Function", njit(cache=True, nogil=True)(function))


@_compiled
def plan_batteries(  # noqa: PLR0917 - a compiled kernel takes arrays, one by one
    buy: Floats,
    sell: Floats,
    without_kw: Floats,
    weight: Floats,
    floor: Floats,
    ceiling: Floats,
    initial: Floats,
    charge_kw: Floats,
    discharge_kw: Floats,
    charge_efficiency: Floats,
    discharge_efficiency: Floats,
    wear: Floats,
    end_value: Floats,
    power: Floats,
    energy: Floats,
) -> None:
    """Write the set-points and the contents they lead to, both (T, S)."""
    steps, count = buy.shape
    cases = len(weight)
    width, slope = np.empty(_PIECES_EACH * (steps + 1)), np.empty(_PIECES_EACH * (steps + 1))
    begin, stop = np.empty(steps + 1, dtype=np.int64), np.empty(steps + 1, dtype=np.int64)
    taken, taken_slope = np.empty(cases + 2), np.empty(cases + 2)
    kinks = np.empty(cases + 3)
    for s in range(count):
        into, out = charge_efficiency[s], discharge_efficiency[s]
        first = floor[s] - STEP_H * charge_kw[s] * into  # nothing is left, after charging in full
        width[0], slope[0] = ceiling[s] - floor[s], -end_value[s]
        begin[steps], stop[steps] = 0, 1
        for t in range(steps - 1, -1, -1):
            parts = _taken(
                buy[t, s], sell[t, s], without_kw[:, t, s], weight,
                charge_kw[s], discharge_kw[s], into, out, max(0.5 * wear[s], _LEAST_WEAR_EUR_PER_KWH),
                kinks, taken, taken_slope,
            )  # fmt: skip
            was, end = begin[t + 1], stop[t + 1]
            if 2 * end - was + parts > len(width):
                width = np.concatenate((width, np.empty_like(width)))
                slope = np.concatenate((slope, np.empty_like(slope)))
            begin[t] = end
            stop[t] = end + _merged(
                width[was:end], slope[was:end], taken[:parts], taken_slope[:parts],
                first, floor[s], ceiling[s], width[end:], slope[end:],
            )  # fmt: skip
        holds = initial[s]
        for t in range(steps):
            parts = _taken(
                buy[t, s], sell[t, s], without_kw[:, t, s], weight,
                charge_kw[s], discharge_kw[s], into, out, max(0.5 * wear[s], _LEAST_WEAR_EUR_PER_KWH),
                kinks, taken, taken_slope,
            )  # fmt: skip
            was, end = begin[t + 1], stop[t + 1]
            left = floor[s] + _left(
                width[was:end], slope[was:end], taken[:parts], taken_slope[:parts], holds - first
            )
            left = min(max(left, floor[s]), ceiling[s])
            gone = holds - left
            kw = gone * out / STEP_H if gone > 0.0 else gone / (into * STEP_H)
            power[t, s] = min(max(kw, -charge_kw[s]), discharge_kw[s])
            energy[t, s] = left
            holds = left


@_compiled
def _taken(  # noqa: PLR0917 - compiled: few arrays are fast to pass
    buy: float,
    sell: float,
    without_kw: Floats,
    weight: Floats,
    charge_kw: float,
    discharge_kw: float,
    into: float,
    out: float,
    half_wear: float,
    kinks: Floats,
    width: Floats,
    slope: Floats,
) -> int:
    """Write what energy taken out costs, as pieces from charging to discharging in full."""
    kinks[0] = -charge_kw
    bends = 1
    for k in range(len(without_kw) + 1):
        at = -without_kw[k] if k < len(without_kw) else 0.0
        if not -charge_kw < at < discharge_kw:
            continue
        i = bends
        while i > 1 and kinks[i - 1] > at:
            kinks[i] = kinks[i - 1]
            i -= 1
        kinks[i] = at
        bends += 1
    kinks[bends] = discharge_kw
    for i in range(bends):
        low, high = kinks[i], kinks[i + 1]
        middle = 0.5 * (low + high)
        worth = 0.0  # of a kWh more at the meter
        for k in range(len(weight)):
            worth += weight[k] * (buy if without_kw[k] + middle < 0.0 else sell)
        if middle > 0.0:
            width[i], slope[i] = STEP_H * (high - low) / out, (half_wear - worth) * out
        else:
            width[i], slope[i] = STEP_H * (high - low) * into, (-half_wear - worth) / into
    return bends


@_compiled
def _merged(  # noqa: PLR0917 - compiled: few arrays are fast to pass
    width: Floats,
    slope: Floats,
    taken: Floats,
    taken_slope: Floats,
    first: float,
    floor: float,
    ceiling: float,
    to_width: Floats,
    to_slope: Floats,
) -> int:
    """Write both lists of pieces as one in the order of slopes, from `first` on, cut; count it."""
    i = j = count = 0
    at = first
    while at < ceiling and (i < len(width) or j < len(taken)):
        if j == len(taken) or (i < len(width) and slope[i] < taken_slope[j]):
            wide, steep = width[i], slope[i]
            i += 1
        else:
            wide, steep = taken[j], taken_slope[j]
            j += 1
        end = min(at + wide, ceiling)
        if end > floor:
            to_width[count], to_slope[count] = end - max(at, floor), steep
            count += 1
        at += wide
    return count


@_compiled
def _left(
    width: Floats,
    slope: Floats,
    taken: Floats,
    taken_slope: Floats,
    reach: float,
) -> float:
    """Return how much of a merged line's first `reach` kWh is what stays in the battery."""
    i = j = 0
    left = 0.0
    while reach > 0.0 and (i < len(width) or j < len(taken)):
        if j == len(taken) or (i < len(width) and slope[i] < taken_slope[j]):
            left += min(width[i], reach)
            reach -= width[i]
            i += 1
        else:
            reach -= taken[j]
            j += 1
    return left
