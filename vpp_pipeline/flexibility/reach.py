"""Reachable forward, viable backward: the energies a store may have.

Belongs here: the two recursions on time-major arrays (T, N). Does not: frames, devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
    gain = stores.charge_kw * STEP_H * stores.charge_efficiency + stores.drift_kwh
    loss = stores.discharge_kw * STEP_H / stores.discharge_efficiency - stores.drift_kwh
    low = np.full(stores.present.shape, np.nan)
    high = low.copy()
    steps = len(low)
    for t in range(steps):
        start_low = np.where(stores.starts[t], stores.initial_kwh[t], low[t - 1])
        start_high = np.where(stores.starts[t], stores.initial_kwh[t], high[t - 1])
        reach_low = stores.retention * start_low - loss[t]
        reach_high = stores.retention * start_high + gain[t]
        low[t] = np.clip(stores.floor_kwh[t], reach_low, reach_high)
        high[t] = np.clip(stores.ceiling_kwh[t], reach_low, reach_high)
        low[t, ~stores.present[t]] = np.nan
        high[t, ~stores.present[t]] = np.nan

    retention = np.maximum(stores.retention, _SMALLEST_RETENTION)
    for t in range(steps - 2, -1, -1):
        onward = stores.present[t + 1] & ~stores.starts[t + 1]
        need = np.where(onward, (low[t + 1] - gain[t + 1]) / retention, -np.inf)
        room = np.where(onward, (high[t + 1] + loss[t + 1]) / retention, np.inf)
        need = np.clip(need, low[t], high[t])
        high[t] = np.clip(room, low[t], high[t])
        low[t] = np.minimum(need, high[t])
    return low, high
