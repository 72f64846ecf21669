"""The compiled dynamic programme over one store's energies.

Belongs here: the kernel of `directions`, a store at a time. Does not: a problem in its arrays, threads.

Arrays are device-major, (devices, steps).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from vpp_pipeline.delivery_day import STEP_H

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places

_BEYOND_EUR_PER_KWH = 100.0  # outside the hard bounds; inside is always cheaper


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _worth(value: Floats, energy: float, first_kwh: float, width_kwh: float) -> float:
    """Return the cost from an energy on: linear between the grid's points, steep beyond them."""
    at = (energy - first_kwh) / width_kwh
    last = len(value) - 1
    if at <= 0:
        return float(value[0] - at * width_kwh * _BEYOND_EUR_PER_KWH)
    if at >= last:
        return float(value[last] + (at - last) * width_kwh * _BEYOND_EUR_PER_KWH)
    left = int(at)
    return float(value[left] + (at - left) * (value[left + 1] - value[left]))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _move(  # noqa: PLR0917 - a kernel
    value: Floats,
    first_kwh: float,
    width_kwh: float,
    idle: float,
    least: float,
    most: float,
    kwh_per_kw: float,
    eur_per_kw: float,
    eur_per_kw2: float,
    low: float,
    high: float,
) -> tuple[float, float]:
    """Return the cheapest cost, and its power, of going one way between the least and most power.

    Tried are both ends, where a hard bound is met, and every point of the grid between.
    """
    best, best_kw = np.inf, 0.0
    if most <= 0:
        return best, best_kw
    near, far = idle + kwh_per_kw * least, idle + kwh_per_kw * most
    bottom, top = max(min(near, far), low), min(max(near, far), high)
    if bottom > top:
        return best, best_kw
    last = len(value) - 1
    begin = max(int(np.ceil((bottom - first_kwh) / width_kwh)), 0)
    end = min(int(np.floor((top - first_kwh) / width_kwh)), last)
    slope = 1 / kwh_per_kw
    for j in range(begin, end + 1):
        power = (first_kwh + j * width_kwh - idle) * slope
        cost = value[j] + (eur_per_kw + eur_per_kw2 * power) * power
        if cost < best:
            best, best_kw = cost, power
    for energy in (bottom, top):
        power = (energy - idle) * slope
        cost = (eur_per_kw + eur_per_kw2 * power) * power
        cost += _worth(value, energy, first_kwh, width_kwh)
        if cost < best:
            best, best_kw = cost, power
    return best, best_kw


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def best_powers(  # noqa: C901, PLR0912, PLR0915, PLR0917 - a kernel
    site: Places,
    price: Floats,
    charge_max: Floats,
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
    min_active: Floats,
    curvature: Floats,
    import_room: Floats,
    export_room: Floats,
    support_kw: Floats,
    support_kwh: Floats,
    points: int,
) -> tuple[Floats, Bools, Bools, Floats]:
    """Return powers, which way a small one tends, whether all bounds are kept, and the cost."""
    devices, steps = price.shape
    kw, tends = np.zeros((devices, steps)), np.zeros((devices, steps), dtype=np.bool_)
    possible, total = np.ones(devices, dtype=np.bool_), np.zeros(devices)
    most_in, most_out = np.empty(steps), np.empty(steps)
    low, high = np.empty(steps), np.empty(steps)
    value = np.empty((steps, points))
    for i in range(devices):
        gain = STEP_H * charge_efficiency[i]
        loss = STEP_H / discharge_efficiency[i]
        least, keep = min_active[i], retention[i]
        bend = 0.5 * STEP_H * curvature[i]
        half_wear = 0.5 * wear[i]

        rests, two_way, energy = True, False, 0.0
        for t in range(steps):
            energy = keep * (initial[i, t] if starts[i, t] else energy) + drift[i, t]
            rests = rests and floor[i, t] - 1e-9 <= energy <= ceiling[i, t] + 1e-9
            two_way = two_way or discharge_max[i, t] > 0
        takes_room = least > 0 or not rests
        takes_all = takes_room and (two_way or not rests)
        room_in, room_out = import_room[site[i]], export_room[site[i]]
        helps, budget = support_kw[site[i]], support_kwh[site[i]]
        for t in range(steps):
            most_in[t], most_out[t] = charge_max[i, t], discharge_max[i, t]
            if takes_all:
                most_in[t] = min(most_in[t], room_in[t])
                most_out[t] = min(most_out[t], room_out[t])
            elif takes_room:
                most_in[t] = min(most_in[t], room_in[t] + min(helps[t], budget / STEP_H))
            if most_in[t] < least or most_in[t] < 0:
                most_in[t] = 0.0
            if most_out[t] < least or most_out[t] < 0:
                most_out[t] = 0.0

        first = 0
        while first < steps and possible[i]:
            last = first + 1
            while last < steps and not starts[i, last]:
                last += 1
            up = down = initial[i, first]
            for t in range(first, last):
                up = min(ceiling[i, t], keep * up + drift[i, t] + gain * most_in[t])
                down = max(floor[i, t], keep * down + drift[i, t] - loss * most_out[t])
                low[t], high[t] = down, up
            for t in range(last - 2, first - 1, -1):
                if keep > 0:
                    less = (low[t + 1] - drift[i, t + 1] - gain * most_in[t + 1]) / keep
                    more = (high[t + 1] - drift[i, t + 1] + loss * most_out[t + 1]) / keep
                    low[t], high[t] = max(low[t], less), min(high[t], more)
            bottom, top = np.inf, -np.inf
            for t in range(first, last):
                possible[i] = possible[i] and low[t] <= high[t] + 1e-9
                high[t] = max(low[t], high[t])
                bottom, top = min(bottom, low[t]), max(top, high[t])
            if not possible[i]:
                break
            width = max((top - bottom) / (points - 1), 1e-9)

            for t in range(last - 1, first - 1, -1):
                begin = max(int(np.floor((low[t] - bottom) / width)), 0)
                end = min(int(np.ceil((high[t] - bottom) / width)), points - 1)
                for j in range(begin, end + 1):
                    energy = bottom + j * width
                    cost = shortfall[i, t] * max(wished[i, t] - energy, 0.0)
                    cost += excess[i, t] * max(energy - comfort[i, t], 0.0)
                    if t == last - 1:
                        value[t, j] = cost - (end_value[i] * energy if last == steps else 0.0)
                        continue
                    u = t + 1
                    idle = keep * energy + drift[i, u]
                    ahead = value[u]
                    best = _worth(ahead, idle, bottom, width)
                    into, _ = _move(
                        ahead, bottom, width, idle, least, most_in[u], gain,
                        STEP_H * (price[i, u] + half_wear), bend, -np.inf, np.inf,
                    )  # fmt: skip
                    out, _ = _move(
                        ahead, bottom, width, idle, least, most_out[u], -loss,
                        STEP_H * (half_wear - price[i, u]), bend, -np.inf, np.inf,
                    )  # fmt: skip
                    value[t, j] = cost + min(best, into, out)
                for j in range(begin - 1, -1, -1):
                    value[t, j] = value[t, j + 1] + width * _BEYOND_EUR_PER_KWH
                for j in range(end + 1, points):
                    value[t, j] = value[t, j - 1] + width * _BEYOND_EUR_PER_KWH

            energy = initial[i, first]
            for t in range(first, last):
                idle = keep * energy + drift[i, t]
                ahead = value[t]
                into_eur = STEP_H * (price[i, t] + half_wear)
                out_eur = STEP_H * (half_wear - price[i, t])
                bound_low, bound_high = low[t] - 1e-9, high[t] + 1e-9
                best, power = np.inf, 0.0
                if bound_low <= idle <= bound_high:
                    best = _worth(ahead, idle, bottom, width)
                lack = max(least - room_in[t], 0.0) if takes_room and not takes_all else 0.0
                into, into_kw = _move(
                    ahead, bottom, width, idle, least, most_in[t] if lack * STEP_H <= budget else 0.0, gain,
                    into_eur, bend, low[t], high[t],
                )  # fmt: skip
                out, out_kw = _move(
                    ahead, bottom, width, idle, least, most_out[t], -loss,
                    out_eur, bend, low[t], high[t],
                )  # fmt: skip
                if into < best:
                    best, power = into, -into_kw
                if out < best:
                    best, power = out, out_kw
                if best == np.inf:
                    possible[i] = False
                    break
                kw[i, t] = power
                if power < 0:
                    budget -= lack * STEP_H
                drawn, given = max(-power, 0.0), max(power, 0.0)
                energy = idle + gain * drawn - loss * given
                total[i] += into_eur * drawn + out_eur * given + bend * power * power
                total[i] += shortfall[i, t] * max(wished[i, t] - energy, 0.0)
                total[i] += excess[i, t] * max(energy - comfort[i, t], 0.0)
                worth = (
                    _worth(ahead, energy - width, bottom, width)
                    - _worth(ahead, energy + width, bottom, width)
                ) / (2 * width)
                tends[i, t] = into_eur - gain * worth <= out_eur + loss * worth
            if last == steps:
                total[i] -= end_value[i] * energy
            first = last

        if takes_room and possible[i]:
            support_kwh[site[i]] = budget
            for t in range(steps):
                drawn, given = max(-kw[i, t], 0.0), max(kw[i, t], 0.0)
                drawn = drawn if takes_all else min(drawn, least)
                helps[t] -= max(drawn - max(room_in[t], 0.0), 0.0)
                room_in[t] -= min(drawn, max(room_in[t], 0.0))
                room_out[t] -= given if takes_all else min(given, least)
    return kw, tends, possible, total
