"""The stores of a made-up problem: batteries, vehicles, buildings and shiftable loads, drawn.

Belongs here: ratings, stays and energy corridors by kind, as `build` would make them. Does not:
sources, sites and the market (`sample`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.problem import Stores
from vpp_pipeline.optimization.settings import PlanSettings

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places

_TWO_WAY_SHARE = 0.3
_NOT_THERE_SHARE = 0.15
_VEHICLE_EFFICIENCY = 0.92
_LEAST_KW = {7.4: 1.38, 11.0: 4.14, 22.0: 4.14}  # 6 A on one phase, or on three
_COMFORT_MIN_C, _COMFORT_BAND_C = 20.0, 2.5


@dataclass(frozen=True)
class _Rows:
    """The arrays being drawn, a row a store: zeros until a kind fills its rows."""

    charge_max_kw: Floats  # (S, T) and so on
    discharge_max_kw: Floats
    starts: Bools
    initial_kwh: Floats
    absent: Bools
    drift_kwh: Floats
    floor_kwh: Floats
    ceiling_kwh: Floats
    wished_kwh: Floats
    shortfall_eur_per_kwh: Floats
    owed: Bools
    comfort_kwh: Floats  # (S,) and so on
    excess_eur_per_kwh: Floats
    retention: Floats
    charge_efficiency: Floats
    discharge_efficiency: Floats
    wear_eur_per_kwh: Floats
    min_active_kw: Floats
    kwh_per_c: Floats

    @classmethod
    def blank(cls, count: int, steps: int) -> _Rows:
        """Return rows of nothing; memory is only taken where something is written."""

        def over_time() -> Floats:
            return np.zeros((count, steps))

        def marks() -> Bools:
            return np.zeros((count, steps), dtype=np.bool_)

        return cls(
            charge_max_kw=over_time(),
            discharge_max_kw=over_time(),
            starts=marks(),
            initial_kwh=over_time(),
            absent=marks(),
            drift_kwh=over_time(),
            floor_kwh=over_time(),
            ceiling_kwh=over_time(),
            wished_kwh=over_time(),
            shortfall_eur_per_kwh=over_time(),
            owed=marks(),
            comfort_kwh=np.zeros(count),
            excess_eur_per_kwh=np.zeros(count),
            retention=np.ones(count),
            charge_efficiency=np.ones(count),
            discharge_efficiency=np.ones(count),
            wear_eur_per_kwh=np.zeros(count),
            min_active_kw=np.zeros(count),
            kwh_per_c=np.full(count, np.nan),
        )

    def size(self, at: slice) -> tuple[int, int]:
        """Return how many stores that is, over how many quarter-hours."""
        count, steps = self.drift_kwh[at].shape
        return int(count), int(steps)


def sample_stores(
    homes: int, load_site: Places, price: Floats, outdoor_c: Floats, rng: np.random.Generator
) -> Stores:
    """Return a battery, a vehicle and a heat pump at every home, then a load at each `load_site`.

    `price` (T,) gives two-way stores their end value, `outdoor_c` (T,) the buildings their losses.
    """
    steps, count = len(price), 3 * homes + len(load_site)
    rows = _Rows.blank(count, steps)
    rows.starts[:, 0] = True
    _draw_batteries(slice(0, homes), rows, rng)
    _draw_vehicles(slice(homes, 2 * homes), rows, rng)
    _draw_buildings(slice(2 * homes, 3 * homes), rows, outdoor_c, rng)
    _draw_loads(slice(3 * homes, count), rows, rng)

    given_kw = rows.discharge_max_kw.max(axis=1)
    rated_kw = np.maximum(rows.charge_max_kw.max(axis=1), given_kw)
    kept = (given_kw > 0) & ~rows.absent[:, -1]
    return Stores(
        place=np.arange(count),
        site=np.concatenate([np.tile(np.arange(homes), 3), load_site]),
        charge_min_kw=np.broadcast_to(0.0, (steps, count)),
        charge_max_kw=rows.charge_max_kw.T,
        discharge_min_kw=np.broadcast_to(0.0, (steps, count)),
        discharge_max_kw=rows.discharge_max_kw.T,
        starts=rows.starts.T,
        initial_kwh=rows.initial_kwh.T,
        present=~rows.absent.T,
        drift_kwh=rows.drift_kwh.T,
        floor_kwh=rows.floor_kwh.T,
        ceiling_kwh=rows.ceiling_kwh.T,
        wished_kwh=rows.wished_kwh.T,
        shortfall_eur_per_kwh=rows.shortfall_eur_per_kwh.T,
        comfort_kwh=np.broadcast_to(rows.comfort_kwh, (steps, count)),
        excess_eur_per_kwh=np.broadcast_to(rows.excess_eur_per_kwh, (steps, count)),
        owed=rows.owed.T,
        retention=rows.retention,
        charge_efficiency=rows.charge_efficiency,
        discharge_efficiency=rows.discharge_efficiency,
        wear_eur_per_kwh=rows.wear_eur_per_kwh,
        end_value_eur_per_kwh=np.where(kept, max(float(np.median(price)), 0.0), 0.0),
        min_active_kw=rows.min_active_kw,
        curvature_eur_per_kw2h=curvature(rated_kw),
        kwh_per_c=rows.kwh_per_c,
        unbroken=np.zeros(count, dtype=np.bool_),
        reserve=np.arange(count) < homes,
    )


def curvature(rated_kw: Floats) -> Floats:
    """Return the default fairness as `build` spreads it over a device's rated power."""
    spread: Floats = PlanSettings().fairness_eur_per_kwh / np.maximum(rated_kw, 1e-3)
    return spread


