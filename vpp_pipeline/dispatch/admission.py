"""Whether a command may be sent now, and on whose authority.

Belongs here: the refusals that are not the guard's, and who bound a set-point. Does not: the
set-point's bounds (`guard`), sending (`exchange`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Collection

PLAN = "plan"
"""The authority of a command that nothing but its plan has bound."""


def authorised(guarded: pl.DataFrame, standing: pl.DataFrame) -> pl.DataFrame:
    """Add to guarded commands the `authority` and the `order_id` that bound their set-point.

    `standing` is a frame of `orders.STANDING`. An order that stands but changes nothing has not
    bound it: then the authority is the plan, and no order.
    """
    bound = pl.col("override_kw").is_not_null() | (
        (pl.col("setpoint_kw") - pl.col("planned_kw")).abs() > 0
    )
    by_order = pl.col("stopped") | (bound & pl.col("by").is_not_null())
    return (
        guarded.join(
            standing.select("device_id", "stopped", "override_kw", by="authority", of="order_id"),
            on="device_id",
            how="left",
            maintain_order="left",
        )
        .with_columns(by_order=by_order.fill_null(value=False))
        .with_columns(
            authority=pl.when("by_order").then("by").otherwise(pl.lit(PLAN)),
            order_id=pl.when("by_order").then("of"),
        )
        .select(*guarded.columns, "authority", "order_id")
    )


def refusal(drivers: Collection[str], ramp_kw_per_min: float | None) -> pl.Expr:
    """Return why a guarded command may not be sent, in words with the remedy; null where it may.

    The rows have `protocol` and `writable` (null without an address), `left_over` (its start is
    later than the ramp has room for), and the guard's `refused` and `note`.
    """
    return (
        pl.when(pl.col("protocol").is_null())
        .then(pl.lit("no address: start the simulator, or register the device's endpoint"))
        .when(~pl.col("writable"))
        .then(pl.lit("read-only: mark the device `live: true` to command it"))
        .when(~pl.col("protocol").is_in(list(drivers)))
        .then(pl.format("no driver for {}: give the push one", "protocol"))
        .when("refused")
        .then("note")
        .when("left_over")
        .then(
            pl.lit(
                f"the fleet's ramp of {ramp_kw_per_min} kW/min leaves it no room in this"
                " quarter-hour: it keeps what it does; raise VPP_FLEET_RAMP if that is too little"
            )
        )
    )
