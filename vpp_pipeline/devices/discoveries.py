"""Where each SunSpec unit keeps its models, remembered from process to process for a day.

Belongs here: the small file that spares a new process the walk through every device's map, and
the reading of nameplates. Does not: discovery itself, and noticing that a unit changed its map
(`sunspec_models`: every block that is read carries its own header).

One JSON document a day (UTC), replaced whole. It is only a memory: what can't be read, or was lost
to another process that wrote at the same time, is discovered again.
"""

from __future__ import annotations

import logging
import os
from datetime import date  # noqa: TC003 - pydantic reads it
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from vpp_pipeline.devices.sunspec_models import Models, Placed

if TYPE_CHECKING:
    from pathlib import Path

    from vpp_pipeline.clock import Clock

_LOG = logging.getLogger(__name__)

Units = dict[int, Models]


class _Memory(BaseModel):
    """What the file holds; its lists are a model's address, length and registers."""

    day: date
    endpoints: dict[str, dict[int, dict[int, Placed]]]


class Discoveries:
    """The models of all units by endpoint, in a file in `directory` that all processes share."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._path = directory / "sunspec-models.json"
        self._clock = clock
        self._day: date | None = None
        self._known: dict[str, Units] = {}
        self._kept: dict[str, Units] = {}

    def of_today(self) -> dict[str, Units]:
        """Return the models of units by endpoint, to be added to and then kept."""
        today = self._clock.now().date()
        if today != self._day:
            self._day, self._known = today, self._read(today)
            self._kept = _copied(self._known)
        return self._known

    def keep(self) -> None:
        """Write down what is known, where that is news and there is room for it."""
        if self._day is None or all(
            self._kept.get(endpoint, {}) == units for endpoint, units in self._known.items()
        ):
            return
        known = self._read(self._day)
        for endpoint, units in self._known.items():
            known.setdefault(endpoint, {}).update(units)
        found = {endpoint: units for endpoint, units in known.items() if units}
        new = self._path.with_suffix(f".{os.getpid()}.new")
        try:
            new.write_text(_Memory(day=self._day, endpoints=found).model_dump_json())
            new.replace(self._path)
        except OSError as error:
            _LOG.warning("where devices keep their models is not remembered: %s", error)
        self._kept = _copied(self._known)

    def _read(self, today: date) -> dict[str, Units]:
        try:
            memory = _Memory.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return {}
        return memory.endpoints if memory.day == today else {}


def _copied(known: dict[str, Units]) -> dict[str, Units]:
    return {endpoint: dict(units) for endpoint, units in known.items() if units}