def _draw_batteries(at: slice, rows: _Rows, rng: np.random.Generator) -> None:
    count, steps = rows.size(at)
    rated = rng.choice([3.0, 5.0, 5.0, 10.0], count)
    capacity = rated * rng.uniform(1.5, 2.5, count)
    initial = capacity * rng.uniform(0.15, 0.9, count)
    efficiency = rng.uniform(0.93, 0.97, count)
    rows.charge_efficiency[at] = rows.discharge_efficiency[at] = efficiency
    rows.wear_eur_per_kwh[at] = rng.uniform(0.015, 0.03, count)
    rows.comfort_kwh[at] = 0.95 * capacity
    rows.charge_max_kw[at] = rows.discharge_max_kw[at] = rated[:, None]
    rows.initial_kwh[at, 0] = initial
    passed_h = STEP_H * np.arange(1, steps + 1)
    lost = (rated / efficiency)[:, None] * passed_h
    gained = (rated * efficiency)[:, None] * passed_h
    rows.floor_kwh[at] = np.maximum(initial[:, None] - lost, 0.1 * capacity[:, None])
    rows.ceiling_kwh[at] = np.minimum(initial[:, None] + gained, 0.95 * capacity[:, None])


def _draw_vehicles(at: slice, rows: _Rows, rng: np.random.Generator) -> None:
    """They leave in the morning, filled as their drivers asked, and come back in the evening."""
    count, steps = rows.size(at)
    kind = rng.choice([0, 1, 1, 2], count)
    rated = np.array(list(_LEAST_KW))[kind]
    capacity = rng.uniform(40, 80, count)
    leave = np.clip(np.round(rng.normal(7.5, 1.0, count) / STEP_H), 2, steps).astype(np.int64)
    leave *= rng.random(count) >= _NOT_THERE_SHARE
    back = np.round(rng.normal(17.5, 1.5, count) / STEP_H).astype(np.int64)
    back = np.clip(back, leave + 1, np.where(leave > 0, steps, steps - steps // 8))
    step = np.arange(steps)
    again = step >= back[:, None]
    here = (step < leave[:, None]) | again
    first = capacity * rng.uniform(0.2, 0.8, count) * (leave > 0)
    second = capacity * rng.uniform(0.2, 0.6, count)
    rows.charge_efficiency[at] = rows.discharge_efficiency[at] = _VEHICLE_EFFICIENCY
    rows.wear_eur_per_kwh[at] = 0.05
    rows.min_active_kw[at] = np.array(list(_LEAST_KW.values()))[kind]
    rows.comfort_kwh[at] = capacity
    rows.absent[at] = ~here
    rows.charge_max_kw[at] = np.where(here, rated[:, None], 0.0)
    two_way = rng.random(count) < _TWO_WAY_SHARE
    rows.discharge_max_kw[at][two_way] = rows.charge_max_kw[at][two_way]

    rows.initial_kwh[at, 0] = first
    returning = np.flatnonzero(back < steps)
    rows.starts[at][returning, back[returning]] = True
    rows.initial_kwh[at][returning, back[returning]] = second[returning]
    passed = np.where(again, step - back[:, None], step) + 1
    begun = np.where(again, second[:, None], first[:, None])
    gained = passed * (rated * _VEHICLE_EFFICIENCY * STEP_H)[:, None]
    rows.ceiling_kwh[at] = _or_most(np.minimum(begun + gained, capacity[:, None]), here)
    leaving = np.flatnonzero((leave > 0) & (leave < steps))
    _owe(
        rows,
        leaving + at.start,
        leave[leaving] - 1,
        (capacity * rng.uniform(0.6, 0.9, count))[leaving],
    )


def _draw_buildings(at: slice, rows: _Rows, outdoor_c: Floats, rng: np.random.Generator) -> None:
    """1R1C: the energy is the heat above the least comfortable temperature."""
    count, steps = rows.size(at)
    rated = rng.uniform(2, 5, count)
    cop = rng.uniform(2.8, 3.8, count)
    kwh_per_c = rng.uniform(3, 8, count)
    retention = np.exp(-STEP_H / (rng.uniform(5, 8, count) * kwh_per_c))
    initial = kwh_per_c * rng.uniform(0.2, 2.0, count)
    above_c = outdoor_c + rng.normal(0, 1, count)[:, None] - _COMFORT_MIN_C
    drift = above_c * (kwh_per_c * (1 - retention))[:, None]
    rows.retention[at], rows.charge_efficiency[at], rows.kwh_per_c[at] = retention, cop, kwh_per_c
    rows.comfort_kwh[at] = _COMFORT_BAND_C * kwh_per_c
    rows.excess_eur_per_kwh[at] = rows.shortfall_eur_per_kwh[at] = 0.5 * STEP_H
    rows.charge_max_kw[at] = rated[:, None]
    rows.initial_kwh[at, 0] = initial
    rows.drift_kwh[at] = drift
    coldest, warmest = rows.floor_kwh[at], rows.ceiling_kwh[at]
    least = most = initial
    for t in range(steps):
        coldest[:, t] = least = retention * least + drift[:, t]
        warmest[:, t] = most = retention * most + drift[:, t] + rated * cop * STEP_H


def _draw_loads(at: slice, rows: _Rows, rng: np.random.Generator) -> None:
    """They run for one to three hours, somewhere between two times of the day."""
    count, steps = rows.size(at)
    rated = rng.uniform(1, 4, count)
    needed = rated * rng.uniform(1, 3, count)
    begin = (rng.uniform(0, 0.5, count) * steps).astype(np.int64)
    end = np.minimum(begin + (rng.uniform(0.25, 0.5, count) * steps).astype(np.int64), steps)
    step = np.arange(steps)
    here = (step >= begin[:, None]) & (step < end[:, None])
    rows.comfort_kwh[at] = needed
    rows.absent[at] = ~here
    rows.charge_max_kw[at] = np.where(here, rated[:, None], 0.0)
    each = np.arange(at.start, at.stop)
    rows.starts[each, begin] = True
    gained = (step - begin[:, None] + 1) * (rated * STEP_H)[:, None]
    rows.ceiling_kwh[at] = _or_most(np.minimum(gained, needed[:, None]), here)
    _owe(rows, each, end - 1, needed)


def _owe(rows: _Rows, store: Places, last: Places, needed_kwh: Floats) -> None:
    rows.wished_kwh[store, last] = needed_kwh
    rows.shortfall_eur_per_kwh[store, last] = 1.0
    rows.owed[store, last] = True


def _or_most(ceiling_kwh: Floats, here: Bools) -> Floats:
    """Return a ceiling that, where the store is away, is the highest it has elsewhere."""
    most: Floats = np.where(here, ceiling_kwh, 0.0).max(axis=1, keepdims=True)
    return np.where(here, ceiling_kwh, most)
