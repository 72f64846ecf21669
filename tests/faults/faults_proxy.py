"""A TCP proxy before a real device, gateway or broker: what passes through it may be spoilt.

Belongs here: connections, frames and the faults of a network. Does not: faults of devices
(`faults_plant`), HTTP answers (`faults_http`), which scenario needs what.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine

    Way = Literal["request", "answer"]
    Framing = Callable[[asyncio.StreamReader], Awaitable[bytes]]
    Fault = Callable[["Line", Way, bytes], Awaitable[None]]
    """What happens to a frame on its way; it passes on only what it passes on itself."""

_MBAP = 7
_WRITE = 16
_GRANULE = 64 * 1024


class Loop:
    """An event loop in a thread of its own, for proxies and gateways; a context that ends it."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do `work` there and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class Line:
    """One connection through a proxy."""

    def __init__(self, to_client: asyncio.StreamWriter, to_device: asyncio.StreamWriter) -> None:
        self._ends = {"request": to_device, "answer": to_client}

    def pass_on(self, way: Way, data: bytes) -> None:
        self._ends[way].write(data)

    def answer(self, data: bytes) -> None:
        self._ends["answer"].write(data)

    def reset(self) -> None:
        """Break both halves without a farewell."""
        for end in self._ends.values():
            end.transport.abort()


async def chunks(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_GRANULE)
    if not data:
        raise asyncio.IncompleteReadError(b"", None)
    return data


async def modbus_frames(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(_MBAP)
    (length,) = struct.unpack(">H", header[4:6])
    return header + await reader.readexactly(length - 1)


async def http_messages(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head + await reader.readexactly(length)


async def honest(line: Line, way: Way, frame: bytes) -> None:
    line.pass_on(way, frame)


class FaultProxy:
    """Stands at `endpoint` before `target`; its `fault` may be switched at any time."""

    def __init__(
        self,
        loop: Loop,
        target: str,
        framing: Framing = chunks,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop, self._framing, self._tls = loop, framing, tls
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._tasks: set[asyncio.Task[None]] = set()
        self._lines: set[Line] = set()
        self._server: asyncio.Server | None = None
        self.fault: Fault = honest
        self.slots = 1000
        self.own_port = 0
        loop.run(self._open())

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.own_port}"

    def refuse(self) -> None:
        """Let nobody connect any more, and break what stands."""
        self._loop.run(self._close())

    def accept(self) -> None:
        """Listen again where it stood."""
        self._loop.run(self._open())

    def cut(self) -> None:
        """Break every standing connection."""
        self._loop.run(self._cut())

    def stop(self) -> None:
        """End everything. May be called twice."""
        self._loop.run(self._close())

    async def _open(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.own_port, ssl=self._tls
        )
        self.own_port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        for line in tuple(self._lines):
            line.reset()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = None
        try:
            if len(self._lines) >= self.slots:
                to_client.transport.abort()
                return
            device, to_device = await asyncio.open_connection(self._host, self._port)
            line = Line(to_client, to_device)
            self._lines.add(line)
            pumps = {
                asyncio.create_task(self._pump(line, "request", client)),
                asyncio.create_task(self._pump(line, "answer", device)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            to_client.transport.abort()
        finally:
            if line is not None:
                line.reset()
                self._lines.discard(line)
            self._tasks.discard(task)

    async def _pump(self, line: Line, way: Way, reader: asyncio.StreamReader) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                await self.fault(line, way, await self._framing(reader))


async def swallow(_line: Line, _way: Way, _frame: bytes) -> None:
    """The line stands and nothing passes: half open."""


async def no_answer(line: Line, way: Way, frame: bytes) -> None:
    if way == "request":
        line.pass_on(way, frame)


async def reset_at_request(line: Line, way: Way, frame: bytes) -> None:
    if way == "request":
        line.reset()
    else:
        line.pass_on(way, frame)


async def reset_at_answer(line: Line, way: Way, frame: bytes) -> None:
    if way == "request":
        line.pass_on(way, frame)
    else:
        line.reset()


async def truncated(line: Line, way: Way, frame: bytes) -> None:
    """All but the last byte of each answer comes, and then the line breaks."""
    if way == "request":
        line.pass_on(way, frame)
        return
    line.pass_on(way, frame[:-1])
    await asyncio.sleep(0.02)
    line.reset()


async def doubled(line: Line, way: Way, frame: bytes) -> None:
    line.pass_on(way, frame * (1 if way == "request" else 2))


async def dripped(line: Line, way: Way, frame: bytes) -> None:
    for at in range(len(frame)):
        line.pass_on(way, frame[at : at + 1])
        await asyncio.sleep(0.001)


def late(seconds: float) -> Fault:
    async def fault(line: Line, way: Way, frame: bytes) -> None:
        if way == "answer":
            await asyncio.sleep(seconds)
        line.pass_on(way, frame)

    return fault


def rewritten(rewrite: Callable[[bytes], bytes]) -> Fault:
    """Answers come as `rewrite` makes them."""

    async def fault(line: Line, way: Way, frame: bytes) -> None:
        line.pass_on(way, frame if way == "request" else rewrite(frame))

    return fault


def on_modbus_writes(fault: Fault, times: int = 1000) -> Fault:
    """Only writes, and the answers to them, meet the fault: the first `times` of them."""
    left = {"request": times, "answer": times}

    async def chosen(line: Line, way: Way, frame: bytes) -> None:
        if frame[_MBAP] & 0x7F == _WRITE and left[way] > 0:
            left[way] -= 1
            await fault(line, way, frame)
        else:
            line.pass_on(way, frame)

    return chosen


def modbus_exception(code: int) -> Fault:
    """The gateway answers with this exception, and the device never hears of the request."""

    async def fault(line: Line, way: Way, frame: bytes) -> None:
        if way == "request":
            header, function = frame[:4], frame[_MBAP]
            body = bytes([frame[6], function | 0x80, code])
            line.answer(header + struct.pack(">H", len(body)) + body)
        else:
            line.pass_on(way, frame)

    return fault
