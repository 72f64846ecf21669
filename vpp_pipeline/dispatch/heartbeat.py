"""The watchdog's sign of life, for those who rely on it.

Belongs here: that one watchdog runs at a time, and whether it does. Does not: what it does
(`watchdog`).

Its lock is held for as long as it lives, so that its death is known at once; a beat a cycle
tells a hanging one from a living one.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LONGEST_SILENCE_S = 60.0
"""Wall time; a cycle with time-outs to the full takes some 20 s."""
_POLL_S = 0.05
_POLLS = 20  # who asks whether it is held, holds it for a moment


class WatchdogRuns(Exception):  # noqa: N818 - names the state that was found
    """Another process is the watchdog of this plant."""


class Heartbeat:
    """The sign of life in a directory that all processes share."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "watchdog.json"
        self._lock = directory / "watchdog.lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the plant's one watchdog. Raises `WatchdogRuns`."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for _ in range(_POLLS):
                if _locked(descriptor):
                    break
                time.sleep(_POLL_S)
            else:
                raise WatchdogRuns(f"a watchdog runs on {self._lock.parent}: stop it first")
            yield
        finally:
            os.close(descriptor)

    def beat(self, now: datetime, problems: list[str]) -> None:
        """Tell that a cycle began or ended at `now`, and what it could not do."""
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"at": now.isoformat(), "problems": problems}))
        temporary.replace(self._path)

    def complaints(self, now: datetime, rate: float) -> list[str]:
        """Return what is wrong with the watchdog; an empty list if it watches and succeeds.

        `rate` is the clock's: clock seconds in a wall second.
        """
        if not self._is_held():
            return ["no watchdog runs: start `vpp watchdog`"]
        try:
            beat = json.loads(self._path.read_text())
            silent_s = (now - datetime.fromisoformat(beat["at"])).total_seconds() / rate
            problems: list[str] = beat["problems"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            return [
                f"the watchdog's sign of life, {self._path}, can't be read ({error}): restart it"
            ]
        if silent_s > _LONGEST_SILENCE_S:
            return [f"the watchdog hangs: no sign of life for {silent_s:.0f} s; restart it"]
        return problems

    def _is_held(self) -> bool:
        try:
            descriptor = os.open(self._lock, os.O_RDWR)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            return not _locked(descriptor)
        finally:
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
