"""Devices behind a REST interface: the driver that commands, asks and releases them.

Belongs here: URLs, and what a device's answers mean. Does not: payloads (`wire`), time-outs,
retries and threads (`http_exchange`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from vpp_pipeline.credentials import CredentialError, Credentials
from vpp_pipeline.devices.endpoint_health import EndpointHealth
from vpp_pipeline.devices.http_answers import NoAnswer, NotSent, SaidNo
from vpp_pipeline.devices.http_exchange import Exchange, Hosts
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
from vpp_pipeline.devices.web_server import PortTaken
from vpp_pipeline.devices.webhook import Acceptance, Completion, Completions
from vpp_pipeline.devices.webhook_receiver import WebhookReceiver
from vpp_pipeline.devices.wire import (
    CommandReport,
    MalformedMessage,
    command_message,
    parse,
    parse_reading,
    refusal,
    same_setpoint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from datetime import datetime
    from typing import Any

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.protocol import Tell

R = TypeVar("R", bound=CommandReport)
T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_FIRST_POLL_S = 0.05
_SLOWEST_POLL_S = 0.5
_MOST_KEPT = 4000  # bytes of an answer
_UNREADABLE = "accepted, but its progress can't be read"
_NOT_YET = "accepted, not yet applied"
_NO_ANSWER = (NotSent, NoAnswer, SaidNo, MalformedMessage)


class HttpDriver:
    """Speaks to each device at its base URL; see `protocol.Driver`.

    Requests to one device keep their order; devices don't wait for each other. A command's id
    makes its POST idempotent, so that a gateway's 502-504 may be retried; a POST that got no
    answer at all is not.

    With a `webhook_port`, signed completions of commands under way are taken there, from the
    first command on. A gateway signs with the token of `<credentials>-webhook`, else of the
    link's credentials.
    """

    def __init__(
        self,
        clock: Clock,
        health: EndpointHealth | None = None,
        read_credentials: Callable[[], Credentials] = Credentials.read,
        webhook_port: int | None = None,
    ) -> None:
        self._clock = clock
        self._hosts = Hosts(health or EndpointHealth(), read_credentials)
        self.completions = Completions(clock)
        self._receiver = WebhookReceiver(self.completions) if webhook_port is not None else None
        self._webhook_port = webhook_port or 0

    async def read(
        self, links: Sequence[DeviceLink], timeout_s: float
    ) -> list[Reading | Unreachable]:
        """Get each device's measurements."""
        exchange = Exchange(self._hosts, timeout_s)
        return await _in_device_order(links, lambda index: _read(exchange, links[index]))

    async def command(
        self,
        commands: Sequence[tuple[DeviceLink, Command]],
        now: datetime,
        timeout_s: float,
        tell: Tell[CommandResult] = untold,
    ) -> list[CommandResult]:
        """Post each command and follow it until it is applied, or waits for its `valid_from`."""
        self._open_webhook()
        exchange = Exchange(self._hosts, timeout_s)
        return await _in_device_order(
            [link for link, _ in commands],
            lambda index: self._command(exchange, *commands[index], now),
            tell,
        )

    async def read_back(
        self,
        commands: Sequence[tuple[DeviceLink, Command]],
        timeout_s: float,
        tell: Tell[ReadBack | Unreachable] = untold,
    ) -> list[ReadBack | Unreachable]:
        """Get what became of each command, and the set-point the device itself reports."""
        exchange = Exchange(self._hosts, timeout_s)
        return await _in_device_order(
            [link for link, _ in commands],
            lambda index: _read_back(exchange, *commands[index]),
            tell,
        )

    async def release(self, links: Sequence[DeviceLink], timeout_s: float) -> list[CommandResult]:
        """Delete each set-point, and see that none is left."""
        exchange = Exchange(self._hosts, timeout_s)
        return await _in_device_order(links, lambda index: self._release(exchange, links[index]))

    async def close(self) -> None:
        """Close every connection, and the webhook."""
        self._hosts.close()
        if self._receiver:
            await asyncio.to_thread(self._receiver.stop)

    async def _command(
        self, exchange: Exchange, link: DeviceLink, command: Command, now: datetime
    ) -> CommandResult:
        if reason := refusal(link, command, now):
            return CommandResult(command.command_id, Outcome.REJECTED, "", reason)
        payload = command_message(command).model_dump_json()
        exchange = exchange.within((command.valid_until - now).total_seconds() / self._clock.rate)
        completion = self._expect(link, command)
        try:
            body = await _ask(exchange, link, "POST", "commands", payload=payload)
            outcome, detail, body = await self._follow(exchange, link, command, body, completion)
        except NotSent as error:
            outcome, detail, body, payload = Outcome.FAILED, str(error), b"", ""
        except NoAnswer as error:
            outcome, detail, body = Outcome.UNKNOWN, str(error), b""
        except SaidNo as refused:
            outcome, detail, body = Outcome.REJECTED, str(refused), refused.answer
        finally:
            completion.cancel()
        told, answer = exchange.redact(detail), exchange.redact(_as_it_came(body))
        return CommandResult(command.command_id, outcome, payload, told, answer)

    def _open_webhook(self) -> None:
        if self._receiver and not self._receiver.url:
            try:
                self._receiver.start(self._webhook_port)
            except PortTaken as error:
                _LOG.warning("completions are polled for: %s", error)
                self._receiver = None

    def _expect(self, link: DeviceLink, command: Command) -> asyncio.Future[Completion]:
        """Return what will hold the command's completion; for ever open where none can come."""
        if self._receiver and link.credentials:
            try:
                secret = self._hosts.named(link.credentials, "webhook").token
            except CredentialError:  # without it, the command itself is not sent either
                secret = None
            if secret:
                return asyncio.wrap_future(
                    self.completions.expect(link.device_id, command.command_id, secret)
                )
        return asyncio.get_running_loop().create_future()

    async def _follow(
        self,
        exchange: Exchange,
        link: DeviceLink,
        command: Command,
        body: bytes,
        completion: asyncio.Future[Completion],
    ) -> tuple[Outcome, str, bytes]:
        """Follow an accepted command, told or asked, for as long as waiting can tell more.

        Returns the outcome, words, and the last answer.
        """
        pause_s = _FIRST_POLL_S
        while True:
            if completion.done():
                body = completion.result().model_dump_json().encode()
            stand = _stand(body, command, self._clock.now())
            if stand.outcome:
                return stand.outcome, stand.words, body
            if stand.notifies:
                pause_s = exchange.left_s / 2
            if not await exchange.pause(pause_s, completion):
                if exchange.shortened:
                    return Outcome.UNKNOWN, f"{stand.words}, and its validity ends", body
                return Outcome.ACKED, stand.words, body
            pause_s = min(2 * pause_s, _SLOWEST_POLL_S)
            if not completion.done():
                try:
                    body = await _ask(exchange, link, "GET", "commands", command.command_id)
                except (NotSent, NoAnswer, SaidNo) as error:
                    return Outcome.ACKED, f"{_UNREADABLE}: {error}", body

    async def _release(self, exchange: Exchange, link: DeviceLink) -> CommandResult:
        release_id = f"release-{link.device_id}-{self._clock.now().isoformat()}"
        if not link.writable:
            reason = "read-only: the device is not live, or this is a dry run; nothing was sent"
            return CommandResult(release_id, Outcome.REJECTED, "", reason)
        sent = f"DELETE {_url(link, 'setpoint')}"
        try:
            await _ask(exchange, link, "DELETE", "setpoint")
        except NotSent as error:
            return CommandResult(release_id, Outcome.FAILED, "", exchange.redact(str(error)))
        except NoAnswer as error:
            return CommandResult(release_id, Outcome.UNKNOWN, sent, exchange.redact(str(error)))
        except SaidNo as refused:
            return CommandResult(release_id, Outcome.REJECTED, sent, exchange.redact(str(refused)))
        reading = await _read(exchange, link)
        if isinstance(reading, Unreachable):
            doubt = f"released, but not seen to rest: {reading.reason}"
        elif reading.setpoint_kw is not None:
            doubt = f"released, but it still reports {reading.setpoint_kw} kW"
        else:
            return CommandResult(release_id, Outcome.ACKED, sent)
        return CommandResult(release_id, Outcome.UNKNOWN, sent, doubt)


