"""Work that frees the interpreter, side by side: compiled kernels, array arithmetic.

Belongs here: how many at a time, and running a task on each piece of work. Does not: any kernel.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

THREADS = os.cpu_count() or 1

Piece = TypeVar("Piece")
Made = TypeVar("Made")


def side_by_side(task: Callable[[Piece], Made], pieces: Iterable[Piece]) -> Iterator[Made]:
    """Yield what the task makes of each piece, in the pieces' order whichever is ready first.

    A single piece is done in the caller's thread.
    """
    work = list(pieces)
    if len(work) <= 1:
        yield from map(task, work)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(task, work)
