"""Why a device was told what it was told at a moment: the whole chain, as it was known then.

Belongs here: reading back the command, its events, its orders and its plan. Does not: what that
plan stood on (`why_grounds`), the words for an operator (`why_words`), writing anything.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads it
from difflib import get_close_matches
from typing import TYPE_CHECKING

import polars as pl
from pydantic import BaseModel, ConfigDict

from vpp_pipeline.delivery_day import floor_interval
from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.order_book import OrderBook, OrderBookDamaged
from vpp_pipeline.dispatch.orders import standing, standing_unknown
from vpp_pipeline.dispatch.why_grounds import Grounds, Row, first, readings
from vpp_pipeline.fleet import document
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.settings import MARKET
from vpp_pipeline.warehouse import landing

if TYPE_CHECKING:
    from vpp_pipeline.dispatch.orders import Order
    from vpp_pipeline.settings import Settings
    from vpp_pipeline.warehouse.store import Connection, Warehouse

_NAMED_AT_MOST = 10

_OF_DEVICE = [
    "device_id",
    "site_id",
    "device_type",
    "protocol",
    "controllable",
    "live",
    "simulated",
    "max_inject_kw",
    "max_draw_kw",
]
_OF_COMMAND = [
    "command_id",
    "kind",
    "plan_id",
    "plan_version",
    "interval_start",
    "valid_from",
    "valid_until",
    "planned_kw",
    "setpoint_kw",
    "guard_reason",
    "measured_kw",
    "power_verified",
    "power_reason",
]
_OF_EVENT = [
    "event_id",
    "at",
    "state",
    "actor",
    "authority",
    "order_id",
    "detail",
    "old_kw",
    "requested_kw",
    "sent",
    "acknowledged",
    "read_back",
    "fence",
]
_NOT_TOLD = [State.PLANNED.value, State.REJECTED.value, State.FAILED.value]


class Answer(BaseModel):
    """The chain behind one device's set-point at one moment; what is not known is null or empty.

    Rows carry the columns of their tables (sql/migrations). Everything a plan stood on is told as
    it was known then: `envelope` at the plan's `as_of`, `forecasts` and `sessions` at the
    envelope's `known_at`, `prices` at the plan's `as_of`.
    """

    model_config = ConfigDict(frozen=True)

    device_id: str
    moment: datetime
    interval_start: datetime
    device: Row
    command: Row | None  # what was in force, or was to be; none: the device did its default
    events: list[Row]  # of that command, oldest first
    others: list[Row]  # the moment's other commands, each with its last `state` and `detail`
    orders: list[Row]  # people's orders that the events name
    standing: Row  # what of all orders stood for the device at the moment (`orders.STANDING`)
    schedule: Row | None
    plan: Row | None  # that the command stands on; without a command, the one in force
    fleet: Row | None  # the version that plan stands on
    envelope: Row | None
    forecasts: list[Row]
    sessions: list[Row]
    prices: list[Row]  # each with `basis`: published or forecast
    readings: list[Row]  # each with `used_for`


def explain(warehouse: Warehouse, settings: Settings, device_id: str, moment: datetime) -> Answer:
    """Return why `device_id` was told what it was told for `moment` (UTC). Nothing is written.

    Read are the warehouse, readings that have only landed, and the order book. Raises
    `LookupError` for a device that no fleet known then has, `WarehouseError`.
    """
    landed = (
        landing.landed(settings.landing_dir, "telemetry")
        .filter(pl.col("device_id") == device_id)
        .with_columns(pl.col("status").cast(pl.String))
        .collect()
    )
    with warehouse.read() as connection:
        return _explain(connection, device_id, moment, landed, OrderBook(settings.order_dir))


def _explain(
    connection: Connection,
    device_id: str,
    moment: datetime,
    landed: pl.DataFrame,
    book: OrderBook,
) -> Answer:
    interval_start = floor_interval(moment)
    history = connection.frame("dispatch_history", device_id=device_id, at=moment)
    commands = _commands(history)
    command_id = _in_force(commands, moment, interval_start)
    command = first(commands.filter(pl.col("command_id") == (command_id or "")))
    events = history.filter(pl.col("command_id") == (command_id or ""))

    plan = _plan(connection, command, moment)
    fleet = _fleet(connection, plan, moment)
    found = _device(fleet, device_id, moment)
    device = found.select(_OF_DEVICE).row(0, named=True)
    orders, stood = _orders(book, found, moment)
    about = Grounds(connection, device, interval_start, command, plan)
    envelope = about.envelope()
    named = set(events["order_id"].drop_nulls())
    return Answer(
        device_id=device_id,
        moment=moment,
        interval_start=interval_start,
        device=device,
        command=command and {name: command[name] for name in _OF_COMMAND},
        events=events.select(_OF_EVENT).to_dicts(),
        others=commands.filter(pl.col("command_id") != (command_id or "")).to_dicts(),
        orders=[order.model_dump() for order in orders if order.order_id in named],
        standing=stood.row(0, named=True),
        schedule=about.schedule(),
        plan=plan,
        fleet=fleet and {name: value for name, value in fleet.items() if name != "document"},
        envelope=envelope,
        forecasts=about.forecasts(envelope),
        sessions=about.sessions(envelope),
        prices=about.prices(MARKET),
        readings=readings(connection, device_id, landed, _uses(moment, events, envelope)),
    )


def _commands(history: pl.DataFrame) -> pl.DataFrame:
    """One row a command: its last state and words, its first claim."""
    claims = pl.col("at").filter(pl.col("state") == State.SENT.value)
    return history.group_by(_OF_COMMAND, maintain_order=True).agg(
        pl.col("state", "detail").last(),
        authority=pl.col("authority").last(),
        requested_kw=pl.col("requested_kw").drop_nulls().last(),
        claimed_at=claims.first(),
        position=pl.col("event_id").filter(pl.col("state") == State.SENT.value).last(),
    )


def _in_force(commands: pl.DataFrame, moment: datetime, interval_start: datetime) -> str | None:
    """Return the command that the device obeyed, else the one it was to obey.

    Of the quarter-hour's own before one that only outlives its own; of those sent before others;
    of those sent by the moment before later ones; then the last sent.
    """
    ranked = commands.sort(
        (pl.col("interval_start") == interval_start) | (pl.col("kind") == "release"),
        pl.col("position").is_not_null() & ~pl.col("state").is_in(_NOT_TOLD),
        pl.col("claimed_at") <= moment,
        "claimed_at",
        "position",
        "plan_version",
        nulls_last=False,
    )
    return None if ranked.is_empty() else str(ranked["command_id"][-1])


def _orders(
    book: OrderBook, device: pl.DataFrame, moment: datetime
) -> tuple[list[Order], pl.DataFrame]:
    """Return all orders, and what stood of them for the device at the moment."""
    try:
        orders = book.read()
    except OrderBookDamaged as damage:
        return [], standing_unknown(device, str(damage))
    given = [order for order in orders if order.given_at <= moment]
    return orders, standing(given, device, moment)


def _plan(connection: Connection, command: Row | None, moment: datetime) -> Row | None:
    if command is None or command["plan_id"] is None:
        in_force = connection.frame("warehouse_plan_in_force", moment=moment, as_of=moment)
        return first(in_force)
    return first(connection.frame("dispatch_plan", plan_id=command["plan_id"]))


def _fleet(connection: Connection, plan: Row | None, moment: datetime) -> Row | None:
    if plan is None:
        return first(connection.frame("warehouse_fleet_at", as_of=moment))
    version = plan["fleet_version"]
    return first(connection.frame("dispatch_fleet_version", fleet_version=version))


def _device(fleet: Row | None, device_id: str, moment: datetime) -> pl.DataFrame:
    """Return the device's row of its `DeviceFrame`."""
    if fleet is None:
        raise LookupError(
            f"no fleet was known at {moment:%Y-%m-%d %H:%M} UTC: ask for a later moment, or "
            "materialise the `fleet` asset"
        )
    devices = device_frame(document.from_document(fleet["document"]))
    found = devices.filter(pl.col("device_id") == device_id)
    if found.is_empty():
        every = sorted(devices["device_id"])
        known = list(dict.fromkeys(get_close_matches(device_id, every, _NAMED_AT_MOST) + every))
        more = ", …" if len(known) > _NAMED_AT_MOST else ""
        raise LookupError(
            f"device {device_id!r} is not in version {fleet['fleet_version']} of the fleet: name "
            f"one of {', '.join(known[:_NAMED_AT_MOST])}{more}"
        )
    return found


def _uses(
    moment: datetime, events: pl.DataFrame, envelope: Row | None
) -> list[tuple[str, datetime]]:
    """Return for what a reading was used, and as known when."""
    sent = events.filter(pl.col("state") == State.SENT.value)["at"]
    return [
        *([] if envelope is None else [("the envelope", envelope["known_at"])]),
        *([] if sent.is_empty() else [("the guard, at the send", sent[-1])]),
        ("nothing: the last by the moment asked for", moment),
    ]