@dataclass(frozen=True)
class _Stand:
    """Where a command stands by its last report; no outcome while waiting may tell more."""

    outcome: Outcome | None
    words: str
    notifies: bool = False


def _stand(body: bytes, command: Command, now: datetime) -> _Stand:
    try:
        report = _report(Acceptance, body, command)
    except MalformedMessage as error:
        return _Stand(None, f"{_UNREADABLE}: {error}")
    if report.state in {"rejected", "expired"}:
        return _Stand(Outcome.REJECTED, f"{report.state}: {report.reason}")
    if report.state == "applied":
        return _Stand(Outcome.ACKED, report.reason)
    if command.valid_until <= now:
        return _Stand(Outcome.UNKNOWN, f"{_NOT_YET}, and its validity is over")
    return _Stand(
        Outcome.ACKED if command.valid_from > now else None, _NOT_YET, notifies=report.notifies
    )


def _report(model: type[R], body: bytes, command: Command) -> R:
    """Read a report of `command`. Raises `MalformedMessage`, also on another command's."""
    report = parse(model, body)
    if report.command_id != command.command_id:
        raise MalformedMessage(f"it tells of command {report.command_id[:80]!r}")
    return report


def _as_it_came(body: bytes) -> str:
    return body[:_MOST_KEPT].decode(errors="backslashreplace")


