"""Devices on an MQTT broker: the driver that commands, asks and releases them.

Belongs here: what a broker's and a device's answers, or their silence, mean. Does not: payloads
(`wire`), topics and connecting (`mqtt_client`, `mqtt_session`), collecting (`telemetry_stream`).
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vpp_pipeline.devices.mqtt_client import BrokerUnreachable, unique_client_id
from vpp_pipeline.devices.mqtt_session import Session
from vpp_pipeline.devices.protocol import (
    Command,
    CommandResult,
    DeviceLink,
    Outcome,
    ReadBack,
    Reading,
    Unreachable,
)
from vpp_pipeline.devices.wire import (
    MalformedMessage,
    ReleaseMessage,
    StateMessage,
    command_message,
    parse,
    parse_reading,
    refusal,
    same_setpoint,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from vpp_pipeline.clock import Clock

_ASK_AGAIN_S = 1.0
"""First pause before a device is asked again: it may just be coming back."""


@dataclass(frozen=True)
class _Order:
    """Something a device must acknowledge: a command or a release."""

    link: DeviceLink
    kind: str
    order_id: str
    payload: str
    expiry_s: int


@dataclass(frozen=True)
class _Seen:
    """A device's own account of itself, asked for just now."""

    reading: Reading
    state: StateMessage
    raw_state: str


