"""The resident central system: charge points call it (OCPP 1.6), drivers speak through it.

Belongs here: the connections that stand, and the drivers' channel to them. Does not: who is let
in (`charge_point_admission`), OCPP's messages (`devices.ocpp_session`), commands and their meaning
(`devices.ocpp`).

In its directory: `url`, where it listens; `commands.sock`, the drivers' channel. The directory
is its owner's alone, so that nobody else on the machine may steer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ocpp.v16 import call
from websockets.asyncio.server import serve
from websockets.typing import Subprotocol

from vpp_pipeline.charge_point_admission import Admission, charge_point_id_of
from vpp_pipeline.claim import Claimed, claimed
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.ocpp_channel import LINE_LIMIT, Ask, Told
from vpp_pipeline.devices.ocpp_session import (
    ChargePointAccount,
    NoAnswer,
    NotSent,
    Refused,
    Session,
)
from vpp_pipeline.durable import replace_durably

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from threading import Event

    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.settings import Settings

_LOG = logging.getLogger(__name__)
_WIRE_LOG = logging.getLogger(f"{__name__}.wire")
_WIRE_LOG.setLevel(logging.INFO)  # below, it would show passwords
_SUBPROTOCOL = Subprotocol("ocpp1.6")
_TRANSACTIONS_SINCE_S = 1_577_836_800  # 2020-01-01: ids stay below 2^31 until 2088
_CALLS = {
    "SetChargingProfile": call.SetChargingProfile,
    "ClearChargingProfile": call.ClearChargingProfile,
    "GetCompositeSchedule": call.GetCompositeSchedule,
}


class CentralSystemError(RuntimeError):
    """Something stands in the way of starting; the text names the remedy."""


@dataclass(frozen=True)
class Listening:
    """Where charge points reach it. Port 0 takes a free one; no certificate is no TLS."""

    host: str = "127.0.0.1"
    port: int = 0
    certificate: Path | None = None
    key: Path | None = None


class CentralSystem:
    """A context that accepts charge points and drivers; see `url`.

    A charge point that connects again takes over from its earlier connection: after a broken
    network the old one may seem to stand for minutes.
    """

    def __init__(
        self,
        clock: Clock,
        directory: Path,
        admission: Admission,
        listening: Listening,
    ) -> None:
        self._clock = clock
        self._directory = directory
        self._admission = admission
        self._listening = listening
        self._accounts: dict[str, ChargePointAccount] = {}
        self._sessions: dict[str, Session] = {}
        self._channels: set[asyncio.Task[None]] = set()
        self._last_transaction = 0
        self._running = AsyncExitStack()
        self.url = ""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as starting:
            self._claim_directory(starting)
            await self._open_channel(starting)
            await self._listen(starting)
            self._running = starting.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    def connected(self) -> frozenset[str]:
        """Return the ids of the charge points that are connected now."""
        return frozenset(self._sessions)

    async def _listen(self, running: AsyncExitStack) -> None:
        here = self._listening
        try:
            server = await running.enter_async_context(
                serve(
                    self._attend,
                    here.host,
                    here.port,
                    ssl=_tls(here),
                    subprotocols=[_SUBPROTOCOL],
                    process_request=self._admit,
                    max_size=LINE_LIMIT,
                    logger=_WIRE_LOG,
                )
            )
        except OSError as error:
            raise CentralSystemError(
                f"can't listen on {here.host}:{here.port} ({error.strerror or error}): stop what"
                " listens there, or choose another address"
            ) from error
        port = next(iter(server.sockets)).getsockname()[1]
        host = f"[{here.host}]" if ":" in here.host else here.host
        self.url = f"{'wss' if here.certificate else 'ws'}://{host}:{port}"
        with replace_durably(self._directory / "url") as file:  # whoever sees it, sees all of it
            file.write_text(self.url)

    async def _open_channel(self, running: AsyncExitStack) -> None:
        path = self._directory / "commands.sock"
        try:
            channel = await asyncio.start_unix_server(
                self._serve_driver, str(path), limit=LINE_LIMIT
            )
        except OSError as error:
            raise CentralSystemError(
                f"can't open {path} ({error.strerror or error}): choose a home whose path is"
                " shorter and on a local disk"
            ) from error
        path.chmod(0o600)
        running.callback(path.unlink, missing_ok=True)
        running.push_async_callback(self._close_channels, channel)

    async def _close_channels(self, channel: asyncio.Server) -> None:
        channel.close()
        for task in self._channels:
            task.cancel()
        await asyncio.gather(*self._channels, return_exceptions=True)

    def _claim_directory(self, running: AsyncExitStack) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        try:
            running.enter_context(claimed(self._directory / "running.lock", "a central system"))
        except Claimed as error:
            raise CentralSystemError(
                f"a central system runs in {self._directory} already; stop it first"
            ) from error

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        return await asyncio.to_thread(
            self._admission.refusal, connection, request, self._listening.host
        )

    async def _attend(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        charge_point_id = charge_point_id_of(connection.request)
        account = self._accounts.setdefault(charge_point_id, ChargePointAccount())
        session = Session(charge_point_id, connection, self._clock, account, self._transaction)
        before = self._sessions.get(charge_point_id)
        self._sessions[charge_point_id] = session
        if before is not None:
            _LOG.warning("charge point %s connected again: the newer one counts", charge_point_id)
            before.drop()
        try:
            await session.serve()
        finally:
            if self._sessions.get(charge_point_id) is session:
                del self._sessions[charge_point_id]

    def _transaction(self) -> int:
        """Return a transaction id; it grows across restarts, as the clock does."""
        self._last_transaction = max(
            self._last_transaction + 1, int(self._clock.now().timestamp()) - _TRANSACTIONS_SINCE_S
        )
        return self._last_transaction

    async def _serve_driver(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        channel = asyncio.current_task()
        assert channel is not None
        self._channels.add(channel)
        try:
            async with asyncio.TaskGroup() as answering:
                while line := await reader.readline():
                    answering.create_task(self._answer_driver(line, writer))
        except* asyncio.CancelledError:
            pass  # we stop; asyncio's server of streams takes a cancelled task for an error
        except* (OSError, TypeError, ValueError) as errors:  # what no driver of ours sends
            _LOG.warning("a driver's channel was closed: %s", errors.exceptions[0])
        finally:
            self._channels.discard(channel)
            writer.close()

    async def _answer_driver(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        told = await self._deal_with(Ask.model_validate_json(line))
        writer.write(told.model_dump_json().encode() + b"\n")
        await writer.drain()

    async def _deal_with(self, ask: Ask) -> Told:
        session = self._sessions.get(ask.charge_point)
        if session is None:
            return Told(number=ask.number, outcome="not_sent", words=self._absence(ask))
        try:
            if ask.action == "Look":
                look = await session.look(**ask.payload, timeout_s=ask.timeout_s)
                return Told(
                    number=ask.number, outcome="answered", answer=look.model_dump(mode="json")
                )
            request = _CALLS[ask.action](**ask.payload)
            sent, answer = await session.ask(request, ask.timeout_s)
        except NotSent as error:
            return Told(number=ask.number, outcome="not_sent", words=str(error))
        except NoAnswer as error:
            return Told(number=ask.number, outcome="silent", sent=error.sent, words=str(error))
        except Refused as error:
            return Told(
                number=ask.number,
                outcome="refused",
                sent=error.sent,
                code=error.code,
                words=str(error),
            )
        return Told(number=ask.number, outcome="answered", sent=sent, answer=_as_json(answer))

    def _absence(self, ask: Ask) -> str:
        account = self._accounts.get(ask.charge_point)
        last = (
            f"last heard of at {account.heard_at:%Y-%m-%d %H:%M:%S} UTC"
            if account and account.heard_at
            else "never heard of since the central system started"
        )
        return (
            f"charge point {ask.charge_point} is not connected, {last}: see its power and network,"
            f" and that it calls {self.url}/{ask.charge_point}"
        )


def run(
    settings: Settings,
    clock: Clock,
    credentials: Credentials,
    listening: Listening,
    stop: Event,
    *,
    told_at: int = logging.WARNING,
) -> None:
    """Serve charge points and drivers until `stop` is set. Raises `CentralSystemError`.

    Where it listens is logged at the level `told_at`.
    """

    async def serving() -> None:
        admission = Admission(settings.fleet_file, credentials)
        directory = settings.charge_point_dir
        async with CentralSystem(clock, directory, admission, listening) as system:
            _LOG.log(told_at, "charge points call %s/<charge_point_id>", system.url)
            await asyncio.to_thread(stop.wait)

    asyncio.run(serving())


@contextmanager
def in_background(settings: Settings, clock: Clock) -> Iterator[None]:
    """Serve the charge points of a simulated plant, on loopback and in a thread, for a while."""
    stop = threading.Event()
    serving = threading.Thread(
        target=run,
        args=(settings, clock, Credentials(), Listening(), stop),
        kwargs={"told_at": logging.DEBUG},
        name="central-system",
        daemon=True,
    )
    serving.start()
    try:
        yield
    finally:
        stop.set()
        serving.join()


def _tls(here: Listening) -> ssl.SSLContext | None:
    if here.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(here.certificate, here.key)
    except (OSError, ssl.SSLError) as error:
        raise CentralSystemError(
            f"certificate {here.certificate} and its key can't be used ({error}): name PEM files"
            " that belong together"
        ) from error
    return context


def _as_json(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer with its decimals as floats."""
    plain: dict[str, Any] = json.loads(json.dumps(answer, default=float))
    return plain
