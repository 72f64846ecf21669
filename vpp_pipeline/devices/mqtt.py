"""Devices on an MQTT broker: the driver that commands, asks and releases them.

Belongs here: what a broker's and a device's answers, or their silence, mean, and when a broker is
tried again. Does not: payloads (`wire`), connecting (`mqtt_client`), what is under way
(`mqtt_session`), collecting (`telemetry_stream`).
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from vpp_pipeline.credentials import CredentialError, Credentials
from vpp_pipeline.devices.endpoint_health import EndpointHealth, NotAdmitted
from vpp_pipeline.devices.mqtt_answers import NotTaken, Order, Payload, Silence
from vpp_pipeline.devices.mqtt_client import (
    BrokerAddress,
    BrokerRefused,
    BrokerUnreachable,
    unique_client_id,
)
from vpp_pipeline.devices.mqtt_session import Session
from vpp_pipeline.devices.protocol import (
    Command,
    CommandResult,
    DeviceLink,
    Outcome,
    ReadBack,
    Reading,
    Unreachable,
    untold,
)
from vpp_pipeline.devices.wire import (
    AckMessage,
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
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.protocol import Tell

_AT_A_TIME = 200
"""Payloads made before the event loop may do something else."""
_NO_STATE = "it has never published a state; see its firmware"

Asked = TypeVar("Asked")


@dataclass(frozen=True)
class _Account:
    """A device's own account of itself, asked for just now; some never publish a state."""

    reading: Reading
    state: StateMessage | None
    raw_state: str


@dataclass(frozen=True)
class _Broker:
    """A broker as the registry tells of it."""

    endpoint: str
    tls: bool
    credentials: str | None


