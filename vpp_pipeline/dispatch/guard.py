"""The last look before the wire: no set-point outside what a device can do now gets through.

Belongs here: the one function between plan and wire. Does not: the plan's own limits
(`optimization`), whether a device may be written at all (`links`), storing or sending.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.dispatch.commands import CAPPED_TYPES
from vpp_pipeline.dispatch.schemas import GuardedCommands

_PLAUSIBLE_OVERFILL = 1.02  # a meter's error; beyond it the reading is poisoned
_SHORTEST_H = 1 / 60  # the power a store allows over the rest of an interval stays finite
_HOUR_US = 3_600_000_000
_SLACK_KW = 1e-9  # float noise in a bound is no reason to report a change

_NAMEPLATE = [
    "device_id",
    "device_type",
    "controllable",
    "max_inject_kw",
    "max_draw_kw",
    "min_active_kw",
    "energy_capacity_kwh",
    "min_energy_kwh",
    "max_energy_kwh",
    "charge_efficiency",
    "discharge_efficiency",
]


@dataclass(frozen=True)
class GuardSettings:
    """`max_age`: how old telemetry may be; `max_clock_lead`: how far ahead a device's clock."""

    max_age: timedelta = timedelta(minutes=5)
    max_clock_lead: timedelta = timedelta(minutes=1)


def guard(  # noqa: PLR0917 - the one gate names every input it judges by
    commands: pl.DataFrame,
    devices: pl.DataFrame,
    states: pl.DataFrame,
    standing: pl.DataFrame,
    now: datetime,
    settings: GuardSettings,
) -> pl.DataFrame:
    """Return `commands` (columns of `Commands`) as `GuardedCommands`, in the same order.

    `setpoint_kw` is clamped to nameplate ∩ store ∩ vehicle: a store can't discharge below its
    minimum nor charge above its maximum by the interval's end, a charger without a vehicle gets
    0, a power below the device's smallest active one becomes 0. Before the interval has begun,
    the store may still move at nameplate power until it does.

    Refused (set-point 0, `refused` true) is what can't be judged: no finite set-point, an
    unknown or uncontrollable device, telemetry that is missing, older than `max_age`, from the
    future or behind a frozen heartbeat, a device that is local, faulty or offline, a store whose
    content is missing or impossible. `states` are telemetry rows known at `now`; of several rows
    a device the latest counts, and the earlier ones tell whether its heartbeat still moves.
    """
    facts = (
        commands.join(devices.select(_NAMEPLATE), on="device_id", how="left", maintain_order="left")
        .join(_latest(states), on="device_id", how="left", maintain_order="left")
        .join(standing, on="device_id", how="left", maintain_order="left")
        .with_columns(
            device_type=pl.col("device_type").cast(pl.String),
            wish_kw=pl.coalesce("override_kw", "setpoint_kw"),
            held_kwh=pl.when(pl.col("energy_kwh").is_finite()).then("energy_kwh"),
        )
    )
    guarded = (
        facts.with_columns(refusal=_refusal(now, settings))
        .with_columns(**_bounds(now))
        .with_columns(clamped_kw=pl.col("wish_kw").clip("low_kw", "high_kw"))
        .with_columns(
            clamped_kw=pl.when(pl.col("clamped_kw").abs() < pl.col("min_active_kw"))
            .then(0.0)
            .otherwise("clamped_kw")
        )
        .with_columns(refused=pl.col("refusal").is_not_null() | ~_within_nameplate())
        .with_columns(
            setpoint_kw=pl.when("refused").then(0.0).otherwise("clamped_kw"),
            guard_reason=pl.when("refused")
            .then(pl.col("refusal").fill_null("the device's nameplate is not a number"))
            .otherwise(_change()),
        )
    )
    return guarded.select(GuardedCommands.column_names())


def _latest(states: pl.DataFrame) -> pl.DataFrame:
    """One row a device: its latest reading, and since when its heartbeat has stood still."""
    return (
        states.select(
            "device_id",
            "measured_at",
            "energy_kwh",
            "plugged_in",
            "heartbeat",
            status=pl.col("status").cast(pl.String),
        )
        .drop_nulls(["device_id", "measured_at"])
        .sort("measured_at", maintain_order=True)
        .with_columns(
            still=pl.col("heartbeat") == pl.col("heartbeat").last().over("device_id"),
        )
        .group_by("device_id", maintain_order=True)
        .agg(
            pl.col("measured_at", "energy_kwh", "plugged_in", "status").last(),
            alive_at=pl.col("measured_at").filter(pl.col("still")).min(),
        )
        .with_columns(alive_at=pl.col("alive_at").fill_null(pl.col("measured_at")))
    )


