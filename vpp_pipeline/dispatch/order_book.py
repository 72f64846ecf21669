"""Where orders are kept: one file that every process reads, with no database in between.

Belongs here: the append-only JSON-lines file and what a damaged one means. Does not: what an
order is and does (`orders`).

An order counts as given once `give` has returned: its line is then on the disk, whole. A last
line without its end was never given; anything else that can't be read damages the book, and a
damaged book stops every device, for nobody can tell what it forbade. So does one that is gone or
has lost its end: a file beside its directory tells how long it was when an order was last given.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from vpp_pipeline.dispatch.orders import Order, standing, standing_unknown
from vpp_pipeline.durable import replace_durably, sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    import polars as pl

_LOST = "orders were lost"
_POLL_S = 0.01
_ATTEMPTS = 300


class OrderBookDamaged(Exception):  # noqa: N818 - names the state that was found
    """The book can't be read; the text names file, line and remedy. Take all as stopped."""


class OrderBook:
    """The orders of one plant, in `directory`/orders.jsonl."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "orders.jsonl"
        self._length = directory.with_name(f"{directory.name}.length")

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
            try:
                written = 0
                while written < len(lines):
                    written += os.pwrite(descriptor, lines[written:], whole + written)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, whole)
                raise
            for directory in (self._file.parent, self._file.parent.parent):
                sync(directory)
            length = str(whole + written) if whole >= self._known_length() else _LOST
            with replace_durably(self._length) as temporary:
                temporary.write_text(length)

    def read(self) -> list[Order]:
        """Return the orders as they were given; none where none ever was.

        Raises `OrderBookDamaged` where a line is no order, the file can't be read, or it is not
        as long as it was.
        """
        known_length = self._known_length()  # first: orders may be given meanwhile
        try:
            with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
                content = _content(descriptor)
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise OrderBookDamaged(
                f"{self._file} can't be read ({error.strerror}): give this user the right to"
                " read it"
            ) from error
        lines = content.split(b"\n")[:-1]
        orders = [self._order(number, line) for number, line in enumerate(lines, 1)]
        if len(content) < known_length:
            raise OrderBookDamaged(
                f"{self._file} is gone, or has lost orders: bring it back; or give every order"
                f" that still holds, then delete {self._length}"
            )
        return orders

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
                " mend the line, or delete it and give anew what it said"
            ) from error

    def _known_length(self) -> float:
        """Return the bytes there were when an order was last given; without end where unknown."""
        try:
            return int(self._length.read_text())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError):
            return math.inf

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