class MqttDriver:
    """Speaks to each device on its broker, one connection a broker; see `protocol.Driver`.

    `owner` becomes part of the client id, and the role whose own credentials are preferred; they
    are read anew for each connection, so that new ones need no new start. A lost connection is replaced at the next call, after a pause where that fails or does not
    last; it takes its unsent messages with it, so that nothing is delivered once it was given up.
    """

    def __init__(
        self,
        owner: str,
        clock: Clock,
        read_credentials: Callable[[], Credentials] = Credentials.read,
        health: EndpointHealth | None = None,
    ) -> None:
        self._owner = owner
        self._clock = clock
        self._read_credentials = read_credentials
        self._health = health or EndpointHealth()
        self._sessions: dict[_Broker, Session] = {}
        self._unknown_acks_before = 0

    @property
    def unknown_acks(self) -> int:
        """Acks that nobody waited for, or no longer; they were ignored."""
        return self._unknown_acks_before + sum(s.unknown_acks for s in self._sessions.values())

    async def read(
        self, links: Sequence[DeviceLink], timeout_s: float
    ) -> list[Reading | Unreachable]:
        """Ask each device for its telemetry and return the first that comes after that."""
        told: dict[str, _Account | Unreachable] = {}
        await self._ask(links, _deadline(timeout_s), told.__setitem__)
        return [
            account.reading if isinstance(account, _Account) else account
            for account in (told[link.device_id] for link in links)
        ]

    async def command(
        self,
        commands: Sequence[tuple[DeviceLink, Command]],
        now: datetime,
        timeout_s: float,
        tell: Tell[CommandResult] = untold,
    ) -> list[CommandResult]:
        """Publish each command and wait for its ack; it may begin in the future."""
        deadline = _deadline(timeout_s)
        places = {command.command_id: place for place, (_, command) in enumerate(commands)}
        results: dict[str, CommandResult] = {}
        orders: list[tuple[DeviceLink, Order]] = []

        def settle(command_id: str, result: CommandResult) -> None:
            results[command_id] = result
            tell(places[command_id], result)

        for number, (link, command) in enumerate(commands):
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            if reason := refusal(link, command, now):
                result = CommandResult(command.command_id, Outcome.REJECTED, "", reason)
                settle(command.command_id, result)
            else:
                orders.append((link, self._order(command, now)))
        await self._offer(orders, deadline, settle)
        return [results[command.command_id] for _, command in commands]

    async def read_back(
        self,
        commands: Sequence[tuple[DeviceLink, Command]],
        timeout_s: float,
        tell: Tell[ReadBack | Unreachable] = untold,
    ) -> list[ReadBack | Unreachable]:
        """Ask each device anew and compare command id and set-point of its state."""
        places: dict[str, list[int]] = {}
        for place, (link, _) in enumerate(commands):
            places.setdefault(link.device_id, []).append(place)
        backs: dict[int, ReadBack | Unreachable] = {}

        def settle(device_id: str, account: _Account | Unreachable) -> None:
            for place in places[device_id]:
                backs[place] = _compared(account, commands[place][1])
                tell(place, backs[place])

        await self._ask([link for link, _ in commands], _deadline(timeout_s), settle)
        return [backs[place] for place in range(len(commands))]

    async def release(self, links: Sequence[DeviceLink], timeout_s: float) -> list[CommandResult]:
        """Release each device, and see by its state that no set-point is left."""
        deadline = _deadline(timeout_s)
        at, expiry_s = self._clock.now().isoformat(), math.ceil(timeout_s)
        ids = {link.device_id: f"release-{link.device_id}-{at}" for link in links}
        reason = "read-only: the device is not live, or this is a dry run; nothing was sent"
        results = {id_: CommandResult(id_, Outcome.REJECTED, "", reason) for id_ in ids.values()}
        orders = [
            (link, _release_order(link.device_id, ids[link.device_id], expiry_s))
            for link in links
            if link.writable
        ]
        await self._offer(orders, deadline, results.__setitem__)
        acked = [link for link in links if results[ids[link.device_id]].outcome is Outcome.ACKED]
        told: dict[str, _Account | Unreachable] = {}
        await self._ask(acked, deadline, told.__setitem__)
        for link in acked:
            id_ = ids[link.device_id]
            results[id_] = _released(results[id_], told[link.device_id])
        return [results[ids[link.device_id]] for link in links]

    async def close(self) -> None:
        """Close every connection."""
        self._unknown_acks_before = self.unknown_acks
        sessions = list(self._sessions.values())
        self._sessions.clear()
        await asyncio.gather(*(session.close() for session in sessions))

    def _order(self, command: Command, now: datetime) -> Order:
        # The broker counts wall seconds, validity is in clock seconds.
        expiry_s = math.ceil((command.valid_until - now).total_seconds() / self._clock.rate)
        payload = command_message(command).model_dump_json()
        return Order(command.device_id, "cmd", command.command_id, payload, expiry_s)

    async def _offer(
        self,
        orders: Sequence[tuple[DeviceLink, Order]],
        deadline: float,
        tell: Callable[[str, CommandResult], None],
    ) -> None:
        """Publish orders and tell, by order id, how far each got."""

        async def offer(broker: _Broker, asked: list[Order]) -> None:
            try:
                session = await self._session(broker, deadline)
            except BrokerUnreachable as error:
                refused = isinstance(error, BrokerRefused)
                outcome = Outcome.REJECTED if refused else Outcome.FAILED
                for order in asked:
                    tell(order.order_id, CommandResult(order.order_id, outcome, "", str(error)))
                return
            named = {order.key: order for order in asked}

            def settle(key: tuple[str, str], answer: AckMessage | NotTaken | Silence) -> None:
                tell(key[1], _result(broker, named[key], answer))

            await session.offer(asked, deadline, settle)

        await _each_broker(orders, offer)

    async def _ask(
        self,
        links: Iterable[DeviceLink],
        deadline: float,
        tell: Callable[[str, _Account | Unreachable], None],
    ) -> None:
        """Ask each device for its state and telemetry; tell, by device, what it says."""

        async def ask(broker: _Broker, asked: list[str]) -> None:
            try:
                session = await self._session(broker, deadline)
            except BrokerUnreachable as error:
                for device_id in asked:
                    tell(device_id, Unreachable(device_id, str(error)))
                return

            def settle(device_id: str, answer: Payload | Silence) -> None:
                tell(device_id, _account(device_id, answer, session.state(device_id)))

            await session.ask(asked, deadline, settle)

        await _each_broker([(link, link.device_id) for link in links], ask)

    async def _session(self, broker: _Broker, deadline: float) -> Session:
        """Return a session that stands. Raises `BrokerUnreachable`."""
        session = self._sessions.get(broker)
        if session and (session.lost or session.loop is not asyncio.get_running_loop()):
            self._retire(broker, session)
            session = None
        if session is None:
            session = await self._new_session(broker, deadline)
        await session.connected()
        return session

    async def _new_session(self, broker: _Broker, deadline: float) -> Session:
        left_s = max(deadline - asyncio.get_running_loop().time(), 0.0)
        try:
            address = BrokerAddress(
                broker.endpoint,
                broker.tls,
                self._read_credentials().named(broker.credentials, self._owner)
                if broker.credentials
                else None,
            )
            self._health.admit(broker.endpoint, left_s)
        except CredentialError as error:
            raise BrokerRefused(f"MQTT broker {broker.endpoint}: {error}") from error
        except NotAdmitted as error:
            raise BrokerUnreachable(f"MQTT broker {error}") from error
        session = Session(address, unique_client_id(self._owner), left_s)
        self._sessions[broker] = session
        return session

    def _retire(self, broker: _Broker, session: Session) -> None:
        """Let go of a session; one that never passed on anything counts against its broker."""
        self._unknown_acks_before += session.unknown_acks
        if session.heard:
            self._health.succeeded(broker.endpoint)
        if session.lost:
            self._health.failed(broker.endpoint, session.lost)
        session.abandon()
        del self._sessions[broker]


