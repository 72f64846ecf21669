"""One store at given prices, compiled: dynamic programming on what a kWh in it is worth.

Belongs here: the recursion over quarter-hours and its curves, all in one file because numba's
cache does not see a change in another. Does not: threads, what to ask a fleet (`oracle`).

V(e) is the least cost from the end of a quarter-hour on, with e kWh in the store. It is convex
and piecewise quadratic, so its slope V' is a monotone polyline of points (energy, slope), which
goes on vertically to -inf at the lowest and to +inf at the highest energy. Backward: a slope y
tells the charge c(y) and discharge g(y) that go with it; before they act, the store holds
z(y) = e(y) - h·eta_c·c(y) + h·g(y)/eta_d; by the energy law it held (z - drift)/retention at the
end of the quarter-hour before, where the slope is retention·y, and steeper by a shortfall's or an
excess' cost where that begins. Forward: z is known, and its place on the curve tells y, c, g, e.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit, types

from vpp_pipeline.delivery_day import STEP_H

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places

# The rows of a curve.
_BEFORE, _SLOPE, _AFTER = 0, 1, 2  # energy before charge and discharge act (drift included), after
# Without curvature a response would not be unique: EUR/kWh between no and full power.
LEAST_BEND_EUR_PER_KWH = 1e-8
LEAST_POWER_KW = 1e-3
# Shares of the largest energy: what curves keep beyond the reachable, and what is rounding.
_MARGIN = 1e-4
_ROUNDING = 1e-9

_Function = TypeVar("_Function")


def _part(function: _Function) -> _Function:
    """Compile a part of the kernel, never called from Python."""
    compiles = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
    return cast("_Function", compiles(function))


class _Store(NamedTuple):
    """One store of `problem.Stores`, the price it is paid, and its arrays over time (T,)."""

    price_eur_per_kwh: Floats
    charge_min_kw: Floats
    charge_max_kw: Floats
    discharge_min_kw: Floats
    discharge_max_kw: Floats
    starts: Bools
    initial_kwh: Floats
    drift_kwh: Floats
    floor_kwh: Floats
    ceiling_kwh: Floats
    wished_kwh: Floats
    shortfall_eur_per_kwh: Floats
    comfort_kwh: Floats
    excess_eur_per_kwh: Floats
    retention: float
    charge_efficiency: float
    discharge_efficiency: float
    wear_eur_per_kwh: float
    end_value_eur_per_kwh: float
    curvature_eur_per_kw2h: float


class _Workspace(NamedTuple):
    """Memory for one store at a time."""

    lowest: Floats  # (T,) the energies a curve is kept for
    highest: Floats  # (T,)
    begin: Places  # (T+1,) where each quarter-hour's points are in `curve`, the last one's first
    curve: Floats  # (3, points) kWh, EUR/kWh, kWh
    line: Floats  # (2, points) one quarter-hour's end: kWh, EUR/kWh
    kinks: Floats  # (4,)


class _Power(NamedTuple):
    """How charge and discharge follow the slope in a quarter-hour, and what they cost."""

    charge_min_kw: float
    charge_max_kw: float
    discharge_min_kw: float
    discharge_max_kw: float
    charge_eur_per_kwh: float
    discharge_eur_per_kwh: float
    # Between these slopes (EUR/kWh) it goes from one bound to the other, so much per EUR/kWh.
    charge_most_at: float
    charge_least_at: float
    charge_per_slope: float
    discharge_least_at: float
    discharge_most_at: float
    discharge_per_slope: float
    gain_h: float  # kWh in the store for a kW charged
    loss_h: float  # kWh out of it for a kW discharged


@cache
def compiled() -> tuple[Any, Any]:
    """Compile for arrays of any layout, so that there is one kernel, found on disk ever after."""
    grid = types.Array(types.float64, 2, "A", readonly=True)
    flags = types.Array(types.boolean, 2, "A", readonly=True)
    each = types.Array(types.float64, 1, "A", readonly=True)
    place = types.Array(types.int64, 1, "A", readonly=True)
    out = types.Array(types.float64, 3, "A")
    solve = types.float64(
        *[grid] * 5, flags, *[grid] * 8, *[each] * 6, place, types.int64, types.int64, out
    )
    add = types.void(out, place, types.int64, types.float64[::1], types.float64[:, ::1])
    options = {"cache": True, "nogil": True, "error_model": "numpy"}
    return njit([solve], **options)(_solve), njit([add], **options)(_add)


def _solve(  # noqa: PLR0917 - a compiled kernel takes arrays, one by one
    price: Floats,
    charge_min: Floats,
    charge_max: Floats,
    discharge_min: Floats,
    discharge_max: Floats,
    starts: Bools,
    initial: Floats,
    drift: Floats,
    floor: Floats,
    ceiling: Floats,
    wished: Floats,
    shortfall: Floats,
    comfort: Floats,
    excess: Floats,
    retention: Floats,
    charge_efficiency: Floats,
    discharge_efficiency: Floats,
    wear: Floats,
    end_value: Floats,
    curvature: Floats,
    column: Places,
    first: int,
    last: int,
    out: Floats,
) -> float:
    """Write the answers of the stores [first, last) to `out` (4, stores, T); return their cost."""
    work = _workspace(drift.shape[0])
    cost = 0.0
    for s in range(first, last):
        store = _Store(
            price[:, column[s]],
            charge_min[:, s],
            charge_max[:, s],
            discharge_min[:, s],
            discharge_max[:, s],
            starts[:, s],
            initial[:, s],
            drift[:, s],
            floor[:, s],
            ceiling[:, s],
            wished[:, s],
            shortfall[:, s],
            comfort[:, s],
            excess[:, s],
            retention[s],
            charge_efficiency[s],
            discharge_efficiency[s],
            wear[s],
            end_value[s],
            curvature[s],
        )
        cost += _respond(store, work, out[:, s - first])
    return cost


def _add(out: Floats, site: Places, first: int, power: Floats, site_power: Floats) -> None:
    """Add the net power of the stores from `first` on to the fleet's (T,) and the sites' (K, T)."""
    for s in range(out.shape[1]):
        for t in range(out.shape[2]):
            net = out[1, s, t] - out[0, s, t]
            power[t] += net
            site_power[site[first + s], t] += net


@_part
def _workspace(steps: int) -> _Workspace:
    """Return memory for a store of so many quarter-hours; a step adds at most 8 points."""
    points = 4 * steps * (steps + 4)
    return _Workspace(
        lowest=np.empty(steps),
        highest=np.empty(steps),
        begin=np.zeros(steps + 1, dtype=np.int64),
        curve=np.empty((3, points)),
        line=np.empty((2, 8 * steps + 16)),
        kinks=np.empty(4),
    )


@_part
def _respond(store: _Store, work: _Workspace, out: Floats) -> float:
    """Write charge, discharge, energy and the law's multiplier to `out` (4, T); return the cost.

    Where floor and ceiling can't be kept, the store goes as near as it can.
    """
    most_kw = LEAST_POWER_KW
    for t in range(len(store.drift_kwh)):
        most_kw = max(most_kw, store.charge_max_kw[t], store.discharge_max_kw[t])
    curvature = max(store.curvature_eur_per_kw2h, LEAST_BEND_EUR_PER_KWH / most_kw)
    scale = _bound(store, work)
    _backward(store, work, curvature)
    return _forward(store, work, curvature, _ROUNDING * scale, out)


@_part
def _power(store: _Store, t: int, curvature: float) -> _Power:
    price, wear = store.price_eur_per_kwh[t], 0.5 * store.wear_eur_per_kwh
    charge_worth, discharge_worth = 1.0 / store.charge_efficiency, store.discharge_efficiency
    return _Power(
        charge_min_kw=store.charge_min_kw[t],
        charge_max_kw=store.charge_max_kw[t],
        discharge_min_kw=store.discharge_min_kw[t],
        discharge_max_kw=store.discharge_max_kw[t],
        charge_eur_per_kwh=wear + price,
        discharge_eur_per_kwh=wear - price,
        charge_most_at=-(wear + price + curvature * store.charge_max_kw[t]) * charge_worth,
        charge_least_at=-(wear + price + curvature * store.charge_min_kw[t]) * charge_worth,
        charge_per_slope=-store.charge_efficiency / curvature,
        discharge_least_at=(wear - price + curvature * store.discharge_min_kw[t]) * discharge_worth,
        discharge_most_at=(wear - price + curvature * store.discharge_max_kw[t]) * discharge_worth,
        discharge_per_slope=1.0 / (store.discharge_efficiency * curvature),
        gain_h=STEP_H * store.charge_efficiency,
        loss_h=STEP_H / store.discharge_efficiency,
    )


@_part
def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@_part
def _charge(slope: float, power: _Power) -> float:
    if slope <= power.charge_most_at:
        return power.charge_max_kw
    free = power.charge_min_kw + power.charge_per_slope * (slope - power.charge_least_at)
    return _clip(free, power.charge_min_kw, power.charge_max_kw)


@_part
def _discharge(slope: float, power: _Power) -> float:
    if slope >= power.discharge_most_at:
        return power.discharge_max_kw
    free = power.discharge_min_kw + power.discharge_per_slope * (slope - power.discharge_least_at)
    return _clip(free, power.discharge_min_kw, power.discharge_max_kw)


@_part
def _gain_kwh(slope: float, power: _Power) -> float:
    return power.gain_h * _charge(slope, power) - power.loss_h * _discharge(slope, power)


@_part
def _bound(store: _Store, work: _Workspace) -> float:
    """Set the energies worth a curve, and return the largest reachable one as a scale.

    The reachable ones with a margin: at an end of the margin no store ever is, so that the
    vertical there tells nothing of what a kWh is worth.
    """
    low = high = scale = 0.0
    for t in range(len(store.drift_kwh)):
        if store.starts[t]:
            low = high = store.initial_kwh[t]
        gain_h = STEP_H * store.charge_efficiency
        loss_h = STEP_H / store.discharge_efficiency
        still = store.drift_kwh[t]
        low = store.retention * low + still
        low += gain_h * store.charge_min_kw[t] - loss_h * store.discharge_max_kw[t]
        high = store.retention * high + still
        high += gain_h * store.charge_max_kw[t] - loss_h * store.discharge_min_kw[t]
        floor, ceiling = store.floor_kwh[t], store.ceiling_kwh[t]
        if high <= floor:
            low = high
        elif low >= ceiling:
            high = low
        else:
            low, high = max(low, floor), min(high, ceiling)
        work.lowest[t], work.highest[t] = low, high
        scale = max(scale, abs(low), abs(high))
    scale += 1.0
    for t in range(len(store.drift_kwh)):
        floor, ceiling = store.floor_kwh[t], store.ceiling_kwh[t]
        low = max(floor, work.lowest[t] - _MARGIN * scale)
        high = min(ceiling, work.highest[t] + _MARGIN * scale)
        if low > high:  # out of reach: the nearest is all there is to know
            low = high = floor if work.highest[t] < floor else ceiling
        work.lowest[t], work.highest[t] = low, high
    return scale


@_part
def _backward(store: _Store, work: _Workspace, curvature: float) -> None:
    """Write every quarter-hour's curve, one after the other, the last one first."""
    steps = len(store.drift_kwh)
    curve, line, begin = work.curve, work.line, work.begin
    end = 0
    for t in range(steps - 1, -1, -1):
        low, high = work.lowest[t], work.highest[t]
        if t < steps - 1 and not store.starts[t + 1] and store.retention > 0.0:
            drift = store.drift_kwh[t + 1]
            count = _step_back(curve, begin[t + 1], end, store.retention, drift, low, high, line)
        else:
            line[0, 0], line[0, 1] = low, high
            line[1, :2] = -store.end_value_eur_per_kwh if t == steps - 1 else 0.0
            count = 2
        if store.shortfall_eur_per_kwh[t] != 0.0:
            below = -store.shortfall_eur_per_kwh[t]
            count = _bend(line, count, store.wished_kwh[t], below, 0.0)
        if store.excess_eur_per_kwh[t] != 0.0:
            above = store.excess_eur_per_kwh[t]
            count = _bend(line, count, store.comfort_kwh[t], 0.0, above)
        begin[t] = end
        end = _act(line, count, _power(store, t, curvature), work.kinks, curve, end)
    begin[steps] = end


