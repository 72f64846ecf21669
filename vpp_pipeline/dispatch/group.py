"""A target for a group of devices: shared out, ordered, sent, and made good where some fail.

Belongs here: who takes part, the shares as overrides, what came of them. Does not: how a target
is shared out (`optimization.disaggregate`), bringing orders to devices (`recheck`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP, floor_interval
from vpp_pipeline.dispatch.cancelling import cancellation
from vpp_pipeline.dispatch.commands import CAPPED_TYPES
from vpp_pipeline.dispatch.links import READ_ONLY, WRITABLE
from vpp_pipeline.dispatch.orders import Order, scopes
from vpp_pipeline.dispatch.recheck import ENOUGH, recheck
from vpp_pipeline.dispatch.report import ACCEPTED, Tolerance
from vpp_pipeline.fleet.frame import DeviceFrame
from vpp_pipeline.optimization.disaggregate import disaggregate

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.dispatch.dispatcher import Dispatcher

NOT_SENT = "not sent"
"""The state of a share that no command was made for."""

_ROUNDS = 3  # times the target is shared out: at first, and where some did not take their share
_SAME_KW = 1e-3
_NEWEST = pl.Schema(
    {"device_id": pl.String, "state": pl.String, "detail": pl.String, "offered_kw": pl.Float64}
)
_SHARES = pl.Schema(
    {
        "device_id": pl.String(),
        "interval_start": pl.Datetime("us", "UTC"),
        "share_kw": pl.Float64(),
        "order_kw": pl.Float64(),
    }
)
_SKIPPED = pl.Schema({"device_id": pl.String, "why": pl.String})
_SHARING = "sharing"  # the group that those who take part are in, for the time of sharing out


@dataclass(frozen=True, eq=False)
class Outlook:
    """What is known of the fleet: a `DeviceFrame`, its `States`, and its `Envelopes`.

    The envelopes begin with the running interval and go on at least until a target ends; the
    further they do, the more of what must be met later they leave room for.
    """

    devices: dy.DataFrame[DeviceFrame]
    states: pl.DataFrame
    envelopes: pl.DataFrame


@dataclass(frozen=True)
class GroupTarget:
    """What a group is to do: the sum of its devices' power until an instant, and who wants it.

    `scope` is `group:<id>`, `tag:<tag>`, `site:<id>` or `fleet`. The power is signed (positive
    injects) and summed over the devices that can take part, PV and wind as expected. The orders
    that follow bear `key` as their target, and begin their ids with it.
    """

    key: str
    scope: str
    power_kw: float
    until: datetime
    who: str
    why: str

    @property
    def words(self) -> str:
        """What is wanted, and why: the reason of each order that follows."""
        return f"{self.scope} to {self.power_kw:+g} kW: {self.why}"


@dataclass(frozen=True, eq=False)
class GroupReport:
    """What came of a target in the running interval.

    `devices` has a row a device that takes part: `device_id`, `share_kw`, `accepted_kw`, `state`,
    `why`; `skipped` one a device of the group that does not: `device_id`, `why`. `shortfall_kw`
    is the target less what was accepted, 0 within the tolerance; `reachable_kw` what the
    envelopes allow at most of the target.
    """

    target_kw: float
    reachable_kw: float
    accepted_kw: float
    shortfall_kw: float
    devices: pl.DataFrame
    skipped: pl.DataFrame


def takes_part(
    scope: str, devices: pl.DataFrame, states: pl.DataFrame, standing: pl.DataFrame
) -> tuple[pl.Series, pl.DataFrame]:
    """Return the ids of a scope's devices that can be commanded, and the others with the reason.

    `states` are `flexibility.States`, `standing` a frame of `orders.STANDING`. Raises LookupError
    for a scope without a device.
    """
    inside = devices.join(
        scopes(devices).filter(pl.col("scope") == scope), on="device_id", how="semi"
    )
    if inside.is_empty():
        known = scopes(devices)["scope"].unique().sort()
        named = ", ".join(known.filter(known.str.contains("^(?:group|tag):")).head(10))
        raise LookupError(f"{scope} has no device: name one of {named}")
    judged = (
        inside.join(
            states.select("device_id", "available", unusable="why"), on="device_id", how="left"
        )
        .join(standing.select("device_id", "stopped", "stop_words"), on="device_id", how="left")
        .select(
            "device_id",
            why=pl.when(~pl.col("controllable"))
            .then(pl.lit("not controllable: it does what is expected of it"))
            .when(~WRITABLE)
            .then(pl.lit(READ_ONLY))
            .when(pl.col("stopped").fill_null(value=True))
            .then(pl.col("stop_words").fill_null("nothing is known of the orders for it"))
            .when(~pl.col("available").fill_null(value=False))
            .then(pl.coalesce("unusable", pl.lit("no reading"))),
        )
        .sort("device_id")
    )
    return (
        judged.filter(pl.col("why").is_null())["device_id"],
        judged.filter(pl.col("why").is_not_null()),
    )


@dataclass(frozen=True, eq=False)
class Shares:
    """A target shared out: `rows` are `device_id`, `interval_start`, `share_kw` and `order_kw`.

    `order_kw` is what a device is told: its share, for PV and wind the cap above it. `skipped`
    are those that have no choice in the time given: `device_id`, `why`.
    """

    rows: pl.DataFrame
    skipped: pl.DataFrame


def share_out(outlook: Outlook, chosen: pl.Series, target_kw: float, until: datetime) -> Shares:
    """Return the cheapest way for the chosen devices to sum to `target_kw` until then.

    The sum is given, so energy has no price in it: what decides is wear, fuel and losses. Where
    the target is out of reach the nearest is shared out. What must be met later still can be, as
    far as the outlook reaches. Raises `ProblemError`.
    """
    if chosen.is_empty():
        return Shares(pl.DataFrame(schema=_SHARES), pl.DataFrame(schema=_SKIPPED))
    envelopes = outlook.envelopes.filter(pl.col("interval_start") < until)
    grouped = outlook.devices.with_columns(
        groups=pl.when(pl.col("device_id").is_in(chosen.implode()))
        .then(pl.lit([_SHARING]))
        .otherwise(pl.lit([], dtype=pl.List(pl.String)))
    )
    intervals = envelopes.select(pl.col("interval_start").unique().sort())
    found = disaggregate(
        DeviceFrame.cast(grouped),
        envelopes,
        intervals.with_columns(price_eur_per_mwh=pl.lit(0.0)),
        intervals.with_columns(target_kw=pl.lit(float(target_kw))),
        _SHARING,
    )
    rows = found.schedules.join(
        found.skipped, on="device_id", how="anti", maintain_order="left"
    ).select(
        "device_id",
        "interval_start",
        share_kw="power_kw",
        order_kw=pl.coalesce("limit_kw", "power_kw"),
    )
    return Shares(rows, found.skipped)


def overrides(shares: pl.DataFrame, target: GroupTarget, now: datetime, number: int) -> list[Order]:
    """Return an override a device and stretch of one power, from `now` until the target's end.

    `number` tells the orders of several rounds apart.
    """
    stretches = (
        shares.sort("device_id", "interval_start")
        .with_columns(
            new=((pl.col("order_kw") - pl.col("order_kw").shift()).abs() > _SAME_KW)
            .over("device_id")
            .fill_null(value=True)
        )
        .filter("new")
        .with_columns(ends=pl.col("interval_start").shift(-1).over("device_id"))
        .with_columns(
            begins=pl.max_horizontal("interval_start", pl.lit(now)),
            ends=pl.min_horizontal("ends", pl.lit(target.until)).fill_null(target.until),
        )
        .filter(pl.col("begins") < pl.col("ends"))
        .select("device_id", "order_kw", "begins", "ends")
    )
    return [
        Order(
            order_id=f"{target.key}-{number}-{row}",
            kind="override",
            scope=f"device:{device_id}",
            power_kw=order_kw,
            valid_from=begins,
            valid_until=ends,
            target=target.key,
            who=target.who,
            why=target.words,
            given_at=now,
        )
        for row, (device_id, order_kw, begins, ends) in enumerate(stretches.iter_rows())
    ]


def cancelled(
    orders: Sequence[Order], device_ids: Collection[str], target: GroupTarget, now: datetime
) -> list[Order]:
    """Return cancellations of a target's orders for some devices."""
    ended = {order.cancels for order in orders}
    scoped = {f"device:{device_id}" for device_id in device_ids}
    return [
        cancellation(order, target.who, target.words, now)
        for order in orders
        if order.target == target.key and order.scope in scoped and order.order_id not in ended
    ]


