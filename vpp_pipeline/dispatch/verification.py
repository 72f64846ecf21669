"""Whether the power followed the set-point.

Belongs here: measured against commanded, an interval at a time. Does not: whether the set-point
stands in the device (`judgement`), the energy balance and the money (`settlement`).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from vpp_pipeline.dispatch.commands import CAPPED_TYPES


@dataclass(frozen=True)
class Tolerance:
    """How far power may be from its set-point: the larger of the two."""

    power_kw: float = 0.1
    share_of_nameplate: float = 0.05


def power_verified(
    commands: pl.DataFrame, measured: pl.DataFrame, devices: pl.DataFrame, tolerance: Tolerance
) -> pl.DataFrame:
    """Return `commands` with `measured_kw`, `power_verified` and the `reason` why not.

    `commands` has `device_id`, `interval_start` and `setpoint_kw`; `measured` the same keys and
    `measured_kw`, the mean power over the interval; `devices` is a `DeviceFrame`. A PV or wind
    cap is kept by any power up to it. Without a measurement nothing is verified.
    """
    facts = commands.join(
        measured.select("device_id", "interval_start", "measured_kw"),
        on=["device_id", "interval_start"],
        how="left",
        maintain_order="left",
    ).join(
        devices.select(
            "device_id",
            is_cap=pl.col("device_type").cast(pl.String).is_in(CAPPED_TYPES),
            nameplate_kw=pl.max_horizontal("max_inject_kw", "max_draw_kw"),
        ),
        on="device_id",
        how="left",
        maintain_order="left",
    )
    above_kw = pl.col("measured_kw") - pl.col("setpoint_kw")
    allowed_kw = pl.max_horizontal(
        pl.lit(tolerance.power_kw), pl.col("nameplate_kw") * tolerance.share_of_nameplate
    )
    excess_kw = pl.when("is_cap").then(above_kw).otherwise(above_kw.abs())
    # A comparison with NaN is true in Polars: what is not finite verifies nothing.
    verified = (
        pl.col("is_cap").is_not_null()
        & pl.col("excess_kw").is_finite()
        & (pl.col("excess_kw") <= allowed_kw)
    )
    return (
        facts.with_columns(excess_kw=excess_kw)
        .with_columns(power_verified=verified.fill_null(value=False))
        .with_columns(reason=_reason(allowed_kw))
        .select(*commands.columns, "measured_kw", "power_verified", "reason")
    )


def _reason(allowed_kw: pl.Expr) -> pl.Expr:
    return (
        pl.when("power_verified")
        .then(pl.lit(""))
        .when(pl.col("is_cap").is_null())
        .then(pl.lit("the device is not in the registry"))
        .when(~pl.col("measured_kw").is_finite().fill_null(value=False))
        .then(pl.lit("no power was measured"))
        .when("is_cap")
        .then(pl.format("{} kW injected above a cap of {} kW", "measured_kw", "setpoint_kw"))
        .otherwise(
            pl.format(
                "{} kW measured, {} kW commanded, {} kW allowed between them",
                "measured_kw",
                "setpoint_kw",
                allowed_kw,
            )
        )
    )