def _refusal(now: datetime, settings: GuardSettings) -> pl.Expr:
    """Why a row can't be judged, with the remedy; null where it can."""
    battery = pl.col("device_type") == "battery"
    charger = pl.col("device_type") == "ev_charger"
    full = pl.col("energy_capacity_kwh") * _PLAUSIBLE_OVERFILL
    impossible = ~pl.col("held_kwh").is_between(0.0, full).fill_null(value=False)
    return (
        pl.when(pl.col("stopped").fill_null(value=True))
        .then(pl.col("stop_words").fill_null("nothing is known of the orders for the device"))
        .when(~_finite("wish_kw"))
        .then(pl.lit("the set-point is not a finite number: plan again"))
        .when(pl.col("device_type").is_null())
        .then(pl.lit("the device is not in the registry: add it there or plan again"))
        .when(~pl.col("controllable"))
        .then(pl.lit("the device can't be controlled: take it out of the plan"))
        .when(pl.col("measured_at").is_null())
        .then(pl.lit("no telemetry: check the device's connection"))
        .when(pl.col("measured_at") > now + settings.max_clock_lead)
        .then(pl.format("telemetry from the future, {}: set the device's clock", "measured_at"))
        .when(pl.col("measured_at") < now - settings.max_age)
        .then(pl.format("stale telemetry, from {}: check the device's connection", "measured_at"))
        .when(pl.col("alive_at") < now - settings.max_age)
        .then(pl.format("heartbeat frozen since {}: restart the device's gateway", "alive_at"))
        .when(pl.col("status").ne_missing("ok"))
        .then(
            pl.format(
                "the device reports {}: look at it on site", pl.col("status").fill_null("no status")
            )
        )
        .when(battery & pl.col("held_kwh").is_null())
        .then(pl.lit("the state of charge is missing: check the battery's telemetry"))
        .when(battery & impossible)
        .then(pl.format("a content of {} kWh is impossible: check the battery's meter", "held_kwh"))
        .when(charger & pl.col("plugged_in").is_null())
        .then(pl.lit("the charger does not tell whether a vehicle is there: check its telemetry"))
        .when(charger & pl.col("plugged_in") & (pl.col("wish_kw") > 0) & impossible)
        .then(pl.lit("the vehicle's state of charge is missing: only charging can be commanded"))
    )


def _bounds(now: datetime) -> dict[str, pl.Expr]:
    """`low_kw` <= 0 <= `high_kw`: nameplate ∩ store ∩ vehicle."""
    store = pl.col("device_type").is_in(["battery", "ev_charger"])
    start = pl.max_horizontal(pl.col("interval_start"), pl.lit(now).cast(pl.Datetime("us", "UTC")))
    rest_h = _hours(pl.col("interval_start") + STEP - start).clip(_SHORTEST_H)
    until_start_h = _hours(start - pl.lit(now))
    absent = (pl.col("device_type") == "ev_charger") & ~pl.col("plugged_in")
    charge_efficiency = pl.col("charge_efficiency")
    discharge_efficiency = pl.col("discharge_efficiency")
    most_kwh = pl.col("held_kwh") + pl.col("max_draw_kw") * charge_efficiency * until_start_h
    least_kwh = pl.col("held_kwh") - pl.col("max_inject_kw") / discharge_efficiency * until_start_h
    out_kw = (most_kwh - pl.col("min_energy_kwh")).clip(0) * discharge_efficiency / rest_h
    in_kw = (pl.col("max_energy_kwh") - least_kwh).clip(0) / charge_efficiency / rest_h
    return {
        "high_kw": pl.when(absent)
        .then(0.0)
        .when(store)
        .then(pl.min_horizontal("max_inject_kw", out_kw))
        .otherwise("max_inject_kw"),
        "low_kw": pl.when(absent | pl.col("device_type").is_in(CAPPED_TYPES))
        .then(0.0)
        .when(store)
        .then(-pl.min_horizontal("max_draw_kw", in_kw))
        .otherwise(-pl.col("max_draw_kw")),
    }


def _within_nameplate() -> pl.Expr:
    """Whatever came before, nothing else leaves: null and NaN are not within."""
    within = _finite("clamped_kw") & pl.col("clamped_kw").is_between(
        -pl.col("max_draw_kw"), pl.col("max_inject_kw")
    )
    return within.fill_null(value=False)


def _change() -> pl.Expr:
    """What the guard changed, in words; empty where nothing."""
    beyond = ~pl.col("wish_kw").is_between(-pl.col("max_draw_kw"), pl.col("max_inject_kw"))
    return (
        pl.when((pl.col("clamped_kw") - pl.col("wish_kw")).abs() <= _SLACK_KW)
        .then(pl.lit(""))
        .when((pl.col("device_type") == "ev_charger") & ~pl.col("plugged_in"))
        .then(pl.lit("no vehicle is plugged in"))
        .when((pl.col("clamped_kw") == 0) & pl.col("wish_kw").is_between("low_kw", "high_kw"))
        .then(pl.format("below the smallest active power of {} kW", "min_active_kw"))
        .when(beyond)
        .then(pl.lit("beyond the nameplate"))
        .when(pl.col("device_type").is_in(CAPPED_TYPES))
        .then(pl.lit("a cap can't be below 0 kW"))
        .otherwise(
            pl.format("holds {} kWh of {} to {}", "held_kwh", "min_energy_kwh", "max_energy_kwh")
        )
    )


def _finite(column: str) -> pl.Expr:
    return pl.col(column).is_finite().fill_null(value=False)


def _hours(duration: pl.Expr) -> pl.Expr:
    return duration.dt.total_microseconds() / _HOUR_US
