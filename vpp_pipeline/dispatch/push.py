"""One interval's commands, from intent to verified set-point, safe to be killed anywhere.

Belongs here: the order of storing, sending and reading back. Does not: how that is done
(`exchange`), what may be sent (`guard`, `admission`), when a device starts (`spread`), what an
answer means (`judgement`), when a push is due (`due`), later looks (`recheck`).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.devices.leases import LeaseHeld
from vpp_pipeline.dispatch.exchange import Exchange
from vpp_pipeline.dispatch.judgement import judge
from vpp_pipeline.dispatch.lifecycle import FINAL, SENDABLE, State
from vpp_pipeline.dispatch.report import push_report
from vpp_pipeline.dispatch.spread import LATEST, spread, steps_kw

if TYPE_CHECKING:
    from datetime import datetime

    from vpp_pipeline.dispatch.commands import DueCommands, PlanRef
    from vpp_pipeline.dispatch.dispatcher import Dispatcher
    from vpp_pipeline.dispatch.report import PushReport

AHEAD = frozenset({"mqtt", "http"})
"""Protocols whose devices keep a command until its `valid_from`: they get it before the boundary.

A charge point does not: its next charging profile replaces the one in force.
"""

_CAN_WAIT = pl.col("protocol").is_in(list(AHEAD)).fill_null(value=True)
_LOOKED_AT = (State.ACKED, State.APPLIED, State.UNKNOWN)


async def push(
    dispatcher: Dispatcher,
    plan: PlanRef,
    due: DueCommands,
    devices: pl.DataFrame,
    interval_start: datetime,
) -> PushReport:
    """Bring the commands `due` at `interval_start` to their devices; return what came of it.

    Intents are stored before anything is sent, each send is stored before it is made, and what
    an earlier, killed push may have sent is read back before it is sent again. Starts are spread
    (`spread`): MQTT and HTTP devices get theirs ahead, Modbus and OCPP devices theirs in waves from
    the boundary on, and all are read back. What a device refused is not tried again; what failed
    is, after growing pauses. Nothing is sent for an interval that is over.

    Of several runs one at a time pushes an interval: what a dead run may have sent is only doubted
    once it is certain that it is dead. Raises `LeaseHeld` where another takes too long.
    """
    return await _Push(dispatcher, plan, due, devices, interval_start).run()


class _Push:
    def __init__(
        self,
        dispatcher: Dispatcher,
        plan: PlanRef,
        due: DueCommands,
        devices: pl.DataFrame,
        interval_start: datetime,
    ) -> None:
        self._with = dispatcher
        self._ledger = dispatcher.ledger
        self._settings = dispatcher.settings
        self._plan = plan
        self._due = due
        self._devices = devices
        self._exchange = Exchange(dispatcher, devices, interval_start)
        self._clock = self._exchange.clock
        self._start = interval_start
        self._end = self._exchange.end
        self._earliest = max(interval_start, self._clock.now())
        self._fence: int | None = None  # the token of our turn, once it has come
        self._known: pl.DataFrame | None = None  # the interval's commands, until the next write

    async def run(self) -> PushReport:
        turn = f"push-{self._start:%H%M}"  # few files, whose tokens grow from day to day
        try:
            lease = await self._with.leases.acquire(turn, 0.0)
        except LeaseHeld:  # by a push that is to see that ours are newer, and make way
            intents, _ = await self._intents()
            await self._store(intents)
            await self._close_the_past()
            lease = await self._with.leases.acquire(turn, self._settings.turn_s)
        async with lease:
            return await self._bring(lease.token)

    async def _bring(self, fence: int | None) -> PushReport:
        """Send what is open and verify it, under the lease whose token is `fence`."""
        self._fence, self._known = fence, None
        await self._close_the_past()
        await self._doubt_the_dead()
        is_early = self._clock.now() < self._start
        await self._begin(_CAN_WAIT if is_early else pl.lit(value=True))
        if is_early:
            await self._sleep_until(self._start)
            await self._offer(~_CAN_WAIT)
        await self._start_in_waves()
        for round_ in range(self._settings.rounds):
            await self._offer(pl.lit(value=True))
            if await self._is_done() or self._clock.now() >= self._end:
                break
            pause_s = self._settings.settle_s * 2**round_ * self._clock.rate
            await self._sleep_until(self._clock.now() + timedelta(seconds=pause_s))
            await self._read_back(last_look=round_ == self._settings.rounds - 1)
        if self._clock.now() >= self._end:
            await self._expire()
        return push_report(
            self._plan,
            self._start,
            self._due,
            await self._states(),
            self._is_left_over(),
            self._settings.tolerance,
        )

    async def _begin(self, to: pl.Expr) -> None:
        """Store the intents that are not in the ledger yet, and send to these what may go now.

        Where that is all that is due, and new, one look of the guard and one transaction do for
        both. Else what goes now is judged without what goes later: until then that does as it did.
        """
        known = await self._states()
        if known.height < self._due.commands.height:
            intents, telemetry = await self._intents()
            offers = intents.with_columns(left_over=self._is_left_over()).filter(
                to, self._in_time(self._clock.now())
            )
            self._known = None
            if known.is_empty() and offers.height == intents.height:
                await self._exchange.begin(offers, telemetry, self._fence)
                return
            await self._store(intents)
        await self._offer(to)

    async def _store(self, intents: pl.DataFrame) -> None:
        await asyncio.to_thread(
            self._ledger.record_intents, intents, self._clock.now(), self._with.actor
        )

    async def _intents(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return what is due as the guard lets it through, wired, with each start, and the
        telemetry that it saw.
        """
        guarded, telemetry = await self._exchange.guarded(self._due.commands)
        wired = self._exchange.wired(guarded).with_columns(
            steps_kw(guarded, self._devices, telemetry),
            urgent=pl.col("order_id").is_not_null(),
            waits=_CAN_WAIT,
        )
        to_step = wired.with_columns(step_kw=pl.when("refused").then(0.0).otherwise("step_kw"))
        return spread(to_step, self._earliest, self._settings.spread), telemetry

    async def _close_the_past(self) -> None:
        """Close what is over or superseded."""
        await self._expire()
        older = (await self._of_interval()).filter(
            ~pl.col("state").is_in(list(FINAL)), pl.col("plan_version") < self._plan.plan_version
        )
        await self._record(
            older.join(self._due.commands, on="device_id", how="semi"),
            pl.when(pl.col("state").is_in([State.PLANNED, State.FAILED]))
            .then(pl.lit(State.REJECTED.value))
            .otherwise(pl.lit(State.OVERRIDDEN.value)),
            detail=f"superseded by plan version {self._plan.plan_version}",
        )

    async def _doubt_the_dead(self) -> None:
        """Doubt what an earlier push was about to send when it ended."""
        await self._record(
            (await self._states()).filter(pl.col("state") == State.SENT),
            State.UNKNOWN,
            detail="an earlier push ended between the send and its answer",
        )

    async def _expire(self) -> None:
        self._known = None
        await self._exchange.expire()

    async def _start_in_waves(self) -> None:
        """Send to those who can't wait by themselves when their moment has come, and look."""
        while not (later := await self._later()).is_empty():
            next_ = later.filter(~_CAN_WAIT).select(pl.col("valid_from").min()).item()
            await self._sleep_until(next_ or later.select(pl.col("valid_from").max()).item())
            await self._offer(~_CAN_WAIT)
            await self._read_back(last_look=False)

    async def _later(self) -> pl.DataFrame:
        """Return what is still open and begins later, if the ramp has room for it."""
        return self._exchange.wired(
            (await self._states()).filter(
                ~pl.col("state").is_in(list(FINAL)),
                pl.col("valid_from") > self._clock.now(),
                ~self._is_left_over(),
            )
        )

    async def _offer(self, to: pl.Expr) -> None:
        """Send to these what may be sent: nothing that is in doubt, and nothing too early."""
        sendable = (await self._states()).filter(pl.col("state").is_in(list(SENDABLE)))
        if sendable.is_empty():
            return
        rows = (
            self._exchange.wired(sendable)
            .with_columns(left_over=self._is_left_over())
            .filter(to, self._in_time(self._clock.now()))
        )
        if not rows.is_empty():
            self._known = None
            await self._exchange.send(rows, self._fence)

    async def _read_back(self, *, last_look: bool) -> None:
        """Read back what may stand at its device."""
        now = self._clock.now()
        rows = (await self._states()).filter(
            pl.col("state").is_in(list(_LOOKED_AT)), pl.col("valid_from") <= now
        )
        if rows.is_empty() or now >= self._end:
            return
        standing = await asyncio.to_thread(
            self._ledger.standing, self._start, self._plan.plan_version
        )

        async def take(asked: pl.DataFrame, answers: pl.DataFrame) -> None:
            judged = judge(asked, answers, standing, self._clock.now(), last_look=last_look)
            await self._record(
                judged.filter(pl.col("verdict").is_not_null()),
                pl.col("verdict"),
                detail=pl.col("words"),
                read_back=pl.col("raw"),
            )

        await self._exchange.read_back(rows, take)

    def _in_time(self, now: datetime) -> pl.Expr:
        return (now < self._end) & (_CAN_WAIT | (pl.col("valid_from") <= now) | pl.col("left_over"))

    def _is_left_over(self) -> pl.Expr:
        return pl.col("valid_from") > self._earliest + LATEST

    async def _record(
        self, rows: pl.DataFrame, state: State | pl.Expr, **told: str | pl.Expr
    ) -> None:
        if not rows.is_empty():
            self._known = None
            await self._exchange.record(rows, state, **told)

    async def _states(self) -> pl.DataFrame:
        return (await self._of_interval()).join(
            self._due.commands, on="command_id", how="semi", maintain_order="left"
        )

    async def _of_interval(self) -> pl.DataFrame:
        """Return the states of all the interval's commands, others' too."""
        if self._known is None:
            self._known = await asyncio.to_thread(self._ledger.states, self._start)
        return self._known

    async def _sleep_until(self, moment: datetime) -> None:
        await self._exchange.sleep_until(moment)
        self._known = None

    async def _is_done(self) -> bool:
        return (await self._states())["state"].is_in(list(FINAL)).all()
