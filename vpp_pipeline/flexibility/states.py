"""What may be believed of each device: telemetry → states.

Belongs here: which readings count, and where a device is expected to be at a later start. Does
not: what it could do from there (`envelopes`), forecasts.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.flexibility.schemas import States

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.devices.schemas import Telemetry
    from vpp_pipeline.fleet.frame import DeviceFrame

_OUTSTAYS = timedelta(hours=1)  # so long a vehicle past its deadline is taken to stay on
_NOISE_KWH = 1e-6
_OVERFULL = 1.01  # a battery may report a little more than its nameplate


def usable_states(
    devices: dy.DataFrame[DeviceFrame],
    telemetry_latest: dy.DataFrame[Telemetry] | pl.DataFrame,
    as_of: datetime,
    max_age: timedelta,
) -> dy.DataFrame[States]:
    """Return one state a device; `why` tells what makes a reading unusable.

    `telemetry_latest` holds at most one row a device. A reading older than `max_age`, from after
    `as_of`, of a device that is offline, at fault or under local control, or without the store's
    content, makes the device unavailable: what is missing is never read as 0. Its column `doubt`,
    if there, tells which values were withheld and why (`telemetry_quality.repair.trusted`).
    """
    kind = pl.col("device_type").cast(pl.String)
    status = pl.col("status").cast(pl.String)
    latest = (
        telemetry_latest
        if "doubt" in telemetry_latest.columns
        else telemetry_latest.with_columns(doubt=pl.lit(None, pl.String))
    )
    joined = (
        devices.select(
            "device_id",
            "device_type",
            "energy_capacity_kwh",
            "comfort_min_c",
            "thermal_capacity_kwh_per_k",
        )
        .join(latest, on="device_id", how="left", validate="1:1", maintain_order="left")
        .with_columns(
            pl.col("energy_kwh", "temperature_c", "target_energy_kwh", "power_kw").fill_nan(None)
        )
        .with_columns(
            energy_kwh=pl.when(kind == "heat_pump")
            .then(
                (pl.col("temperature_c") - pl.col("comfort_min_c"))
                * pl.col("thermal_capacity_kwh_per_k")
            )
            .when(kind.is_in(["battery", "flexible_load"]) | pl.col("plugged_in"))
            .then("energy_kwh")
        )
    )
    energy, measured_at = pl.col("energy_kwh"), pl.col("measured_at")
    why = pl.coalesce(
        pl.when(measured_at.is_null()).then(pl.lit("no reading")),
        pl.when(measured_at > as_of).then(
            pl.format("reading from the future: {}", measured_at.dt.to_string("iso:strict"))
        ),
        pl.when(measured_at < as_of - max_age).then(
            pl.format("reading too old: {}", measured_at.dt.to_string("iso:strict"))
        ),
        pl.when(status != "ok").then(pl.format("status {}", status)),
        pl.when(_needs_content(kind) & energy.is_null() & pl.col("doubt").is_not_null()).then(
            pl.format("not believed: {}", "doubt")
        ),
        pl.when((kind == "battery") & energy.is_null()).then(pl.lit("no state of charge")),
        pl.when(
            (kind == "battery") & ~energy.is_between(0, most_plausible_kwh("energy_capacity_kwh"))
        ).then(pl.format("implausible energy: {} kWh", energy)),
        pl.when((kind == "heat_pump") & energy.is_null()).then(pl.lit("no temperature")),
        pl.when((kind == "ev_charger") & pl.col("plugged_in").is_null()).then(
            pl.lit("unknown whether a vehicle is plugged in")
        ),
        pl.when((kind == "ev_charger") & pl.col("plugged_in") & energy.is_null()).then(
            pl.lit("no state of charge of the vehicle")
        ),
        pl.when((kind == "ev_charger") & (energy < 0)).then(
            pl.format("implausible energy: {} kWh", energy)
        ),
        pl.lit(""),
    )
    return States.validate(
        joined.with_columns(why=why, valid_at=pl.lit(as_of, pl.Datetime("us", "UTC")))
        .with_columns(available=pl.col("why") == "")
        .select(States.column_names()),
        cast=True,
    )


def most_plausible_kwh(capacity_kwh: str) -> pl.Expr:
    """Return the most that a battery of the capacity in a column may tell that it holds."""
    return pl.col(capacity_kwh) * _OVERFULL


def _needs_content(kind: pl.Expr) -> pl.Expr:
    """Return whether nothing can be planned for the device without its store's content."""
    return kind.is_in(["battery", "heat_pump", "flexible_load"]) | (
        (kind == "ev_charger") & pl.col("plugged_in").fill_null(value=True)
    )


def _without_store() -> pl.Expr:
    return pl.col("device_type").cast(pl.String).is_in(["chp", "pv", "wind", "load"])


