"""A small real plant, driven over an interval or two with a fault in between.

Belongs here: a real ledger and push, and what a scenario may do to the plant. Does not: its
devices (`faults_devices`), the faults themselves, the judgements, any expectation.

Of each protocol device 1 stands behind a proxy of its own, and device 2 does not.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import polars as pl
from faults_clock import FaultClock
from faults_devices import Peculiar, PlantDevices
from faults_judgement import FINAL, Bound, Evidence, judge
from faults_plant import FaultyPlant, devices_of, fleet
from faults_proxy import honest

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.collector import poll, telemetry_rows
from vpp_pipeline.dispatch.commands import PlanRef, due_commands, interval_number
from vpp_pipeline.dispatch.dispatcher import PushSettings
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.orders import Order
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.dispatch.recheck import recheck
from vpp_pipeline.fleet.document import to_document
from vpp_pipeline.fleet.frame import with_endpoints
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import Settings
from vpp_pipeline.warehouse import landing
from vpp_pipeline.warehouse.store import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vpp_pipeline.devices.protocol import Reading
    from vpp_pipeline.dispatch.dispatcher import Dispatcher
    from vpp_pipeline.dispatch.recheck import RecheckReport
    from vpp_pipeline.dispatch.report import PushReport

START = datetime(2020, 8, 13, 6, 30, tzinfo=UTC)  # a vehicle stands at either charger
QUARTER = timedelta(minutes=15)
LEAD = timedelta(minutes=2)
PLAN_KW = {0: 3.0, 1: 2.0}  # by interval; chargers draw as much
PATIENCE_S = 6.0
SHORT_S = 1.5  # for what will not answer, and still enough for what will, on a busy machine
_COLLECTIONS = 3
SCHEDULE = {
    "device_id": pl.String,
    "interval_start": pl.Datetime("us", "UTC"),
    "power_kw": pl.Float64,
    "limit_kw": pl.Float64,
    "energy_kwh": pl.Float64,
}


class Hooked:
    """A driver that tells when a batch of commands is about to go, and when it has gone."""

    def __init__(self, driver: Any, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._driver, self._before, self._after = driver, before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def command(self, *asked: Any) -> Any:
        await asyncio.to_thread(self._before)
        told = await self._driver.command(*asked)
        await asyncio.to_thread(self._after)
        return told


class Story:
    """One plant in a temporary home; a context that ends all of it."""

    def __init__(
        self,
        protocols: Sequence[str],
        *,
        start: datetime = START,
        webhook_port: int | None = None,
        **peculiar: Any,
    ) -> None:
        self.protocols, self.start_at = tuple(protocols), start
        self._peculiar = Peculiar(**peculiar)
        self.true_clock = ManualClock(start - LEAD)
        self.clock = FaultClock(self.true_clock)
        self.devices = devices_of(protocols)
        self.plant = FaultyPlant(self.devices, self.true_clock)
        self.before_send: dict[str, Callable[[], None]] = {}
        self.after_send: dict[str, Callable[[], None]] = {}
        self.settings = PushSettings(timeout_s=PATIENCE_S, rounds=3)
        self.reports: list[PushReport] = []
        self._webhook_port = webhook_port
        self._bounds: list[Bound] = []
        self._clock_was_set = False
        self._last = start
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self.home = Path(starting.enter_context(tempfile.TemporaryDirectory(prefix="vpp-")))
            settings = Settings(
                self.home,
                self.home / "fleet.yaml",
                "recorded",
                "",
                webhook_port=self._webhook_port,
            )
            settings.fleet_file.write_text(_registry(self.protocols))
            settings.simulation_dir.mkdir()
            self.runtime = Runtime(settings, self.clock, Warehouse(settings.warehouse_dir))
            self.site = starting.enter_context(
                PlantDevices(self.protocols, self.plant, self.runtime, self._peculiar)
            )
            self.proxies = self.site.proxies
            settings.endpoints_file.write_text(json.dumps(self.site.endpoints))
            self.devices = with_endpoints(self.devices, self.site.endpoints)
            self.true_clock.on_move = self.site.step
            self._running = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    # What a scenario does.

    def collect(self) -> pl.DataFrame:
        """Ask all devices for their telemetry, and land it; again where a busy machine was slow."""
        for _ in range(_COLLECTIONS):
            rows = self._collected()
            if (rows["status"].cast(pl.String) != "offline").all():
                break
        return rows

    def _collected(self) -> pl.DataFrame:

        async def asked() -> pl.DataFrame:
            drivers = self.runtime.drivers("collector")
            try:
                answers = await poll(
                    {p: drivers[p] for p in self.protocols}, device_links(self.devices), PATIENCE_S
                )
            finally:
                await asyncio.gather(*(driver.close() for driver in drivers.values()))
            return telemetry_rows(answers, self.clock.now())

        rows = event_loop.run(asked())
        landing.land(self.runtime.settings.landing_dir, "telemetry", rows, self.clock.now())
        return rows

    def land(self, *readings: Reading) -> None:
        """Land these readings, as if they had been collected."""
        rows = telemetry_rows(readings, self.clock.now())
        landing.land(self.runtime.settings.landing_dir, "telemetry", rows, self.clock.now())

    def push(
        self,
        interval: int = 0,
        *,
        kw: float | Mapping[str, float] | None = None,
        version: int = 1,
        collect: bool = True,
        schedules: pl.DataFrame | None = None,
    ) -> PushReport:
        """Bring the plan's set-points of an interval to the devices, as its dispatch run does."""
        if collect:
            self.collect()
        start = self.start_at + interval * QUARTER
        self._last = max(self._last, start)
        plan = PlanRef(f"plan-{version}", version)
        wished = (
            usual_schedule(self.devices, start, interval, kw) if schedules is None else schedules
        )
        due = due_commands(plan, wished, self.devices, start)

        async def pushed() -> PushReport:
            async with self.runtime.dispatching("faults") as dispatcher:
                return await push(self.hooked(dispatcher), plan, due, self.devices, start)

        self.reports.append(event_loop.run(pushed()))
        return self.reports[-1]

    def recheck(self, after: timedelta = timedelta(minutes=6)) -> RecheckReport:
        """Look again at the first interval's set-points, so long after its start."""
        self.true_clock.sleep_until(self.start_at + after)
        self.collect()

        async def rechecked() -> RecheckReport:
            async with self.runtime.dispatching("faults") as dispatcher:
                return await recheck(self.hooked(dispatcher), self.devices)

        return event_loop.run(rechecked())

    def next_interval(self, **fields: Any) -> PushReport:
        """Go on to the second interval and push it."""
        self.true_clock.sleep_until(self.start_at + QUARTER - LEAD)
        return self.push(1, version=2, **fields)

    def order(self, kind: str, scope: str, **fields: Any) -> Order:
        """Put an order in the book, as another process would."""
        now = self.clock.now()
        if kind in {"override", "grid_limit"}:
            fields = {"valid_until": now + timedelta(hours=2), **fields}
        order = Order(
            order_id=f"{kind}-{len(self._bounds)}",
            kind=kind,
            scope=scope,
            who="kim",
            why="a fault",
            given_at=now,
            **fields,
        )
        OrderBook(self.runtime.settings.order_dir).give(order)
        return order

    def bound(self, device_id: str | None, low_kw: float, high_kw: float) -> None:
        """Hold what is applied from now on against this, in the first judgement."""
        self._bounds.append(Bound(len(self.plant.record), device_id, low_kw, high_kw))

    def set_clock(self, error: timedelta) -> None:
        """Set the machine's clock wrong, or right again."""
        self.clock.error = error
        self._clock_was_set = True

    def hurry(self) -> None:
        """Wait less for answers, where one will not come."""
        self.settings = replace(self.settings, timeout_s=SHORT_S)

    def mend(self) -> None:
        """Let every line pass again what comes, and wait for it."""
        self.settings = replace(self.settings, timeout_s=PATIENCE_S)
        for proxy in self.proxies.values():
            proxy.fault = honest

    def hooked(self, dispatcher: Dispatcher) -> Dispatcher:
        """Return the dispatcher with this story's settings, told of by its hooks."""
        drivers = {
            protocol: Hooked(
                driver,
                self.before_send.get(protocol, lambda: None),
                self.after_send.get(protocol, lambda: None),
            )
            for protocol, driver in dispatcher.drivers.items()
            if protocol in self.protocols
        }
        return replace(dispatcher, drivers=drivers, settings=self.settings)

    # What came of it.

    def ledger(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the ledger's tables, with each event's device and interval."""
        with self.runtime.warehouse.read() as connection:
            commands = connection._session.sql("SELECT * FROM commands").pl()
            events = connection._session.sql("SELECT * FROM command_events ORDER BY event_id").pl()
        of = commands.select("command_id", "device_id", "interval_start", "valid_until")
        return commands, events.join(of, on="command_id", how="left", maintain_order="left")

    def path(self, device_id: str, interval: int = 0) -> list[str]:
        """Return the states that a device's commands of an interval went through."""
        _, events = self.ledger()
        return events.filter(
            pl.col("device_id") == device_id,
            pl.col("interval_start") == self.start_at + interval * QUARTER,
        )["state"].to_list()

    def steps(self, device_id: str, interval: int = 0) -> list[str]:
        """Return `path` without acknowledgements: some drivers verify in the same breath."""
        return [state for state in self.path(device_id, interval) if state != "ACKED"]

    def id(self, device_id: str, interval: int = 0, version: int = 1) -> str:
        """Return the id that a device's command of an interval has."""
        return f"{device_id}.v{version}.{interval_number(self.start_at + interval * QUARTER)}"

    def words(self, device_id: str, interval: int = 0) -> str:
        """Return all that the ledger tells of them, as one text."""
        _, events = self.ledger()
        return " | ".join(
            events.filter(
                pl.col("device_id") == device_id,
                pl.col("interval_start") == self.start_at + interval * QUARTER,
            )["detail"].to_list()
        )

    def applications(self, device_id: str) -> list[float]:
        """Return the set-points of ours that took effect at a device."""
        return [
            round(a.kw, 3) for a in self.plant.record if a.device_id == device_id and not a.foreign
        ]

    def finish(self) -> None:
        """Let the last interval end, and make the four judgements."""
        self.true_clock.sleep_until(self._last + QUARTER + timedelta(minutes=1))
        self.clock.error = timedelta(0)
        following = self._last + QUARTER
        nothing = due_commands(
            PlanRef("plan-9", 9), pl.DataFrame(schema=SCHEDULE), self.devices, following
        )

        async def closed() -> None:
            async with self.runtime.dispatching("faults") as dispatcher:
                plan = PlanRef("plan-9", 9)
                await push(self.hooked(dispatcher), plan, nothing, self.devices, following)

        event_loop.run(closed())
        commands, events = self.ledger()
        told = events.with_columns(clock_was_set=pl.lit(self._clock_was_set))
        judge(Evidence(self.plant.record, self._bounds, commands, told))

    def summary(self) -> str:
        """Return what the ledger says, in a line."""
        _, events = self.ledger()
        if events.is_empty():
            return "no command was ever stored"
        last = events.group_by("command_id", maintain_order=True).last()
        counts = Counter(last["state"].to_list())
        paths = {
            " → ".join(of_one["state"].to_list()): device_id
            for (_, device_id), of_one in events.group_by(
                "command_id", "device_id", maintain_order=True
            )
            if str(device_id).endswith("-1")
        }
        longest = max(paths, key=len, default="")
        ends = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
        assert set(counts) <= FINAL
        return f"{paths.get(longest, '')}: {longest}; in all {ends}"


def usual_schedule(
    devices: pl.DataFrame,
    start: datetime,
    interval: int,
    kw: float | Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """Return what the plan asks of each device: `kw`, where that says it, else `PLAN_KW`."""
    rows = []
    for device_id in devices["device_id"].to_list():
        sign = -1.0 if device_id.startswith("ocpp") else 1.0
        usual = PLAN_KW.get(interval, 1.0) * sign
        wish = kw.get(device_id, usual) if isinstance(kw, dict) else kw
        rows.append((device_id, start, usual if wish is None else wish, None, None))
    return pl.DataFrame(rows, schema=SCHEDULE, orient="row")


def _registry(protocols: Sequence[str]) -> str:
    """Return the fleet as a registry file, for the central system's list of charge points."""
    return to_document(fleet(protocols))
