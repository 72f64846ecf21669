"""Which orders hold now, for people: one row an order.

Belongs here: orders as a list and as a frame. Does not: what stands for each device (`orders`),
where they are kept (`order_book`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from vpp_pipeline.dispatch.orders import Order

_UTC = pl.Datetime("us", "UTC")

ORDERS = pl.Schema(
    {
        "order_id": pl.String(),
        "kind": pl.String(),
        "scope": pl.String(),
        "min_kw": pl.Float64(),
        "max_kw": pl.Float64(),
        "power_kw": pl.Float64(),
        "cancels": pl.String(),
        "valid_from": _UTC,
        "valid_until": _UTC,
        "who": pl.String(),
        "why": pl.String(),
        "given_at": _UTC,
    }
)
"""An order's fields, powers in kW; those that its kind does not have are null."""


def in_force(orders: Sequence[Order], now: datetime) -> list[Order]:
    """Return the orders that hold at `now` or will: stops not resumed, limits and overrides.

    `orders` stand in the order in which they were given.
    """
    last = {order.scope: order for order in orders if order.kind in ("stop", "resume")}
    cancelled = {order.cancels for order in orders if order.kind == "cancel"}
    return [
        order
        for order in orders
        if (order.kind == "stop" and last[order.scope] is order)
        or (
            order.valid_until is not None
            and order.valid_until > now
            and order.order_id not in cancelled
        )
    ]


def orders_frame(orders: Sequence[Order]) -> pl.DataFrame:
    """Return a row an order, columns `ORDERS`."""
    return pl.DataFrame([order.model_dump() for order in orders], schema=ORDERS)