def outcome(shares: pl.DataFrame, newest: pl.DataFrame, devices: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `GroupReport.devices` for the interval of `shares`.

    `newest` are rows of `Ledger.newest`. Of a cap what counts is the share below it.
    """
    accepted = pl.col("state").is_in([state.value for state in ACCEPTED])
    told_kw = (
        pl.when(pl.col("device_type").cast(pl.String).is_in(CAPPED_TYPES))
        .then(pl.min_horizontal("offered_kw", "share_kw"))
        .otherwise("offered_kw")
    )
    return (
        shares.join(
            newest.select("device_id", "state", "detail", "offered_kw"),
            on="device_id",
            how="left",
            maintain_order="left",
        )
        .join(devices.select("device_id", "device_type"), on="device_id", maintain_order="left")
        .select(
            "device_id",
            "share_kw",
            accepted_kw=pl.when(accepted).then(told_kw).otherwise(0.0).fill_null(0.0),
            state=pl.col("state").fill_null(NOT_SENT),
            why=pl.col("detail").fill_null(""),
        )
        .sort("device_id")
    )


def preview(
    outlook: Outlook, target: GroupTarget, standing: pl.DataFrame, start: datetime
) -> GroupReport:
    """Return how a target would be shared out in the interval at `start`; nothing is ordered."""
    able, skipped = takes_part(target.scope, outlook.devices, outlook.states, standing)
    shares = share_out(outlook, able, target.power_kw, target.until)
    rows = shares.rows.filter(pl.col("interval_start") == start)
    untold = pl.DataFrame(schema=_NEWEST)
    return _report(
        target,
        float(rows["share_kw"].sum()),
        outcome(rows, untold, outlook.devices),
        pl.concat([skipped, shares.skipped]),
    )


async def dispatch_group(
    dispatcher: Dispatcher, outlook: Outlook, target: GroupTarget
) -> GroupReport:
    """Share a target out, order it, and bring it to the devices; again where some fail.

    Each share is an override in the order book and goes the way of all commands: intent, guard,
    send, read-back. A device that takes nothing loses its order, one that takes less than its share
    keeps to that until the target's end, and the others share what is missing, while the interval
    has time. Later intervals get their shares at their boundary. Raises LookupError (no such
    group), `ProblemError`, `OrderBookDamaged`, `LeaseHeld`.
    """
    clock, devices = dispatcher.clock, outlook.devices
    start = floor_interval(clock.now())
    standing = await asyncio.to_thread(dispatcher.orders.standing, devices, clock.now())
    sharing, skipped = takes_part(target.scope, devices, outlook.states, standing)
    wanted_kw, reachable_kw = target.power_kw, 0.0
    settled: list[pl.DataFrame] = []  # what devices do that take no further part
    bound = pl.DataFrame(schema=_SHARES)  # to what they took of their share
    for number in range(_ROUNDS):
        shares = share_out(outlook, sharing, wanted_kw, target.until)
        rows = shares.rows.filter(pl.col("interval_start") == start)
        if number == 0:
            reachable_kw = float(rows["share_kw"].sum())
            skipped = pl.concat([skipped, shares.skipped])
        given = overrides(pl.concat([shares.rows, bound]), target, clock.now(), number)
        await asyncio.to_thread(dispatcher.orders.give, *given)
        await recheck(dispatcher, devices)
        newest = await asyncio.to_thread(dispatcher.ledger.newest, start)
        told = outcome(rows, newest, devices)
        off = told.filter((pl.col("accepted_kw") - pl.col("share_kw")).abs() > _SAME_KW)
        others = sharing.filter(~sharing.is_in(off["device_id"].implode()))
        no_time = clock.now() >= start + STEP - ENOUGH
        if off.is_empty() or others.is_empty() or no_time or number == _ROUNDS - 1:
            settled.append(told)
            break
        settled.append(off)
        bound = _bound(off, start)
        await _take_back(dispatcher, off, target)
        wanted_kw -= float(off["accepted_kw"].sum())
        sharing = others
    return _report(target, reachable_kw, pl.concat(settled).sort("device_id"), skipped)


def _bound(off: pl.DataFrame, start: datetime) -> pl.DataFrame:
    """Return the shares of those that took part of theirs: what the others make good is theirs now."""
    took = off.filter(pl.col("state").is_in([state.value for state in ACCEPTED]))
    return took.select(
        "device_id",
        interval_start=pl.lit(start).cast(_SHARES["interval_start"]),
        share_kw="accepted_kw",
        order_kw="accepted_kw",
    )


async def _take_back(dispatcher: Dispatcher, off: pl.DataFrame, target: GroupTarget) -> None:
    """End the orders of those that took nothing: else they would come on top of the others'."""
    refused = off.filter(~pl.col("state").is_in([state.value for state in ACCEPTED]))
    orders = await asyncio.to_thread(dispatcher.orders.read)
    ended = cancelled(orders, refused["device_id"].to_list(), target, dispatcher.clock.now())
    await asyncio.to_thread(dispatcher.orders.give, *ended)


def _report(
    target: GroupTarget, reachable_kw: float, rows: pl.DataFrame, skipped: pl.DataFrame
) -> GroupReport:
    accepted_kw = float(rows["accepted_kw"].sum())
    short_kw = target.power_kw - accepted_kw
    tolerance = Tolerance()
    allowed_kw = max(tolerance.power_kw, tolerance.share * abs(target.power_kw))
    return GroupReport(
        target_kw=target.power_kw,
        reachable_kw=reachable_kw,
        accepted_kw=accepted_kw,
        shortfall_kw=short_kw if abs(short_kw) > allowed_kw else 0.0,
        devices=rows,
        skipped=skipped.sort("device_id"),
    )
