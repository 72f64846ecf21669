"""Reachable forward, viable backward: the energies a store may have.

Belongs here: the two recursions on time-major arrays (T, N), compiled. Does not: frames, devices,
for how long a power can be held (`sustained`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vpp_pipeline.delivery_day import STEP_H

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SMALLEST_RETENTION = 1e-9  # below it nothing of a quarter-hour's start is left at its end


@dataclass(frozen=True)
class Stores:
    """N stores over T quarter-hours; powers in kW, energies in kWh at an interval's end.

    A store exists where `present`; where `starts` it begins with `initial_kwh`. `floor_kwh` and
    `ceiling_kwh` are what is wished, a debt included.
    """

    present: Bools
    starts: Bools
    initial_kwh: Floats
    floor_kwh: Floats
    ceiling_kwh: Floats
    charge_kw: Floats
    discharge_kw: Floats
    charge_efficiency: Floats  # (N,)
    discharge_efficiency: Floats  # (N,)
    retention: Floats  # (N,)
    drift_kwh: Floats


def viable_energies(stores: Stores) -> tuple[Floats, Floats]:
    """Return lowest and highest energy (T, N), NaN where there is no store.

    From every energy between them at an interval's end, every later interval's bounds can be
    kept; and every such energy can be reached. A wish out of reach is moved to what is nearest
    in reach, so the lowest is never above the highest.
    """
    low = np.full(stores.present.shape, np.nan)
    high = low.copy()
    _fill(
        low,
        high,
        np.ascontiguousarray(stores.present),
        np.ascontiguousarray(stores.starts),
        np.ascontiguousarray(stores.initial_kwh),
        np.ascontiguousarray(stores.floor_kwh),
        np.ascontiguousarray(stores.ceiling_kwh),
        np.ascontiguousarray(stores.charge_kw),
        np.ascontiguousarray(stores.discharge_kw),
        np.ascontiguousarray(stores.drift_kwh),
        STEP_H * stores.charge_efficiency,
        STEP_H / stores.discharge_efficiency,
        np.ascontiguousarray(stores.retention),
    )
    return low, high


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba tells no types
def _fill(  # noqa: PLR0917 - compiled code takes arrays, not a `Stores`
    low: Floats,
    high: Floats,
    present: Bools,
    starts: Bools,
    initial_kwh: Floats,
    floor_kwh: Floats,
    ceiling_kwh: Floats,
    charge_kw: Floats,
    discharge_kw: Floats,
    drift_kwh: Floats,
    stored_h: Floats,
    taken_h: Floats,
    retention: Floats,
) -> None:
    steps, count = low.shape
    for t in range(steps):
        for i in range(count):
            if not present[t, i]:
                continue
            if starts[t, i]:
                least = most = initial_kwh[t, i]
            else:
                least, most = low[t - 1, i], high[t - 1, i]
            idle = drift_kwh[t, i]
            least = retention[i] * least + idle - discharge_kw[t, i] * taken_h[i]
            most = retention[i] * most + idle + charge_kw[t, i] * stored_h[i]
            low[t, i] = min(max(floor_kwh[t, i], least), most)
            high[t, i] = min(max(ceiling_kwh[t, i], least), most)
    for t in range(steps - 2, -1, -1):
        for i in range(count):
            if not present[t, i] or not present[t + 1, i] or starts[t + 1, i]:
                continue
            kept = max(retention[i], _SMALLEST_RETENTION)
            idle = drift_kwh[t + 1, i]
            need = (low[t + 1, i] - idle - charge_kw[t + 1, i] * stored_h[i]) / kept
            room = (high[t + 1, i] - idle + discharge_kw[t + 1, i] * taken_h[i]) / kept
            need = min(max(need, low[t, i]), high[t, i])
            high[t, i] = min(max(room, low[t, i]), high[t, i])
            low[t, i] = min(need, high[t, i])
