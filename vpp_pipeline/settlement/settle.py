"""A delivery day settled: what was delivered, what it cost, and what it would have cost.

Belongs here: the four ways to run the day under one accounting, put together. Does not: any
figure by itself (`delivery`, `cost`), reading the records (`planning.records`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.settlement.actuals import actual_day, contents_told
from vpp_pipeline.settlement.cost import day_cost
from vpp_pipeline.settlement.delivery import delivery, delivery_errors
from vpp_pipeline.settlement.followed import followed_power
from vpp_pipeline.settlement.foresight import perfect_foresight
from vpp_pipeline.settlement.stores import on_grid, stores
from vpp_pipeline.settlement.unmanaged import unmanaged_power

if TYPE_CHECKING:
    from datetime import date, datetime

    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.optimization.settings import PlanSettings
    from vpp_pipeline.settlement.schemas import ActualDay, Commitment, CostBreakdown, Delivery
    from vpp_pipeline.settlement.stores import Floats, Stores


@dataclass(frozen=True)
class Records:
    """What was stored of a delivery day."""

    telemetry: pl.DataFrame
    """`quarter_hours`, from a day before the delivery day to its end."""
    prices: pl.DataFrame
    """(interval_start, price_eur_per_mwh)"""
    weather: pl.DataFrame
    """`markets.schemas.Weather`"""
    forecasts: pl.DataFrame
    """`Forecasts`; they fill what nobody measured"""
    day_ahead: pl.DataFrame
    """(device_id, interval_start, power_kw) by the day-ahead plan"""
    in_force: pl.DataFrame
    """(device_id, interval_start, power_kw, limit_kw) by the plan in force at the interval's start"""
    commands: pl.DataFrame
    """(device_id, interval_start, setpoint_kw, state)"""
    outages: pl.DataFrame
    """(device_id, from, until) left out of the delivery errors"""

    def happened(self, devices: pl.DataFrame, intervals: pl.Series) -> ActualDay:
        """Return what came of the day whose quarter-hours are `intervals`, to `devices`."""
        return actual_day(
            devices, self.telemetry, self.prices, self.weather, self.forecasts, intervals=intervals
        )


@dataclass(frozen=True)
class Settlement:
    """A settled day."""

    delivery: dy.DataFrame[Delivery]
    delivery_errors: pl.DataFrame
    """One row, as in the table `delivery_errors`."""
    managed: CostBreakdown
    """As measured."""
    as_planned: CostBreakdown
    """Had every device done just what the plan in force said."""
    unmanaged: CostBreakdown
    perfect_foresight: CostBreakdown
    foresight_gap: float | None
    """How far perfect foresight may be from the proven optimum; None: not proven."""
    powers: pl.DataFrame
    """(interval_start, managed_kw, as_planned_kw, unmanaged_kw, perfect_foresight_kw), the fleet's
    sums."""

    def costs(self, delivery_day: date, settled_at: datetime) -> pl.DataFrame:
        """Return the rows of the table `settlements`, one a way to run the day."""
        ways = {
            "managed": self.managed,
            "as_planned": self.as_planned,
            "unmanaged": self.unmanaged,
            "perfect_foresight": self.perfect_foresight,
        }
        return pl.DataFrame(
            [
                {
                    "delivery_day": delivery_day,
                    "basis": basis,
                    "energy_eur": cost.energy_eur,
                    "wear_eur": cost.wear_eur,
                    "fuel_eur": cost.fuel_eur,
                    "unmet_eur": cost.unmet_eur,
                    "inventory_eur": cost.inventory_eur,
                    "total_eur": cost.total_eur,
                    "settled_at": settled_at,
                }
                for basis, cost in ways.items()
            ],
            schema_overrides={"settled_at": pl.Datetime("us", "UTC")},
        )


def settle_day(
    devices: dy.DataFrame[DeviceFrame],
    records: Records,
    settings: PlanSettings,
    *,
    intervals: pl.Series,
    delivery_day: date,
    settled_at: datetime,
    commitment: Commitment | None = None,
) -> Settlement:
    """Settle a delivery day whose quarter-hours are `intervals` (92, 96 or 100).

    Every way to run it is held against the same `commitment`.
    Raises `SettlementError` where a price, or the temperature at a heat pump's site, is missing.
    """
    day = replace(records.happened(devices, intervals), commitment=commitment)
    held = stores(devices, day)
    measured = records.telemetry.select("device_id", "interval_start", "power_kw")
    managed_kw = _measured_power(devices, measured, day)
    managed_kwh = _measured_contents(devices, records.telemetry, day, held, managed_kw)
    unmanaged_kw = unmanaged_power(devices, day, held)
    as_planned_kw = followed_power(devices, day, held, unmanaged_kw, records.in_force)
    foresight = perfect_foresight(devices, day, settings)
    delivered = delivery(
        records.day_ahead,
        records.in_force,
        records.commands,
        measured,
        intervals,
        delivery_day=delivery_day,
        settled_at=settled_at,
    )

    def cost(power_kw: Floats, energy_kwh: Floats) -> CostBreakdown:
        return day_cost(devices, day, held, power_kw, energy_kwh, settings)

    return Settlement(
        delivery=delivered,
        delivery_errors=delivery_errors(delivered, devices, records.outages),
        managed=cost(managed_kw, managed_kwh),
        as_planned=cost(as_planned_kw, held.contents(as_planned_kw)),
        unmanaged=cost(unmanaged_kw, held.contents(unmanaged_kw)),
        perfect_foresight=cost(foresight.power_kw, held.contents(foresight.power_kw)),
        foresight_gap=foresight.gap,
        powers=pl.DataFrame(
            {
                "interval_start": intervals,
                "managed_kw": managed_kw.sum(axis=1),
                "as_planned_kw": as_planned_kw.sum(axis=1),
                "unmanaged_kw": unmanaged_kw.sum(axis=1),
                "perfect_foresight_kw": foresight.power_kw.sum(axis=1),
            }
        ),
    )


def _measured_power(devices: pl.DataFrame, measured: pl.DataFrame, day: ActualDay) -> Floats:
    """Return what was measured (T, N); where nothing was, the profile, else 0."""
    power_kw = on_grid(measured, "power_kw", devices, day.intervals)
    profile_kw = on_grid(day.profiles, "available_kw", devices, day.intervals)
    return np.nan_to_num(np.where(np.isnan(power_kw), profile_kw, power_kw))


def _measured_contents(
    devices: pl.DataFrame,
    telemetry: pl.DataFrame,
    day: ActualDay,
    held: Stores,
    power_kw: Floats,
) -> Floats:
    """Return what batteries and buildings told (T, N); else what follows from the power."""
    told = on_grid(contents_told(devices, telemetry), "energy_kwh", devices, day.intervals)
    followed = held.contents(power_kw)
    return np.where(held.present & ~np.isnan(told), told, followed)
