"""Chargers below their least power, made to charge now and then instead.

Belongs here: from a convex answer's trickle to whole quarter-hours on and off. Does not: chargers
whose prices alone tell when to charge (`directions`).

At a narrow connection a charger's trickle fits at any time, its least power only while something
else, a battery or the sun, lends a hand. An error diffusion keeps the energy, and the convex
problem that is left finds who lends it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem

_WORTH_STARTING = 0.5  # of what a quarter-hour at the least power brings
_ROUNDING_KW = 1e-6
_LOST_KWH = 0.05


def starved(problem: Problem, wished_kwh: Floats, given_kwh: Floats) -> Places:
    """Return the stores with a least power that end shorter of what they are owed than wished."""
    stores = problem.stores
    owed = stores.owed & (stores.min_active_kw > 0)
    lost = np.where(owed, _short(problem, given_kwh) - _short(problem, wished_kwh), 0.0)
    return np.flatnonzero(lost.sum(axis=0) > _LOST_KWH)


def now_and_then(problem: Problem, chosen: Places, charge_kw: Floats) -> Problem:
    """Allow chosen stores to charge only in quarter-hours that make up what they wish (T, S)."""
    stores = problem.stores
    least = stores.min_active_kw[chosen]
    wish = charge_kw[:, chosen]
    able = stores.charge_max_kw[:, chosen] >= least
    on = np.zeros(wish.shape, dtype=np.bool_)
    owed_kwh = np.zeros(len(chosen))
    for t in range(len(wish)):
        owed_kwh = owed_kwh + wish[t] * STEP_H
        on[t] = able[t] & (owed_kwh >= _WORTH_STARTING * least * STEP_H)
        owed_kwh = owed_kwh - on[t] * np.maximum(least, wish[t]) * STEP_H
    return _only(problem, chosen, on, np.zeros_like(wish))


def kept_on(problem: Problem, chosen: Places, charge_kw: Floats) -> Problem:
    """Hold chosen stores to at least their least power where they reach it, and off elsewhere."""
    least = problem.stores.min_active_kw[chosen]
    on = charge_kw[:, chosen] >= least - _ROUNDING_KW
    return _only(problem, chosen, on, np.where(on, least, 0.0))


def _short(problem: Problem, energy_kwh: Floats) -> Floats:
    short: Floats = np.maximum(problem.stores.wished_kwh - energy_kwh, 0)
    return short


def _only(problem: Problem, chosen: Places, on: Bools, least_kw: Floats) -> Problem:
    stores = problem.stores
    low, high = np.array(stores.charge_min_kw), np.array(stores.charge_max_kw)
    low[:, chosen] = least_kw
    high[:, chosen] = np.where(on, high[:, chosen], 0.0)
    return replace(problem, stores=replace(stores, charge_min_kw=low, charge_max_kw=high))
