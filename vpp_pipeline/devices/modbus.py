"""The Modbus/SunSpec driver: many devices behind many endpoints, in one call.

Belongs here: who is asked when, what is refused before it is sent, and what an answer means for
a command. Does not: the wire (`modbus_session`), registers (`sunspec_*`), leases (`leases`).

A call takes an endpoint's lease, opens one connection, asks its units one after another and
gives both back: a device that serves a single client is free for the next process at once.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, TypeVar

from pymodbus.pdu.register_message import WriteMultipleRegistersRequest

from vpp_pipeline.devices import sunspec, sunspec_control, sunspec_reading
from vpp_pipeline.devices.leases import Lease, LeaseFileDamaged, LeaseHeld, Leases
from vpp_pipeline.devices.modbus_refusals import refusal_of, unwritable
from vpp_pipeline.devices.modbus_session import (
    EndpointLost,
    LinkError,
    Models,
    Refusal,
    Session,
    open_session,
)
from vpp_pipeline.devices.protocol import CommandResult, Outcome, ReadBack, Unreachable
from vpp_pipeline.devices.sunspec_control import CONTROL_MODEL, RATING_MODEL
from vpp_pipeline.devices.sunspec_reading import (
    HEARTBEAT_MODEL,
    MEASUREMENT_MODEL,
    STORAGE_MODEL,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.protocol import Command, DeviceLink, Reading
    from vpp_pipeline.devices.sunspec import Block, Frame

_REQUEST_TIMEOUT_S = 1.0
_LEASE_SHARE = 0.8  # of a call's time, so that the holder can still be named
_MOST_ENDPOINTS_AT_ONCE = 200  # two descriptors each; paho waits with select(), up to 1023
_FINAL_EXCEPTIONS = frozenset({1, 2, 3})
_TRANSIENT_EXCEPTIONS = frozenset({5, 6, 10, 11})

_LAST_POINTS = {
    MEASUREMENT_MODEL: "W_SF",
    RATING_MODEL: "W_SF",
    CONTROL_MODEL: "WSetPct_SF",
    STORAGE_MODEL: "Pct_SF",
    HEARTBEAT_MODEL: "DERHb",
}
_STEERING_MODELS = (RATING_MODEL, CONTROL_MODEL, HEARTBEAT_MODEL)

T = TypeVar("T")


class ModbusDriver:
    """SunSpec devices over Modbus TCP; a `devices.protocol.Driver`.

    `lease_dir` is shared by all processes that speak to these devices, `owner` is the name the
    others are told, `clock` stamps the readings (SunSpec carries no time).
    """

    def __init__(self, lease_dir: Path, owner: str, clock: Clock) -> None:
        self._leases = Leases(lease_dir, owner)
        self._clock = clock
        self._discovered: dict[str, dict[int, Models]] = {}
        self._lengths = {
            model_id: sunspec.layout(model_id)[name].end for model_id, name in _LAST_POINTS.items()
        }

    async def read(
        self, links: Sequence[DeviceLink], timeout_s: float
    ) -> list[Reading | Unreachable]:
        """Read each device's measurements, stamped with their arrival."""

        async def ask(session: Session, _lease: Lease, index: int) -> Reading | Unreachable:
            link = links[index]
            blocks = await session.blocks(_unit_id(link), self._lengths)
            if MEASUREMENT_MODEL not in blocks:
                return Unreachable(
                    link.device_id, f"the device has no SunSpec model {MEASUREMENT_MODEL} to read"
                )
            return sunspec_reading.to_reading(link, blocks, self._clock.now())

        def lost(index: int, reason: str) -> Reading | Unreachable:
            return Unreachable(links[index].device_id, reason)

        answers = await self._visit(dict(enumerate(links)), timeout_s, ask, lost)
        return [answers[index] for index in range(len(links))]

    async def command(
        self, commands: Sequence[tuple[DeviceLink, Command]], now: datetime, timeout_s: float
    ) -> list[CommandResult]:
        """Write each set-point and its timer as one frame; Modbus obeys at once, so at `valid_from`.

        The timer is what is left until `valid_until` when the frame is built, in whole seconds.
        Refused (nothing sent): what is not writable, not finite, beyond a nameplate, without a
        scale factor, under local control, early by more than 2 s, or over.
        """
        started = self._clock.now()

        def frame(index: int, control: Block, rating: Block | None) -> Frame:
            link, command = commands[index]
            moment = now + (self._clock.now() - started)
            timer_s = math.floor((command.valid_until - moment).total_seconds())
            return sunspec_control.set_point_frame(
                link.device_type, command.power_kw, timer_s, control, rating
            )

        links = [link for link, _ in commands]
        refusals = {
            index: reason
            for index, (link, command) in enumerate(commands)
            if (reason := refusal_of(link, command, now))
        }
        ids = [command.command_id for _, command in commands]
        return await self._write(links, ids, refusals, timeout_s, frame, release=False)

    async def read_back(
        self, commands: Sequence[tuple[DeviceLink, Command]], timeout_s: float
    ) -> list[ReadBack | Unreachable]:
        """Compare the raw registers in each device with the encoding of its command.

        A set-point without an armed timer does not match: it would outlive its command.
        """

        async def ask(session: Session, _lease: Lease, index: int) -> ReadBack | Unreachable:
            link, command = commands[index]
            blocks = await self._steering_blocks(session, link)
            if CONTROL_MODEL not in blocks:
                return Unreachable(link.device_id, _no_control())
            return _compare(link, command, blocks[CONTROL_MODEL], blocks.get(RATING_MODEL))

        def lost(index: int, reason: str) -> ReadBack | Unreachable:
            return Unreachable(commands[index][0].device_id, reason)

        links = {index: link for index, (link, _) in enumerate(commands)}
        answers = await self._visit(links, timeout_s, ask, lost)
        return [answers[index] for index in range(len(commands))]

    async def release(self, links: Sequence[DeviceLink], timeout_s: float) -> list[CommandResult]:
        """Disable each set-point, clear its value and timer, and read that back.

        A result has no command id. ACKED says the registers were read back cleared.
        """

        def frame(index: int, control: Block, _rating: Block | None) -> Frame:
            return sunspec_control.release_frame(links[index].device_type, control)

        refusals = {
            index: reason for index, link in enumerate(links) if (reason := unwritable(link))
        }
        ids = [""] * len(links)
        return await self._write(links, ids, refusals, timeout_s, frame, release=True)

    async def close(self) -> None:
        """Do nothing: every call gives back its connections and leases before it ends."""

    async def _write(
        self,
        links: Sequence[DeviceLink],
        ids: Sequence[str],
        refusals: Mapping[int, str],
        timeout_s: float,
        frame_of: Callable[[int, Block, Block | None], Frame],
        *,
        release: bool,
    ) -> list[CommandResult]:
        sent: dict[int, str] = {}

        def result(index: int, outcome: Outcome, detail: str) -> CommandResult:
            return CommandResult(ids[index], outcome, sent.get(index, ""), detail)

        def lost(index: int, reason: str) -> CommandResult:
            return result(index, Outcome.UNKNOWN if index in sent else Outcome.FAILED, reason)

        async def ask(session: Session, lease: Lease, index: int) -> CommandResult:
            link = links[index]
            blocks = await self._steering_blocks(session, link)
            if sunspec_reading.is_local(blocks.get(HEARTBEAT_MODEL)):
                return result(index, Outcome.REJECTED, "somebody on site has the control (LOCAL)")
            if CONTROL_MODEL not in blocks:
                return result(index, Outcome.REJECTED, _no_control())
            try:
                frame = frame_of(index, blocks[CONTROL_MODEL], blocks.get(RATING_MODEL))
                registers = list(frame.registers)
            except sunspec.NotEncodable as error:
                return result(index, Outcome.REJECTED, str(error))
            models = await session.models(_unit_id(link))
            request = WriteMultipleRegistersRequest(
                address=models[CONTROL_MODEL].address + frame.offset,
                registers=registers,
                dev_id=_unit_id(link),
            )
            sent[index] = (bytes([request.function_code]) + request.encode()).hex()
            try:
                await session.write(request)
            except EndpointLost:
                del sent[index]
                raise
            except Refusal as refusal:
                return result(index, _outcome(refusal), str(refusal))
            if release and (left := await self._left_over(session, link, frame)):
                return result(index, Outcome.UNKNOWN, f"accepted, but not released: {left}")
            return result(index, Outcome.ACKED, f"under lease {lease.token}")

        visited = {index: link for index, link in enumerate(links) if index not in refusals}
        answers = await self._visit(visited, timeout_s, ask, lost)
        return [
            answers[index] if index in answers else result(index, Outcome.REJECTED, refusals[index])
            for index in range(len(links))
        ]

    async def _steering_blocks(self, session: Session, link: DeviceLink) -> dict[int, Block]:
        lengths = {model_id: self._lengths[model_id] for model_id in _STEERING_MODELS}
        return await session.blocks(_unit_id(link), lengths)

    async def _left_over(self, session: Session, link: DeviceLink, frame: Frame) -> str:
        control = (await self._steering_blocks(session, link))[CONTROL_MODEL]
        way = sunspec_control.steering(link.device_type)
        return "; ".join(sunspec_control.differences(frame, control, (*way.kept, way.timer)))

    async def _visit(
        self,
        links: Mapping[int, DeviceLink],
        timeout_s: float,
        ask: Callable[[Session, Lease, int], Awaitable[T]],
        lost: Callable[[int, str], T],
    ) -> dict[int, T]:
        """Ask every device: endpoints side by side, the devices behind one in turn."""
        answers: dict[int, T] = {}
        room = asyncio.Semaphore(_MOST_ENDPOINTS_AT_ONCE)

        async def visit(endpoint: str, indexes: Sequence[int]) -> None:
            try:
                async with (
                    room,
                    await self._leases.acquire(endpoint, timeout_s * _LEASE_SHARE) as lease,
                ):
                    session = await open_session(
                        endpoint,
                        self._discovered.setdefault(endpoint, {}),
                        min(_REQUEST_TIMEOUT_S, timeout_s),
                    )
                    try:
                        for index in indexes:
                            try:
                                answers[index] = await ask(session, lease, index)
                            except EndpointLost:
                                raise
                            except LinkError as error:
                                answers[index] = lost(index, str(error))
                    finally:
                        session.close()
            except (LeaseHeld, LeaseFileDamaged, EndpointLost) as error:
                answers.update(
                    (index, lost(index, str(error))) for index in indexes if index not in answers
                )

        endpoints: dict[str, list[int]] = {}
        for index, link in links.items():
            endpoints.setdefault(link.endpoint, []).append(index)
        visits = [asyncio.create_task(visit(*entry)) for entry in endpoints.items()]
        if visits:
            await _within(visits, timeout_s)
        for index in links:
            if index not in answers:
                answers[index] = lost(index, f"no answer within the call's {timeout_s} s")
        return answers


