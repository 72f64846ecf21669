"""One Modbus connection to one endpoint, and its requests.

Belongs here: what can go wrong on the wire, named. Does not: where models are (`sunspec_models`),
what registers mean (`sunspec_*`, `register_map_look`), many endpoints at once (`modbus_visits`),
leases (`leases`).

Modbus has no session of its own, so an answer proves itself: unit, function, and for a write
address and count must be those of the request. What does not is no answer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
)

from vpp_pipeline.devices.modbus_wire import Wire, connect
from vpp_pipeline.devices.tls import in_words

if TYPE_CHECKING:
    import ssl

    from vpp_pipeline.devices.register_map import Table
    from vpp_pipeline.devices.sunspec_models import Models

# Every failure is told by a result; without a handler pymodbus would print it to stderr as well.
logging.getLogger("pymodbus").addHandler(logging.NullHandler())

_TIMEOUTS_UNTIL_CLOSE = 2
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

    wire: Wire
    endpoint: str
    discovered: dict[int, Models]
    request_timeout_s: float
    encrypted: bool = False
    timeouts: int = field(default=0, init=False)
    answered: bool = field(default=False, init=False)
    """Whether anything was answered, be it a refusal."""

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
        self.wire.close()

    def _closed(self) -> str:
        if self.answered or not self.encrypted:
            return ", and closed the connection"
        return (
            ", but closed the TLS connection: it may ask for our certificate (cert_file, key_file)"
        )

    async def _execute(self, request: ModbusPDU, what: str) -> ModbusPDU:
        if not self.wire.is_open:
            raise EndpointLost(
                f"the connection to {self.endpoint} is closed; the next call reopens it"
            )
        try:
            response = await self.wire.ask(request, self.request_timeout_s)
        except (ModbusException, OSError) as error:
            self.timeouts += 1
            closed = "" if self.wire.is_open else self._closed()
            if self.timeouts >= _TIMEOUTS_UNTIL_CLOSE:
                self.wire.close()
            raise NoAnswer(
                f"unit {request.dev_id} at {self.endpoint} did not answer {what}{closed}"
            ) from error
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

    try:
        wire = await connect(host, int(port), request_timeout_s, tls)
    except OSError as error:
        if tls is not None and (reason := in_words(str(error))):
            raise EndpointLost(f"no TLS connection to {endpoint}: {reason}") from error
        raise EndpointLost(
            f"{endpoint} refuses the connection or is not there; check power, network and port"
        ) from error
    return Session(wire, endpoint, discovered, request_timeout_s, encrypted=tls is not None)