@_part
def _step_back(  # noqa: PLR0917 - compiled: few arrays are fast to pass
    curve: Floats,
    begin: int,
    end: int,
    keep: float,
    drift: float,
    lowest: float,
    highest: float,
    line: Floats,
) -> int:
    """Bring the points [begin, end) of the next quarter-hour to the end of this one, as a line."""
    first = (curve[_BEFORE, begin] - drift) / keep
    last = (curve[_BEFORE, end - 1] - drift) / keep
    low, high = max(lowest, first), min(highest, last)
    if low >= high:
        line[0, 0] = _clip(low, lowest, highest)
        line[1, 0] = keep * curve[_SLOPE, begin if first >= highest else end - 1]
        return 1
    low_before, high_before = keep * low + drift, keep * high + drift
    i = _beyond(curve, begin + 1, end - 1, low_before)
    j = _beyond(curve, i, end - 1, high_before)
    line[0, 0], line[1, 0] = low, keep * _between(curve, _SLOPE, i, low_before)
    before, slope = curve[_BEFORE, i:j], curve[_SLOPE, i:j]
    to_energy, to_slope = line[0, 1 : 1 + j - i], line[1, 1 : 1 + j - i]
    per_keep = 1.0 / keep
    for k in range(len(before)):
        to_energy[k] = _clip((before[k] - drift) * per_keep, low, high)
        to_slope[k] = keep * slope[k]
    count = 2 + j - i
    line[0, count - 1], line[1, count - 1] = high, keep * _between(curve, _SLOPE, j, high_before)
    return count


