"""Files that appear whole or not at all, and survive a power cut once they have appeared.

Belongs here: the atomic replacement of a file, and syncing. Does not: what is in a file.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replace_durably(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target` to write to; at exit it takes the target's place.

    After an exception the target is as it was and the temporary file gone.
    """
    temporary = target.with_name(f"{target.name}.{uuid4().hex}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(target.parent)


def sync(path: Path) -> None:
    """Return once what was written to the file, or made or renamed in the directory, is kept."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
