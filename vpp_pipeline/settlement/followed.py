"""The day as it would have been had every device done just what it was told.

Belongs here: schedules carried out on what really happened, as far as a device can. Does not:
which schedule was in force (`defs`), what the day cost (`cost`), what was measured (`settle`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.settlement.stores import on_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vpp_pipeline.settlement.schemas import ActualDay
    from vpp_pipeline.settlement.stores import Floats, Stores

_STORES = ["battery", "ev_charger", "heat_pump", "flexible_load"]
_FREE = ["pv", "wind"]


def followed_power(
    devices: pl.DataFrame,
    day: ActualDay,
    stores: Stores,
    default_kw: Floats,
    schedules: pl.DataFrame,
) -> Floats:
    """Return each device's signed kW (T, N) when it does what its schedule says.

    `schedules` has (device_id, interval_start, power_kw, limit_kw), at most one row a device and
    quarter-hour: of several plans, that of the one in force when the quarter-hour began.
    `default_kw` (T, N) is what devices do that are not told, or not controllable.

    A store keeps to its power within its rating until it is full or empty, by its own content
    since the day began; a vehicle that is not there draws nothing; a building takes the heat it
    is told to. Sun and wind give what there was, up to the limit. Nothing holds a site back at its
    grid connection: what the guard trims there was not done as told.
    """
    kind = devices["device_type"].cast(pl.String).to_numpy()
    store, free = np.isin(kind, _STORES), np.isin(kind, _FREE)
    told = on_grid(schedules, "power_kw", devices, day.intervals)
    told[:, ~devices["controllable"].to_numpy()] = np.nan
    limit = np.nan_to_num(on_grid(schedules, "limit_kw", devices, day.intervals), nan=np.inf)
    wish = np.clip(told, -devices["max_draw_kw"].to_numpy(), devices["max_inject_kw"].to_numpy())
    wish = np.where(free & ~np.isnan(told), np.minimum(default_kw, limit), wish)
    wish = np.where(np.isnan(wish), default_kw, wish)

    floor, ceiling = _window(devices, kind, stores)
    power_kw = np.empty_like(wish)
    energy_kwh = np.full(devices.height, np.nan)
    for step in range(len(wish)):
        energy_kwh = stores.begin(step, energy_kwh)
        at_rest = stores.end(step, energy_kwh, np.zeros(devices.height))
        most_in = np.fmax(ceiling[step] - at_rest, 0) / stores.charge_efficiency / STEP_H
        most_out = np.fmax(at_rest - floor, 0) * stores.discharge_efficiency / STEP_H
        within = np.where(stores.present[step], np.clip(wish[step], -most_in, most_out), 0.0)
        power_kw[step] = np.where(store, within, wish[step])
        energy_kwh = stores.end(step, energy_kwh, power_kw[step])
    return power_kw


def _window(
    devices: pl.DataFrame, kind: NDArray[np.object_], stores: Stores
) -> tuple[Floats, Floats]:
    """Return what stores may hold at least (N,) and at most (T, N)."""
    building, load = kind == "heat_pump", kind == "flexible_load"
    floor = devices["min_energy_kwh"].fill_null(0.0).to_numpy()
    top = devices.select(pl.coalesce("max_energy_kwh", "energy_capacity_kwh").fill_null(0.0))
    ceiling = np.where(
        load, stores.target_kwh, np.fmax(top.to_series().to_numpy(), stores.target_kwh)
    )
    return np.where(building, -np.inf, floor), np.where(building, np.inf, ceiling)
