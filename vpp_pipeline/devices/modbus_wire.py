"""A TCP connection that carries Modbus: frames out, the answers that belong to them in.

Belongs here: the connection, and telling which answer is whose. Does not: what an answer or its
absence means (`modbus_session`), how a frame is built and read (pymodbus).

pymodbus' own client makes for every connection what only servers and reconnecting need: that was
half of what a visit cost.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, cast

from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.register_message import ReadHoldingRegistersResponse

if TYPE_CHECKING:
    import ssl

_BUFFER_BYTES = 4096
_LAST_TRANSACTION = 0xFFFF


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
_FRAMER = FramerSocket(_DECODER)


class Wire(asyncio.Protocol):
    """A connection with one request in flight."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._transaction = 0
        self._unit_id = 0
        self._received = b""
        self._answer: asyncio.Future[ModbusPDU] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None

    async def ask(self, request: ModbusPDU, timeout_s: float) -> ModbusPDU:
        """Send a request and return the answer of its unit to it.

        Whatever else comes meanwhile is passed over. Raises `TimeoutError` without an answer,
        another `OSError` where the connection is closed or carries what is no Modbus.
        """
        if self._transport is None:
            raise ConnectionError("the connection is closed")
        loop = asyncio.get_running_loop()
        self._transaction = self._transaction % _LAST_TRANSACTION + 1
        self._unit_id = request.dev_id
        self._received = b""
        request.transaction_id = self._transaction
        self._answer = answer = loop.create_future()
        timer = loop.call_later(timeout_s, _fail, answer, TimeoutError())
        try:
            self._transport.write(_FRAMER.buildFrame(request))
            told: ModbusPDU = await answer
        finally:
            timer.cancel()
            self._answer = None
        return told

    def close(self) -> None:
        """Close the connection; whoever waits for an answer is told."""
        if self._transport is not None:
            self._transport.close()
        self._end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's only acts like one

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - every end is one
        """End; called by the event loop."""
        self._end()

    def data_received(self, data: bytes) -> None:
        """Look for the answer in what has come; called by the event loop."""
        self._received += data
        if len(self._received) > _BUFFER_BYTES:
            self._received = b""
        try:
            used, answer = _FRAMER.handleFrame(self._received, self._unit_id, self._transaction)
        except ModbusException:
            self.close()
            return
        self._received = self._received[used:]
        if answer is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _end(self) -> None:
        self._transport = None
        if self._answer is not None:
            _fail(self._answer, ConnectionError("the connection was closed"))


async def connect(host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None) -> Wire:
    """Return a connection, over TLS with a context. Raises `OSError`."""
    async with asyncio.timeout(timeout_s):
        _, wire = await asyncio.get_running_loop().create_connection(Wire, host, port, ssl=tls)
    return wire


def _fail(answer: asyncio.Future[ModbusPDU], error: OSError) -> None:
    if not answer.done():
        answer.set_exception(error)