class MqttDriver:
    """Speaks to each device on its broker, one connection a broker; see `protocol.Driver`.

    `owner` becomes part of the client id. A lost connection is replaced at the next call and
    takes its unsent messages with it, so that nothing is delivered once it was given up.
    """

    def __init__(self, owner: str, clock: Clock) -> None:
        self._owner = owner
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._unknown_acks_before = 0

    @property
    def unknown_acks(self) -> int:
        """Acks that nobody waited for, or no longer; they were ignored."""
        return self._unknown_acks_before + sum(s.unknown_acks for s in self._sessions.values())

    async def read(
        self, links: Sequence[DeviceLink], timeout_s: float
    ) -> list[Reading | Unreachable]:
        """Ask each device for its telemetry and return the first that comes after that."""
        deadline = _deadline(timeout_s)
        return await asyncio.gather(*(self._read(link, deadline) for link in links))

    async def command(
        self, commands: Sequence[tuple[DeviceLink, Command]], now: datetime, timeout_s: float
    ) -> list[CommandResult]:
        """Publish each command and wait for its ack; it may begin in the future."""
        deadline = _deadline(timeout_s)
        return await asyncio.gather(
            *(self._command(link, command, now, deadline) for link, command in commands)
        )

    async def read_back(
        self, commands: Sequence[tuple[DeviceLink, Command]], timeout_s: float
    ) -> list[ReadBack | Unreachable]:
        """Ask each device anew and compare command id and set-point of its state."""
        deadline = _deadline(timeout_s)
        return await asyncio.gather(
            *(self._read_back(link, command, deadline) for link, command in commands)
        )

    async def release(self, links: Sequence[DeviceLink], timeout_s: float) -> list[CommandResult]:
        """Release each device, and see by its state that no set-point is left."""
        deadline = _deadline(timeout_s)
        return await asyncio.gather(*(self._release(link, deadline) for link in links))

    async def close(self) -> None:
        """Close every connection."""
        self._unknown_acks_before = self.unknown_acks
        sessions = list(self._sessions.values())
        self._sessions.clear()
        await asyncio.gather(*(session.close() for session in sessions))

    async def _session(self, endpoint: str, deadline: float) -> Session:
        """Return a session that stands. Raises `BrokerUnreachable`."""
        session = self._sessions.get(endpoint)
        if session and (session.lost or session.loop is not asyncio.get_running_loop()):
            self._unknown_acks_before += session.unknown_acks
            session.abandon()
            session = None
        if session is None:
            session = Session(endpoint, unique_client_id(self._owner), _left_s(deadline))
            self._sessions[endpoint] = session
        await session.connected()
        return session

    async def _command(
        self, link: DeviceLink, command: Command, now: datetime, deadline: float
    ) -> CommandResult:
        if reason := refusal(link, command, now):
            return CommandResult(command.command_id, Outcome.REJECTED, "", reason)
        # The broker counts wall seconds, validity is in clock seconds.
        expiry_s = math.ceil((command.valid_until - now).total_seconds() / self._clock.rate)
        payload = command_message(command).model_dump_json()
        return await self._offer(
            _Order(link, "cmd", command.command_id, payload, expiry_s), deadline
        )

    async def _release(self, link: DeviceLink, deadline: float) -> CommandResult:
        release_id = f"release-{link.device_id}-{self._clock.now().isoformat()}"
        if not link.writable:
            reason = "read-only: the device is not live, or this is a dry run; nothing was sent"
            return CommandResult(release_id, Outcome.REJECTED, "", reason)
        payload = ReleaseMessage(command_id=release_id).model_dump_json()
        expiry_s = math.ceil(_left_s(deadline))
        result = await self._offer(_Order(link, "release", release_id, payload, expiry_s), deadline)
        if result.outcome is not Outcome.ACKED:
            return result
        seen = await self._look(link, deadline)
        if isinstance(seen, Unreachable):
            doubt = f"acknowledged, but not seen to rest: {seen.reason}"
        elif seen.state.setpoint_kw is not None:
            doubt = f"acknowledged, but it still reports {seen.state.setpoint_kw} kW"
        else:
            return result
        return CommandResult(release_id, Outcome.UNKNOWN, result.sent, doubt)

    async def _offer(self, order: _Order, deadline: float) -> CommandResult:
        """Publish an order and tell how far it got."""
        device_id, order_id = order.link.device_id, order.order_id
        try:
            session = await self._session(order.link.endpoint, deadline)
        except BrokerUnreachable as error:
            return CommandResult(order_id, Outcome.FAILED, "", str(error))
        ack = session.expect_ack(device_id, order_id)
        receipt = session.publish(device_id, order.kind, order.payload, order.expiry_s, order_id)
        either: set[asyncio.Future[Any]] = {receipt, ack}
        await asyncio.wait(either, timeout=_left_s(deadline), return_when=asyncio.FIRST_COMPLETED)
        taken = _is_answered(receipt) and not receipt.result()
        if taken and not session.is_offline(device_id):
            await asyncio.wait({ack}, timeout=_left_s(deadline))
        session.forget_ack(device_id, order_id)
        if _is_answered(ack):
            outcome = Outcome.ACKED if ack.result().accepted else Outcome.REJECTED
            return CommandResult(order_id, outcome, order.payload, ack.result().reason)
        if _is_answered(receipt) and (objection := receipt.result()):
            reason = f"broker {order.link.endpoint}: {objection}; check the device's connection"
            return CommandResult(order_id, Outcome.FAILED, order.payload, reason)
        reason = session.lost or (
            "published, but the device's last will says it is offline"
            if session.is_offline(device_id)
            else "published, but the device did not acknowledge in time"
        )
        return CommandResult(order_id, Outcome.UNKNOWN, order.payload, reason)

    async def _read(self, link: DeviceLink, deadline: float) -> Reading | Unreachable:
        try:
            session = await self._session(link.endpoint, deadline)
        except BrokerUnreachable as error:
            return Unreachable(link.device_id, str(error))
        answer = session.next_telemetry(link.device_id)
        patience_s = _ASK_AGAIN_S
        while not (answer.done() or session.is_offline(link.device_id)) and _left_s(deadline):
            session.publish(link.device_id, "get", "{}", math.ceil(_left_s(deadline)))
            await asyncio.wait({answer}, timeout=min(patience_s, _left_s(deadline)))
            patience_s *= 2
        if _is_answered(answer) and (payload := answer.result()) is not None:
            try:
                return parse_reading(link.device_id, payload)
            except MalformedMessage as error:
                return Unreachable(link.device_id, f"it sent {error}")
        if session.is_offline(link.device_id):
            return Unreachable(link.device_id, "it is offline by its own last will; see its power")
        return Unreachable(
            link.device_id,
            session.lost or f"no telemetry over {link.endpoint} in time; see its power and network",
        )

    async def _look(self, link: DeviceLink, deadline: float) -> _Seen | Unreachable:
        """Ask for telemetry; the device publishes its state before it answers."""
        reading = await self._read(link, deadline)
        if isinstance(reading, Unreachable):
            return reading
        raw = self._sessions[link.endpoint].state(link.device_id)
        if raw is None:
            return Unreachable(link.device_id, "it has never published a state; see its firmware")
        try:
            return _Seen(reading, parse(StateMessage, raw), raw.decode())
        except MalformedMessage as error:
            return Unreachable(link.device_id, f"it published {error}")

    async def _read_back(
        self, link: DeviceLink, command: Command, deadline: float
    ) -> ReadBack | Unreachable:
        seen = await self._look(link, deadline)
        if isinstance(seen, Unreachable):
            return seen
        reported_kw = seen.reading.setpoint_kw
        if seen.state.command_id != command.command_id:
            detail = f"command {seen.state.command_id or 'none'} is in force"
        elif not same_setpoint(seen.state.setpoint_kw, command.power_kw):
            detail = f"its state says {seen.state.setpoint_kw} kW, not {command.power_kw} kW"
        elif reported_kw is not None and not same_setpoint(reported_kw, command.power_kw):
            detail = f"its telemetry says {reported_kw} kW, not {command.power_kw} kW"
        else:
            detail = ""
        return ReadBack(
            link.device_id,
            matches=not detail,
            setpoint_kw=seen.state.setpoint_kw,
            raw=seen.raw_state,
            command_id=seen.state.command_id,
            detail=detail,
        )


def _deadline(timeout_s: float) -> float:
    return asyncio.get_running_loop().time() + timeout_s


def _left_s(deadline: float) -> float:
    return max(deadline - asyncio.get_running_loop().time(), 0.0)


def _is_answered(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled()
