"""What people have ordered beside the plan, as the UI shows it.

Belongs here: the asset that copies orders and releases into the warehouse, and its checks. Does
not: giving an order (`cli`), what it does (`dispatch.orders`), releasing (`watchdog`).
"""

import hashlib
import json
from datetime import timedelta

import dagster as dg
import polars as pl

from vpp_pipeline.defs.metadata import column_schema, owners, table
from vpp_pipeline.dispatch.heartbeat import Heartbeat
from vpp_pipeline.dispatch.holds import Holds, HoldsDamaged
from vpp_pipeline.dispatch.in_force import Orders, in_force, orders_frame, targets_as_one
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.order_book import OrderBook, OrderBookDamaged
from vpp_pipeline.dispatch.orders import Order
from vpp_pipeline.dispatch.release_log import ReleaseLog
from vpp_pipeline.dispatch.releases import record_releases
from vpp_pipeline.runtime import Runtime

_OUT_OF_ORDER = timedelta(minutes=10)
"""Processes append to the release log side by side, so that an earlier one may stand later."""

_BINDING = ["override_kw", "low_kw", "high_kw", "site_low_kw", "site_high_kw"]


@dg.asset(group_name="dispatch", kinds={"duckdb"}, owners=owners(), metadata=column_schema(Orders))
def orders(runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
    """Stops, grid limits and overrides, with who gave them and why; and every release they made.

    They hold without this: the order book is read at each send.
    """
    given = _given(runtime)
    now = runtime.clock.now()
    with runtime.warehouse.write("mirror of the orders") as connection:
        known = connection.frame("defs_known_orders")
        new = orders_frame(given).join(known, on="order_id", how="anti", maintain_order="left")
        connection.append("orders", new)
        newest = connection.frame("defs_newest_release")["at"][0]
    releases = ReleaseLog(runtime.settings.order_dir).read()
    if newest is not None:
        releases = releases.filter(pl.col("at") >= newest - _OUT_OF_ORDER)
    record_releases(Ledger(runtime.warehouse), releases)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(given),
            "new": new.height,
            "in_force": table(targets_as_one(orders_frame(in_force(given, now))), rows=50),
            "devices_under": table(_devices_under(runtime)),
            "held_without_timer": table(_held(runtime), rows=50),
            "releases": table(releases.sort("at", descending=True), rows=50),
        }
    )


@dg.asset_check(asset=orders)
def nothing_is_held_back(runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
    """No device is stopped, limited or overridden, and none without a timer is commanded."""
    under, held = _devices_under(runtime), _held(runtime)
    return dg.AssetCheckResult(
        passed=under.is_empty() and held.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"devices_under": table(under), "held_without_timer": table(held, rows=50)},
    )


@dg.asset_check(asset=orders)
def watchdog_runs(runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
    """A watchdog stands by to release what a dead dispatcher leaves, and does all it has to."""
    complaints = Heartbeat(runtime.settings.order_dir).complaints(
        runtime.clock.now(), runtime.clock.rate
    )
    return dg.AssetCheckResult(
        passed=not complaints,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(complaints) or "it runs",
    )


def order_mark(runtime: Runtime) -> str:
    """Return what changes when an order is given or runs out, or a device is released or held.

    Empty where none of it ever happened.
    """
    directory = runtime.settings.order_dir
    try:
        given = OrderBook(directory).read()
        held = Holds(directory).read()
    except (OrderBookDamaged, HoldsDamaged) as error:
        return f"damaged: {error}"
    released = ReleaseLog(directory).read().height
    if not (given or held or released):
        return ""
    in_force_ids = [order.order_id for order in in_force(given, runtime.clock.now())]
    told = json.dumps([len(given), in_force_ids, released, sorted(held.items())], default=str)
    return f"orders:{hashlib.sha256(told.encode()).hexdigest()}"


def _given(runtime: Runtime) -> list[Order]:
    try:
        return OrderBook(runtime.settings.order_dir).read()
    except OrderBookDamaged as error:
        raise dg.Failure(f"everything counts as stopped: {error}", allow_retries=False) from None


def _devices_under(runtime: Runtime) -> pl.DataFrame:
    """Return how many devices stand under which authority and order, or target of a group."""
    now = runtime.clock.now()
    book = OrderBook(runtime.settings.order_dir)
    try:
        given = book.read()
    except OrderBookDamaged:
        given = []  # all devices are stopped then, by none of its orders
    targets = orders_frame(given).select("order_id", "target")
    return (
        book.standing(runtime.devices(now), now)
        .filter(pl.any_horizontal(pl.col(_BINDING).is_not_null()) | pl.col("stopped"))
        .join(targets, on="order_id", how="left")
        .group_by("authority", order_id=pl.coalesce("target", "order_id"))
        .agg(devices=pl.len())
        .sort("authority", "order_id")
    )


def _held(runtime: Runtime) -> pl.DataFrame:
    """Return the devices without a timer that are commanded, and until when."""
    held = Holds(runtime.settings.order_dir).read()
    return pl.DataFrame(
        list(held.items()),
        schema={"device_id": pl.String(), "valid_until": pl.Datetime("us", "UTC")},
        orient="row",
    ).sort("device_id")
