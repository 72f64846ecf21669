"""The compiled search for the best runs of one device.

Belongs here: the kernels of `runs`, a device at a time. Does not: what a rule means for a problem.

Arrays are device-major, (devices, steps).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.room import DONE_KWH

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places

_ROUNDING = 1e-9


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def best_switches(  # noqa: C901, PLR0912, PLR0917 - a kernel
    site: Places,
    on_eur: Floats,
    off_eur: Floats,
    need_kw: Floats,
    min_run: Places,
    min_rest: Places,
    room_kw: Floats,
) -> tuple[Bools, Bools, Floats]:
    """Choose on/off a device at a time by dynamic programming over when the next run or rest begins."""
    devices, steps = on_eur.shape
    chosen = np.zeros((devices, steps), dtype=np.bool_)
    possible = np.zeros(devices, dtype=np.bool_)
    least_eur = np.empty(devices)
    go_on, go_off = np.empty(steps + 1), np.empty(steps + 1)
    turn_on, turn_off = np.empty(steps + 1), np.empty(steps + 1)
    cost = np.empty(steps)
    for i in range(devices):
        room = room_kw[site[i]]
        for attempt in range(2):
            for t in range(steps):
                fits = attempt == 0 or need_kw[i, t] <= room[t] + _ROUNDING
                cost[t] = on_eur[i, t] if fits else np.inf
            go_on[steps] = go_off[steps] = turn_on[steps] = turn_off[steps] = 0.0
            for t in range(steps - 1, -1, -1):
                end = min(t + min_run[i], steps)
                turn_on[t] = go_on[end]
                for u in range(t, end):
                    turn_on[t] += cost[u]
                end = min(t + min_rest[i], steps)
                turn_off[t] = go_off[end]
                for u in range(t, end):
                    turn_off[t] += off_eur[i, u]
                go_on[t] = min(cost[t] + go_on[t + 1], turn_off[t])
                go_off[t] = min(off_eur[i, t] + go_off[t + 1], turn_on[t])
            if attempt == 0:
                least_eur[i] = min(go_on[0], go_off[0])
        possible[i] = np.isfinite(min(go_on[0], go_off[0]))
        if not possible[i]:
            continue
        running = go_on[0] < go_off[0]
        held_until = 0
        for t in range(steps):
            if t >= held_until:
                if running and turn_off[t] < cost[t] + go_on[t + 1]:
                    running = False
                    held_until = t + min_rest[i]
                elif not running and turn_on[t] < off_eur[i, t] + go_off[t + 1]:
                    running = True
                    held_until = t + min_run[i]
            chosen[i, t] = running
            if running:
                room[t] -= need_kw[i, t]
    return chosen, possible, least_eur


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def best_runs(  # noqa: C901, PLR0917 - a kernel
    site: Places,
    rated_kw: Floats,
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
    efficiency: Floats,
    end_value: Floats,
    price: Floats,
    curvature: Floats,
    goal: Floats,
    pull: float,
    done_kwh: float,
    begun_kw: Floats,
    room_kw: Floats,
) -> tuple[Floats, Bools, Floats]:
    """Try every beginning of each stay's run, and no run; keep the cheapest that finds room.

    The room is without what runs under way, `begun_kw`, have claimed already.
    """
    loads, steps = rated_kw.shape
    kw = np.zeros((loads, steps))
    possible = np.ones(loads, dtype=np.bool_)
    least_eur = np.zeros(loads)
    draws = np.zeros(steps)
    for i in range(loads):
        room = room_kw[site[i]]
        first = 0
        while first < steps:
            last = first + 1
            while last < steps and not starts[i, last]:
                last += 1
            need = initial[i, first]
            for t in range(first, last):
                need = max(need, ceiling[i, t])
            begun = initial[i, first] > DONE_KWH and need - initial[i, first] > DONE_KWH
            least, best = np.inf, np.inf
            for turn in range(last - first + 1):
                # No run first, then every beginning in order: ties go to the earliest.
                start = last if turn == 0 else first + turn - 1
                energy = initial[i, first]
                cost, fits, done = 0.0, True, False
                for t in range(first, last):
                    energy = retention[i] * energy + drift[i, t]
                    draw = 0.0
                    if t >= start and not done:
                        left = need - energy
                        done = left <= done_kwh
                        if not done:
                            draw = min(rated_kw[i, t], left / (efficiency[i] * STEP_H))
                            fits = fits and draw <= room[t] + begun_kw[i, t] + _ROUNDING
                    draws[t] = draw
                    energy += draw * efficiency[i] * STEP_H
                    cost += STEP_H * (price[i, t] * draw + 0.5 * curvature[i] * draw * draw)
                    cost += shortfall[i, t] * max(wished[i, t] - energy, 0.0)
                    cost += excess[i, t] * max(energy - comfort[i, t], 0.0)
                    cost += pull * abs(energy - goal[i, t])
                    fits = fits and floor[i, t] - 1e-6 <= energy <= ceiling[i, t] + 1e-6
                if last == steps:
                    cost -= end_value[i] * energy
                least = min(least, cost)
                if begun and start == first:
                    cost = -np.inf  # what has begun goes on, if the connection lets it
                if fits and cost < best:
                    best = cost
                    kw[i, first:last] = draws[first:last]
            possible[i] = possible[i] and best < np.inf
            least_eur[i] += least
            for t in range(first, last):
                room[t] -= kw[i, t] - begun_kw[i, t]
            first = last
    return kw, possible, least_eur