async def _within(visits: Sequence[asyncio.Task[None]], timeout_s: float) -> None:
    """Wait for the visits, end those that take longer, and let a defect in one be seen."""
    try:
        done, _ = await asyncio.wait(visits, timeout=timeout_s)
    finally:
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
    for visit in done:
        visit.result()


def _unit_id(link: DeviceLink) -> int:
    if link.unit_id is None:
        raise LinkError(f"{link.device_id} has no Modbus unit id; name it in the fleet")
    return link.unit_id


def _no_control() -> str:
    return f"the device has no SunSpec model {CONTROL_MODEL}: its active power can't be steered"


def _outcome(refusal: Refusal) -> Outcome:
    """Tell what a Modbus exception to a write leaves known."""
    if refusal.code in _FINAL_EXCEPTIONS:
        return Outcome.REJECTED
    return Outcome.FAILED if refusal.code in _TRANSIENT_EXCEPTIONS else Outcome.UNKNOWN


def _compare(link: DeviceLink, command: Command, control: Block, rating: Block | None) -> ReadBack:
    way = sunspec_control.steering(link.device_type)
    state = sunspec_control.in_force(link.device_type, control, rating)
    points = sunspec.layout(CONTROL_MODEL)
    window = control.registers[points[way.enable].offset : points[way.remaining].end]
    try:
        frame = sunspec_control.set_point_frame(
            link.device_type, command.power_kw, 1, control, rating
        )
        unlike = sunspec_control.differences(frame, control, way.kept)
    except sunspec.NotEncodable as error:
        unlike = [str(error)]
    if not state.timer_armed:
        unlike.append("no reversion timer is armed")
    return ReadBack(
        device_id=link.device_id,
        matches=not unlike,
        setpoint_kw=state.setpoint_kw,
        raw=sunspec.to_bytes(window).hex(),
        timer_remaining_s=state.remaining_s if state.enabled else None,
        detail="; ".join(unlike),
    )
