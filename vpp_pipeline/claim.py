"""A file that one process alone holds: two in one directory would undo each other's work.

Belongs here: holding it, and who does. Does not: what the directory is for; locks that are waited
for (`warehouse.file_lock`, `devices.leases`).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Claimed(Exception):  # noqa: N818 - names what is known
    """Another process holds the file; the text is what it said of itself, and its pid."""


@contextmanager
def claimed(file: Path, words: str) -> Iterator[None]:
    """Hold `file` and say in it, in `words`, who does; a killed holder gives it back by dying.

    Raises `Claimed`, at once.
    """
    with file.open("a+") as claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            claim.seek(0)
            raise Claimed(claim.read().strip()) from error
        claim.truncate(0)
        claim.write(f"{words} (pid {os.getpid()})\n")
        claim.flush()
        yield
