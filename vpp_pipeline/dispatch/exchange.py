"""One interval's dealings with ledger and devices: store, send, store the answer; look, store.

Belongs here: how a batch is claimed, sent and read back, so that a kill at any point leaves the
ledger true. Does not: which commands and when (`push`, `recheck`), what may be sent (`guard`,
`admission`), what an answer means (`judgement`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.clock import SteadyClock
from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.devices.failsafe import has_failsafe
from vpp_pipeline.devices.protocol import CommandResult, Outcome, ReadBack, Unreachable
from vpp_pipeline.dispatch.admission import refusal
from vpp_pipeline.dispatch.batches import ask_all
from vpp_pipeline.dispatch.evidence import with_sent
from vpp_pipeline.dispatch.guard import guard
from vpp_pipeline.dispatch.judgement import answers_frame, results_frame
from vpp_pipeline.dispatch.ledger import events
from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.dispatch.schemas import Commands

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from vpp_pipeline.dispatch.dispatcher import Dispatcher


class Exchange:
    """The devices of a fleet and the ledger, as one process deals with them for one interval.

    Its `clock` counts from the moment this was made: nobody's setting of the machine's clock
    moves a deadline.
    """

    def __init__(
        self, dispatcher: Dispatcher, devices: pl.DataFrame, interval_start: datetime
    ) -> None:
        self._with = dispatcher
        self._devices = devices
        self.clock = SteadyClock(dispatcher.clock)
        self.start = interval_start
        self.end = interval_start + STEP
        links = device_links(devices)
        self._links = {link.device_id: link for link in links}
        self._wires = pl.DataFrame(
            [(link.device_id, link.protocol, link.writable, has_failsafe(link)) for link in links],
            schema={
                "device_id": pl.String,
                "protocol": pl.String,
                "writable": pl.Boolean,
                "has_failsafe": pl.Boolean,
            },
            orient="row",
        )

    def wired(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add `protocol`, `writable` and `has_failsafe`; null for a device without an address."""
        return rows.join(self._wires, on="device_id", how="left", maintain_order="left")

    async def guarded(self, commands: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return `commands` after the guard, with their authority, and the telemetry it saw.

        Telemetry and orders are read anew; before the interval, the orders of its start count.
        """
        now = self.clock.now()
        telemetry = await asyncio.to_thread(self._with.read_states)
        standing = await asyncio.to_thread(
            self._with.orders.standing, self._devices, max(now, self.start)
        )
        sent = await asyncio.to_thread(self._with.ledger.newest, self.start)
        guarded = guard(
            commands.select(Commands.column_names()),
            self._devices,
            with_sent(telemetry, sent),
            standing,
            now,
            self._with.settings.guard,
        )
        return guarded, telemetry

    async def send(self, rows: pl.DataFrame, fence: int | None) -> None:
        """Send `rows` (wired rows of `Ledger.states` with `left_over`), or say why not.

        The guard looks again; what passes is claimed in the ledger before it is sent, and a
        device without a timer is noted as held: one whose timer does not run, as soon as that was
        seen. `fence` is the token of the lease that the sender holds; the ledger refuses a claim
        under an older one.
        """
        wish = rows.with_columns(
            setpoint_kw="planned_kw"
        )  # an override of the last send may be over
        guarded, telemetry = await self.guarded(wish)
        told = rows.select("command_id", "protocol", "writable", "has_failsafe", "left_over")
        offers = guarded.join(told, on="command_id", maintain_order="left")
        await self._send(offers, telemetry, fence, self._with.ledger.record_events)

    async def begin(self, offers: pl.DataFrame, telemetry: pl.DataFrame, fence: int | None) -> None:
        """Store new intents and send them as `send` does, claimed in the same transaction.

        `offers` are as the guard has just judged them on this telemetry: wired, with `left_over`.
        """
        ledger, actor = self._with.ledger, self._with.actor
        await self._send(
            offers,
            telemetry,
            fence,
            lambda claims: ledger.record_claimed_intents(offers, claims, self.clock.now(), actor),
        )

    async def _send(
        self,
        guarded: pl.DataFrame,
        telemetry: pl.DataFrame,
        fence: int | None,
        store: Callable[[pl.DataFrame], pl.DataFrame],
    ) -> None:
        """Claim what the guard let through, by `store`, and send what that did not refuse."""
        offers = self._offered(guarded, telemetry)
        admitted = offers.filter(pl.col("refusal").is_null())
        await self._hold(admitted.filter(~pl.col("has_failsafe")))
        claims = _claims(offers, self.clock.now(), self._with.actor, fence)
        refused = await asyncio.to_thread(store, claims)
        claimed = admitted.join(refused, on="command_id", how="anti", maintain_order="left")
        now, timeout_s = self.clock.now(), self._timeout_s()

        async def take(results: Mapping[str, CommandResult]) -> None:
            seen = {id_: result.read_back for id_, result in results.items() if result.read_back}
            await self._hold(_untimed(claimed, seen))
            await self._record_results(results)

        await ask_all(
            claimed,
            self._links,
            self._with.drivers,
            ask=lambda driver, pairs, tell: driver.command(pairs, now, timeout_s, tell),
            without_answer=lambda pair, why: CommandResult(
                pair[1].command_id, Outcome.UNKNOWN, "", why
            ),
            take=take,
            timeout_s=timeout_s,
        )

    async def read_back(
        self, rows: pl.DataFrame, take: Callable[[pl.DataFrame, pl.DataFrame], Awaitable[None]]
    ) -> None:
        """Ask the devices of `rows` what is in force; `take` those asked, and their answers.

        The answers are those of `answers_frame`. They come in parts, so that nobody waits for the
        silent.
        """
        asked = self.wired(rows).filter(pl.col("protocol").is_in(list(self._with.drivers)))
        timeout_s = self._timeout_s()

        async def take_part(answers: Mapping[str, ReadBack | Unreachable]) -> None:
            await self._hold(_untimed(asked, answers))
            await take(asked, answers_frame(answers))

        await ask_all(
            asked,
            self._links,
            self._with.drivers,
            ask=lambda driver, pairs, tell: driver.read_back(pairs, timeout_s, tell),
            without_answer=lambda pair, why: Unreachable(pair[0].device_id, why),
            take=take_part,
            timeout_s=timeout_s,
        )

    async def record(
        self, rows: pl.DataFrame, state: State | pl.Expr, **told: str | pl.Expr
    ) -> pl.DataFrame:
        """Store one event a row in one transaction; return those the ledger refused."""
        if rows.is_empty():
            return rows
        batch = events(rows, state, self.clock.now(), self._with.actor, **told)
        return await asyncio.to_thread(self._with.ledger.record_events, batch)

    async def expire(self) -> None:
        """End the commands of all intervals that are over and that are in no final state."""
        await asyncio.to_thread(self._with.ledger.expire, self.clock.now(), self._with.actor)

    async def sleep_until(self, moment: datetime) -> None:
        """Wait, and let everything else in this process go on."""
        await asyncio.to_thread(self.clock.sleep_until, moment)

    async def _record_results(self, results: Mapping[str, CommandResult]) -> None:
        await self.record(
            results_frame(results),
            pl.col("state"),
            detail=pl.col("words"),
            sent=pl.col("wire"),
            acknowledged=pl.col("answer"),
            read_back=pl.col("raw"),
            fence=pl.col("fence"),
        )

    def _offered(self, guarded: pl.DataFrame, telemetry: pl.DataFrame) -> pl.DataFrame:
        """Add `offered_kw`, `old_kw` and `refusal`: what is sent, after what, or why it is not."""
        before = (
            telemetry.drop_nulls(["device_id", "measured_at"])
            .sort("measured_at")
            .unique("device_id", keep="last")
            .select("device_id", old_kw="setpoint_kw")
        )
        return guarded.join(before, on="device_id", how="left", maintain_order="left").with_columns(
            offered_kw="setpoint_kw",
            refusal=refusal(self._with.drivers, self._with.settings.spread.ramp_kw_per_min),
        )

    async def _hold(self, rows: pl.DataFrame) -> None:
        """Note the devices that nothing of their own releases."""
        if not rows.is_empty():
            until = dict(rows.select("device_id", "valid_until").iter_rows())
            await asyncio.to_thread(self._with.holds.hold, until)

    def _timeout_s(self) -> float:
        left_s = (self.end - self.clock.now()).total_seconds() / self.clock.rate
        return max(0.0, min(self._with.settings.timeout_s, left_s))


def _claims(offers: pl.DataFrame, at: datetime, actor: str, fence: int | None) -> pl.DataFrame:
    """Return an event an offer: SENT where it is admitted, else REJECTED and why."""
    admitted = pl.col("refusal").is_null()
    return events(
        offers,
        pl.when(admitted).then(pl.lit(State.SENT.value)).otherwise(pl.lit(State.REJECTED.value)),
        at,
        actor,
        detail=pl.coalesce("refusal", "guard_reason"),
        authority=pl.col("authority"),
        order_id=pl.col("order_id"),
        requested_kw=pl.when(admitted).then("offered_kw"),
        old_kw=pl.when(admitted).then("old_kw"),
        fence=pl.when(admitted).then(pl.lit(fence, pl.Int64)),
    )


def _untimed(rows: pl.DataFrame, seen: Mapping[str, ReadBack | Unreachable]) -> pl.DataFrame:
    """Return the commands whose device was seen not to end its set-points by itself."""
    ids = [
        command_id
        for command_id, back in seen.items()
        if isinstance(back, ReadBack) and back.has_timer is False
    ]
    return rows.filter(pl.col("command_id").is_in(ids))
