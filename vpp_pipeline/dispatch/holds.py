"""Which devices hold a set-point that no timer of their own will end, and until when it is valid.

Belongs here: the small file that the dispatcher writes ahead of such a command and the watchdog
goes by. Does not: which devices have no timer (`devices.failsafe`), releasing them (`watchdog`).

One JSON document, `holds.json`, replaced whole under a lock: a reader never sees half of it, and
a killed writer leaves the one before. No database: it is read when that is down.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from vpp_pipeline.durable import replace_durably

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class HoldsDamaged(Exception):  # noqa: N818 - names the state that was found
    """The file does not hold what is written here; the text names it and the remedy."""


class Holds:
    """The devices held beyond our own life, in a directory that all processes share."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "holds.json"
        self._lock = directory / "holds.lock"

    def hold(self, until: Mapping[str, datetime]) -> None:
        """Note, before it is sent, that each device's set-point is valid until then.

        Call it once a batch. A later time stands over an earlier one, never the other way round.
        Raises `HoldsDamaged`, OSError.
        """
        with self._held():
            known = self.read()
            later = {name: at for name, at in until.items() if at > known.get(name, _before(at))}
            if later:
                self._write(known | later)

    def let_go(self, until: Mapping[str, datetime]) -> None:
        """Forget devices that were seen released, but not one that was held anew meanwhile.

        Raises `HoldsDamaged`, OSError.
        """
        with self._held():
            known = self.read()
            left = {name: at for name, at in known.items() if until.get(name) != at}
            if left != known:
                self._write(left)

    def read(self) -> dict[str, datetime]:
        """Return until when each held device's set-point is valid (UTC).

        Raises `HoldsDamaged`, OSError.
        """
        try:
            content = json.loads(self._path.read_bytes())
            return {str(name): _instant(at) for name, at in content.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError) as error:
            raise HoldsDamaged(
                f"{self._path} can't be read ({error}): release the devices without a timer "
                "(`vpp stop`), then delete the file"
            ) from error

    def _write(self, holds: Mapping[str, datetime]) -> None:
        with replace_durably(self._path) as temporary:
            temporary.write_text(json.dumps({name: at.isoformat() for name, at in holds.items()}))

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return at


def _before(at: datetime) -> datetime:
    return datetime.min.replace(tzinfo=at.tzinfo)
