"""Whether a command may be sent now.

Belongs here: the refusals that are not the guard's. Does not: the set-point's bounds and whose
they are (`guard`), sending (`exchange`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.dispatch.links import NO_ADDRESS, READ_ONLY

if TYPE_CHECKING:
    from collections.abc import Collection


def refusal(drivers: Collection[str], ramp_kw_per_min: float | None) -> pl.Expr:
    """Return why a guarded command may not be sent, in words with the remedy; null where it may.

    The rows have `protocol` and `writable` (null without an address), `left_over` (its start is
    later than the ramp has room for), and the guard's `refused` and `guard_reason`.
    """
    return (
        pl.when(pl.col("protocol").is_null())
        .then(pl.lit(NO_ADDRESS))
        .when(~pl.col("writable"))
        .then(pl.lit(READ_ONLY))
        .when(~pl.col("protocol").is_in(list(drivers)))
        .then(pl.format("no driver for {}: give the push one", "protocol"))
        .when("refused")
        .then("guard_reason")
        .when("left_over")
        .then(
            pl.lit(
                f"the fleet's ramp of {ramp_kw_per_min} kW/min leaves it no room in this"
                " quarter-hour: it keeps what it does; raise VPP_FLEET_RAMP if that is too little"
            )
        )
    )
