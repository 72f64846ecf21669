"""The frames that settlement makes, and those it settles on.

Belongs here: what a delivered quarter-hour, a stay and a day's cost are. Does not: how they are
computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dataframely as dy

if TYPE_CHECKING:
    import polars as pl

_UTC: dict[str, Any] = {"time_zone": "UTC", "time_unit": "us"}


class SettlementError(ValueError):
    """A day that can not be settled; the text names what is missing and the remedy."""


class Delivery(dy.Schema):
    """One row a device and quarter-hour: planned, commanded, measured. Positive injects."""

    delivery_day = dy.Date()
    device_id = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    day_ahead_kw = dy.Float64(nullable=True)
    planned_kw = dy.Float64(
        nullable=True, description="by the plan in force at the interval's start"
    )
    commanded_kw = dy.Float64(nullable=True)
    command_state = dy.String(nullable=True)
    measured_kw = dy.Float64(nullable=True)
    settled_at = dy.Datetime(**_UTC)


class Stays(dy.Schema):
    """One row a vehicle's stay or a flexible load's window, cut to the day's quarter-hours.

    `initial_kwh` is the content at its start, or the day's; `target_kwh` what it must hold at
    its end. `leaves`: that end lies in the day; else the rest is owed later.
    """

    device_id = dy.String(primary_key=True)
    first_step = dy.Int64(min=0, primary_key=True)
    end_step = dy.Int64(min=1)
    departure = dy.Datetime(nullable=True, description="a vehicle's, also beyond the day", **_UTC)
    initial_kwh = dy.Float64()
    target_kwh = dy.Float64()
    leaves = dy.Bool()
    was_there = dy.Bool(description="since before the day")


@dataclass(frozen=True)
class Commitment:
    """What was sold ahead of the day, and what each MWh off it costs beside the market's price."""

    position: pl.DataFrame
    """(interval_start, position_kw), the fleet's."""
    spread_eur_per_mwh: float


@dataclass(frozen=True)
class ActualDay:
    """What happened to the fleet, whoever runs it: weather, needs, prices, stores at the start."""

    intervals: pl.Series
    """The day's quarter-hours."""
    prices: pl.DataFrame
    """(interval_start, price_eur_per_mwh), one row a quarter-hour."""
    profiles: pl.DataFrame
    """(device_id, interval_start, available_kw): loads, sun and wind, uncurtailed, signed."""
    temperatures: pl.DataFrame
    """(site_id, interval_start, temperature_c) outdoors."""
    stays: dy.DataFrame[Stays]
    start_kwh: pl.DataFrame
    """(device_id, energy_kwh) of batteries and buildings (kWh thermal above comfort_min_c)."""
    start_kw: pl.DataFrame
    """(device_id, power_kw) in the quarter-hour before, for what can't change at once."""
    commitment: Commitment | None = None
    """None: nothing was sold ahead, or to be off it costs no more than the market's price."""


@dataclass(frozen=True)
class CostBreakdown:
    """What a day cost, in EUR; lower is better."""

    energy_eur: float
    """Drawn less injected energy at the market's price, and the imbalance spread on what is off
    the position."""
    wear_eur: float
    fuel_eur: float
    """The CHPs' marginal cost."""
    unmet_eur: float
    """Vehicles that left short, loads not done, rooms outside the comfort band."""
    inventory_eur: float
    """What was taken out of the stores in the day, less what was put in, at the end value."""

    @property
    def total_eur(self) -> float:
        """The sum of all."""
        return self.energy_eur + self.wear_eur + self.fuel_eur + self.unmet_eur + self.inventory_eur
