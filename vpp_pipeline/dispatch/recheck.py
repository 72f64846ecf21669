"""The running interval after its push: what stands is looked at again, and kept as it should be.

Belongs here: the later read-back, and the new commands that follow from it and from orders that
have changed. Does not: the push itself (`push`), whom an order concerns (`reissue`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import floor_interval
from vpp_pipeline.dispatch.commands import PlanRef
from vpp_pipeline.dispatch.exchange import Exchange
from vpp_pipeline.dispatch.judgement import judge
from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.order_book import OrderBookDamaged
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.dispatch.reissue import changed, reissued, resumed, worth_sending

if TYPE_CHECKING:
    from datetime import datetime

    from vpp_pipeline.dispatch.dispatcher import Dispatcher
    from vpp_pipeline.dispatch.orders import Order
    from vpp_pipeline.dispatch.report import PushReport

EVERY = timedelta(minutes=5)
"""How long a look is good for: below half of a command's validity, so that a device timer that
was cut short is armed again in time."""

ENOUGH = timedelta(minutes=1)
"""With less than this left of the interval, the next one's push comes soon enough."""

_LOOKED_AT = (State.SENT, State.ACKED, State.APPLIED, State.VERIFIED, State.UNKNOWN)
_AGAIN = (State.FAILED,)  # certainly not at its device


@dataclass(frozen=True, eq=False)
class RecheckReport:
    """What a later look found. Each frame has a row a device: `device_id`, `state`, `why`.

    `overridden` by another's hand: an alarm, and no fight. `gone`: the device fell back to its
    default, or its timer would run out too soon; it was told again where it may be told.
    `pushed` is the report on what was sent anew, None if nothing was.
    """

    looked_at: int
    overridden: pl.DataFrame
    gone: pl.DataFrame
    pushed: PushReport | None


