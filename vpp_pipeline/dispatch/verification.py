"""Whether the power followed the set-point.

Belongs here: measured against commanded, an interval at a time. Does not: when a device has
settled (`settling`), whether the set-point stands in the device (`judgement`), what a device
delivers in the long run (`delivery`), the energy balance and the money (`settlement`).
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

    def allowed_kw(self) -> pl.Expr:
        """Return that of a device of a `DeviceFrame`."""
        nameplate_kw = pl.max_horizontal("max_inject_kw", "max_draw_kw")
        return pl.max_horizontal(pl.lit(self.power_kw), nameplate_kw * self.share_of_nameplate)


def power_verified(
    commands: pl.DataFrame, measured: pl.DataFrame, devices: pl.DataFrame, tolerance: Tolerance
) -> pl.DataFrame:
    """Return `commands` with `measured_kw`, `power_verified` and the `reason` why not.

    `commands` has `device_id`, `interval_start`, `setpoint_kw` and `settled_at`; `measured` the
    same keys and `measured_kw`, the mean power from `settled_at` on; `devices` is a
    `DeviceFrame`. A PV or wind cap is kept by any power up to it. Without a measurement nothing
    is verified; a device that does not settle in time is not judged: `power_verified` is null.
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
            allowed_kw=tolerance.allowed_kw(),
        ),
        on="device_id",
        how="left",
        maintain_order="left",
    )
    above_kw = pl.col("measured_kw") - pl.col("setpoint_kw")
    excess_kw = pl.when("is_cap").then(above_kw).otherwise(above_kw.abs())
    # A comparison with NaN is true in Polars: what is not finite verifies nothing.
    verified = (
        pl.col("is_cap").is_not_null()
        & pl.col("excess_kw").is_finite()
        & (pl.col("excess_kw") <= pl.col("allowed_kw"))
    ).fill_null(value=False)
    return (
        facts.with_columns(excess_kw=excess_kw)
        .with_columns(power_verified=pl.when(pl.col("settled_at").is_not_null()).then(verified))
        .with_columns(reason=_reason())
        .select(*commands.columns, "measured_kw", "power_verified", "reason")
    )


def _reason() -> pl.Expr:
    return (
        pl.when("power_verified")
        .then(pl.lit(""))
        .when(pl.col("is_cap").is_null())
        .then(pl.lit("the device is not in the registry"))
        .when(pl.col("settled_at").is_null())
        .then(pl.lit("not judged: it had no time to settle"))
        .when(~pl.col("measured_kw").is_finite().fill_null(value=False))
        .then(pl.lit("no power was measured"))
        .when("is_cap")
        .then(pl.format("{} kW injected above a cap of {} kW", _kw("measured_kw"), "setpoint_kw"))
        .otherwise(
            pl.format(
                "{} kW measured, {} kW commanded, {} kW allowed between them",
                _kw("measured_kw"),
                "setpoint_kw",
                _kw("allowed_kw"),
            )
        )
    )


def _kw(name: str) -> pl.Expr:
    return pl.col(name).round(3)
