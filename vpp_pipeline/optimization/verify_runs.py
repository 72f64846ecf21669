"""Whether what is to run in one go does: loads that may not be interrupted, CHPs with least times.

Belongs here: a plan's powers held against these rules, by code that did not make it. Does not:
all other rules (`verify`), making runs (`runs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.problem import select

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Sources, Stores

_DONE_KWH = 1e-3
_WATT_KW = 1.001e-3  # a run keeps its rated power in whole watts; less is rounding


def interrupted_kw(stores: Stores, drawn_kw: Floats, before_kwh: Floats, begun: Bools) -> float:
    """Return by how much a load (T, S) once begun falls short of running on until it is done.

    `before_kwh` is what each holds when a quarter-hour begins, `begun` (S,) whose run was under
    way before the first. Done is what holds the highest ceiling of its stay.
    """
    drawn_kw, before_kwh = drawn_kw[:, stores.unbroken], before_kwh[:, stores.unbroken]
    runs = begun[stores.unbroken]
    stores = select(stores, stores.unbroken)
    need_kwh = _highest_of_stay(stores.ceiling_kwh, stores.starts)
    worst = 0.0
    for t in range(len(drawn_kw)):
        lacking = need_kwh[t] - stores.retention * before_kwh[t] - stores.drift_kwh[t]
        goes_on = runs & ~stores.starts[t] if t else runs
        runs = (goes_on | (drawn_kw[t] > 0)) & (lacking > _DONE_KWH)
        full_kw = np.minimum(stores.charge_max_kw[t], lacking / (stores.charge_efficiency * STEP_H))
        worst = max(worst, _beyond_rounding(full_kw - drawn_kw[t], runs))
    return worst


def hasty_kw(sources: Sources, power_kw: Floats) -> float:
    """Return the most power (T, G) at which a source is switched off or on too soon.

    What it did before the horizon lasted long enough, and so will what it does at its end.
    """
    timed = (sources.min_run_steps > 1) | (sources.min_rest_steps > 1)
    power_kw, sources = power_kw[:, timed], select(sources, timed)
    on = power_kw > 0
    lasted = np.full(on.shape[1], len(on) + int(sources.min_run_steps.sum()))
    worst = 0.0
    for t in range(1, len(on)):
        stops, begins = on[t - 1] & ~on[t], ~on[t - 1] & on[t]
        worst = max(
            worst,
            _largest(power_kw[t - 1], stops & (lasted < sources.min_run_steps)),
            _largest(power_kw[t], begins & (lasted < sources.min_rest_steps)),
        )
        lasted = np.where(stops | begins, 1, lasted + 1)
    return worst


def _highest_of_stay(ceiling_kwh: Floats, starts: Bools) -> Floats:
    stay = np.cumsum(starts, axis=0)
    highest = np.zeros_like(ceiling_kwh)
    for nth in range(int(stay.max(initial=0)) + 1):
        within = stay == nth
        top = np.max(ceiling_kwh, axis=0, where=within, initial=-np.inf)
        highest = np.where(within, top, highest)
    return highest


def _beyond_rounding(missing_kw: Floats, where: Bools) -> float:
    missing = _largest(missing_kw, where)
    return missing if missing > _WATT_KW else 0.0


def _largest(kw: Floats, where: Bools) -> float:
    return float(np.max(kw, where=where, initial=0.0))
