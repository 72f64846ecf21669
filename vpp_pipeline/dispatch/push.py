"""One interval's commands, from intent to verified set-point, safe to be killed anywhere.

Belongs here: the order of storing, sending and reading back. Does not: what may be sent (`guard`),
what an answer means (`judgement`), when a push is due (`due`), any wire format (the drivers).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.devices.protocol import CommandResult, Outcome, Unreachable
from vpp_pipeline.dispatch.batches import ask_all
from vpp_pipeline.dispatch.guard import GuardSettings, guard
from vpp_pipeline.dispatch.judgement import answers_frame, judge
from vpp_pipeline.dispatch.ledger import events
from vpp_pipeline.dispatch.lifecycle import FINAL, SENDABLE, State
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.dispatch.report import push_report
from vpp_pipeline.dispatch.schemas import Commands

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.protocol import Driver
    from vpp_pipeline.dispatch.commands import DueCommands, PlanRef
    from vpp_pipeline.dispatch.ledger import Ledger
    from vpp_pipeline.dispatch.order_book import OrderBook
    from vpp_pipeline.dispatch.report import PushReport

AHEAD = frozenset({"mqtt", "http"})
"""Protocols whose commands carry `valid_from`: they are offered before the boundary."""


@dataclass(frozen=True)
class PushSettings:
    """How a push tries. Seconds are wall time: devices and wires know no other."""

    guard: GuardSettings = field(default_factory=GuardSettings)
    timeout_s: float = 5.0  # of one batch of one protocol
    rounds: int = 4  # times each open command is read back, and sent again where it may be
    settle_s: float = 0.5  # before the first read-back; doubles each round


@dataclass(frozen=True)
class Dispatcher:
    """What a push works with. `read_states` returns each device's latest telemetry."""

    ledger: Ledger
    drivers: Mapping[str, Driver]
    clock: Clock
    read_states: Callable[[], pl.DataFrame]
    orders: OrderBook
    actor: str
    settings: PushSettings = field(default_factory=PushSettings)


