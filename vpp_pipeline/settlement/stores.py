"""The fleet's stores over a settled day: what they hold, given what was drawn and injected.

Belongs here: the store equation on the day's grid, the same for every way to run the day. Does
not: what is drawn (`unmanaged`, `foresight`, or the meters), what it is worth (`cost`).

Arrays are time-major, (quarter-hours T, devices N) in the fleet's order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.settlement.schemas import SettlementError

if TYPE_CHECKING:
    from vpp_pipeline.settlement.schemas import ActualDay

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Stores:
    """Where stores are, what they begin with, what they owe, and how they lose."""

    present: Bools
    """(T, N)"""
    begins_kwh: Floats
    """(T, N) the content where a store begins; NaN elsewhere."""
    target_kwh: Floats
    """(T, N) of vehicles and flexible loads; NaN elsewhere."""
    leaves: Bools
    """(T, N) the last quarter-hour of a stay that ends in the day."""
    was_there: Bools
    """(N,) the day begins amid a stay."""
    retention: Floats
    """(N,)"""
    drift_kwh: Floats
    """(T, N)"""
    charge_efficiency: Floats
    """(N,)"""
    discharge_efficiency: Floats
    """(N,)"""

    def begin(self, step: int, energy_kwh: Floats) -> Floats:
        """Return the contents (N,) at a quarter-hour's start, new stores put in their place."""
        begins = self.begins_kwh[step]
        return np.where(np.isnan(begins), energy_kwh, begins)

    def end(self, step: int, energy_kwh: Floats, power_kw: Floats) -> Floats:
        """Return the contents (N,) at a quarter-hour's end (docs/architecture.md, stores)."""
        charged = np.maximum(-power_kw, 0) * self.charge_efficiency * STEP_H
        discharged = np.maximum(power_kw, 0) / self.discharge_efficiency * STEP_H
        held = self.retention * energy_kwh + charged - discharged + self.drift_kwh[step]
        return np.where(self.present[step], held, np.nan)

    def contents(self, power_kw: Floats) -> Floats:
        """Return the contents (T, N) at the quarter-hours' ends; NaN where there is no store."""
        energy_kwh = np.full(power_kw.shape[1], np.nan)
        held = np.empty_like(power_kw)
        for step, power in enumerate(power_kw):
            energy_kwh = self.end(step, self.begin(step, energy_kwh), power)
            held[step] = energy_kwh
        return held


def stores(devices: pl.DataFrame, day: ActualDay) -> Stores:
    """Lay the day's stores out on its grid.

    Raises `SettlementError` where a heat pump's site has no temperature.
    """
    steps, size = len(day.intervals), devices.height
    present = np.zeros((steps, size), dtype=np.bool_)
    begins, target = np.full((steps, size), np.nan), np.full((steps, size), np.nan)
    leaves, was_there = np.zeros((steps, size), dtype=np.bool_), np.zeros(size, dtype=np.bool_)

    standing = (
        devices.select("device_id").with_row_index("place").join(day.start_kwh, on="device_id")
    )
    present[:, standing["place"].to_numpy()] = True
    begins[0, standing["place"].to_numpy()] = standing["energy_kwh"].to_numpy()

    placed = devices.select("device_id").with_row_index("place").join(day.stays, on="device_id")
    place, first, end = (placed[name].to_numpy() for name in ("place", "first_step", "end_step"))
    span = np.arange(steps)[:, None]
    of_stay = (span >= first) & (span < end)
    at_step, stay = np.nonzero(of_stay)
    present[at_step, place[stay]] = True
    target[at_step, place[stay]] = placed["target_kwh"].to_numpy()[stay]
    begins[first, place] = placed["initial_kwh"].to_numpy()
    leaves[end - 1, place] = placed["leaves"].to_numpy()
    was_there[place[placed["was_there"].to_numpy()]] = True

    retention, drift = _buildings(devices, day)
    return Stores(
        present=present,
        begins_kwh=begins,
        target_kwh=target,
        leaves=leaves,
        was_there=was_there,
        retention=retention,
        drift_kwh=drift,
        charge_efficiency=devices["charge_efficiency"].fill_null(1.0).to_numpy(),
        discharge_efficiency=devices["discharge_efficiency"].fill_null(1.0).to_numpy(),
    )


def on_grid(frame: pl.DataFrame, value: str, devices: pl.DataFrame, intervals: pl.Series) -> Floats:
    """Return a column of (device_id, interval_start, …) as (T, N); NaN where there is no row."""
    placed = (
        frame.filter(pl.col(value).is_not_null())
        .join(devices.select("device_id").with_row_index("place"), on="device_id")
        .join(
            intervals.alias("interval_start").to_frame().with_row_index("step"), on="interval_start"
        )
    )
    grid = np.full((len(intervals), devices.height), np.nan)
    grid[placed["step"].to_numpy(), placed["place"].to_numpy()] = placed[value].to_numpy()
    return grid


def to_frame(grid: Floats, value: str, devices: pl.DataFrame, intervals: pl.Series) -> pl.DataFrame:
    """Return (T, N) as (device_id, interval_start, value), without the rows that are NaN."""
    return pl.DataFrame(
        {
            "device_id": devices["device_id"].gather(np.tile(np.arange(grid.shape[1]), len(grid))),
            "interval_start": intervals.gather(np.repeat(np.arange(len(grid)), grid.shape[1])),
            value: grid.ravel(),
        }
    ).filter(pl.col(value).is_not_nan())


def _buildings(devices: pl.DataFrame, day: ActualDay) -> tuple[Floats, Floats]:
    heated = (devices["device_type"].cast(pl.String) == "heat_pump").to_numpy()
    retention = np.ones(devices.height)
    drift = np.zeros((len(day.intervals), devices.height))
    homes = devices.filter(pl.Series(heated))
    capacity = homes["thermal_capacity_kwh_per_k"].to_numpy()
    resistance = homes["thermal_resistance_k_per_kw"].to_numpy()
    retention[heated] = np.exp(-STEP_H / (resistance * capacity))
    outdoor = on_grid(
        homes.select("device_id", "site_id").join(day.temperatures, on="site_id"),
        "temperature_c",
        homes,
        day.intervals,
    )
    if np.isnan(outdoor).any():
        step, home = (int(i) for i in np.argwhere(np.isnan(outdoor))[0])
        raise SettlementError(
            f"temperatures: site {homes['site_id'][home]!r} has no temperature_c at "
            f"{day.intervals[step]}: add an observation or a forecast for it"
        )
    above = outdoor - homes["comfort_min_c"].to_numpy()
    drift[:, heated] = above * capacity * (1 - retention[heated])
    return retention, drift