@_part
def _between(curve: Floats, row: int, i: int, before: float) -> float:
    """Return a row's value for an energy between the points i-1 and i."""
    width = curve[_BEFORE, i] - curve[_BEFORE, i - 1]
    if width <= 0.0:
        return float(curve[row, i])
    share = _clip((before - curve[_BEFORE, i - 1]) / width, 0.0, 1.0)
    return float(curve[row, i - 1] + share * (curve[row, i] - curve[row, i - 1]))


@_part
def _bend(line: Floats, count: int, at: float, below: float, above: float) -> int:
    """Add to the slopes below and above an energy, with a vertical there."""
    if not line[0, 0] < at < line[0, count - 1]:
        line[1, :count] += above if at <= line[0, 0] else below
        return count
    i = count - 1
    while line[0, i] > at:
        line[0, i + 2], line[1, i + 2] = line[0, i], line[1, i] + above
        i -= 1
    share = (at - line[0, i]) / (line[0, i + 3] - line[0, i])
    there = line[1, i] + share * (line[1, i + 3] - above - line[1, i])
    line[0, i + 1 : i + 3] = at
    line[1, i + 1], line[1, i + 2] = there + below, there + above
    line[1, : i + 1] += below
    return count + 2


@_part
def _act(  # noqa: PLR0917 - compiled: few arrays are fast to pass
    line: Floats, count: int, power: _Power, kinks: Floats, curve: Floats, end: int
) -> int:
    """Append the curve before charge and discharge act, with points where they reach a bound."""
    bounds = _kinks(power, kinks)
    start = 0
    for k in range(bounds + 1):
        stop = start
        while stop < count and (k == bounds or line[1, stop] <= kinks[k]):
            stop += 1
        energy, steep = line[0, start:stop], line[1, start:stop]
        last = end + stop - start
        before, slope, after = curve[0, end:last], curve[1, end:last], curve[2, end:last]
        for i in range(len(energy)):
            before[i] = energy[i] - _gain_kwh(steep[i], power)
            slope[i], after[i] = steep[i], energy[i]
        if k < bounds:
            held = line[0, min(stop, count - 1)]
            if 0 < stop < count:
                share = (kinks[k] - line[1, stop - 1]) / (line[1, stop] - line[1, stop - 1])
                held = line[0, stop - 1] + share * (held - line[0, stop - 1])
            curve[_BEFORE, last] = held - _gain_kwh(kinks[k], power)
            curve[_SLOPE, last], curve[_AFTER, last] = kinks[k], held
            last += 1
        start, end = stop, last
    return end


