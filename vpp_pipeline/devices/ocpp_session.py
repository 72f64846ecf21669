"""One charge point's connection at the central system: its messages in, one call at a time out.

Belongs here: answering a charge point's requests, keeping its account, calling it. Does not:
accepting connections (`central_system`), what a call asks for (`ocpp`), what meters mean
(`ocpp_metering`).

Who may charge is the charge point's own affair: every tag is accepted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ocpp.exceptions import FormatViolationError, OCPPError, UnknownCallErrorCodeError
from ocpp.messages import CallError
from ocpp.routing import on
from ocpp.v16 import ChargePoint as Peer
from ocpp.v16 import call, call_result
from ocpp.v16.datatypes import IdTagInfo
from ocpp.v16.enums import (
    Action,
    AuthorizationStatus,
    DataTransferStatus,
    MessageTrigger,
    RegistrationStatus,
)
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from vpp_pipeline.devices.ocpp_metering import Connector, Look, moment, samplings
from vpp_pipeline.devices.ocpp_profile import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from websockets.asyncio.server import ServerConnection

    from vpp_pipeline.clock import Clock

_LOG = logging.getLogger(__name__)
_HEARTBEAT_S = 60
_EVER_S = 3600.0  # the library's own time-out; ours ends every call before
_CONFIGURATION = [
    "ChargingScheduleAllowedChargingRateUnit",
    "ConnectorPhaseRotation",
    "ChargeProfileMaxStackLevel",
]


class NotSent(Exception):  # noqa: N818 - names what is known
    """A call certainly did not go out."""


class NoAnswer(Exception):  # noqa: N818 - names what is known
    """A call went out, and nothing that can be read came back; `sent` is what went."""

    def __init__(self, sent: str, why: str) -> None:
        super().__init__(why)
        self.sent = sent


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """The charge point answered a call with an OCPP error."""

    def __init__(self, sent: str, code: str, words: str) -> None:
        super().__init__(f"{code}: {words}")
        self.sent = sent
        self.code = code


@dataclass
class ChargePointAccount:
    """What a charge point has told; it outlives a connection."""

    heard_at: datetime | None = None
    connectors: dict[int, Connector] = field(default_factory=dict)
    heard: Counter[tuple[str, int]] = field(default_factory=Counter)
    began: dict[int, tuple[object, int]] = field(default_factory=dict)
    """What a connector's last StartTransaction said, and its id: it may be sent again."""

    def connector(self, connector_id: int) -> Connector:
        """Return the account of a connector; empty at first."""
        return self.connectors.get(connector_id, Connector())


