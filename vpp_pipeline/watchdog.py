"""The resident watchdog: brings to rest what nothing else would, with no database in between.

Belongs here: the loop beside Dagster that releases stopped devices, and those whose set-point has
run out without a timer of their own. Does not: any decision on power (`dispatch`), how a device
is released (`dispatch.release`, the drivers).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Self

from vpp_pipeline import event_loop
from vpp_pipeline.devices.failsafe import no_failsafe
from vpp_pipeline.devices.protocol import CommandResult, Outcome
from vpp_pipeline.dispatch.heartbeat import Heartbeat
from vpp_pipeline.dispatch.holds import Holds, HoldsDamaged
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.release import obeying, out_of_reach, releasable, release
from vpp_pipeline.dispatch.release_log import Cause, Release, ReleaseLog
from vpp_pipeline.fleet.registry import RegistryError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime
    from threading import Event

    import polars as pl

    from vpp_pipeline.devices.protocol import DeviceLink, Driver
    from vpp_pipeline.runtime import Runtime

_LOG = logging.getLogger(__name__)
_NAMED_AT_MOST = 20
_TIMEOUT_S = 5.0  # of one attempt at all devices


def must_rest(
    standing: pl.DataFrame, holds: Mapping[str, datetime], now: datetime
) -> dict[str, Cause]:
    """Return the devices that may obey no set-point at `now`, and why.

    `standing` is `orders.standing`, `holds` until when each device without a timer was commanded.
    """
    lapsed = {
        device_id: _of_watchdog(f"its set-point ended at {until:%Y-%m-%d %H:%M:%S} UTC")
        for device_id, until in holds.items()
        if until <= now
    }
    stops = standing.filter("stopped").select("device_id", "order_id", "stop_words")
    return lapsed | {name: Cause("kill switch", *stop) for name, *stop in stops.iter_rows()}


def _of_watchdog(words: str) -> Cause:
    return Cause("watchdog", None, f"{words}, and it has no timer of its own")


class Watchdog:
    """Watches one plant; keeps its drivers, the fleet as last read, and whom it saw at rest."""

    def __init__(self, runtime: Runtime, timeout_s: float) -> None:
        self._runtime = runtime
        self._clock = runtime.clock
        self._timeout_s = timeout_s
        directory = runtime.settings.order_dir
        self._book, self._holds = OrderBook(directory), Holds(directory)
        self._log = ReleaseLog(directory)
        self._drivers: Mapping[str, Driver] = {}
        self._loop = event_loop.runner()
        self._changed_at: tuple[int, ...] = ()
        self._devices: pl.DataFrame | None = None
        self._links: dict[str, DeviceLink] = {}
        self._resting: dict[str, Cause] = {}
        self._told: dict[str, str] = {}
        self._unnoted: list[Release] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._close())
        self._loop.close()

    def cycle(self) -> list[str]:
        """Do once what is due; return what could not be done, each with its remedy.

        A device that must rest is released once, and again whenever it is found to obey a
        set-point or was not seen at rest.
        """
        self._drivers = self._drivers or self._runtime.drivers("watchdog")
        problems = self._read_fleet()
        if self._devices is None:
            return problems
        now = self._clock.now()
        try:
            holds, doubtful = self._holds.read(), {}
        except (HoldsDamaged, OSError) as error:
            problems.append(str(error))
            holds = {}
            doubtful = dict.fromkeys(
                no_failsafe(self._devices)["device_id"], _of_watchdog(str(error))
            )
        why = doubtful | must_rest(self._book.standing(self._devices, now), holds, now)
        self._resting = {name: was for name, was in self._resting.items() if why.get(name) == was}
        results = self._loop.run(self._bring_to_rest(why))
        seen = {name for name, result in results.items() if result.outcome is Outcome.ACKED}
        self._resting |= {name: why[name] for name in seen}
        problems += self._not_at_rest(self._devices, results, why, holds)
        try:
            self._note(results, why)
            if ended := {name: until for name, until in holds.items() if name in seen}:
                self._holds.let_go(ended)
        except (HoldsDamaged, OSError) as error:
            problems.append(f"what was released can't be noted ({error}): give the disk room")
        return problems

    async def _bring_to_rest(self, why: Mapping[str, Cause]) -> dict[str, CommandResult]:
        links = [self._links[name] for name in why if name in self._links]
        resting = [link for link in links if link.device_id in self._resting]
        moving = [link for link in links if link.device_id not in self._resting]
        results, woken = await asyncio.gather(
            release(self._drivers, moving, self._timeout_s),
            obeying(self._drivers, resting, self._timeout_s),
        )
        return results | await release(self._drivers, woken, self._timeout_s)

    def _read_fleet(self) -> list[str]:
        """Read the fleet again if its files have changed; the last one stands if that fails."""
        settings = self._runtime.settings
        files = (settings.fleet_file, settings.endpoints_file)
        changed_at = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in files)
        if changed_at == self._changed_at:
            return []
        try:
            devices = self._runtime.registered_devices()
        except RegistryError as error:
            if self._devices is None and (last := self._runtime.remembered_devices()) is not None:
                self._watch(last)
            return [f"the fleet is watched as it last was, for its registry can't be read: {error}"]
        self._watch(devices)
        self._changed_at = changed_at
        return []

    def _watch(self, devices: pl.DataFrame) -> None:
        self._devices = devices
        links = releasable(devices)
        self._links = {link.device_id: link for link in links}
        without = no_failsafe(self._devices)["device_id"].to_list()
        named = ", ".join(without) or "none"
        _LOG.warning("watching %d devices; without a timer: %s", len(links), named)

    def _note(self, results: Mapping[str, CommandResult], why: Mapping[str, Cause]) -> None:
        """Log what was released, and each failure once. Raises OSError; what is left comes next."""
        now = self._clock.now()
        told = {name: f"{why[name]}: {r.outcome} {r.detail}" for name, r in results.items()}
        new = [
            Release.of(name, now, "watchdog", why[name], result)
            for name, result in results.items()
            if self._told.get(name) != told[name] or result.outcome is Outcome.ACKED
        ]
        self._told = {name: words for name, words in (self._told | told).items() if name in why}
        for each in new:
            _LOG.warning(
                "%s: release %s %s: %s", each.device_id, each.outcome, each.detail, each.why
            )
        self._unnoted += new
        self._log.append(self._unnoted)
        self._unnoted = []

    @staticmethod
    def _not_at_rest(
        devices: pl.DataFrame,
        results: Mapping[str, CommandResult],
        why: Mapping[str, Cause],
        holds: Collection[str],
    ) -> list[str]:
        """Name the devices that must rest and were not seen to."""
        known = set(devices["device_id"])
        left = {name: r.detail for name, r in results.items() if r.outcome is not Outcome.ACKED}
        left |= {name: words for name, words in out_of_reach(devices, holds).items() if name in why}
        left |= {
            name: "held, but not in the registry any more: add it there, or release it on site"
            for name in holds
            if name in why and name not in known
        }
        named = [
            f"{name} is not at rest: {words}" for name, words in list(left.items())[:_NAMED_AT_MOST]
        ]
        more = len(left) - len(named)
        return [*named, f"and {more} more are not at rest"] if more else named

    async def _close(self) -> None:
        await asyncio.gather(*(driver.close() for driver in self._drivers.values()))


def run(runtime: Runtime, every_s: float, stop: Event) -> None:
    """Watch in cycles, `every_s` wall seconds apart, until `stop` is set.

    Raises `WatchdogRuns` where another watches the plant already.
    """
    heartbeat = Heartbeat(runtime.settings.order_dir)
    with heartbeat.held(), Watchdog(runtime, _TIMEOUT_S) as watchdog:
        problems: list[str] = []
        while not stop.is_set():
            _beat(heartbeat, runtime.clock.now(), problems)
            try:
                problems = watchdog.cycle()
            except Exception as error:  # noqa: BLE001 - whatever befalls a cycle, the next one is made
                _LOG.exception("a cycle failed; the next one is made all the same")
                problems = [f"the last cycle failed ({error}): see the watchdog's log"]
            _beat(heartbeat, runtime.clock.now(), problems)
            stop.wait(every_s)


def _beat(heartbeat: Heartbeat, now: datetime, problems: list[str]) -> None:
    """Give a sign of life; a disk without room must not keep devices from being released."""
    try:
        heartbeat.beat(now, problems)
    except OSError as error:
        _LOG.warning("no sign of life can be given (%s): give the disk room", error)
