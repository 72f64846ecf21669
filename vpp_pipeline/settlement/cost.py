"""What a day cost.

Belongs here: the one accounting by which every way to run a day is judged. Does not: what was
drawn and injected (`unmanaged`, `foresight`, the meters).

It is the planner's objective, term by term, and one thing more: a plan ends at midnight, a fleet
does not. So what vehicles, loads and buildings are still owed at midnight is paid for at the end
value, else whoever puts off charging until tomorrow would seem to save.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.settlement.schemas import CostBreakdown, SettlementError

if TYPE_CHECKING:
    from vpp_pipeline.optimization.settings import PlanSettings
    from vpp_pipeline.settlement.schemas import ActualDay
    from vpp_pipeline.settlement.stores import Bools, Floats, Stores


def day_cost(  # noqa: PLR0917 - the fleet, its day and what was done with it
    devices: pl.DataFrame,
    day: ActualDay,
    stores: Stores,
    power_kw: Floats,
    energy_kwh: Floats,
    settings: PlanSettings,
) -> CostBreakdown:
    """Return what a day cost that drew and injected `power_kw` (T, N) and held `energy_kwh` (T, N).

    `energy_kwh` are contents at the quarter-hours' ends. With v the end value (the settings', else
    the day's median price, not below 0), and owed = target - content where positive:

    - energy: -Σ price · power · h, and where a position was committed Σ spread · |the fleet's power
      - position| · h, as the market settles imbalance; fuel: the CHPs' marginal cost of what they inject;
    - wear: half the wear cost for each kWh in, half for each kWh out, at the terminals;
    - unmet: the device's cost for each kWh owed at the end of a stay; for each kWh and hour that a
      building is below or above its comfort band;
    - inventory: -v for each kWh more in batteries and two-way vehicles at the day's end than when
      the day, or their stay, began; -v / COP for each kWh more in buildings; for one-way vehicles
      and flexible loads (v + half the wear cost) / efficiency for each kWh owed at the day's end,
      less those at its start.
    """
    price = _prices(day)[:, None] / 1000
    kind = devices["device_type"].cast(pl.String).to_numpy()
    building = kind == "heat_pump"
    drawn, injected = np.maximum(-power_kw, 0), np.maximum(power_kw, 0)
    wear = _numbers(devices, "wear_cost_eur_per_kwh") / 2
    fuel = np.where(kind == "chp", _numbers(devices, "marginal_cost_eur_per_mwh") / 1000, 0.0)
    return CostBreakdown(
        energy_eur=float(-(price * power_kw).sum() * STEP_H) + _imbalance(day, power_kw),
        wear_eur=float((wear * (drawn + injected)).sum() * STEP_H),
        fuel_eur=float((fuel * injected).sum() * STEP_H),
        unmet_eur=_unmet(devices, building, stores, energy_kwh),
        inventory_eur=_inventory(
            _two_way(devices) | building,
            stores,
            energy_kwh,
            end_values(devices, day, settings),
        ),
    )


def imbalance_terms(day: ActualDay) -> pl.DataFrame | None:
    """Return the day's position and what is off it settled at, as `PortfolioTerms.quarter_hours`.

    None where nothing was committed.
    """
    if day.commitment is None:
        return None
    price, spread = pl.col("price_eur_per_mwh"), day.commitment.spread_eur_per_mwh
    return (
        day.intervals.alias("interval_start")
        .to_frame()
        .with_columns(price_eur_per_mwh=_prices(day))
        .join(day.commitment.position, on="interval_start", how="left", maintain_order="left")
        .select(
            "interval_start",
            pl.col("position_kw").fill_null(0.0),
            surplus_eur_per_mwh=price - spread,
            shortage_eur_per_mwh=price + spread,
        )
    )


def _imbalance(day: ActualDay, power_kw: Floats) -> float:
    terms = imbalance_terms(day)
    if day.commitment is None or terms is None:
        return 0.0
    off_kwh = np.abs(power_kw.sum(axis=1) - terms["position_kw"].to_numpy()).sum() * STEP_H
    return float(off_kwh) * day.commitment.spread_eur_per_mwh / 1000


def _prices(day: ActualDay) -> Floats:
    priced = (
        day.intervals.alias("interval_start")
        .to_frame()
        .join(day.prices, on="interval_start", how="left", maintain_order="left")
    )
    missing = priced.filter(~pl.col("price_eur_per_mwh").is_finite().fill_null(value=False))
    if missing.height:
        raise SettlementError(
            f"prices: interval_start {missing['interval_start'][0]} has no price_eur_per_mwh "
            f"({missing.height} quarter-hours without): settle when the day's prices are known"
        )
    return priced["price_eur_per_mwh"].to_numpy()


def end_values(devices: pl.DataFrame, day: ActualDay, settings: PlanSettings) -> Floats:
    """Return what a stored kWh is worth at the day's end, EUR by device (N,).

    In a battery or two-way vehicle the planner's end value v; elsewhere what it would cost to draw
    it later: (v + wear of charging) / charge efficiency (COP).
    """
    value = settings.stored_energy_eur_per_mwh
    per_kwh = max(float(np.median(_prices(day))), 0.0) / 1000 if value is None else value / 1000
    drawn_later = per_kwh + _numbers(devices, "wear_cost_eur_per_kwh") / 2
    later = drawn_later / devices["charge_efficiency"].fill_null(1.0).to_numpy()
    return np.where(_two_way(devices), per_kwh, later)


def _two_way(devices: pl.DataFrame) -> Bools:
    kind = pl.col("device_type").cast(pl.String)
    vehicle = (kind == "ev_charger") & (pl.col("max_inject_kw") > 0)
    return devices.select((kind == "battery") | vehicle).to_series().to_numpy()


def _numbers(devices: pl.DataFrame, column: str) -> Floats:
    return devices[column].fill_null(0.0).to_numpy().astype(np.float64)


def _unmet(devices: pl.DataFrame, building: Bools, stores: Stores, energy_kwh: Floats) -> float:
    owed = np.where(stores.leaves, np.maximum(stores.target_kwh - energy_kwh, 0), 0.0)
    band = _numbers(devices, "comfort_max_c") - _numbers(devices, "comfort_min_c")
    warmest = band * _numbers(devices, "thermal_capacity_kwh_per_k")
    outside = np.maximum(-energy_kwh, 0) + np.maximum(energy_kwh - warmest, 0)
    discomfort = np.where(building & stores.present, outside, 0.0) * STEP_H
    return float((_numbers(devices, "unmet_cost_eur_per_kwh") * (owed + discomfort)).sum())


def _inventory(by_content: Bools, stores: Stores, energy_kwh: Floats, value: Floats) -> float:
    steps = np.arange(len(energy_kwh))[:, None]
    began_at = np.where(np.isnan(stores.begins_kwh), 0, steps).max(axis=0)
    began_kwh = np.take_along_axis(stores.begins_kwh, began_at[None, :], axis=0)[0]
    stays_on = stores.present[-1] & ~stores.leaves[-1]
    gained = np.where(stays_on, energy_kwh[-1] - began_kwh, 0.0)

    owed_at_end = np.where(stays_on, np.maximum(stores.target_kwh[-1] - energy_kwh[-1], 0), 0.0)
    owed_at_start = np.where(
        stores.was_there, np.maximum(stores.target_kwh[0] - stores.begins_kwh[0], 0), 0.0
    )
    taken = np.where(by_content, -gained, owed_at_end - owed_at_start)
    return float(value @ np.nan_to_num(taken))