class Session(Peer):
    """A connection that stands. `next_transaction` gives ids that no charge point had before."""

    def __init__(
        self,
        charge_point_id: str,
        connection: ServerConnection,
        clock: Clock,
        account: ChargePointAccount,
        next_transaction: Callable[[], int],
    ) -> None:
        super().__init__(charge_point_id, connection, _EVER_S)
        self._socket = connection
        self._clock = clock
        self._account = account
        self._next_transaction = next_transaction
        self._turn = asyncio.Lock()
        self._sent = ""
        self._refusal: CallError | None = None
        self._something_came = asyncio.Event()
        self._configuration: dict[str, str] | None = None

    async def serve(self) -> None:
        """Answer the charge point until the connection is gone."""
        with suppress(ConnectionClosed):
            async for message in self._socket:
                self._account.heard_at = self._clock.now()
                try:
                    await self.route_message(message)
                except ConnectionClosed:
                    raise
                except Exception:  # noqa: BLE001 - one message must not end the connection
                    _LOG.exception("%s: a message could not be dealt with", self.id)

    async def ask(self, request: object, timeout_s: float) -> tuple[str, dict[str, Any]]:
        """Call the charge point; return what was sent and the answer, keys in snake case.

        One call is in flight at a time (OCPP-J 1.6, 4.1.1). Raises `NotSent`, `NoAnswer` and
        `Refused`.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._turn.acquire()
        except TimeoutError:
            raise NotSent(f"{self.id} was still busy with an earlier call") from None
        try:
            self._sent, self._refusal = "", None
            return await self._ask(request, max(deadline - now(), 0.0))
        finally:
            self._turn.release()

    def drop(self) -> None:
        """Cut the connection at once: its other end may be long gone."""
        self._socket.transport.abort()

    async def look(self, connector_id: int, timeout_s: float, *, fresh: bool) -> Look:
        """Return what is known of a connector; `fresh` lets its meter be read now.

        What the charge point won't say in time is left as it was. Raises `NotSent`.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        if self._configuration is None:
            await self._learn(_left_s(deadline))
        if self._account.connector(connector_id).status is None:
            await self._hear(MessageTrigger.status_notification, connector_id, deadline)
        if fresh:
            await self._hear(MessageTrigger.meter_values, connector_id, deadline)
        return Look(
            connector=self._account.connector(connector_id),
            heard_at=self._account.heard_at,
            configuration=self._configuration or {},
        )

    async def _ask(self, request: object, timeout_s: float) -> tuple[str, dict[str, Any]]:
        if self._socket.state is not State.OPEN:
            raise NotSent(f"{self.id} has just hung up")
        answer = asyncio.ensure_future(self.call(request, suppress=False))
        gone = asyncio.ensure_future(self._socket.wait_closed())
        try:
            await asyncio.wait(
                {answer, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not answer.done():
                why = "it hung up before it answered" if gone.done() else "no answer in time"
                raise NoAnswer(self._sent, f"{self.id}: {why}") if self._sent else NotSent(why)
            return self._sent, _plain(answer.result())
        except (OCPPError, UnknownCallErrorCodeError) as error:
            if self._refusal is not None:
                code, words = self._refusal.error_code, self._refusal.error_description
                raise Refused(self._sent, str(code), f"{self.id}: {words}") from error
            if self._sent:
                why = f"{self.id} answered with what is no OCPP: {error}"
                raise NoAnswer(self._sent, why) from error
            raise NotSent(f"the call is no OCPP: {error}") from error
        except ConnectionClosed as error:
            raise NoAnswer(self._sent, f"{self.id} hung up: {error}") from error
        finally:
            answer.cancel()
            gone.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    async def _send(self, message: str) -> None:
        if message.startswith("[2,"):
            self._sent = message
        await super()._send(message)

    async def _get_specific_response(self, unique_id: str, timeout: float) -> Any:  # noqa: ASYNC109
        response = await super()._get_specific_response(unique_id, timeout)
        self._refusal = response if isinstance(response, CallError) else None
        return response

    async def _learn(self, timeout_s: float) -> None:
        """Ask how limits are wanted; a charge point that won't say gets the defaults."""
        try:
            _, told = await self.ask(call.GetConfiguration(key=_CONFIGURATION), timeout_s)
        except Refused:
            told = {}
        except NoAnswer:
            return
        self._configuration = {
            key["key"]: key["value"]
            for key in told.get("configuration_key") or []
            if key.get("value") is not None
        }

    async def _hear(self, message: MessageTrigger, connector_id: int, deadline: float) -> None:
        """Let the charge point send a message now, and wait until it has come."""
        key = (message, connector_id)
        before = self._account.heard[key]
        if not await self._trigger(message, connector_id, deadline):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._account.heard[key] == before:
                    self._something_came.clear()
                    await self._something_came.wait()

    def _note(self, message: MessageTrigger, connector_id: int, told: Connector) -> None:
        self._account.connectors[connector_id] = told
        self._account.heard[message, connector_id] += 1
        self._something_came.set()

    async def _trigger(self, message: MessageTrigger, connector_id: int, deadline: float) -> bool:
        request = call.TriggerMessage(requested_message=message, connector_id=connector_id)
        try:
            _, told = await self.ask(request, _left_s(deadline))
        except (NoAnswer, Refused):
            return False
        return bool(told["status"] == "Accepted")

    @on(Action.boot_notification)
    def _on_boot(self, **_: Any) -> Any:
        self._configuration = None  # another firmware may want other limits
        return call_result.BootNotification(
            current_time=timestamp(self._clock.now()),
            interval=_HEARTBEAT_S,
            status=RegistrationStatus.accepted,
        )

    @on(Action.heartbeat)
    def _on_heartbeat(self) -> Any:
        return call_result.Heartbeat(current_time=timestamp(self._clock.now()))

    @on(Action.authorize)
    def _on_authorize(self, **_: Any) -> Any:
        return call_result.Authorize(id_tag_info=_welcome())

    @on(Action.status_notification)
    def _on_status(self, connector_id: int, status: str, **rest: Any) -> Any:
        at = _moment(rest["timestamp"]) if "timestamp" in rest else self._clock.now()
        told = self._account.connector(connector_id).told_status(status, at)
        self._note(MessageTrigger.status_notification, connector_id, told)
        return call_result.StatusNotification()

    @on(Action.meter_values)
    def _on_meter_values(
        self,
        connector_id: int,
        meter_value: list[dict[str, Any]],
        transaction_id: int | None = None,
    ) -> Any:
        told = self._account.connector(connector_id)
        try:
            for measured in samplings(meter_value):
                told = told.told_meter(measured, transaction_id)
        except ValueError as error:
            raise FormatViolationError(description=f"meterValue.timestamp: {error}") from error
        self._note(MessageTrigger.meter_values, connector_id, told)
        return call_result.MeterValues()

    @on(Action.start_transaction)
    def _on_start(
        self, connector_id: int, id_tag: str, meter_start: int, timestamp: str, **_: Any
    ) -> Any:
        said = (id_tag, meter_start, timestamp)
        before, transaction_id = self._account.began.get(connector_id, (None, 0))
        if before != said:
            transaction_id = self._next_transaction()
            self._account.began[connector_id] = (said, transaction_id)
            told = self._account.connector(connector_id).began(transaction_id)
            self._account.connectors[connector_id] = told
        return call_result.StartTransaction(transaction_id=transaction_id, id_tag_info=_welcome())

    @on(Action.stop_transaction)
    def _on_stop(self, transaction_id: int, **_: Any) -> Any:
        for connector_id, told in self._account.connectors.items():
            if told.transaction_id == transaction_id:
                self._account.connectors[connector_id] = told.ended()
        return call_result.StopTransaction()

    @on(Action.data_transfer)
    def _on_data(self, **_: Any) -> Any:
        return call_result.DataTransfer(status=DataTransferStatus.unknown_vendor_id)

    @on(Action.diagnostics_status_notification)
    def _on_diagnostics(self, **_: Any) -> Any:
        return call_result.DiagnosticsStatusNotification()

    @on(Action.firmware_status_notification)
    def _on_firmware(self, **_: Any) -> Any:
        return call_result.FirmwareStatusNotification()


def _welcome() -> IdTagInfo:
    return IdTagInfo(status=AuthorizationStatus.accepted)


def _moment(text: str) -> datetime:
    try:
        return moment(text)
    except ValueError as error:
        raise FormatViolationError(description=f"timestamp: {error}") from error


def _plain(answer: Any) -> dict[str, Any]:
    return asdict(answer)


def _left_s(deadline: float) -> float:
    return max(deadline - asyncio.get_running_loop().time(), 0.0)
