"""The Modbus driver: many devices behind many endpoints, in one call.

Belongs here: what is refused before it is sent, the order of a device's writes, and what an answer
means for a command. Does not: endpoints (`modbus_visits`), the wire (`modbus_session`), what the
registers mean (`sunspec_look` and, for a vendor's map, `register_map_look`).
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymodbus.pdu.register_message import WriteMultipleRegistersRequest

from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices import register_map_look, sunspec_look
from vpp_pipeline.devices.discoveries import Discoveries
from vpp_pipeline.devices.endpoint_health import EndpointHealth
from vpp_pipeline.devices.leases import Lease, Leases
from vpp_pipeline.devices.modbus_refusals import refusal_of, unwritable
from vpp_pipeline.devices.modbus_session import EndpointLost, LinkError, Refusal, Session
from vpp_pipeline.devices.modbus_timers import TimersSeen
from vpp_pipeline.devices.modbus_visits import Visits
from vpp_pipeline.devices.protocol import CommandResult, Outcome, ReadBack, Unreachable, untold
from vpp_pipeline.devices.registers import NotEncodable
from vpp_pipeline.devices.sunspec_models import forget_contents
from vpp_pipeline.devices.write_budget import BudgetSpent, WriteBudget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.modbus_look import Look, Purpose, RegisterWrite
    from vpp_pipeline.devices.protocol import Command, DeviceLink, Reading, Tell

_Confirmed = tuple[Outcome, str, ReadBack | None]
"""What is known after a look at what a device has accepted: in a word, in words, what was seen."""

_BUSY, _PATH_UNAVAILABLE = 6, 10
_NOT_DONE = frozenset({_BUSY, _PATH_UNAVAILABLE})
_TIMER_TOLERANCE_S = 2.0  # wall seconds a timer may outlive its command: a whole second and the way


class ModbusDriver:
    """Devices over Modbus TCP: SunSpec, or a vendor's register map; a `devices.protocol.Driver`.

    `shared_dir` holds leases, write budgets and discovered models for all processes that speak to
    these devices, `owner` is the name the others are told, `clock` stamps the readings (Modbus
    carries no time).
    """

    def __init__(
        self,
        shared_dir: Path,
        owner: str,
        clock: Clock,
        credentials: Credentials | None = None,
        health: EndpointHealth | None = None,
    ) -> None:
        self._clock = clock
        self._budget = WriteBudget(shared_dir)
        self._timers = TimersSeen()
        self._visits = Visits(
            Leases(shared_dir, owner),
            health or EndpointHealth(),
            credentials or Credentials(),
            Discoveries(shared_dir, clock),
        )

    async def read(
        self, links: Sequence[DeviceLink], timeout_s: float
    ) -> list[Reading | Unreachable]:
        """Read each device's measurements, stamped with their arrival."""

        async def ask(session: Session, _lease: Lease, index: int) -> Reading | Unreachable:
            look = await _look_at(session, links[index], "read")
            return look.reading(self._clock.now())

        def lost(index: int, reason: str) -> Reading | Unreachable:
            return Unreachable(links[index].device_id, reason)

        answers = await self._visits.ask(dict(enumerate(links)), timeout_s, ask, lost, untold)
        return [answers[index] for index in range(len(links))]

    async def command(
        self,
        commands: Sequence[tuple[DeviceLink, Command]],
        now: datetime,
        timeout_s: float,
        tell: Tell[CommandResult] = untold,
    ) -> list[CommandResult]:
        """Write each set-point and its timer, and look; Modbus obeys at once, so at `valid_from`.

        SunSpec takes both as one frame, a vendor's map its frames in order. The timer is what is
        left until `valid_until` when the frames are built. The same set-point again is a refresh.
        Refused (nothing sent): what is not writable, not finite, beyond a nameplate, without a
        scale factor, under local control, early by more than 2 s, or over, and what a register in
        flash has no write left for.
        """
        started = self._clock.now()

        def writes(index: int, look: Look) -> list[RegisterWrite]:
            command = commands[index][1]
            moment = now + (self._clock.now() - started)
            timer_s = math.floor((command.valid_until - moment).total_seconds())
            return look.set_point(command.power_kw, timer_s)

        links = [link for link, _ in commands]
        refusals = {
            index: reason
            for index, (link, command) in enumerate(commands)
            if (reason := refusal_of(link, command, now))
        }
        ids = [command.command_id for _, command in commands]

        async def confirm(session: Session, look: Look, index: int) -> _Confirmed:
            link, command = commands[index]
            at = self._clock.now()
            try:
                seen = await _look_again(session, link, look)
                return Outcome.ACKED, "", self._compared(seen, command, at)
            except (LinkError, NotEncodable):
                return Outcome.ACKED, "", None  # a later look will tell

        return await self._write(
            links, ids, refusals, timeout_s, writes, tell=tell, confirm=confirm, release=False
        )

    async def read_back(
        self,
        commands: Sequence[tuple[DeviceLink, Command]],
        timeout_s: float,
        tell: Tell[ReadBack | Unreachable] = untold,
    ) -> list[ReadBack | Unreachable]:
        """Compare the raw registers in each device with the encoding of its command.

        A set-point whose timer is not armed, or runs longer than the command, does not match: it
        would outlive it. A device without a timer says so in `has_timer`.
        """

        async def ask(session: Session, _lease: Lease, index: int) -> ReadBack | Unreachable:
            link, command = commands[index]
            at = self._clock.now()
            return self._compared(await _look_at(session, link, "verify"), command, at)

        def lost(index: int, reason: str) -> ReadBack | Unreachable:
            return Unreachable(commands[index][0].device_id, reason)

        links = {index: link for index, (link, _) in enumerate(commands)}
        answers = await self._visits.ask(links, timeout_s, ask, lost, tell)
        return [answers[index] for index in range(len(commands))]

    async def release(self, links: Sequence[DeviceLink], timeout_s: float) -> list[CommandResult]:
        """Disable each set-point, clear its value and timer, and read that back.

        A result has no command id. ACKED says the registers were read back cleared.
        """

        def writes(_index: int, look: Look) -> list[RegisterWrite]:
            return look.release()

        refusals = {
            index: reason for index, link in enumerate(links) if (reason := unwritable(link))
        }
        ids = [""] * len(links)

        async def confirm(session: Session, _look: Look, index: int) -> _Confirmed:
            left = (await _look_at(session, links[index], "verify")).left_over()
            if left:
                return Outcome.UNKNOWN, f"accepted, but not released: {left}", None
            return Outcome.ACKED, "", None

        return await self._write(
            links, ids, refusals, timeout_s, writes, tell=untold, confirm=confirm, release=True
        )

    async def close(self) -> None:
        """Do nothing: every call gives back its connections and leases before it ends."""

    def _compared(self, look: Look, command: Command, at: datetime) -> ReadBack:
        left_s = (command.valid_until - at).total_seconds()
        back = look.read_back(command, left_s + _TIMER_TOLERANCE_S * self._clock.rate)
        return self._timers.judged(back, at)

    async def _write(
        self,
        links: Sequence[DeviceLink],
        ids: Sequence[str],
        refusals: Mapping[int, str],
        timeout_s: float,
        writes_of: Callable[[int, Look], list[RegisterWrite]],
        *,
        tell: Tell[CommandResult],
        confirm: Callable[[Session, Look, int], Awaitable[_Confirmed]],
        release: bool,
    ) -> list[CommandResult]:
        senders: dict[int, _Sender] = {}

        def result(
            index: int, outcome: Outcome, detail: str, back: ReadBack | None = None
        ) -> CommandResult:
            sender = senders.get(index)
            if sender is None:
                return CommandResult(ids[index], outcome, "", detail)
            sent, answers = " ".join(sender.sent), " ".join(sender.answers)
            fence = sender.lease.token
            return CommandResult(ids[index], outcome, sent, detail, answers, fence, back)

        def lost(index: int, reason: str) -> CommandResult:
            sender = senders.get(index)
            outcome = Outcome.UNKNOWN if sender and sender.sent else Outcome.FAILED
            return result(index, outcome, reason)

        async def ask(session: Session, lease: Lease, index: int) -> CommandResult:
            link = links[index]
            sender = senders[index] = _Sender(session, lease, _unit_id(link))
            look = await _look_at(session, link, "steer")
            outcome, detail = await self._give(
                link, look, sender, lambda: writes_of(index, look), release=release
            )
            if outcome is not Outcome.ACKED:
                return result(index, outcome, detail)
            return result(index, *await confirm(session, look, index))

        visited = {index: link for index, link in enumerate(links) if index not in refusals}
        answers = await self._visits.ask(visited, timeout_s, ask, lost, tell, release=release)
        return [
            answers[index] if index in answers else result(index, Outcome.REJECTED, refusals[index])
            for index in range(len(links))
        ]

    async def _give(
        self,
        link: DeviceLink,
        look: Look,
        sender: _Sender,
        writes_of: Callable[[], list[RegisterWrite]],
        *,
        release: bool,
    ) -> tuple[Outcome, str]:
        """Send a device its writes, all or none; return what is known then, and why."""
        if reason := look.refusal():
            return Outcome.REJECTED, reason
        try:
            writes = writes_of()
            self._spend(link, writes, release=release)
        except (NotEncodable, BudgetSpent) as error:
            forget_contents(sender.session, sender.unit_id)
            return Outcome.REJECTED, str(error)
        self._timers.forget(link.device_id)
        try:
            await sender.send(writes)
        except Refusal as refusal:
            if len(sender.sent) == 1:
                return _outcome(refusal), str(refusal)
            if release:
                return Outcome.UNKNOWN, f"only half released: {refusal}"
            return await self._undo(link, sender, refusal)
        return Outcome.ACKED, ""

    async def _undo(
        self, link: DeviceLink, sender: _Sender, refusal: Refusal
    ) -> tuple[Outcome, str]:
        """Release a device that took only some of the frames of a set-point."""
        begun = f"{refusal}, after {len(sender.sent) - 1} frames"
        try:
            writes = (await _look_at(sender.session, link, "steer")).release()
            self._spend(link, writes, release=True)
            await sender.send(writes)
        except (NotEncodable, Refusal) as error:
            return Outcome.UNKNOWN, f"{begun}; not released: {error}"
        return _outcome(refusal), f"{begun}: released again"

    def _spend(self, link: DeviceLink, writes: Sequence[RegisterWrite], *, release: bool) -> None:
        """Count the writes to flash. Raises `BudgetSpent`, but never keeps a device from release."""
        in_flash = {
            address: limit for write in writes for address, limit in write.daily_writes.items()
        }
        if not in_flash:
            return
        device, today = f"{link.endpoint} {link.unit_id}", self._clock.now().date()
        with contextlib.suppress(BudgetSpent) if release else contextlib.nullcontext():
            self._budget.take(device, in_flash, today)