def project(
    states: dy.DataFrame[States],
    devices: dy.DataFrame[DeviceFrame],
    schedules: pl.DataFrame,
    at: datetime,
) -> dy.DataFrame[States]:
    """Return the states expected at `at`, if what is scheduled until then is done.

    `schedules` has the columns of `Schedules` and `begin_kwh`, the planned content when the
    quarter-hour begins. A store holds what it holds now and what the schedule adds from now on:
    a plan that was off stays off by as much, and the error is not planned upon. Where the
    schedule does not tell that whole change (it begins later, or a store is replaced), the
    planned content at `at` counts; without a row just before `at` the state stays as it is. A
    device without a store has the planned power at `at`. A vehicle whose deadline is not after `at`
    has left, but for one that has outstayed it already and may well be there within the hour; of
    one that only the schedule expects, `plugged_in` and `deadline` are null.
    """
    planned = _planned_until(states, schedules, at)
    is_vehicle = pl.col("device_type").cast(pl.String) == "ev_charger"
    outstays = (pl.col("deadline") <= pl.col("valid_at")) & (at <= pl.col("valid_at") + _OUTSTAYS)
    left = is_vehicle & pl.col("plugged_in") & (pl.col("deadline") <= at) & ~outstays
    left = left.fill_null(value=False)
    moved = (
        states.join(planned, on="device_id", how="left", validate="1:1", maintain_order="left")
        .join(
            devices.select(
                "device_id",
                "device_type",
                "energy_capacity_kwh",
                "comfort_min_c",
                "thermal_capacity_kwh_per_k",
            ),
            on="device_id",
            how="left",
            maintain_order="left",
        )
        .with_columns(planned_kwh=_expected_kwh())
        .with_columns(
            plugged_in=pl.when(left).then(pl.lit(value=False)).otherwise("plugged_in"),
            energy_kwh=pl.when(left).then(None).otherwise("energy_kwh"),
            target_energy_kwh=pl.when(left).then(None).otherwise("target_energy_kwh"),
            deadline=pl.when(left).then(None).otherwise("deadline"),
        )
        .with_columns(known=pl.col("planned_kwh").is_not_null() & pl.col("available"))
    )
    return States.validate(
        moved.with_columns(
            energy_kwh=pl.when("known").then("planned_kwh").otherwise("energy_kwh"),
            plugged_in=pl.when("plugged_in")
            .then("plugged_in")
            .when(~(pl.col("known") & is_vehicle))
            .then("plugged_in"),
            temperature_c=pl.when("known")
            .then(
                pl.col("comfort_min_c")
                + pl.col("planned_kwh") / pl.col("thermal_capacity_kwh_per_k")
            )
            .otherwise(None)
            .fill_null(pl.col("temperature_c")),
            power_kw=pl.coalesce("planned_kw", "power_kw"),
            valid_at=pl.when(
                pl.col("known") | (_without_store() & pl.col("planned_kw").is_not_null())
            )
            .then(pl.lit(at, pl.Datetime("us", "UTC")))
            .otherwise("valid_at"),
        ).select(States.column_names()),
        cast=True,
    )


def _planned_until(states: pl.DataFrame, schedules: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """Return a row a device: the planned content at `at`, and its change from now until then."""
    start, now = pl.col("interval_start"), pl.col("valid_at")
    to_come = (start + STEP - pl.max_horizontal(start, now)).dt.total_microseconds() / (
        STEP.total_seconds() * 1e6
    )
    change = pl.col("energy_kwh") - pl.col("begin_kwh")
    return (
        schedules.join(states.select("device_id", "valid_at"), on="device_id")
        .filter(start + STEP > now, start < at)
        .sort("device_id", "interval_start")
        .group_by("device_id", maintain_order=True)
        .agg(
            last_start=start.last(),
            planned_kwh=pl.col("energy_kwh").last(),
            planned_kw=pl.col("power_kw").last(),
            change_kwh=(change * to_come).sum(),
            falls=(change < -_NOISE_KWH).any(),
            told=change.is_not_null().all() & (start.first() <= now.first()),
        )
        .filter(pl.col("last_start") == at - STEP)
        .drop("last_start")
    )


def _expected_kwh() -> pl.Expr:
    """Return the content at the end: now's and the planned change, else the planned content."""
    kind = pl.col("device_type").cast(pl.String)
    begins_anew = (kind == "flexible_load") & pl.col("falls")
    moved = pl.col("energy_kwh") + pl.col("change_kwh")
    # A vehicle may be larger than the registry says.
    most = pl.max_horizontal("energy_capacity_kwh", "energy_kwh", "target_energy_kwh")
    within = pl.when(kind == "heat_pump").then(moved).otherwise(moved.clip(0, most))
    return (
        pl.when(pl.col("told") & ~begins_anew)
        .then(pl.coalesce(within, "planned_kwh"))
        .otherwise("planned_kwh")
    )
