"""What devices deliver of what they are asked for: quarter-hour by quarter-hour, and as a score.

Belongs here: asked and delivered power, what excuses a device, its score. Does not: the second
verification itself (`verification`), what a low score costs a device (`flexibility.derating`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dataframely as dy
import polars as pl

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.dispatch.commands import CAPPED_TYPES
from vpp_pipeline.dispatch.settling import measured, settled
from vpp_pipeline.dispatch.verification import Tolerance, power_verified

if TYPE_CHECKING:
    from vpp_pipeline.fleet.frame import DeviceFrame

_UTC: dict[str, Any] = {"time_unit": "us", "time_zone": "UTC"}

MEMORY = timedelta(hours=24)
"""Older quarter-hours say nothing of a device any more."""

MOST_INTERVALS = 32
LEAST_INTERVALS = 2
HALF_LIFE_INTERVALS = 4

_AT_ITS_END = 0.03  # of a store's capacity: meters round, and charging tapers off near full
_KEYS = ["device_id", "interval_start"]
_UP_OR_DOWN = "^(up|down)$"


class PowerVerifications(dy.Schema):
    """One row a command that stood at its device: whether the power followed.

    `asked_kw` is the magnitude asked for in `direction`, null where too little was asked to
    tell; of it `delivered_kw`. Up injects more, down injects less or draws more.
    """

    command_id = dy.String(primary_key=True)
    device_id = dy.String()
    interval_start = dy.Datetime(**_UTC)
    commanded_kw = dy.Float64()
    settled_at = dy.Datetime(nullable=True, **_UTC)
    measured_kw = dy.Float64(nullable=True)
    power_verified = dy.Bool(nullable=True, description="null: not judged")
    reason = dy.String()
    excuse = dy.String()
    direction = dy.String(nullable=True, regex=_UP_OR_DOWN)
    asked_kw = dy.Float64(nullable=True, min=0)
    delivered_kw = dy.Float64(nullable=True, min=0)


class DeliveryScores(dy.Schema):
    """One row a device and direction that was asked for power; `score` is null if unknown."""

    device_id = dy.String(primary_key=True)
    direction = dy.String(primary_key=True, regex=_UP_OR_DOWN)
    score = dy.Float64(nullable=True, min=0, max=1)
    intervals = dy.Int64(min=1)
    asked_kwh = dy.Float64(min=0)
    delivered_kwh = dy.Float64(min=0)
    first_interval = dy.Datetime(**_UTC)
    last_interval = dy.Datetime(**_UTC)


def followed(
    commands: pl.DataFrame,
    readings: pl.DataFrame,
    devices: dy.DataFrame[DeviceFrame],
    tolerance: Tolerance,
) -> dy.DataFrame[PowerVerifications]:
    """Return whether the power followed each of `commands` (rows of `dispatch_unmeasured_commands`).

    `readings` are those of `warehouse_readings` from `settling.BEFORE` the first quarter-hour on.
    Of a set-point what is asked is its magnitude, where that is above the tolerance and the
    smallest power the device can run at; of a cap what it takes off the power that is available.
    """
    told = settled(commands, readings, devices)
    did = measured(told, readings)
    judged = power_verified(told, did.rename({"power_kw": "measured_kw"}), devices, tolerance)
    facts = (
        judged.join(
            did.select(
                *_KEYS,
                "status",
                "energy_kwh",
                "temperature_c",
                "plugged_in",
                "target_energy_kwh",
                "available_power_kw",
            ),
            on=_KEYS,
            how="left",
            maintain_order="left",
        )
        .join(
            devices.select(
                "device_id",
                "min_active_kw",
                "energy_capacity_kwh",
                "min_energy_kwh",
                "max_energy_kwh",
                "comfort_max_c",
                kind=pl.col("device_type").cast(pl.String),
                allowed_kw=tolerance.allowed_kw(),
            ),
            on="device_id",
            how="left",
            maintain_order="left",
        )
        .with_columns(pl.col("measured_kw", "available_power_kw").fill_nan(None))
    )
    return PowerVerifications.validate(
        facts.with_columns(_asked())
        .with_columns(_delivered(), excuse=_excuse())
        .rename({"setpoint_kw": "commanded_kw"})
        .select(PowerVerifications.column_names()),
        cast=True,
    )


def delivery_scores(verifications: pl.DataFrame) -> dy.DataFrame[DeliveryScores]:
    """Return each device's score from its `PowerVerifications`, by direction.

    Counted are the `MOST_INTERVALS` newest quarter-hours in which it was asked for power and had
    no excuse. With the age j = 0, 1, … of each among them and the weight w = 2^(-j/4)

        score = Σ w · delivered_kw / Σ w · asked_kw

    so that four quarter-hours later a miss weighs half. With fewer than `LEAST_INTERVALS` it is
    unknown.
    """
    asked = (
        verifications.lazy()
        .filter(pl.col("power_verified").is_not_null(), pl.col("excuse") == "")
        .filter(pl.col("asked_kw") > 0, pl.col("delivered_kw").is_not_null())
    )
    age = pl.col("interval_start").rank("ordinal", descending=True).over("device_id", "direction")
    weight = pl.lit(2.0).pow(-(pl.col("age") - 1) / HALF_LIFE_INTERVALS)
    asked_kw, delivered_kw = pl.col("asked_kw"), pl.col("delivered_kw")
    return DeliveryScores.validate(
        asked.with_columns(age=age.cast(pl.Float64))
        .filter(pl.col("age") <= MOST_INTERVALS)
        .group_by("device_id", "direction")
        .agg(
            share=(weight * delivered_kw).sum() / (weight * asked_kw).sum(),
            intervals=pl.len().cast(pl.Int64),
            asked_kwh=asked_kw.sum() * STEP_H,
            delivered_kwh=delivered_kw.sum() * STEP_H,
            first_interval=pl.col("interval_start").min(),
            last_interval=pl.col("interval_start").max(),
        )
        .with_columns(
            score=pl.when(pl.col("intervals") >= LEAST_INTERVALS).then(pl.col("share").clip(0, 1))
        )
        .drop("share")
        .sort("device_id", "direction")
        .collect(),
        cast=True,
    )


def _asked() -> list[pl.Expr]:
    """Return `direction` and `asked_kw`."""
    is_cap = pl.col("kind").is_in(CAPPED_TYPES)
    taken_off_kw = pl.col("available_power_kw") - pl.col("setpoint_kw")
    asked_kw = pl.when(is_cap).then(taken_off_kw).otherwise(pl.col("setpoint_kw").abs())
    enough = (
        asked_kw.is_finite()
        & (asked_kw > pl.col("allowed_kw"))
        & (is_cap | (asked_kw >= pl.col("min_active_kw")))
    ).fill_null(value=False)
    upwards = ~is_cap & (pl.col("setpoint_kw") > 0)
    return [
        pl.when(enough)
        .then(pl.when(upwards).then(pl.lit("up")).otherwise(pl.lit("down")))
        .alias("direction"),
        pl.when(enough).then(asked_kw).alias("asked_kw"),
    ]


def _delivered() -> pl.Expr:
    """Return `delivered_kw`: all of what was asked where the power is within its tolerance."""
    is_cap = pl.col("kind").is_in(CAPPED_TYPES)
    towards = pl.when(pl.col("direction") == "up").then(1.0).otherwise(-1.0)
    did_kw = (
        pl.when(is_cap)
        .then(pl.col("available_power_kw") - pl.col("measured_kw"))
        .otherwise(pl.col("measured_kw") * towards)
    )
    return (
        pl.when(pl.col("power_verified").fill_null(value=False))
        .then("asked_kw")
        .when(pl.col("asked_kw").is_not_null())
        .then(did_kw.clip(0.0, "asked_kw"))
        .alias("delivered_kw")
    )


def _excuse() -> pl.Expr:
    """Return why power that is not verified is no fault of the device, else nothing.

    One that is offline, at fault or in local hands is not available anyway, and is not punished
    a second time.
    """
    slack_kwh = pl.col("energy_capacity_kwh") * _AT_ITS_END
    full_kwh = pl.min_horizontal("max_energy_kwh", "target_energy_kwh") - slack_kwh
    empty_kwh = pl.col("min_energy_kwh") + slack_kwh
    draws = pl.col("setpoint_kw") < 0
    return (
        pl.when(pl.col("power_verified").fill_null(value=False))
        .then(pl.lit(""))
        .when(pl.col("power_verified").is_null() | pl.col("measured_kw").is_null())
        .then("reason")
        .when(pl.col("status") != "ok")
        .then(pl.format("status {}", "status"))
        .when((pl.col("kind") == "ev_charger") & ~pl.col("plugged_in").fill_null(value=False))
        .then(pl.lit("no vehicle is plugged in"))
        .when(draws & (pl.col("energy_kwh") >= full_kwh))
        .then(pl.lit("its store is full"))
        .when(~draws & (pl.col("energy_kwh") <= empty_kwh))
        .then(pl.lit("its store is empty"))
        .when(draws & (pl.col("temperature_c") >= pl.col("comfort_max_c")))
        .then(pl.lit("its building is warm"))
        .otherwise(pl.lit(""))
    )
