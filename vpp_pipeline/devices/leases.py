"""Endpoint leases: one process at a time speaks to a host:port, however many would.

Belongs here: the lease and who holds it. Does not: connections (`modbus_session`).

A lease is an exclusive `flock` on a file an endpoint, so that the operating system gives it back
when its holder dies. The file's first line is `<token> <pid> <owner>`; the token grows with each
lease and tells which of two writers came later. A lease can only be lost while it is held if its
file is taken away; `Lease.check` finds that out before every write.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_POLL_S = 0.02


class LeaseHeld(Exception):  # noqa: N818 - names the state that was found
    """Somebody else holds the endpoint; the text says who."""


class LeaseFileDamaged(Exception):  # noqa: N818 - names the state that was found
    """The lease file does not hold what a lease writes; the text names it and the remedy."""


class LeaseNotWritten(OSError):  # noqa: N818 - names what was found
    """The lease file can't be written: no room, or no right; the text names it and the remedy."""


class LeaseLost(Exception):  # noqa: N818 - names what happened
    """The endpoint may be another's by now: nothing more may be written to it."""


@dataclass(frozen=True)
class Lease:
    """The right to speak to an endpoint, until `release` or the end of the process.

    Without a token it is none: nobody else was asked.
    """

    endpoint: str
    path: str
    token: int | None = None
    descriptor: int | None = None

    def check(self) -> None:
        """Raise `LeaseLost` unless the file that others would lock still bears our token."""
        if self.descriptor is None:
            return
        if not _is_at(self.descriptor, self.path):
            raise LeaseLost(
                f"the lease file of {self.endpoint} was taken away: another may write there now"
            )
        if not _content(self.descriptor).startswith(f"{self.token} {os.getpid()} ".encode()):
            raise LeaseLost(f"{_holder(self.descriptor)} has the lease of {self.endpoint} now")

    def release(self) -> None:
        """Give the endpoint back. Called once."""
        if self.descriptor is not None:
            os.close(self.descriptor)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Leases:
    """The leases that `owner` takes, from files in `directory` that all processes share."""

    def __init__(self, directory: Path, owner: str) -> None:
        self._directory = str(directory)
        self._owner = " ".join(owner.split())
        with contextlib.suppress(OSError):  # `acquire` tells which file it can't write
            directory.mkdir(parents=True, exist_ok=True)

    async def acquire(self, endpoint: str, timeout_s: float) -> Lease:
        """Wait for the endpoint's lease without blocking the event loop.

        Raises `LeaseHeld` when another holds it for all of `timeout_s` (at least one attempt is
        made), `LeaseFileDamaged` when the token in the file can't be read, `LeaseNotWritten`.
        """
        path = self._path(endpoint)
        try:
            descriptor = await _locked(path, endpoint, timeout_s)
            try:
                token = _signed(descriptor, path, self._owner)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise LeaseNotWritten(
                f"lease file {path} can't be written ({error.strerror}): give the disk room, or "
                "this user the right to write there"
            ) from error
        return Lease(endpoint, path, token, descriptor)

    async def acquire_or_go_without(self, endpoint: str, timeout_s: float) -> Lease:
        """Do as `acquire`; where no lease can be written or read, go on without one.

        For releases: what brings a device to rest must not need a disk. Raises `LeaseHeld`.
        """
        try:
            return await self.acquire(endpoint, timeout_s)
        except (LeaseNotWritten, LeaseFileDamaged):
            return Lease(endpoint, self._path(endpoint))

    def _path(self, endpoint: str) -> str:
        return os.path.join(self._directory, f"{quote(endpoint, safe='')}.lease")  # noqa: PTH118 - Path takes twice a lock's time


def _signed(descriptor: int, path: str, owner: str) -> int:
    """Write the next token and who has it into a lease file; return the token."""
    before = _content(descriptor)
    token = _last_token(before, path) + 1
    line = f"{token} {os.getpid()} {owner}\n".encode()
    if os.pwrite(descriptor, line, 0) < len(before):
        os.ftruncate(descriptor, len(line))
    return token


async def _locked(path: str, endpoint: str, timeout_s: float) -> int:
    """Return a descriptor that holds the lock on the file that is at `path` now."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            await _lock(descriptor, endpoint, timeout_s)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file was replaced while we waited for the old one


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116 - as in `acquire`
    except FileNotFoundError:
        return False


async def _lock(descriptor: int, endpoint: str, timeout_s: float) -> None:
    now = asyncio.get_running_loop().time
    deadline = now() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if now() >= deadline:
                raise LeaseHeld(
                    f"endpoint {endpoint} is leased by {_holder(descriptor)}; "
                    "retry when it is done, or stop that process"
                ) from None
            await asyncio.sleep(_POLL_S)
        else:
            return


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, 4096, 0)


def _first_line(content: bytes) -> str:
    return content.decode(errors="replace").partition("\n")[0]


def _holder(descriptor: int) -> str:
    match _first_line(_content(descriptor)).split(" ", 2):
        case [_, pid, owner]:
            return f"{owner} (pid {pid})"
        case _:
            return "another process"


def _last_token(content: bytes, path: str) -> int:
    line = _first_line(content)
    if not line:
        return 0
    try:
        return int(line.split(" ", 1)[0])
    except ValueError:
        raise LeaseFileDamaged(
            f"lease file {path}: first line {line!r} does not start with a token; delete the file"
        ) from None