def due(newest: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Return those of `newest` (rows of `Ledger.newest`) that are to be looked at again.

    These are what may stand at its device or failed to get there, and was not touched for
    `EVERY`: what a push has under way is left to it.
    """
    looked_at = [state.value for state in (*_LOOKED_AT, *_AGAIN)]
    return newest.filter(
        pl.col("state").is_in(looked_at),
        pl.max_horizontal("state_at", "valid_from") <= now - EVERY,
    )


def found(judged: pl.DataFrame) -> pl.DataFrame:
    """Return what a later look says of each command: its `state` then (null: nothing new).

    `judged` is what `judge` makes of the commands as if each was in doubt, with the state they
    were in as `before`. A set-point in force is VERIFIED once more. Where another's value stands,
    or the device names the command and obeys another value, it is OVERRIDDEN; where none of it
    stands any more it is OVERRIDDEN too, and `gone`; what was in doubt is FAILED then.
    """
    verdict, before = pl.col("verdict"), pl.col("before")
    doubtful = before.is_in([State.SENT.value, State.UNKNOWN.value])
    gone = verdict == State.FAILED.value
    state = (
        pl.when(verdict == State.VERIFIED.value)
        .then(verdict)
        .when(gone & doubtful)
        .then(pl.lit(State.FAILED.value))
        .when(gone | (verdict == State.OVERRIDDEN.value))
        .then(pl.lit(State.OVERRIDDEN.value))
        .when((verdict == State.APPLIED.value) & (before == State.VERIFIED.value))
        .then(pl.lit(State.OVERRIDDEN.value))
        .when(verdict == State.APPLIED.value)
        .then(verdict)
        .when(before == State.SENT.value)
        .then(pl.lit(State.UNKNOWN.value))
    )
    return judged.with_columns(state=state, gone=gone)


async def recheck(dispatcher: Dispatcher, devices: pl.DataFrame) -> RecheckReport:
    """Look again at the running interval's set-points, and send anew what has to be.

    Sent anew, as commands of a higher version through intents, guard and verification like any
    other: what fell back to its default or failed to arrive, and what other orders stand for now
    than when it was made. A device that is stopped is not sent to. With a damaged order book
    nothing is sent. What earlier intervals left open is ended.
    """
    clock = dispatcher.clock
    now = clock.now()
    start = floor_interval(now)
    exchange = Exchange(dispatcher, devices, start)
    await exchange.expire()  # no push does, where no plan follows
    newest = await asyncio.to_thread(dispatcher.ledger.newest, start)
    asked_for = due(newest, now)
    looked = await _look(
        dispatcher, exchange, asked_for.filter(pl.col("state").is_in(list(_LOOKED_AT)))
    )
    gone = looked.filter("gone")
    failed = asked_for.filter(pl.col("state").is_in(list(_AGAIN)))
    again = pl.concat([gone["device_id"], failed["device_id"]])
    pushed = None
    if exchange.clock.now() < exchange.end - ENOUGH:
        pushed = await _send_anew(dispatcher, exchange, devices, newest, again)
    await _record(exchange, gone)  # last: a recheck that is killed before finds them again
    return RecheckReport(
        looked_at=looked.height,
        overridden=looked.filter(~pl.col("gone"), pl.col("state") == State.OVERRIDDEN.value).select(
            "device_id", "state", why="words"
        ),
        gone=gone.select("device_id", "state", why="words"),
        pushed=pushed,
    )


async def _look(dispatcher: Dispatcher, exchange: Exchange, rows: pl.DataFrame) -> pl.DataFrame:
    """Read back, store what still stands or is another's, and return all that was found."""
    standing = {
        version: await asyncio.to_thread(dispatcher.ledger.standing, exchange.start, version)
        for version in rows["plan_version"].unique(maintain_order=True)
    }
    seen = [_nothing_found()]

    async def take(asked: pl.DataFrame, answers: pl.DataFrame) -> None:
        doubted = asked.rename({"state": "before"}).with_columns(state=pl.lit(State.UNKNOWN.value))
        now = exchange.clock.now()
        looked = found(
            pl.concat(
                judge(of_version, answers, standing[version], now, last_look=True)
                for (version,), of_version in doubted.group_by("plan_version", maintain_order=True)
            )
        )
        await _record(exchange, looked.filter(~pl.col("gone")))
        seen.append(looked)

    await exchange.read_back(rows, take)
    return pl.concat(seen, how="diagonal")


async def _record(exchange: Exchange, looked: pl.DataFrame) -> None:
    lost = pl.format("it no longer stands: {}", "words")
    await exchange.record(
        looked.filter(pl.col("state").is_not_null()),
        pl.col("state"),
        detail=pl.when("gone").then(lost).otherwise("words"),
        read_back=pl.col("raw"),
    )


async def _send_anew(
    dispatcher: Dispatcher,
    exchange: Exchange,
    devices: pl.DataFrame,
    newest: pl.DataFrame,
    again: pl.Series,
) -> PushReport | None:
    now = exchange.clock.now()
    try:
        orders: list[Order] = await asyncio.to_thread(dispatcher.orders.read)
    except OrderBookDamaged:
        return None
    again = pl.concat([again, resumed(newest, orders, devices)])
    named = pl.concat([again, changed(newest, orders, devices, now)]).unique(maintain_order=True)
    if named.is_empty():
        return None
    version = await asyncio.to_thread(dispatcher.ledger.next_version)
    wanted = reissued(newest, named, orders, devices, exchange.start, now, version)
    guarded, _ = await exchange.guarded(wanted.commands)
    told = newest.with_columns(
        offered_kw=pl.when(~pl.col("device_id").is_in(again.implode())).then("offered_kw")
    )
    sent = worth_sending(guarded, told)
    commands = wanted.commands.join(sent, on="command_id", how="semi", maintain_order="left")
    if commands.is_empty():
        return None
    plan = PlanRef(commands["plan_id"].mode().sort()[0], version)
    asked = replace(wanted, commands=commands)
    return await push(dispatcher, plan, asked, devices, exchange.start)


def _nothing_found() -> pl.DataFrame:
    return pl.DataFrame(
        schema={
            "device_id": pl.String,
            "state": pl.String,
            "words": pl.String,
            "gone": pl.Boolean,
        }
    )
