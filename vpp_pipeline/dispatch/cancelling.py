"""Ending an order before its time.

Belongs here: which orders a name means, and what ends them. Does not: giving that (`order_book`),
who asks for it (`cli`, `defs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpp_pipeline.dispatch.in_force import in_force
from vpp_pipeline.dispatch.orders import Order

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


class NothingToCancel(LookupError):  # noqa: N818 - names what was found
    """No limit or override in force bears that name; the text tells what to do."""


def named(orders: Sequence[Order], name: str, now: datetime) -> list[Order]:
    """Return the limit or override so named that is in force, or all shares of a target so named.

    Raises `NothingToCancel`.
    """
    meant = [order for order in in_force(orders, now) if name in {order.order_id, order.target}]
    if not meant:
        raise NothingToCancel(f"no order {name} is in force: see `vpp orders`")
    if meant[0].kind == "stop":
        raise NothingToCancel(f"{name} is a stop: `vpp resume {meant[0].scope}`")
    return meant


def cancellation(order: Order, who: str, why: str, now: datetime) -> Order:
    """Return what ends an order. Raises `pydantic.ValidationError` for words that are none."""
    return Order(
        order_id=f"{order.order_id}-cancelled",
        kind="cancel",
        scope=order.scope,
        cancels=order.order_id,
        who=who,
        why=why,
        given_at=now,
    )


def in_words(ended: Sequence[Order], name: str) -> str:
    """Return what was ended, of orders that one name means."""
    first = ended[0]
    return first.words if name == first.order_id else f"{name}, {len(ended)} shares ({first.why})"