async def _read(exchange: Exchange, link: DeviceLink) -> Reading | Unreachable:
    try:
        return parse_reading(link.device_id, await _ask(exchange, link, "GET"))
    except _NO_ANSWER as error:
        return Unreachable(link.device_id, exchange.redact(str(error)))


async def _read_back(
    exchange: Exchange, link: DeviceLink, command: Command
) -> ReadBack | Unreachable:
    try:
        raw = await _ask(exchange, link, "GET", "commands", command.command_id)
        report = _report(CommandReport, raw, command)
    except SaidNo as unknown:
        raw, report, why = unknown.answer or str(unknown).encode(), None, str(unknown)
    except (NotSent, NoAnswer, MalformedMessage) as error:
        return Unreachable(link.device_id, exchange.redact(str(error)))
    reading = await _read(exchange, link)
    if isinstance(reading, Unreachable):
        return reading
    if report is None:
        detail = f"it does not know the command: {why}"
    elif report.state != "applied":
        detail = f"the command is {report.state}: {report.reason}"
    elif not same_setpoint(report.setpoint_kw, command.power_kw):
        detail = f"the command stands at {report.setpoint_kw} kW, not {command.power_kw} kW"
    elif not same_setpoint(reading.setpoint_kw, command.power_kw):
        detail = f"the device reports {reading.setpoint_kw} kW, not {command.power_kw} kW"
    else:
        detail = ""
    return ReadBack(
        link.device_id,
        matches=not detail,
        setpoint_kw=reading.setpoint_kw,
        raw=exchange.redact(_as_it_came(raw)),
        command_id=None if detail else command.command_id,
        detail=exchange.redact(detail),
    )


async def _ask(
    exchange: Exchange, link: DeviceLink, method: str, *parts: str, payload: str | None = None
) -> bytes:
    return await exchange.request(method, _url(link, *parts), payload, link.credentials)


def _url(link: DeviceLink, *parts: str) -> str:
    path = "/".join(quote(part, safe="") for part in ("devices", link.device_id, *parts))
    return f"{link.endpoint.rstrip('/')}/{path}"


async def _in_device_order(
    links: Sequence[DeviceLink],
    work: Callable[[int], Coroutine[Any, Any, T]],
    tell: Tell[T] = untold,
) -> list[T]:
    """Do `work` for every index: one after the other for a device, at once for different ones."""
    queues: dict[str, list[int]] = {}
    for index, link in enumerate(links):
        queues.setdefault(link.device_id, []).append(index)
    results: dict[int, T] = {}

    async def drain(queue: list[int]) -> None:
        for index in queue:
            results[index] = await work(index)
            tell(index, results[index])

    await asyncio.gather(*(drain(queue) for queue in queues.values()))
    return [results[index] for index in range(len(links))]
