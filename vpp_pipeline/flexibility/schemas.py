"""The frames that flexibility makes.

Belongs here: what a state and an envelope are. Does not: how they are computed (`states`,
`envelopes`, `derating`).
"""

from __future__ import annotations

from typing import Any

import dataframely as dy
import polars as pl

_UTC: dict[str, Any] = {"time_zone": "UTC", "time_unit": "us"}


class States(dy.Schema):
    """One row a device: what may be believed of it. Positive power injects.

    `energy_kwh` is the store's content, for a heat pump kWh thermal above `comfort_min_c`; it is
    null where there is no store now, or none that is known. `why` is empty where `available`.
    """

    device_id = dy.String(primary_key=True)
    valid_at = dy.Datetime(description="the moment described: measured, or projected to", **_UTC)
    energy_kwh = dy.Float64(nullable=True)
    temperature_c = dy.Float64(nullable=True)
    plugged_in = dy.Bool(nullable=True)
    target_energy_kwh = dy.Float64(nullable=True)
    deadline = dy.Datetime(nullable=True, **_UTC)
    power_kw = dy.Float64(nullable=True)
    available = dy.Bool()
    why = dy.String()


class Envelopes(dy.Schema):
    """One row a device and quarter-hour: what it could do. Positive power injects.

    Energies are the store's content at the interval's END, reachable from the state now and
    viable for what must still be met; null for devices without a store. A heat pump's energy is
    kWh thermal above `comfort_min_c`. `retention` (a) and `drift_kwh` (d) complete the store's
    step: e_end = a·e + eta_c·charge_kwh - discharge_kwh/eta_d + d.
    `required_end_kwh` is what is owed at the interval's end (a departure), else null.
    """

    device_id = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    min_power_kw = dy.Float64()
    max_power_kw = dy.Float64()
    expected_power_kw = dy.Float64(
        description="what it would do if nobody steered: PV, load; else 0"
    )
    min_energy_kwh = dy.Float64(nullable=True)
    max_energy_kwh = dy.Float64(nullable=True)
    initial_energy_kwh = dy.Float64(
        nullable=True, description="content at the horizon's (or session's) start"
    )
    session_start = dy.Bool(
        description="the store is replaced here: a vehicle arrives with initial_energy"
    )
    retention = dy.Float64(min=0, max=1)
    drift_kwh = dy.Float64()
    required_end_kwh = dy.Float64(nullable=True)
    available = dy.Bool(
        description="false: out of service or stale; it is expected to do its default"
    )
    derated = dy.String(
        nullable=True, description="why the powers are narrowed to what it delivers"
    )

    @dy.rule()
    def power_bounds_ordered(cls) -> pl.Expr:  # noqa: N805
        """min_power_kw <= max_power_kw."""
        return pl.col("min_power_kw") <= pl.col("max_power_kw")


class Deratings(dy.Schema):
    """One row a device whose powers are narrowed: the shares of them that are counted on.

    `up_share` is of what it could inject above its expected power, `down_share` of what it could
    draw or curtail below it.
    """

    device_id = dy.String(primary_key=True)
    up_share = dy.Float64(min=0, max=1)
    down_share = dy.Float64(min=0, max=1)
    why = dy.String(min_length=1)


class GroupEnvelopes(dy.Schema):
    """One row a group and quarter-hour: the OUTER bound, summed over its devices."""

    group_id = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    devices = dy.Int64(min=0)
    min_power_kw = dy.Float64()
    max_power_kw = dy.Float64()
    expected_power_kw = dy.Float64()
    min_energy_kwh = dy.Float64(nullable=True)
    max_energy_kwh = dy.Float64(nullable=True)


class SustainedPowers(dy.Schema):
    """One row a device, duration and quarter-hour: what it could keep up from there. kW injected.

    `up_kw` is the most that the device need not fall below for `duration_h` from the
    quarter-hour's start, `down_kw` the least that it need not rise above, if it begins with the
    best of the energies that are reachable and viable then: an OUTER bound (a device that took
    another path has less). What must be met later still can be. A quarter-hour from which the
    duration goes beyond the horizon has no row.
    """

    device_id = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    duration_h = dy.Float64(primary_key=True)
    up_kw = dy.Float64()
    down_kw = dy.Float64()


class GroupSustainedPowers(dy.Schema):
    """One row a group, duration and quarter-hour: the sum over its devices, an OUTER bound."""

    group_id = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    duration_h = dy.Float64(primary_key=True)
    up_kw = dy.Float64()
    down_kw = dy.Float64()


class InnerPolicies(dy.Schema):
    """One row a device and quarter-hour: its part in what its group can do for certain. kW.

    The device follows `nominal_kw` + a part of the group's passing deviation between
    `passing_down_kw` and `passing_up_kw` + `share_kw` times the group's signal in [-1, 1].
    A store's energy answers the signal with the efficiencies told: those of a device that rests
    without a signal, and 1 where the signal only changes how fast it charges.
    """

    device_id = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    nominal_kw = dy.Float64()
    passing_down_kw = dy.Float64(max=0)
    passing_up_kw = dy.Float64(min=0)
    share_kw = dy.Float64(min=0)
    charge_efficiency = dy.Float64(min_exclusive=0, max=1)
    discharge_efficiency = dy.Float64(min_exclusive=0, max=1)


class InnerEnvelopes(dy.Schema):
    """One row a group and quarter-hour: the INNER bound; all inside it can be disaggregated.

    A profile P is inside, if for X = P - nominal_kw, its passing part
    L = clip(X, passing_down_kw, passing_up_kw) and the signal x = (X - L) / share_kw:

    - -1 <= x <= 1 (so P lies between `min_power_kw` and `max_power_kw`), and
    - the hours of full signal taken out, h·Σ(x⁻·charge_efficiency - x⁺/discharge_efficiency) with
      these least efficiencies, and h·Σ(x⁻ - x⁺) without a loss, stay within ±`sustain_h`.

    Grid connections and the least powers of stores are not counted.
    """

    group_id = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    nominal_kw = dy.Float64()
    min_power_kw = dy.Float64()
    max_power_kw = dy.Float64()
    passing_down_kw = dy.Float64(max=0)
    passing_up_kw = dy.Float64(min=0)
    share_kw = dy.Float64(min=0)
    sustain_h = dy.Float64(min=0)
    charge_efficiency = dy.Float64(min_exclusive=0, max=1)
    discharge_efficiency = dy.Float64(min_exclusive=0, max=1)
