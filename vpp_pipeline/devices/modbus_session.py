"""One Modbus connection to one endpoint, and its requests.

Belongs here: what can go wrong on the wire, named. Does not: where models are (`sunspec_models`),
what registers mean (`sunspec_*`, `register_map_look`), many endpoints at once (`modbus_visits`),
leases (`leases`).

Modbus has no session of its own, so an answer proves itself: unit, function, and for a write
address and count must be those of the request. What does not is no answer.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymodbus.client import AsyncModbusTcpClient, AsyncModbusTlsClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
)

from vpp_pipeline.devices.tls import in_words

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from vpp_pipeline.devices.register_map import Table
    from vpp_pipeline.devices.sunspec_models import Models

# Every failure is told by a result; without a handler pymodbus would print it to stderr as well.
logging.getLogger("pymodbus").addHandler(logging.NullHandler())

_TIMEOUTS_UNTIL_CLOSE = 2
_BUFFER_BYTES = 4096
_FINAL_EXCEPTIONS = frozenset({1, 2, 3})
_GATEWAY_EXCEPTIONS = frozenset({10, 11})
_EXCEPTIONS = {
    1: "illegal function",
    2: "illegal address",
    3: "illegal value",
    4: "device failure",
    5: "acknowledged, still working",
    6: "device busy",
    10: "gateway path unavailable",
    11: "the gateway's target did not answer",
}


class _HoldingRegisters(ReadHoldingRegistersResponse):
    """The answer to a read, unpacked at once.

    pymodbus unpacks register by register and words each answer for a log nobody keeps: that was
    most of what a read costs here.
    """

    def decode(self, data: bytes) -> None:
        length = data[0]
        if length % 2 or length >= len(data):
            super().decode(data)
        else:
            self.registers = list(struct.unpack_from(f">{length // 2}H", data, 1))

    def __str__(self) -> str:
        return f"{len(self.registers)} registers"


_DECODER = DecodePDU(is_server=False)
_DECODER.register(_HoldingRegisters)


class LinkError(Exception):
    """The device can't be spoken to; the text says what happened and what to do."""


class NoAnswer(LinkError):  # noqa: N818 - names what happened
    """A request went out and nothing came back: it may or may not have arrived."""


class EndpointLost(LinkError):  # noqa: N818 - names what happened
    """There is no connection (any more): this and every other device behind it is out of reach."""


class Refusal(LinkError):  # noqa: N818 - names what happened
    """The device, or the gateway before it, answered with a Modbus exception."""

    def __init__(self, function: int, code: int, what: str) -> None:
        super().__init__(f"Modbus exception {code} ({_EXCEPTIONS.get(code, 'unknown')}) on {what}")
        self.code = code
        self.answer = bytes([function, code]).hex()

    @property
    def is_final(self) -> bool:
        """Whether asking again would be refused again: function, address or value are wrong."""
        return self.code in _FINAL_EXCEPTIONS

    @property
    def is_of_gateway(self) -> bool:
        """Whether it is a gateway that speaks, for a unit that did not answer."""
        return self.code in _GATEWAY_EXCEPTIONS


