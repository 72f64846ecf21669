"""Where orders are kept: one file that every process reads, with no database in between.

Belongs here: the append-only JSON-lines file and what a damaged one means. Does not: what an
order is and does (`orders`).

An order counts as given once `give` has returned: its line is then on the disk, whole. A last
line without its end was never given; anything else that can't be read damages the book, and a
damaged book stops every device, for nobody can tell what it forbade.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from vpp_pipeline.dispatch.orders import Order, standing, standing_unknown
from vpp_pipeline.durable import sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    import polars as pl

_POLL_S = 0.01
_ATTEMPTS = 300


class OrderBookDamaged(Exception):  # noqa: N818 - names the state that was found
    """The book can't be read; the text names file, line and remedy. Take all as stopped."""


class OrderBook:
    """The orders of one plant, in `directory`/orders.jsonl."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "orders.jsonl"

    def give(self, *orders: Order) -> None:
        """Add orders, all at once; they survive a power cut once this returns.

        Works on a damaged book too, so that a stop always can be given. Raises `OSError` where
        the file can't be written, `OrderBookDamaged` where another process never lets go of it.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
            content = _content(descriptor)
            whole = content.rfind(b"\n") + 1
            os.ftruncate(descriptor, whole)
            lines = b"".join(
                order.model_dump_json(exclude_none=True).encode() + b"\n" for order in orders
            )
            written = 0
            while written < len(lines):
                written += os.pwrite(descriptor, lines[written:], whole + written)
            os.fsync(descriptor)
        for directory in (self._file.parent, self._file.parent.parent):
            sync(directory)

    def read(self) -> list[Order]:
        """Return the orders as they were given; none where none ever was.

        Raises `OrderBookDamaged` where a line is no order or the file can't be read.
        """
        try:
            with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
                content = _content(descriptor)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OrderBookDamaged(
                f"{self._file} can't be read ({error.strerror}): give this user the right to"
                " read it"
            ) from error
        lines = content.split(b"\n")[:-1]
        return [self._order(number, line) for number, line in enumerate(lines, 1)]

    def standing(self, devices: pl.DataFrame, now: datetime) -> pl.DataFrame:
        """Return `orders.standing` of the book, or of a damaged one all stopped."""
        try:
            orders = self.read()
        except OrderBookDamaged as damage:
            return standing_unknown(devices, str(damage))
        return standing(orders, devices, now)

    def _order(self, number: int, line: bytes) -> Order:
        try:
            return Order.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise OrderBookDamaged(
                f"{self._file} line {number}{f', {field}' if field else ''}: {first['msg']};"
                " mend the line, or move the file away and give every order that still holds"
            ) from error

    @contextmanager
    def _locked(self, flags: int, operation: int) -> Iterator[int]:
        descriptor = os.open(self._file, flags, 0o644)
        try:
            for _ in range(_ATTEMPTS):
                try:
                    fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(_POLL_S)
            else:
                raise OrderBookDamaged(
                    f"{self._file} was locked for {_ATTEMPTS * _POLL_S:g} s: end the process that"
                    " holds it"
                )
            yield descriptor
        finally:
            os.close(descriptor)


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