@_part
def _kinks(power: _Power, kinks: Floats) -> int:
    """Write the slopes at which charge or discharge reaches a bound, sorted; return how many."""
    count = 0
    if power.charge_max_kw > power.charge_min_kw:
        kinks[0], kinks[1] = power.charge_most_at, power.charge_least_at
        count = 2
    if power.discharge_max_kw > power.discharge_min_kw:
        for slope in (power.discharge_least_at, power.discharge_most_at):
            i = count
            while i > 0 and kinks[i - 1] > slope:
                kinks[i] = kinks[i - 1]
                i -= 1
            kinks[i] = slope
            count += 1
    return count


@_part
def _beyond(curve: Floats, begin: int, end: int, before: float) -> int:
    """Return the first of the points [begin, end) that is beyond an energy, else `end`."""
    while begin < end:
        middle = (begin + end) // 2
        if curve[_BEFORE, middle] > before:
            end = middle
        else:
            begin = middle + 1
    return begin


@_part
def _forward(
    store: _Store, work: _Workspace, curvature: float, rounding: float, out: Floats
) -> float:
    """Follow the curves from the start; return the cost, EUR."""
    steps = len(store.drift_kwh)
    curve = work.curve
    cost = energy = onward = 0.0
    for t in range(steps):
        if store.starts[t]:
            energy = store.initial_kwh[t]
        before = store.retention * energy + store.drift_kwh[t]
        begin, end = work.begin[t], work.begin[t - 1] if t > 0 else work.begin[steps]
        i = _beyond(curve, begin, end, before)
        if begin < i < end:
            slope = _between(curve, _SLOPE, i, before)
            after = _between(curve, _AFTER, i, before)
        else:
            nearest = min(i, end - 1)
            slope, after = curve[_SLOPE, nearest], curve[_AFTER, nearest]
        power = _power(store, t, curvature)
        charge, discharge = _exactly(slope, after - before, power)
        energy = before + power.gain_h * charge - power.loss_h * discharge
        if t > 0 and not store.starts[t] and store.retention > 0.0:
            slope = _continued(curve, begin, end, i, before, rounding, onward)
        out[0, t], out[1, t], out[2, t], out[3, t] = charge, discharge, energy, -slope
        cost += STEP_H * (
            power.charge_eur_per_kwh * charge
            + power.discharge_eur_per_kwh * discharge
            + 0.5 * store.curvature_eur_per_kw2h * (charge * charge + discharge * discharge)
        )
        short, above = store.wished_kwh[t] - energy, energy - store.comfort_kwh[t]
        cost += store.shortfall_eur_per_kwh[t] * short if short > 0.0 else 0.0
        cost += store.excess_eur_per_kwh[t] * above if above > 0.0 else 0.0
        onward = slope + (store.shortfall_eur_per_kwh[t] if short > rounding else 0.0)
        onward -= store.excess_eur_per_kwh[t] if above > -rounding else 0.0
        onward /= store.retention
    return cost - store.end_value_eur_per_kwh * energy


