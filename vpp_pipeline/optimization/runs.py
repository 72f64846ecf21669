"""What runs in one go: CHPs with least times on and off, loads that may not be interrupted.

Belongs here: the best on/off pattern of such a device at given prices, or the nearest to a wish,
and the problem narrowed to it. Does not: the directions of stores (`directions`), which devices
need a pattern (`integers`), milliwatts (`repair`).

Alone at fixed prices both kinds are solved exactly (a CHP's ramps aside). Behind one connection
they share its room: each device takes what it surely needs, the next finds what is left, so that
all patterns can be kept together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.problem import by_site, select
from vpp_pipeline.optimization.room import DONE_KWH, begun_runs_kw, room_at_sites
from vpp_pipeline.optimization.runs_kernel import best_runs, best_switches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem, Stores
    from vpp_pipeline.optimization.room import Room

LEAST_RUNNING_KW = 1e-3  # a CHP that must run and has no least power runs at a watt or more
_TOLD_KW = 1e-3
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Patterns:
    """Powers or switches of the chosen devices (T, chosen), and what is known of their cost."""

    kw: Floats  # a load's draw; a CHP's least power where it is on, 0 where it is off
    possible: Bools  # (chosen,) whether a pattern keeps all bounds
    least_eur: Floats  # (chosen,) no pattern costs less at the given prices


def in_one_run(problem: Problem, chosen: Places, price_eur_per_kwh: Floats, room: Room) -> Patterns:
    """Return when these uninterruptible loads run at least cost, each store alone.

    `price_eur_per_kwh` (T, chosen) is what a kWh costs at the load's site.
    """
    stores = problem.stores
    none = np.zeros((len(chosen), len(stores.drift_kwh)))
    return _runs(
        problem,
        chosen,
        price=price_eur_per_kwh + 0.5 * stores.wear_eur_per_kwh[chosen],
        curvature=stores.curvature_eur_per_kw2h[chosen],
        rated_kw=stores.charge_max_kw[:, chosen],
        soft=(
            _rows(stores.shortfall_eur_per_kwh, chosen),
            _rows(stores.excess_eur_per_kwh, chosen),
        ),
        end_value=stores.end_value_eur_per_kwh[chosen],
        goal=none,
        pull=0.0,
        done_kwh=_ROUNDING,
        room=room,
    )


def switched(problem: Problem, chosen: Places, price_eur_per_kwh: Floats, room: Room) -> Patterns:
    """Return when these CHPs are on at least cost, each alone and without its ramp.

    `price_eur_per_kwh` (T, chosen) is what a kWh earns at the CHP's site.
    """
    sources = problem.sources
    low, high = running_kw(problem, chosen), sources.max_kw[:, chosen]
    margin = sources.cost_eur_per_kwh[chosen] - price_eur_per_kwh
    curvature = sources.curvature_eur_per_kw2h[chosen]
    power = np.clip(-margin / np.maximum(curvature, 1e-12), low, np.maximum(low, high))
    running_eur = STEP_H * (margin * power + 0.5 * curvature * power**2)
    return _switches(problem, chosen, running_eur, np.zeros_like(running_eur), room)


def ruled(problem: Problem) -> tuple[Places, Places]:
    """Return the stores that run in one go, and the sources with least times on or off."""
    sources = problem.sources
    timed = (sources.min_run_steps > 1) | (sources.min_rest_steps > 1)
    return np.flatnonzero(problem.stores.unbroken), np.flatnonzero(timed)


def running_kw(problem: Problem, chosen: Places) -> Floats:
    """Return the least power of these sources in a quarter-hour in which they are on (T, chosen)."""
    sources = problem.sources
    least = np.maximum(sources.min_active_kw[chosen], LEAST_RUNNING_KW)
    low: Floats = np.maximum(sources.min_kw[:, chosen], least)
    return low


def keeping_runs(
    problem: Problem, energy_kwh: Floats, source_kw: Floats, help_kw: Floats
) -> Problem:
    """Narrow the bounds so that every run is kept, as near to energies (T, S) and powers (T, G).

    Beside what its connection surely leaves, a load may draw `help_kw` (T, K).

    Loads that may not be interrupted get their powers, in whole milliwatts; CHPs with least times are
    off or on, within what their ramps allow before and after.
    """
    loads, timed = ruled(problem)
    if not len(loads) and not len(timed):
        return problem
    asked = np.array(problem.stores.charge_min_kw)
    asked[:, loads] = 0.0
    alone = replace(problem, stores=replace(problem.stores, charge_min_kw=asked))
    room = room_at_sites(alone, np.zeros_like(problem.stores.unbroken))
    wish = np.maximum(source_kw[:, timed], 0)
    low = running_kw(problem, timed)
    on = _switches(problem, timed, np.maximum(low - wish, 0), wish, room)
    narrowed = with_switches(problem, timed[on.possible], on.kw[:, on.possible])
    room.import_kw[:] += help_kw.T
    none = np.zeros((len(loads), len(energy_kwh)))
    nearest = _runs(
        alone,
        loads,
        price=none.T,
        curvature=np.zeros(len(loads)),
        rated_kw=np.floor(problem.stores.charge_max_kw[:, loads] * 1000 + 1e-6) / 1000,
        soft=(none, none),
        end_value=np.zeros(len(loads)),
        goal=_rows(energy_kwh, loads),
        pull=1.0,
        done_kwh=DONE_KWH,
        room=room,
    )
    rounded = np.floor(nearest.kw * 1e6 + 1e-6) / 1e6
    pinned = with_runs(narrowed, loads[nearest.possible], rounded[:, nearest.possible])
    return _within_ramps(pinned, timed)


def broken_runs(
    problem: Problem, charge_kw: Floats, energy_kwh: Floats, source_kw: Floats
) -> tuple[Bools, Bools]:
    """Return the stores (S,) whose run an answer interrupts, and the sources (G,) of hasty switches."""
    loads, timed = ruled(problem)
    stores = select(problem.stores, problem.stores.unbroken)
    draw, energy = charge_kw[:, loads], energy_kwh[:, loads]
    before = np.where(stores.starts, stores.initial_kwh, np.roll(energy, 1, axis=0))
    runs = draw > _TOLD_KW
    begun = begun_runs_kw(problem)[:, loads].any(axis=0)
    ran = np.vstack([begun, runs[:-1] & ~stores.starts[1:]])
    left = _need(stores) - stores.retention * before - stores.drift_kwh
    full_kw = np.minimum(stores.charge_max_kw, left / (stores.charge_efficiency * STEP_H))
    broken = np.zeros(len(problem.stores.site), dtype=np.bool_)
    broken[loads] = ((runs | ran) & (left > DONE_KWH) & (draw < full_kw - _TOLD_KW)).any(axis=0)

    on = source_kw[:, timed] > LEAST_RUNNING_KW / 2
    hasty = np.zeros(len(problem.sources.site), dtype=np.bool_)
    hasty[timed] = _too_short(on, problem.sources.min_run_steps[timed]) | _too_short(
        ~on, problem.sources.min_rest_steps[timed]
    )
    return broken, hasty


def possible_runs(problem: Problem) -> Iterator[tuple[int, list[Floats]]]:
    """Yield each uninterruptible load, and for each of its stays its runs, (T, beginnings) in kW."""
    stores = problem.stores
    need = _need(stores)
    steps = len(need)
    for load in np.flatnonzero(stores.unbroken):
        firsts = np.flatnonzero(stores.starts[:, load])
        runs = []
        for first, last in pairwise([*firsts, steps]):
            beginning = np.arange(first, last)
            energy = np.full(len(beginning), stores.initial_kwh[first, load])
            kw = np.zeros((steps, len(beginning)))
            gain = stores.charge_efficiency[load] * STEP_H
            for t in range(first, last):
                idle = stores.retention[load] * energy + stores.drift_kwh[t, load]
                left_kw = np.maximum(need[t, load] - idle, 0) / gain
                kw[t] = np.where(
                    t >= beginning, np.minimum(stores.charge_max_kw[t, load], left_kw), 0
                )
                energy = idle + kw[t] * gain
            runs.append(kw)
        yield int(load), runs


def with_runs(problem: Problem, chosen: Places, draw_kw: Floats) -> Problem:
    """Give these loads their powers (T, chosen)."""
    stores = problem.stores
    low, high = np.array(stores.charge_min_kw), np.array(stores.charge_max_kw)
    low[:, chosen] = high[:, chosen] = draw_kw
    return replace(problem, stores=replace(stores, charge_min_kw=low, charge_max_kw=high))


def with_switches(problem: Problem, chosen: Places, least_kw: Floats) -> Problem:
    """Turn these sources off where their least power (T, chosen) is 0, and on where it is not."""
    sources = problem.sources
    low, high = np.array(sources.min_kw), np.array(sources.max_kw)
    low[:, chosen] = least_kw
    high[:, chosen] = np.where(least_kw > 0, high[:, chosen], 0.0)
    return replace(problem, sources=replace(sources, min_kw=low, max_kw=high))


def _need(stores: Stores) -> Floats:
    """Return what each stay's load holds when it is done (T, n)."""
    need = np.maximum(stores.ceiling_kwh, stores.initial_kwh)
    for t in range(1, len(need)):
        need[t] = np.where(stores.starts[t], need[t], np.maximum(need[t], need[t - 1]))
    for t in range(len(need) - 2, -1, -1):
        need[t] = np.where(stores.starts[t + 1], need[t], need[t + 1])
    return need