async def push(
    dispatcher: Dispatcher,
    plan: PlanRef,
    due: DueCommands,
    devices: pl.DataFrame,
    interval_start: datetime,
) -> PushReport:
    """Bring the commands `due` at `interval_start` to their devices; return what came of it.

    Intents are stored before anything is sent, each send is stored before it is made, and what
    an earlier, killed push may have sent is read back before it is sent again. MQTT and HTTP
    devices get theirs ahead; at the boundary Modbus devices get theirs, and all are read back.
    Nothing is sent for an interval that is over.
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
        self._clock = dispatcher.clock
        self._ledger = dispatcher.ledger
        self._settings = dispatcher.settings
        self._plan = plan
        self._due = due
        self._devices = devices
        self._start = interval_start
        self._end = interval_start + STEP
        self._known: pl.DataFrame | None = None  # our commands' states, until the next write
        links = device_links(devices)
        self._links = {link.device_id: link for link in links}
        self._wires = pl.DataFrame(
            [(link.device_id, link.protocol, link.writable) for link in links],
            schema={"device_id": pl.String, "protocol": pl.String, "writable": pl.Boolean},
            orient="row",
        )

    async def run(self) -> PushReport:
        await self._store_intents()
        await self._settle_the_past()
        if self._clock.now() < self._start:
            await self._offer(ahead=True)
            await asyncio.to_thread(self._clock.sleep_until, self._start)
            self._known = None
        for round_ in range(self._settings.rounds):
            await self._offer()
            if await self._is_done():
                break
            await self._wait(self._settings.settle_s * 2**round_)
            await self._read_back(last_look=round_ == self._settings.rounds - 1)
        await self._expire()
        return push_report(self._plan, self._start, self._due, await self._states())

    async def _store_intents(self) -> None:
        now = self._clock.now()
        telemetry = await asyncio.to_thread(self._with.read_states)
        standing = await self._orders(now)
        guarded = guard(
            self._due.commands, self._devices, telemetry, standing, now, self._settings.guard
        )
        await asyncio.to_thread(self._ledger.record_intents, guarded, now, self._with.actor)

    async def _settle_the_past(self) -> None:
        """Close what is over or superseded, and doubt what an earlier push was about to send."""
        await self._expire()
        opened = await asyncio.to_thread(self._ledger.open_commands, self._start)
        older = opened.filter(pl.col("plan_version") < self._plan.plan_version).join(
            self._due.commands, on="device_id", how="semi"
        )
        await self._record(
            older,
            pl.when(pl.col("state").is_in([State.PLANNED, State.FAILED]))
            .then(pl.lit(State.REJECTED.value))
            .otherwise(pl.lit(State.OVERRIDDEN.value)),
            detail=f"superseded by plan version {self._plan.plan_version}",
        )
        await self._record(
            (await self._states()).filter(pl.col("state") == State.SENT),
            State.UNKNOWN,
            detail="an earlier push ended between the send and its answer",
        )

    async def _expire(self) -> None:
        now = self._clock.now()
        overdue = await asyncio.to_thread(self._ledger.overdue, now)
        if now >= self._end:
            ours = (await self._states()).select("command_id", "state")
            overdue = pl.concat([overdue, ours]).unique("command_id", maintain_order=True)
        await self._record(
            overdue,
            State.EXPIRED,
            detail=pl.format("the interval ended while this was {}", "state"),
        )

    async def _offer(self, *, ahead: bool = False) -> None:
        """Send what may be sent: nothing that is in doubt."""
        now = self._clock.now()
        if now >= self._end:
            return
        states = (await self._states()).join(self._wires, on="device_id", how="left")
        rows = states.filter(
            pl.col("state").is_in(list(SENDABLE)),
            ~pl.lit(ahead) | pl.col("protocol").is_in(list(AHEAD)).fill_null(value=True),
        )
        if rows.is_empty():
            return
        judged = await self._judge_sendable(rows, now)
        await self._record(
            judged.filter(pl.col("refusal").is_not_null()), State.REJECTED, detail=pl.col("refusal")
        )
        admitted = judged.filter(pl.col("refusal").is_null())
        refused = await self._record(
            admitted,
            State.SENT,
            detail=pl.col("note"),
            requested_kw=pl.col("offered_kw"),
        )
        claimed = admitted.join(refused, on="command_id", how="anti", maintain_order="left")
        timeout_s = self._timeout_s()
        results = await ask_all(
            claimed,
            self._links,
            self._with.drivers,
            ask=lambda driver, pairs: driver.command(pairs, now, timeout_s),
            without_answer=lambda pair, why: CommandResult(
                pair[1].command_id, Outcome.UNKNOWN, "", why
            ),
            timeout_s=timeout_s,
        )
        answers = pl.DataFrame(
            [(id_, r.outcome.value, r.sent, r.detail) for id_, r in results.items()],
            schema=["command_id", "outcome", "wire", "words"],
            orient="row",
            schema_overrides=dict.fromkeys(["command_id", "outcome", "wire", "words"], pl.String),
        )
        await self._record(answers, pl.col("outcome"), detail=pl.col("words"), sent=pl.col("wire"))

    async def _judge_sendable(self, rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
        """Add `offered_kw` by the guard on fresh telemetry, a `note` of its change, `refusal`."""
        telemetry = await asyncio.to_thread(self._with.read_states)
        wish = rows.with_columns(setpoint_kw=pl.coalesce("offered_kw", "planned_kw"))
        guarded = guard(
            wish.select(Commands.column_names()),
            self._devices,
            telemetry,
            await self._orders(now),
            now,
            self._settings.guard,
        )
        standing = (await self._standing()).filter(pl.col("interval_start") == self._start)
        return (
            rows.drop("offered_kw")
            .join(
                guarded.select(
                    "command_id", "refused", offered_kw="setpoint_kw", note="guard_reason"
                ),
                on="command_id",
                maintain_order="left",
            )
            .join(
                standing.select("device_id", newest="plan_version"),
                on="device_id",
                how="left",
                maintain_order="left",
            )
            .with_columns(refusal=self._refusal())
        )

    def _refusal(self) -> pl.Expr:
        return (
            pl.when(pl.col("newest") > self._plan.plan_version)
            .then(pl.format("superseded by plan version {}", "newest"))
            .when(pl.col("protocol").is_null())
            .then(pl.lit("no address: start the simulator, or register the device's endpoint"))
            .when(~pl.col("writable"))
            .then(pl.lit("read-only: mark the device `live: true` to command it"))
            .when(~pl.col("protocol").is_in(list(self._with.drivers)))
            .then(pl.format("no driver for {}: give the push one", "protocol"))
            .when("refused")
            .then("note")
        )

    async def _read_back(self, *, last_look: bool) -> None:
        """Read back what may stand at its device."""
        looked_at = [State.ACKED, State.APPLIED, State.UNKNOWN]
        rows = (await self._states()).filter(pl.col("state").is_in(looked_at))
        if rows.is_empty() or self._clock.now() >= self._end:
            return
        asked = rows.join(self._wires, on="device_id", how="inner", maintain_order="left").filter(
            pl.col("protocol").is_in(list(self._with.drivers))
        )
        timeout_s = self._timeout_s()
        answers = await ask_all(
            asked,
            self._links,
            self._with.drivers,
            ask=lambda driver, pairs: driver.read_back(pairs, timeout_s),
            without_answer=lambda pair, why: Unreachable(pair[0].device_id, why),
            timeout_s=timeout_s,
        )
        judged = judge(
            asked,
            answers_frame(answers),
            await self._standing(),
            self._clock.now(),
            last_look=last_look,
        )
        await self._record(
            judged.filter(pl.col("verdict").is_not_null()),
            pl.col("verdict"),
            detail=pl.col("words"),
            read_back=pl.col("raw"),
        )

    async def _record(
        self,
        rows: pl.DataFrame,
        state: State | pl.Expr,
        **told: str | pl.Expr,
    ) -> pl.DataFrame:
        """Store one event a row in one transaction; return those the ledger refused."""
        if rows.is_empty():
            return rows
        batch = events(rows, state, self._clock.now(), self._with.actor, **told)
        self._known = None
        return await asyncio.to_thread(self._ledger.record_events, batch)

    async def _states(self) -> pl.DataFrame:
        if self._known is None:
            states = await asyncio.to_thread(self._ledger.states, self._start)
            self._known = states.join(
                self._due.commands, on="command_id", how="semi", maintain_order="left"
            )
        return self._known

    async def _standing(self) -> pl.DataFrame:
        return await asyncio.to_thread(self._ledger.standing, self._start, self._plan.plan_version)

    async def _orders(self, now: datetime) -> pl.DataFrame:
        acts_from = max(now, self._start)
        return await asyncio.to_thread(self._with.orders.standing, self._devices, acts_from)

    async def _is_done(self) -> bool:
        return (await self._states())["state"].is_in(list(FINAL)).all()

    async def _wait(self, wall_s: float) -> None:
        moment = self._clock.now() + timedelta(seconds=wall_s * self._clock.rate)
        await asyncio.to_thread(self._clock.sleep_until, moment)

    def _timeout_s(self) -> float:
        left_s = (self._end - self._clock.now()).total_seconds() / self._clock.rate
        return max(0.0, min(self._settings.timeout_s, left_s))