@dataclass
class Session:
    """A connection with one request in flight. Open it with `open_session`, end it with `close`.

    `discovered` (models by unit) may outlive the session: every block carries its own header, so
    a unit that changed its map is noticed and discovered again.
    """

    client: AsyncModbusTcpClient
    endpoint: str
    discovered: dict[int, Models]
    timeouts: int = field(default=0, init=False)
    answered: bool = field(default=False, init=False)
    """Whether anything was answered, be it a refusal."""
    _waits: bool = field(default=False, init=False)

    async def read(
        self, unit_id: int, address: int, count: int, table: Table = "holding"
    ) -> list[int]:
        """Read registers. Raises `LinkError`."""
        what = f"the read of {count} registers at {address}"
        message = ReadHoldingRegistersRequest if table == "holding" else ReadInputRegistersRequest
        request = message(address=address, count=count, dev_id=unit_id)
        registers = list((await self._execute(request, what)).registers)
        if len(registers) != count:
            raise LinkError(f"{self.endpoint} answered {what} with {len(registers)} of them")
        return registers

    async def write(self, request: WriteMultipleRegistersRequest) -> str:
        """Send a write; return the answer in hex. Raises `LinkError`: `Refusal` if it is no."""
        what = f"the write of {request.count} registers at {request.address}"
        response = await self._execute(request, what)
        if (response.address, response.count) != (request.address, request.count):
            raise LinkError(
                f"{self.endpoint} answered {what} for {response.count} at {response.address}"
            )
        return (bytes([response.function_code]) + response.encode()).hex()

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def lost(self) -> None:
        """Let a request that waits know that its connection is gone."""
        if self._waits and not (waiting := self.client.ctx.response_future).done():
            waiting.set_exception(ConnectionException("the connection was closed"))

    def _closed(self) -> str:
        if self.answered or not isinstance(self.client, AsyncModbusTlsClient):
            return ", and closed the connection"
        return (
            ", but closed the TLS connection: it may ask for our certificate (cert_file, key_file)"
        )

    async def _execute(self, request: ModbusPDU, what: str) -> ModbusPDU:
        if not self.client.connected:
            raise EndpointLost(
                f"the connection to {self.endpoint} is closed; the next call reopens it"
            )
        self._waits = True
        try:
            response: ModbusPDU = await self.client.execute(
                no_response_expected=False, request=request
            )
        except (ModbusException, OSError) as error:
            self.timeouts += 1
            closed = "" if self.client.connected else self._closed()
            if self.timeouts >= _TIMEOUTS_UNTIL_CLOSE:
                self.client.close()
            raise NoAnswer(
                f"unit {request.dev_id} at {self.endpoint} did not answer {what}{closed}"
            ) from error
        finally:
            self._waits = False
        self.timeouts = 0
        self.answered = True
        if isinstance(response, ExceptionResponse):
            raise Refusal(
                response.function_code, response.exception_code, f"{what} of unit {request.dev_id}"
            )
        if response.function_code != request.function_code:
            raise LinkError(
                f"{self.endpoint} answered {what} with function {response.function_code}"
            )
        return response


async def open_session(
    endpoint: str,
    discovered: dict[int, Models],
    request_timeout_s: float,
    tls: ssl.SSLContext | None = None,
) -> Session:
    """Connect to `host:port`, over TLS with a context. Raises `EndpointLost` and tells why."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise EndpointLost(f"endpoint {endpoint!r} is no host:port; correct the fleet's connection")

    def told(connected: bool) -> None:
        if not connected:
            session.lost()

    client = _client(host, int(port), request_timeout_s, tls, told)
    session = Session(client, endpoint, discovered)
    # pymodbus throws away what is longer than one frame: a late answer and the one after it.
    client.ctx.max_buffer_size = _BUFFER_BYTES
    try:
        # What `client.connect` does, without swallowing the reason.
        async with asyncio.timeout(request_timeout_s):
            await client.ctx.call_create()
    except OSError as error:
        client.close()
        if tls is not None and (reason := in_words(str(error))):
            raise EndpointLost(f"no TLS connection to {endpoint}: {reason}") from error
        raise EndpointLost(
            f"{endpoint} refuses the connection or is not there; check power, network and port"
        ) from error
    return session


def _client(
    host: str,
    port: int,
    timeout_s: float,
    tls: ssl.SSLContext | None,
    told: Callable[[bool], None],
) -> AsyncModbusTcpClient:
    client: AsyncModbusTcpClient
    if tls is None:
        client = AsyncModbusTcpClient(
            host, port=port, timeout=timeout_s, retries=0, reconnect_delay=0, trace_connect=told
        )
    else:
        client = AsyncModbusTlsClient(
            host,
            sslctx=tls,
            port=port,
            timeout=timeout_s,
            retries=0,
            reconnect_delay=0,
            trace_connect=told,
        )
    # pymodbus's own framer for TLS takes whatever arrives at once for one whole frame.
    client.ctx.framer = FramerSocket(_DECODER)
    return client
