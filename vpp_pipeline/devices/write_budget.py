"""How often a register in flash may be written in a day, over all processes.

Belongs here: the count and its limit. Does not: which registers are in flash (`register_map`),
skipping a write that would change nothing (`register_map_look`).

A small JSON file a device: the day (UTC) and the writes of each register on it. Only the holder of
the endpoint's lease writes it, so it needs no lock of its own; a write is counted before it is
sent, so that a killed process has counted one too many, never one too few.
"""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING
from urllib.parse import quote

from vpp_pipeline.durable import replace_durably

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class BudgetSpent(Exception):  # noqa: N818 - names what happened
    """A register has had its writes of the day, or nobody knows; the text names the remedy."""


class WriteBudget:
    """The counts of all devices, from files in `directory` that all processes share."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def take(self, device: str, daily_writes: Mapping[int, int], today: date) -> None:
        """Count one write of each register, whose `daily_writes` it maps to, for `device`.

        Raises `BudgetSpent`, and counts none of them, where one has no write left. A clock that
        was set back does not begin a day anew.
        """
        path = self._directory / f"{quote(device, safe='')}.writes"
        day, counts = _read(path)
        if day is None or today > day:
            day, counts = today, {}
        for register, limit in daily_writes.items():
            if counts.get(register, 0) >= limit:
                raise BudgetSpent(
                    f"register {register} of {device} is in flash and had its {limit} writes of"
                    f" {day}: plan fewer changes, or wait for the next day (UTC)"
                )
        counted = counts | {register: counts.get(register, 0) + 1 for register in daily_writes}
        try:
            with replace_durably(path) as temporary:
                temporary.write_text(json.dumps({"day": day.isoformat(), "writes": counted}))
        except OSError as error:
            raise BudgetSpent(
                f"{path} can't be written ({error.strerror}), so no write to flash can be counted:"
                " give the disk room, or this user the right to write there"
            ) from error


def _read(path: Path) -> tuple[date | None, dict[int, int]]:
    try:
        told = json.loads(path.read_bytes())
        return date.fromisoformat(told["day"]), {
            int(register): int(count) for register, count in told["writes"].items()
        }
    except FileNotFoundError:
        return None, {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BudgetSpent(
            f"{path} can't be read ({error}), so nobody knows how often the flash was written"
            " today: delete the file if that is no worry"
        ) from error