@_part
def _continued(  # noqa: PLR0917 - compiled: few arrays are fast to pass
    curve: Floats, begin: int, end: int, i: int, before: float, rounding: float, slope: float
) -> float:
    """Return the curve's slope nearest to the one the quarter-hour before was left with.

    Where the curve is vertical (within rounding), any slope leads to the same powers, but only
    that one makes the energy law's multipliers agree from one quarter-hour to the next.
    """
    least, most = -np.inf, np.inf
    j = min(i, end - 1)
    while j > begin and curve[_BEFORE, j - 1] > before - rounding:
        j -= 1
    if curve[_BEFORE, begin] <= before - rounding:
        least = (
            curve[_SLOPE, begin] if j == begin else _between(curve, _SLOPE, j, before - rounding)
        )
    j = max(i, begin + 1)
    while j < end and curve[_BEFORE, j] <= before + rounding:
        j += 1
    if curve[_BEFORE, end - 1] > before + rounding:
        most = curve[_SLOPE, end - 1] if j == end else _between(curve, _SLOPE, j, before + rounding)
    return _clip(slope, least, most)


@_part
def _exactly(slope: float, gain_kwh: float, power: _Power) -> tuple[float, float]:
    """Return charge and discharge at a slope, moved by what rounding left of the gain wanted."""
    charge, discharge = _charge(slope, power), _discharge(slope, power)
    left = gain_kwh - power.gain_h * charge + power.loss_h * discharge
    if power.discharge_min_kw < discharge < power.discharge_max_kw:
        discharge = _clip(
            discharge - left / power.loss_h, power.discharge_min_kw, power.discharge_max_kw
        )
        left = gain_kwh - power.gain_h * charge + power.loss_h * discharge
    if power.charge_min_kw < charge < power.charge_max_kw:
        charge = _clip(charge + left / power.gain_h, power.charge_min_kw, power.charge_max_kw)
    return charge, discharge