@dataclass(frozen=True)
class _Sender:
    """The way to one device within a visit, and what went out and came back on it, in hex."""

    session: Session
    lease: Lease
    unit_id: int
    sent: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    async def send(self, writes: Sequence[RegisterWrite]) -> None:
        """Send frame after frame, each under our lease.

        Raises `Refusal` or another `LinkError`, `LeaseLost`.
        """
        for write in writes:
            request = WriteMultipleRegistersRequest(
                address=write.address, registers=list(write.registers), dev_id=self.unit_id
            )
            self.lease.check()
            self.sent.append((bytes([request.function_code]) + request.encode()).hex())
            try:
                self.answers.append(await self.session.write(request))
            except EndpointLost:
                self.sent.pop()
                raise
            except Refusal as refusal:
                self.answers.append(refusal.answer)
                raise


async def _look_at(session: Session, link: DeviceLink, purpose: Purpose) -> Look:
    if link.register_map is None:
        return await sunspec_look.look_at(session, link, _unit_id(link), purpose)
    return await register_map_look.look_at(session, link, _unit_id(link), purpose)


async def _look_again(session: Session, link: DeviceLink, look: Look) -> Look:
    """Read what a write moved."""
    if isinstance(look, sunspec_look.SunspecLook):
        return await sunspec_look.look_again(session, look, _unit_id(link))
    return await _look_at(session, link, "verify")


def _unit_id(link: DeviceLink) -> int:
    if link.unit_id is None:
        raise LinkError(f"{link.device_id} has no Modbus unit id; name it in the fleet")
    return link.unit_id


def _outcome(refusal: Refusal) -> Outcome:
    """Tell what a refused write leaves known.

    Of the exceptions that may be tried again, only two say that nothing was done: busy (6), and a
    gateway without a path (10). Acknowledged (5) means that the device is still at it, and behind
    a gateway's silent target (11), as after a failure (4), the write may have arrived.
    """
    if refusal.is_final:
        return Outcome.REJECTED
    return Outcome.FAILED if refusal.code in _NOT_DONE else Outcome.UNKNOWN
