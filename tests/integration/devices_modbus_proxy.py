"""A TCP proxy before a Modbus device: what comes back from it may be spoilt on the way."""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    Spoil = Callable[[bytes], list[bytes]]
    """An answer as it came (header and all) → what is passed on; nothing at all breaks the line."""

_HEADER = 7


class ModbusProxy:
    """Passes requests on as they are and answers as `spoil` wants them."""

    def __init__(self, device: str) -> None:
        self._host, _, port = device.rpartition(":")
        self._port = int(port)
        self.spoil: Spoil = lambda frame: [frame]
        self.endpoint = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            from_device, to_device = await asyncio.open_connection(self._host, self._port)
            try:
                while True:
                    to_device.write(await _frame(reader))
                    passed_on = self.spoil(await _frame(from_device))
                    if not passed_on:
                        writer.transport.abort()
                        break
                    writer.write(b"".join(passed_on))
                    await writer.drain()
            finally:
                to_device.close()
        writer.close()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(_HEADER)
    (length,) = struct.unpack(">H", header[4:6])
    return header + await reader.readexactly(length - 1)


def function_of(frame: bytes) -> int:
    return frame[_HEADER]