def _too_short(is_so: Bools, least_steps: Places) -> Bools:
    """Return where a state (T, n) that begins and ends within the horizon lasts too few steps."""
    short = np.zeros(is_so.shape[1], dtype=np.bool_)
    lasted = np.full(is_so.shape[1], len(is_so))  # what was before the horizon lasted long enough
    for t in range(1, len(is_so)):
        ends = is_so[t - 1] & ~is_so[t]
        short |= ends & (lasted < least_steps)
        lasted = np.where(is_so[t], np.where(is_so[t - 1], lasted + 1, 1), 0)
    return short


def _within_ramps(problem: Problem, chosen: Places) -> Problem:
    """Leave no power from which a ramp can't reach the next quarter-hour's bounds."""
    sources = problem.sources
    low, high, ramp = np.array(sources.min_kw), np.array(sources.max_kw), sources.ramp_kw[chosen]
    for t in range(len(low) - 2, -1, -1):
        high[t, chosen] = np.minimum(high[t, chosen], high[t + 1, chosen] + ramp)
        low[t, chosen] = np.maximum(low[t, chosen], low[t + 1, chosen] - ramp)
    low = np.minimum(low, high)
    return replace(problem, sources=replace(sources, min_kw=low, max_kw=high))


def _runs(
    problem: Problem,
    chosen: Places,
    *,
    price: Floats,
    curvature: Floats,
    rated_kw: Floats,
    soft: tuple[Floats, Floats],
    end_value: Floats,
    goal: Floats,
    pull: float,
    done_kwh: float,
    room: Room,
) -> Patterns:
    stores = problem.stores
    begun_kw = np.maximum(begun_runs_kw(problem) - stores.charge_min_kw, 0)
    room.import_kw[:] -= by_site(begun_kw, stores.site, len(room.import_kw)).T
    kw, possible, least_eur = best_runs(
        stores.site[chosen],
        np.ascontiguousarray(rated_kw.T),
        _rows(stores.starts, chosen),
        _rows(stores.initial_kwh, chosen),
        _rows(stores.drift_kwh, chosen),
        _rows(stores.floor_kwh, chosen),
        _rows(stores.ceiling_kwh, chosen),
        _rows(stores.wished_kwh, chosen),
        soft[0],
        _rows(stores.comfort_kwh, chosen),
        soft[1],
        stores.retention[chosen],
        stores.charge_efficiency[chosen],
        end_value,
        np.ascontiguousarray(np.broadcast_to(price, rated_kw.shape).T),
        curvature,
        goal,
        pull,
        done_kwh,
        _rows(begun_kw, chosen),
        room.import_kw,
    )
    return Patterns(kw.T, possible, least_eur)


def _switches(
    problem: Problem, chosen: Places, on_eur: Floats, off_eur: Floats, room: Room
) -> Patterns:
    sources = problem.sources
    low, high = running_kw(problem, chosen), sources.max_kw[:, chosen]
    must = np.maximum(sources.min_kw[:, chosen], 0)
    on, possible, least_eur = best_switches(
        sources.site[chosen],
        np.ascontiguousarray(np.where(low <= high, on_eur, np.inf).T),
        np.ascontiguousarray(np.where(must <= 0, off_eur, np.inf).T),
        np.ascontiguousarray((low - must).T),
        np.maximum(sources.min_run_steps[chosen], 1),
        np.maximum(sources.min_rest_steps[chosen], 1),
        room.export_kw,
    )
    return Patterns(np.where(on.T, low, 0.0), possible, least_eur)


def _rows(of: Floats | Bools, chosen: Places) -> Floats:
    """Return the chosen devices' values, a row each."""
    rows: Floats = np.ascontiguousarray(of[:, chosen].T)
    return rows