async def _each_broker(
    asked: Iterable[tuple[DeviceLink, Asked]],
    ask: Callable[[_Broker, list[Asked]], Awaitable[None]],
) -> None:
    """Ask all brokers at the same time, each for what is on it."""
    by_broker: dict[tuple[str, bool, str | None], list[Asked]] = {}
    for link, what in asked:
        by_broker.setdefault((link.endpoint, link.tls, link.credentials), []).append(what)
    await asyncio.gather(*(ask(_Broker(*told), these) for told, these in by_broker.items()))


def _result(
    broker: _Broker, order: Order, answer: AckMessage | NotTaken | Silence
) -> CommandResult:
    match answer:
        case AckMessage(accepted=accepted, reason=reason):
            outcome = Outcome.ACKED if accepted else Outcome.REJECTED
            return CommandResult(order.order_id, outcome, order.payload, reason)
        case NotTaken(reason=reason, sent=sent, final=final):
            outcome = Outcome.REJECTED if final else Outcome.FAILED
            why = f"broker {broker.endpoint}: {reason}"
            return CommandResult(order.order_id, outcome, order.payload if sent else "", why)
        case Silence(reason=reason):
            return CommandResult(order.order_id, Outcome.UNKNOWN, order.payload, reason)


def _release_order(device_id: str, order_id: str, expiry_s: int) -> Order:
    payload = ReleaseMessage(command_id=order_id).model_dump_json()
    return Order(device_id, "release", order_id, payload, expiry_s)


def _account(
    device_id: str, answer: Payload | Silence, state: Payload | None
) -> _Account | Unreachable:
    if isinstance(answer, Silence):
        return Unreachable(device_id, answer.reason)
    try:
        reading = parse_reading(device_id, answer)
        if state is None:
            return _Account(reading, None, "")
        return _Account(reading, parse(StateMessage, state), state.decode())
    except MalformedMessage as error:
        return Unreachable(device_id, f"it sent {error}")


def _released(result: CommandResult, account: _Account | Unreachable) -> CommandResult:
    """An acknowledged release is one only if the device's state shows no set-point."""
    match account:
        case Unreachable(reason=reason):
            doubt = f"acknowledged, but not seen to rest: {reason}"
        case _Account(state=None):
            doubt = f"acknowledged, but not seen to rest: {_NO_STATE}"
        case _Account(state=StateMessage(setpoint_kw=float(setpoint_kw))):
            doubt = f"acknowledged, but it still reports {setpoint_kw} kW"
        case _:
            return result
    return replace(result, outcome=Outcome.UNKNOWN, detail=doubt)


def _compared(account: _Account | Unreachable, command: Command) -> ReadBack | Unreachable:
    if isinstance(account, Unreachable):
        return account
    device_id, reported_kw, state = command.device_id, account.reading.setpoint_kw, account.state
    if state is None:
        return Unreachable(device_id, _NO_STATE)
    if state.command_id != command.command_id:
        detail = f"command {state.command_id or 'none'} is in force"
    elif not same_setpoint(state.setpoint_kw, command.power_kw):
        detail = f"its state says {state.setpoint_kw} kW, not {command.power_kw} kW"
    elif reported_kw is not None and not same_setpoint(reported_kw, command.power_kw):
        detail = f"its telemetry says {reported_kw} kW, not {command.power_kw} kW"
    else:
        detail = ""
    return ReadBack(
        device_id,
        matches=not detail,
        setpoint_kw=state.setpoint_kw,
        raw=account.raw_state,
        command_id=state.command_id,
        detail=detail,
    )


def _deadline(timeout_s: float) -> float:
    return asyncio.get_running_loop().time() + timeout_s
