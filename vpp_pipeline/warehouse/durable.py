"""Files that appear whole or not at all, and survive a power cut once they have appeared.

Belongs here: the atomic, synced replacement of a file. Does not: what is in it.
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
        _sync(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
