"""Devices behind a REST interface: the driver that commands, asks and releases them.

Belongs here: URLs, and what a device's answers mean. Does not: payloads (`wire`), time-outs,
retries and threads (`http_exchange`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from vpp_pipeline.credentials import CredentialError, Credentials
from vpp_pipeline.devices.endpoint_health import EndpointHealth
from vpp_pipeline.devices.http_exchange import Exchange, Hosts, NoAnswer, NotSent, SaidNo
from vpp_pipeline.devices.protocol import (
    Command,
    CommandResult,
    DeviceLink,
    Outcome,
    ReadBack,
    Reading,
    Unreachable,
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

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_FIRST_POLL_S = 0.05
_SLOWEST_POLL_S = 0.5
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
        self, commands: Sequence[tuple[DeviceLink, Command]], now: datetime, timeout_s: float
    ) -> list[CommandResult]:
        """Post each command and follow it until it is applied, or waits for its `valid_from`."""
        self._open_webhook()
        exchange = Exchange(self._hosts, timeout_s)
        return await _in_device_order(
            [link for link, _ in commands],
            lambda index: self._command(exchange, *commands[index], now),
        )

    async def read_back(
        self, commands: Sequence[tuple[DeviceLink, Command]], timeout_s: float
    ) -> list[ReadBack | Unreachable]:
        """Get what became of each command, and the set-point the device itself reports."""
        exchange = Exchange(self._hosts, timeout_s)
        return await _in_device_order(
            [link for link, _ in commands], lambda index: _read_back(exchange, *commands[index])
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
            outcome, detail = await self._follow(exchange, link, command, body, completion)
        except NotSent as error:
            return CommandResult(command.command_id, Outcome.FAILED, "", str(error))
        except NoAnswer as error:
            return CommandResult(command.command_id, Outcome.UNKNOWN, payload, str(error))
        except SaidNo as refused:
            return CommandResult(command.command_id, Outcome.REJECTED, payload, str(refused))
        finally:
            completion.cancel()
        return CommandResult(command.command_id, outcome, payload, detail)

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
    ) -> tuple[Outcome, str]:
        """Follow an accepted command, told or asked, for as long as waiting can tell more."""
        pause_s = _FIRST_POLL_S
        while True:
            try:
                report: CommandReport = (
                    completion.result() if completion.done() else parse(Acceptance, body)
                )
            except MalformedMessage as error:
                seen = f"accepted, but its progress can't be read: {error}"
            else:
                if end := _end(report, command, self._clock.now()):
                    return end
                seen = _NOT_YET
                if isinstance(report, Acceptance) and report.notifies:
                    pause_s = exchange.left_s / 2
            if not await exchange.pause(pause_s, completion):
                return Outcome.ACKED, seen
            pause_s = min(2 * pause_s, _SLOWEST_POLL_S)
            if completion.done():
                continue
            try:
                body = await _ask(exchange, link, "GET", "commands", command.command_id)
            except (NotSent, NoAnswer, SaidNo) as error:
                return Outcome.ACKED, f"accepted, but its progress can't be read: {error}"

    async def _release(self, exchange: Exchange, link: DeviceLink) -> CommandResult:
        release_id = f"release-{link.device_id}-{self._clock.now().isoformat()}"
        if not link.writable:
            reason = "read-only: the device is not live, or this is a dry run; nothing was sent"
            return CommandResult(release_id, Outcome.REJECTED, "", reason)
        sent = f"DELETE {_url(link, 'setpoint')}"
        try:
            await _ask(exchange, link, "DELETE", "setpoint")
        except NotSent as error:
            return CommandResult(release_id, Outcome.FAILED, "", str(error))
        except NoAnswer as error:
            return CommandResult(release_id, Outcome.UNKNOWN, sent, str(error))
        except SaidNo as refused:
            return CommandResult(release_id, Outcome.REJECTED, sent, str(refused))
        reading = await _read(exchange, link)
        if isinstance(reading, Unreachable):
            doubt = f"released, but not seen to rest: {reading.reason}"
        elif reading.setpoint_kw is not None:
            doubt = f"released, but it still reports {reading.setpoint_kw} kW"
        else:
            return CommandResult(release_id, Outcome.ACKED, sent)
        return CommandResult(release_id, Outcome.UNKNOWN, sent, doubt)


def _end(report: CommandReport, command: Command, now: datetime) -> tuple[Outcome, str] | None:
    """Return the outcome of a command that was taken; None while waiting may tell more."""
    if report.state in {"rejected", "expired"}:
        return Outcome.REJECTED, f"{report.state}: {report.reason}"
    if report.state == "applied":
        return Outcome.ACKED, report.reason
    if command.valid_until <= now:
        return Outcome.UNKNOWN, f"{_NOT_YET}, and its validity is over"
    if command.valid_from > now:
        return Outcome.ACKED, _NOT_YET
    return None


async def _read(exchange: Exchange, link: DeviceLink) -> Reading | Unreachable:
    try:
        return parse_reading(link.device_id, await _ask(exchange, link, "GET"))
    except _NO_ANSWER as error:
        return Unreachable(link.device_id, str(error))


async def _read_back(
    exchange: Exchange, link: DeviceLink, command: Command
) -> ReadBack | Unreachable:
    try:
        raw = await _ask(exchange, link, "GET", "commands", command.command_id)
        report = parse(CommandReport, raw)
    except SaidNo as unknown:
        raw, report, why = b"", None, str(unknown)
    except (NotSent, NoAnswer, MalformedMessage) as error:
        return Unreachable(link.device_id, str(error))
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
        raw=raw.decode(errors="backslashreplace"),
        command_id=None if detail else command.command_id,
        detail=detail,
    )


async def _ask(
    exchange: Exchange, link: DeviceLink, method: str, *parts: str, payload: str | None = None
) -> bytes:
    return await exchange.request(method, _url(link, *parts), payload, link.credentials)


def _url(link: DeviceLink, *parts: str) -> str:
    path = "/".join(quote(part, safe="") for part in ("devices", link.device_id, *parts))
    return f"{link.endpoint.rstrip('/')}/{path}"


async def _in_device_order(
    links: Sequence[DeviceLink], work: Callable[[int], Coroutine[Any, Any, T]]
) -> list[T]:
    """Do `work` for every index: one after the other for a device, at once for different ones."""
    queues: dict[str, list[int]] = {}
    for index, link in enumerate(links):
        queues.setdefault(link.device_id, []).append(index)
    results: dict[int, T] = {}

    async def drain(queue: list[int]) -> None:
        for index in queue:
            results[index] = await work(index)

    await asyncio.gather(*(drain(queue) for queue in queues.values()))
    return [results[index] for index in range(len(links))]
