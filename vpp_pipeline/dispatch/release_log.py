"""What the kill switch and the watchdog released, kept where no database is needed.

Belongs here: the append-only JSON-lines file of releases. Does not: releasing (`release`), the
ledger, into which the file is copied when the database is there.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vpp_pipeline.devices.protocol import CommandResult

_UTC = pl.Datetime("us", "UTC")

RELEASES = pl.Schema(
    {
        "device_id": pl.String(),
        "at": _UTC,
        "actor": pl.String(),
        "authority": pl.String(),
        "order_id": pl.String(),
        "why": pl.String(),
        "outcome": pl.String(),
        "sent": pl.String(),
        "acknowledged": pl.String(),
        "detail": pl.String(),
        "fence": pl.Int64(),
    }
)
"""A release: of which device, by whom and why, and what came of it (`protocol.Outcome`)."""


@dataclass(frozen=True)
class Cause:
    """Why a device must be at rest: on whose authority, by which order if one was given."""

    authority: str
    order_id: str | None
    words: str


@dataclass(frozen=True)
class Release:
    """One attempt to return a device to its default, as `RELEASES` says."""

    device_id: str
    at: datetime
    actor: str
    authority: str
    order_id: str | None
    why: str
    outcome: str
    sent: str
    acknowledged: str
    detail: str
    fence: int | None

    @classmethod
    def of(
        cls, device_id: str, at: datetime, actor: str, cause: Cause, result: CommandResult
    ) -> Self:
        """Return what `actor` tried at `at`, and what came of it."""
        return cls(
            device_id=device_id,
            at=at,
            actor=actor,
            authority=cause.authority,
            order_id=cause.order_id,
            why=cause.words,
            outcome=result.outcome.value,
            sent=result.sent,
            acknowledged=result.answer,
            detail=result.detail,
            fence=result.fence,
        )


class ReleaseLog:
    """The releases of one plant, in `directory`/releases.jsonl."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "releases.jsonl"

    def append(self, releases: Sequence[Release]) -> None:
        """Add releases; they survive a power cut once this returns. Raises OSError."""
        if not releases:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        rows = (asdict(each) | {"at": each.at.isoformat()} for each in releases)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with self._file.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.tell() and not self._ends_whole():
                text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> pl.DataFrame:
        """Return what can be read, columns `RELEASES`, in the order it was written.

        A line that a crash cut short is left out: what it told of is looked at again anyway.
        """
        if not self._file.exists():
            return pl.DataFrame(schema=RELEASES)
        rows = [row for line in self._file.read_bytes().splitlines() if (row := _row(line))]
        return pl.DataFrame(rows, schema=RELEASES, orient="row")

    def _ends_whole(self) -> bool:
        with self._file.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def _row(line: bytes) -> dict[str, object] | None:
    try:
        row = json.loads(line)
        return asdict(Release(**row | {"at": datetime.fromisoformat(row["at"])}))
    except (ValueError, TypeError, KeyError):
        return None
