"""What telemetry is worth at the moment of sending: what is known of each device, or the doubt.

Belongs here: which reading counts, its age, heartbeat and plausibility. Does not: what follows
for a set-point (`guard`), what a plan may believe (`flexibility.states`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.links import WRITABLE

if TYPE_CHECKING:
    from datetime import datetime, timedelta

_POWER_ERROR = 0.1  # of the nameplate: a meter's error, and what a device draws for itself
_POWER_ERROR_KW = 0.1

_MAY_STAND = (State.SENT, State.ACKED, State.APPLIED, State.VERIFIED, State.UNKNOWN)

_FACTS = [
    "device_id",
    "site_id",
    "controllable",
    "max_inject_kw",
    "max_draw_kw",
    "min_active_kw",
    "ramp_kw_per_min",
    "energy_capacity_kwh",
    "min_energy_kwh",
    "max_energy_kwh",
    "charge_efficiency",
    "discharge_efficiency",
    "site_import_limit_kw",
    "site_export_limit_kw",
]


def evidence(
    devices: pl.DataFrame,
    states: pl.DataFrame,
    now: datetime,
    max_age: timedelta,
    max_clock_lead: timedelta,
) -> pl.DataFrame:
    """Return a row for each of `devices` (a `DeviceFrame`): its nameplate, and what is known of it.

    `doubt` tells why nothing that the device reported counts, with the remedy, and is null where
    it does: there is no telemetry, or it is older than `max_age`, from the future by more than
    `max_clock_lead`, behind a heartbeat that has stood still for `max_age`, or of a power that the
    device does not have.
    `measured_kw`, `in_force_kw` (its set-point) and `available_kw` are finite, plausible and
    without doubt, or null; `held_kwh` is finite or null.
    """
    most = pl.max_horizontal("max_inject_kw", "max_draw_kw") * _POWER_ERROR + _POWER_ERROR_KW
    low, high = -pl.col("max_draw_kw") - most, pl.col("max_inject_kw") + most
    finite = pl.col("power_kw", "setpoint_kw", "energy_kwh", "available_power_kw")
    known = (
        devices.select(
            *_FACTS,
            device_type=pl.col("device_type").cast(pl.String),
            writable=WRITABLE,
        )
        .join(_latest(states), on="device_id", how="left", maintain_order="left")
        .with_columns(pl.when(finite.is_finite()).then(finite))
    )
    sure = pl.col("doubt").is_null()
    return known.with_columns(
        doubt=_doubt(now - max_age, now + max_clock_lead, pl.col("power_kw").is_between(low, high))
    ).with_columns(
        measured_kw=pl.when(sure).then("power_kw"),
        in_force_kw=pl.when(sure & pl.col("setpoint_kw").is_between(low, high)).then("setpoint_kw"),
        available_kw=pl.when(sure & (pl.col("available_power_kw") >= 0)).then("available_power_kw"),
        held_kwh=pl.col("energy_kwh"),
    )


def with_sent(states: pl.DataFrame, sent: pl.DataFrame) -> pl.DataFrame:
    """Return telemetry whose `setpoint_kw` is what was sent last, where that may be in force.

    `sent` has, a row a device, the `state` of its newest command and the `offered_kw` it was
    sent with (null: nothing was). A set-point on its way shows in no reading yet, and the rest of
    its site must count with it.
    """
    on_its_way = sent.filter(
        pl.col("state").is_in(list(_MAY_STAND)), pl.col("offered_kw").is_not_null()
    ).select("device_id", "offered_kw")
    return states.join(on_its_way, on="device_id", how="left", maintain_order="left").select(
        *(
            pl.coalesce("offered_kw", c).alias(c) if c == "setpoint_kw" else c
            for c in states.columns
        )
    )


def _latest(states: pl.DataFrame) -> pl.DataFrame:
    """One row a device: its latest reading, and since when its heartbeat has stood still."""
    latest = [
        "measured_at",
        "power_kw",
        "setpoint_kw",
        "energy_kwh",
        "available_power_kw",
        "plugged_in",
        "status",
    ]
    return (
        states.select("device_id", *latest[:-1], "heartbeat", pl.col("status").cast(pl.String))
        .drop_nulls(["device_id", "measured_at"])
        .sort("measured_at", maintain_order=True)
        .with_columns(
            still=pl.col("heartbeat") == pl.col("heartbeat").last().over("device_id"),
        )
        .group_by("device_id", maintain_order=True)
        .agg(
            pl.col(latest).last(),
            alive_at=pl.col("measured_at").filter(pl.col("still")).min(),
        )
        .with_columns(alive_at=pl.col("alive_at").fill_null(pl.col("measured_at")))
    )


def _doubt(oldest: datetime, newest: datetime, plausible: pl.Expr) -> pl.Expr:
    return (
        pl.when(pl.col("measured_at").is_null())
        .then(pl.lit("no telemetry: check the device's connection"))
        .when(pl.col("measured_at") > newest)
        .then(pl.format("telemetry from the future, {}: set the device's clock", "measured_at"))
        .when(pl.col("measured_at") < oldest)
        .then(pl.format("stale telemetry, from {}: check the device's connection", "measured_at"))
        .when(pl.col("alive_at") < oldest)
        .then(pl.format("heartbeat frozen since {}: restart the device's gateway", "alive_at"))
        .when(~plausible)
        .then(
            pl.format(
                "a power of {} kW is beyond what the device can do: check its meter", "power_kw"
            )
        )
    )
