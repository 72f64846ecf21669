"""The day as it would have been with nobody steering.

Belongs here: every device's own default, over a whole fleet. Does not: the simulator's physics
by the second, what the day cost (`cost`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.settlement.stores import on_grid

if TYPE_CHECKING:
    from vpp_pipeline.settlement.schemas import ActualDay
    from vpp_pipeline.settlement.stores import Floats, Stores

_THERMOSTAT = 0.4
"""The middle of a thermostat that heats from 20 to 60 % of the comfort band."""


def unmanaged_power(devices: pl.DataFrame, day: ActualDay, stores: Stores) -> Floats:
    """Return each device's signed kW (T, N) when it follows its own default.

    Batteries and CHPs stand still, sun and wind run free, loads draw what they draw. A vehicle
    charges at once at full power until its target; a flexible load runs as early as it may; a
    heat pump holds the room at 40 % of its comfort band, as well as its rated power can.
    """
    kind = devices["device_type"].cast(pl.String).to_numpy()
    hold_kwh = (
        (
            ((devices["comfort_max_c"] - devices["comfort_min_c"]) * _THERMOSTAT)
            * devices["thermal_capacity_kwh_per_k"]
        )
        .fill_null(0.0)
        .to_numpy()
    )
    building = kind == "heat_pump"
    promised = np.isin(kind, ["ev_charger", "flexible_load"])
    rated = devices["max_draw_kw"].to_numpy()

    power_kw = np.nan_to_num(on_grid(day.profiles, "available_kw", devices, day.intervals))
    energy_kwh = np.full(devices.height, np.nan)
    for step in range(len(power_kw)):
        energy_kwh = stores.begin(step, energy_kwh)
        goal = np.where(building, hold_kwh, stores.target_kwh[step])
        at_rest = stores.end(step, energy_kwh, np.zeros(devices.height))
        wish = (goal - at_rest) / (stores.charge_efficiency * STEP_H)
        steered = stores.present[step] & (building | promised)
        power_kw[step] = np.where(steered, -np.clip(wish, 0.0, rated), power_kw[step])
        energy_kwh = stores.end(step, energy_kwh, power_kw[step])
    return power_kw
