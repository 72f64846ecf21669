"""A followed schedule, minded at the last moment so that no promise is broken that can be kept.

Belongs here: what charger, load and thermostat add to a plan that nobody makes again. Does not:
following the schedule (`followed`), what a broken promise costs (`cost`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP_H

if TYPE_CHECKING:
    from vpp_pipeline.settlement.stores import Bools, Floats, Stores


def with_promises_kept(devices: pl.DataFrame, stores: Stores, power_kw: Floats) -> Floats:
    """Return each device's signed kW (T, N) where it departs from `power_kw` (T, N) only in need.

    A plan made once and followed all day leaves vehicles short and rooms cold that any running
    plant would look after: it plans again. In its place, by the plainest rule: a vehicle or a
    flexible load draws what it must as soon as its rating would not do later to reach its target
    when it leaves, and one that can't give back draws no more than that; a room is not let below
    its comfort band, nor heated above it.
    """
    kind = devices["device_type"].cast(pl.String).to_numpy()
    promised = np.isin(kind, ["ev_charger", "flexible_load"])
    building = kind == "heat_pump"
    rated_kw = devices["max_draw_kw"].to_numpy()
    band_kwh = devices.select(
        (pl.col("comfort_max_c") - pl.col("comfort_min_c")) * pl.col("thermal_capacity_kwh_per_k")
    )
    warmest_kwh = band_kwh.to_series().fill_null(np.inf).to_numpy()
    per_kw = stores.charge_efficiency * STEP_H
    later_kwh = _steps_left(stores) * np.where(promised, rated_kw * per_kw, 1.0)
    one_way = promised & (devices["max_inject_kw"].to_numpy() == 0)
    kept_kw = power_kw.copy()
    energy_kwh = np.full(devices.height, np.nan)
    for step in range(len(kept_kw)):
        energy_kwh = stores.begin(step, energy_kwh)
        at_rest = stores.end(step, energy_kwh, np.zeros(devices.height))
        target_kwh = stores.target_kwh[step]
        # nothing is owed where a stay ends on another day, nor where no target was told
        owed = np.where(
            promised, np.nan_to_num(target_kwh - later_kwh[step] - at_rest, neginf=0.0), 0.0
        )
        owed = np.where(building, -np.nan_to_num(at_rest), owed)
        must_kw = np.where(owed > 0, np.minimum(np.maximum(owed, 0.0) / per_kw, rated_kw), -np.inf)
        most_kwh = np.where(building, warmest_kwh, np.where(one_way, target_kwh, np.inf))
        room_kw = (
            np.fmax(np.nan_to_num(most_kwh - at_rest, nan=np.inf, posinf=np.inf), 0.0) / per_kw
        )
        drawn_kw = np.minimum(np.maximum(-kept_kw[step], must_kw), np.maximum(room_kw, must_kw))
        minded = stores.present[step] & (promised | building)
        kept_kw[step] = np.where(minded, -drawn_kw, kept_kw[step])
        energy_kwh = stores.end(step, energy_kwh, kept_kw[step])
    return kept_kw


def _steps_left(stores: Stores) -> Floats:
    """Return how many quarter-hours of a stay come after each (T, N); inf where it goes on."""
    left = np.full(stores.present.shape, np.inf)
    after: Floats = np.full(stores.present.shape[1], np.inf)
    for step in range(len(left) - 1, -1, -1):
        ends: Bools = stores.leaves[step]
        after = np.where(ends, 0.0, after + 1.0)
        left[step] = after
    return left
