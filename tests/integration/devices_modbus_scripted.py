"""A Modbus TCP device that misbehaves as told: it shares no code with the driver or pymodbus."""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from sunspec2 import device

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    Fault = Callable[[int, int, int], bytes | None]
    """(function, address, count) → exception code (1 byte), raw answer, LATE, or None: silence."""


def sunspec_map(models: Mapping[int, Mapping[str, int]], base: int = 40000) -> dict[int, int]:
    """Return registers by address, laid out by pysunspec2."""
    data = b"SunS"
    for model_id, points in models.items():
        model = device.Model(model_id)
        for name, raw in points.items():
            model.points[name].set_value(raw)
        data += model.get_mb()
    # The end model has an id and, as on some devices, no length.
    data += b"\xff\xff"
    return dict(enumerate(struct.unpack(f">{len(data) // 2}H", data), base))


BATTERY_MODELS: dict[int, dict[str, int]] = {
    1: {},
    701: {"W": 1200, "W_SF": 0},
    702: {"WMaxRtg": 5000, "W_SF": 0},
    704: {"WSet_SF": 0, "WSetEna": 0, "WSetRvrtTms": 0, "WSetRvrtRem": 0},
    713: {"WHRtg": 13500, "WHAvail": 6750, "WH_SF": 0},
    715: {"LocRemCtl": 0, "DERHb": 7},
}


class ScriptedDevice:
    """Serves `registers` for every unit; `fault(function, address, count)` may answer instead."""

    def __init__(self, registers: dict[int, int], tls: ssl.SSLContext | None = None) -> None:
        self.registers = registers
        self._tls = tls
        self.fault: Fault = answer_honestly
        self.writes: list[tuple[int, tuple[int, ...]]] = []
        self.reads: list[tuple[int, int]] = []
        self.silent_units: set[int] = set()
        self.in_pieces = False
        self.asked: list[int] = []
        self.endpoint = ""
        self.connections = 0
        self._handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0, ssl=self._tls)
        self.endpoint = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        await asyncio.sleep(0)  # a connection that was taken just now begins yet
        for handler, writer in self._handlers.items():
            handler.cancel()
            writer.close()  # a handler that has not begun never does
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._handlers[asyncio.create_task(self._serve(reader, writer))] = writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        late = b""
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                transaction, _, length, unit = struct.unpack(">HHHB", await reader.readexactly(7))
                pdu = await reader.readexactly(length - 1)
                self.asked.append(unit)
                answer = None if unit in self.silent_units else self._answer(pdu)
                if answer is None:
                    continue
                is_late = answer.startswith(LATE)
                answer = answer.removeprefix(LATE)
                frame = struct.pack(">HHHB", transaction, 0, len(answer) + 1, unit) + answer
                if is_late:
                    late += frame
                    continue
                if self.in_pieces:
                    writer.write(frame[:5])
                    await asyncio.sleep(0.02)
                    frame = frame[5:]
                writer.write(late + frame)
                late = b""
                await writer.drain()
        writer.close()

    def _answer(self, pdu: bytes) -> bytes | None:
        function, address, count = struct.unpack(">BHH", pdu[:5])
        if function == 3:
            self.reads.append((address, count))
        else:
            self.writes.append((address, struct.unpack(f">{count}H", pdu[6:])))
        told = self.fault(function, address, count)
        if told == LATE:
            return LATE + self._honest(pdu)
        if told != HONEST:
            return told if told is None or len(told) > 1 else bytes([function | 0x80]) + told
        return self._honest(pdu)

    def _honest(self, pdu: bytes) -> bytes:
        function, address, count = struct.unpack(">BHH", pdu[:5])
        if not all(one in self.registers for one in range(address, address + count)):
            return bytes([function | 0x80, 2])
        if function == 3:
            words = [self.registers[one] for one in range(address, address + count)]
            return struct.pack(f">BB{count}H", 3, count * 2, *words)
        self.registers.update(enumerate(self.writes[-1][1], address))
        return pdu[:5]


HONEST = b""
LATE = b"late"  # the true answer, but only together with that to the next request


def answer_honestly(_function: int, _address: int, _count: int) -> bytes:
    return HONEST


def on_write(answer: bytes | None) -> Fault:
    """Answer writes with an exception code, or with silence."""
    return lambda function, _address, _count: answer if function == 16 else HONEST


def echo_writes(function: int, address: int, count: int) -> bytes:
    """Say yes to a write as a device would, and do nothing."""
    return struct.pack(">BHH", 16, address, count) if function == 16 else HONEST


def on_read(answer: bytes | None) -> Fault:
    """Answer reads with an exception code, or with silence."""
    return lambda function, _address, _count: answer if function == 3 else HONEST
