"""The way from a driver to the central system that holds the charge points' connections.

Belongs here: the messages between the two, and the driver's end. Does not: what is asked (`ocpp`),
the central system's end (`central_system`).

A Unix domain socket in a directory that is its owner's alone: whoever may open it may steer.
JSON lines, a `Told` for each `Ask`, in the order they are ready.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from pathlib import Path

LINE_LIMIT = 1 << 20
_OVERTIME_S = 0.5  # what the central system may take beyond a request's own time-out

Action = Literal["Look", "SetChargingProfile", "ClearChargingProfile", "GetCompositeSchedule"]
"""`Look` asks the central system itself; the others go to the charge point. No more go at all."""


class Ask(BaseModel):
    """One request; `payload` has OCPP's fields in snake case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    charge_point: str
    action: Action
    payload: dict[str, Any]
    timeout_s: float


class Told(BaseModel):
    """What became of a request.

    `answered`: `answer` holds the charge point's. `refused`: it sent an OCPP error, its code in
    `code`. `silent`: `sent` went out and no answer came that could be read. `not_sent`: nothing
    went out. `words` say why.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    outcome: Literal["answered", "refused", "silent", "not_sent"]
    answer: dict[str, Any] = {}
    sent: str = ""
    code: str = ""
    words: str = ""


class Channel:
    """A driver's connection to the central system; opened when first needed, and again if lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Told]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    async def ask(
        self, charge_point: str, action: Action, payload: dict[str, Any], timeout_s: float
    ) -> Told:
        """Ask and wait for at most `timeout_s`, and a moment more; never raises."""
        number = next(self._numbers)
        ask = Ask(
            number=number,
            charge_point=charge_point,
            action=action,
            payload=payload,
            timeout_s=timeout_s,
        )
        try:
            writer = await self._open()
        except OSError as error:
            words = (
                f"the central system of the charge points can't be reached at {self._path}"
                f" ({error.strerror or error}): start it with `vpp charge-points`"
            )
            return Told(number=number, outcome="not_sent", words=words)
        answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        line = ask.model_dump_json()
        try:
            writer.write(line.encode() + b"\n")
            async with asyncio.timeout(timeout_s + _OVERTIME_S):
                await writer.drain()
                return await answer
        except (OSError, TimeoutError) as error:
            words = (
                f"the central system of the charge points gave no answer ({error or 'in time'}): see"
                " that `vpp charge-points` runs"
            )
            return Told(number=number, outcome="silent", sent=line, words=words)
        finally:
            del self._waiting[number]

    async def close(self) -> None:
        """Close the connection; what is still waited for is given up."""
        if self._writer is None or self._reader is None:
            return
        self._writer.close()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._writer = self._reader = None

    async def _open(self) -> asyncio.StreamWriter:
        async with self._opening:
            if self._writer is None or self._reader is None or self._reader.done():
                reader, self._writer = await asyncio.open_unix_connection(
                    str(self._path), limit=LINE_LIMIT
                )
                self._reader = asyncio.create_task(self._listen(reader, self._writer))
            return self._writer

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                told = Told.model_validate_json(line)
                waiting = self._waiting.get(told.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(told)
        except (OSError, ValueError, ValidationError):
            pass  # a line cut off or too long: the connection can't be gone on with
        finally:
            writer.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionResetError("it closed the connection"))
                    waiting.exception()  # who asked may have given up, and is not to be missed
