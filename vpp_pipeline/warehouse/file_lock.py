"""One file lock that processes and threads share: many readers, or one writer.

Belongs here: waiting for the lock and telling who holds it. Does not: what is done under it
(`store`).

`flock` belongs to an open file description, so threads that each open the file are kept apart
just as processes are, and a killed holder gives it back by dying. A second file is the queue:
whoever waits for the lock stands in it, so that readers who come and go never starve a writer.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from vpp_pipeline.warehouse.errors import LockTimeoutError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Mode = Literal["shared", "exclusive"]

_POLL_S = 0.005
_FLAGS = {"shared": os.O_RDONLY | os.O_CREAT, "exclusive": os.O_RDWR | os.O_CREAT}
_OPERATION = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX}
_in_this_thread = threading.local()


@contextmanager
def held(path: Path, mode: Mode, purpose: str, timeout_s: float) -> Iterator[None]:
    """Hold the lock at `path`; an exclusive holder writes its pid and `purpose` into the file.

    Raises `LockTimeoutError`, naming the holder, after about `timeout_s` in the queue and as
    long again for the lock; `WarehouseError` where the file can't be opened, and at once where
    this very thread holds the lock already, for it would wait for itself.
    """
    mine: set[Path] = _in_this_thread.__dict__.setdefault("paths", set())
    if path in mine:
        raise WarehouseError(
            f"{path}: this thread is inside another read() or write() of the same warehouse; "
            "use the connection that one gave, or leave it first"
        )
    with _opened(path, mode) as lock:
        with _opened(path.with_suffix(".queue"), mode) as queue:
            _acquire(queue, fcntl.LOCK_EX, path, timeout_s)
            try:
                _acquire(lock, _OPERATION[mode], path, timeout_s)
            finally:
                fcntl.flock(queue, fcntl.LOCK_UN)
        mine.add(path)
        try:
            if mode == "exclusive":
                _sign(lock, {"pid": os.getpid(), "purpose": purpose})
            yield
        finally:
            mine.discard(path)
            if mode == "exclusive":
                os.ftruncate(lock, 0)
            fcntl.flock(lock, fcntl.LOCK_UN)


@contextmanager
def _opened(path: Path, mode: Mode) -> Iterator[int]:
    try:
        descriptor = os.open(path, _FLAGS[mode], 0o666)
    except OSError as error:
        raise WarehouseError(
            f"{path} can't be opened ({error.strerror}): give this user the right to write in "
            f"{path.parent}, or name another directory for the warehouse"
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, operation: int, path: Path, timeout_s: float) -> None:
    for _ in range(max(1, math.ceil(timeout_s / _POLL_S))):
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                raise
            time.sleep(_POLL_S)
        else:
            return
    raise LockTimeoutError(
        f"{path}: waited {timeout_s:g} s for the warehouse, held by {_holder(path)}; "
        "try again when it is done, or end it"
    )


def _sign(descriptor: int, holder: dict[str, object]) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        os.kill(holder["pid"], 0)
    except (OSError, ValueError):
        return "readers"
    return f"process {holder['pid']} ({holder['purpose']})"
