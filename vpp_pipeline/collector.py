"""The resident collector: asks every device for its readings and lands them.

Belongs here: the loop beside Dagster that polls. Does not: wire formats (`devices`), loading
what has landed (`warehouse.landing`), any decision.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Self

import polars as pl

from vpp_pipeline import event_loop
from vpp_pipeline.devices.protocol import DeviceLink, Driver, Reading, Unreachable
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.warehouse import landing
from vpp_pipeline.warehouse.errors import WarehouseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, timedelta
    from threading import Event

    from vpp_pipeline.runtime import Runtime

_LOG = logging.getLogger(__name__)
_LEAST_PAUSE_S = 1.0
_LOOK_AGAIN_S = 2.0
_NAMED_AT_MOST = 20
_NUMBER = re.compile(r"\d+")
_FAILED = "a cycle failed; the next one is made all the same"
_MAKE_ROOM = "give the disk room, and let this user write the plant's home"


async def poll(
    drivers: Mapping[str, Driver], links: Sequence[DeviceLink], timeout_s: float
) -> list[Reading | Unreachable]:
    """Read every device once, all protocols at the same time."""
    answers = await asyncio.gather(
        *(
            driver.read([link for link in links if link.protocol == protocol], timeout_s)
            for protocol, driver in drivers.items()
        )
    )
    return [answer for batch in answers for answer in batch]


def telemetry_rows(answers: Sequence[Reading | Unreachable], now: datetime) -> pl.DataFrame:
    """Return answers as `Telemetry` rows; a silent device is told as offline, not left out."""
    rows = [
        asdict(answer)
        if isinstance(answer, Reading)
        else {"device_id": answer.device_id, "measured_at": now, "status": "offline"}
        for answer in answers
    ]
    schema = {
        name: dtype for name, dtype in Telemetry.create_empty().schema.items() if name != "known_at"
    }
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        known_at=pl.lit(now).cast(pl.Datetime("us", "UTC"))
    )


class Collector:
    """Polls one plant and keeps what it needs for that: an event loop and open connections.

    `note` is given the answers of each poll.
    """

    def __init__(
        self,
        runtime: Runtime,
        timeout_s: float,
        note: Callable[[Sequence[Reading | Unreachable]], None] = lambda _answers: None,
    ) -> None:
        self._runtime = runtime
        self._timeout_s = timeout_s
        self._loop = event_loop.runner()
        self._drivers = runtime.drivers("collector")
        self._note = note

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(_close(self._drivers))
        self._loop.close()

    def collect(self) -> pl.DataFrame:
        """Poll the whole fleet once, land its rows and return them."""
        clock = self._runtime.clock
        links = device_links(self._runtime.devices(clock.now()))
        answers = self._loop.run(poll(self._drivers, links, self._timeout_s))
        self._note(answers)
        rows = telemetry_rows(answers, clock.now())
        landing.land(self._runtime.settings.landing_dir, "telemetry", rows, clock.now())
        return rows


class Roll:
    """Who answers, told in the log whenever that changes."""

    def __init__(self) -> None:
        self._silent: dict[str, str] = {}
        self._counted: tuple[int, int] | None = None

    def note(self, answers: Sequence[Reading | Unreachable]) -> None:
        """Log who fell silent or is silent for another reason, who is back, and how many answered."""
        silent = {told.device_id: told.reason for told in answers if isinstance(told, Unreachable)}
        answered = {told.device_id for told in answers if isinstance(told, Reading)}
        _log_named(
            [
                f"{name} can't be read: {reason}"
                for name, reason in silent.items()
                if name not in self._silent or _wording(self._silent[name]) != _wording(reason)
            ],
            "can't be read",
        )
        back = [name for name in self._silent if name in answered]
        _log_named([f"{name} is read again" for name in back], "are read again")
        self._silent = silent
        counted = len(answered), len(answers)
        if counted != self._counted:
            _LOG.warning("%d of %d devices answered", *counted)
        self._counted = counted


def _wording(reason: str) -> str:
    """Return a reason without its numbers: how long a device has been silent is no news."""
    return _NUMBER.sub("", reason)


def _log_named(lines: Sequence[str], what: str) -> None:
    """Log the first lines, and of how many more devices the same is true."""
    for line in lines[:_NAMED_AT_MOST]:
        _LOG.warning("%s", line)
    if len(lines) > _NAMED_AT_MOST:
        _LOG.warning("and %d more %s", len(lines) - _NAMED_AT_MOST, what)


async def _close(drivers: Mapping[str, Driver]) -> None:
    await asyncio.gather(*(driver.close() for driver in drivers.values()))


def run(runtime: Runtime, every: timedelta, stop: Event) -> None:
    """Poll the fleet every `every` of clock time until `stop` is set, whatever befalls a cycle.

    Until a fleet is known it is looked for every few wall seconds.
    """
    pause_s = max(_LEAST_PAUSE_S, every.total_seconds() / runtime.clock.rate)
    with Collector(runtime, pause_s + 2.0, Roll().note) as collector:
        while not stop.is_set():
            wait_s = pause_s
            try:
                if runtime.knows_a_fleet():
                    collector.collect()
                else:
                    wait_s = min(pause_s, _LOOK_AGAIN_S)
            except OSError as error:
                _LOG.warning("%s: %s; %s", _FAILED, error, _MAKE_ROOM)
            except (WarehouseError, ValueError) as error:
                _LOG.warning("%s: %s", _FAILED, error)
            except Exception:  # noqa: BLE001 - whatever befalls a cycle, the next one is made
                _LOG.exception(_FAILED)
            stop.wait(wait_s)
