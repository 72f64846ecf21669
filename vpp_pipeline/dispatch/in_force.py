"""Which orders hold now, for people.

Belongs here: orders as a list and as a frame, one row an order or one a target. Does not: what
stands for each device (`orders`), where they are kept (`order_book`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dataframely as dy
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from vpp_pipeline.dispatch.orders import Order

_UTC: dict[str, Any] = {"time_unit": "us", "time_zone": "UTC"}


class Orders(dy.Schema):
    """One row an order, powers in kW; a field that its kind does not have is null."""

    order_id = dy.String(primary_key=True)
    kind = dy.String()
    scope = dy.String()
    min_kw = dy.Float64(nullable=True)
    max_kw = dy.Float64(nullable=True)
    power_kw = dy.Float64(nullable=True)
    target = dy.String(nullable=True, description="of which group target it is a share")
    cancels = dy.String(nullable=True)
    valid_from = dy.Datetime(**_UTC)
    valid_until = dy.Datetime(
        nullable=True, description="null: a stop holds until a resume", **_UTC
    )
    who = dy.String()
    why = dy.String()
    given_at = dy.Datetime(**_UTC)


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
    """Return a row an order, columns `Orders`."""
    schema = Orders.create_empty().schema
    return pl.DataFrame([order.model_dump() for order in orders], schema=schema)


def targets_as_one(orders: pl.DataFrame) -> pl.DataFrame:
    """Return `Orders` with the shares of a group's target in one row, which bears its name.

    Its `scope` tells their devices' number; it begins with the first share, ends with the last,
    and has no power: each device has its own.
    """
    name = pl.coalesce("target", "order_id")
    is_share = pl.col("target").is_not_null()
    devices = pl.format("{} devices", pl.col("scope").n_unique().over(name))
    return orders.with_columns(
        order_id=name,
        scope=pl.when(is_share).then(devices).otherwise("scope"),
        power_kw=pl.when(~is_share).then("power_kw"),
        valid_from=pl.col("valid_from").min().over(name),
        valid_until=pl.col("valid_until").max().over(name),
    ).unique("order_id", keep="first", maintain_order=True)
