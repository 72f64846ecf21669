"""Fake devices whose memory is a file, and a plant of them: they outlive a killed push.

`push_until_killed` is for a process of its own: it kills itself with SIGKILL at a point.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline import event_loop
from vpp_pipeline.clock import Clock, ManualClock
from vpp_pipeline.devices.leases import Leases
from vpp_pipeline.devices.protocol import (
    Command,
    CommandResult,
    DeviceLink,
    Outcome,
    ReadBack,
    Unreachable,
)
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.dispatch.commands import DueCommands, PlanRef, due_commands
from vpp_pipeline.dispatch.dispatcher import Dispatcher, PushSettings
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.orders import Kind, Order
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.dispatch.recheck import recheck
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    Battery,
    Fleet,
    GridConnection,
    HttpConnection,
    ModbusConnection,
    MqttConnection,
    Site,
)
from vpp_pipeline.warehouse.store import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vpp_pipeline.dispatch.recheck import RecheckReport
    from vpp_pipeline.dispatch.report import PushReport
    from vpp_pipeline.warehouse.store import Connection

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
BEFORE = START - timedelta(minutes=2)
PLAN = PlanRef("plan-1", 1)
PROTOCOLS = {
    "modbus": ModbusConnection(),
    "mqtt": MqttConnection(),
    "http": HttpConnection(url="http://127.0.0.1:1"),
}
SETTINGS = PushSettings(timeout_s=5, rounds=4, settle_s=1)

Pairs = list[tuple[DeviceLink, Command]]


@cache
def plant(each: int = 2, *, live: bool = True) -> pl.DataFrame:
    """`each` batteries a protocol, called <protocol>-<number>."""
    return device_frame(
        Fleet(
            sites=(
                Site(
                    site_id="site",
                    latitude=52.5,
                    longitude=13.4,
                    grid=GridConnection(import_limit_kw=1000, export_limit_kw=1000),
                    devices=tuple(
                        Battery(
                            device_id=f"{protocol}-{number}",
                            connection=connection,
                            live=live,
                            max_charge_kw=10,
                            max_discharge_kw=10,
                            energy_capacity_kwh=100,
                        )
                        for protocol, connection in PROTOCOLS.items()
                        for number in range(each)
                    ),
                ),
            )
        )
    )


def due(devices: pl.DataFrame, kw: float = 3.0, plan: PlanRef = PLAN) -> DueCommands:
    schedules = devices.select(
        "device_id",
        interval_start=pl.lit(START).cast(pl.Datetime("us", "UTC")),
        power_kw=pl.lit(kw),
        limit_kw=pl.lit(None, pl.Float64),
        energy_kwh=pl.lit(None, pl.Float64),
    )
    return due_commands(plan, schedules, devices, START)


def healthy(devices: pl.DataFrame, at: datetime, energy_kwh: float | None = 50.0) -> pl.DataFrame:
    """Telemetry of every device, measured at `at`."""
    schema = Telemetry.create_empty().schema
    rows = [
        {
            "device_id": name,
            "measured_at": at,
            "energy_kwh": energy_kwh,
            "plugged_in": True,
            "status": "ok",
        }
        for name in devices["device_id"]
    ]
    return pl.DataFrame(rows, schema=schema)


class FileDriver:
    """Devices of one protocol; each writes every set-point it is given to a file of its own.

    Nothing is recognised as a repetition: a second delivery is a second application. Modbus
    devices can't name the command they obey, but tell their timer; the others the reverse.
    """

    def __init__(self, directory: Path, clock: Clock, protocol: str) -> None:
        self._directory = directory
        self._clock = clock
        self._modbus = protocol == "modbus"
        self.after_send: Callable[[], None] = lambda: None
        self.commanded: list[Command] = []

    def applications(self, device_id: str) -> list[dict[str, object]]:
        path = self._directory / device_id
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def forget(self, device_id: str) -> None:
        """Let the device fall back to its default."""
        (self._directory / device_id).unlink()

    def stand(self, device_id: str, kw: float, command_id: str, until: datetime) -> None:
        """Give the device a set-point, whoever does it."""
        entry = {"kw": kw, "command_id": command_id, "until": until.isoformat()}
        with (self._directory / device_id).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    async def command(
        self, commands: Pairs, now: datetime, timeout_s: float, tell: object = None
    ) -> list[CommandResult]:
        for link, command in commands:
            self.commanded.append(command)
            self.stand(link.device_id, command.power_kw, command.command_id, command.valid_until)
        self.after_send()
        return [CommandResult(c.command_id, Outcome.ACKED, str(c.power_kw)) for _, c in commands]

    async def read_back(
        self, commands: Pairs, timeout_s: float, tell: object = None
    ) -> list[ReadBack | Unreachable]:
        return [self._standing(link, command) for link, command in commands]

    def _standing(self, link: DeviceLink, command: Command) -> ReadBack:
        applied = self.applications(link.device_id)
        if not applied:
            return ReadBack(link.device_id, False, None, raw="none")
        kw, command_id = float(str(applied[-1]["kw"])), str(applied[-1]["command_id"])
        left = datetime.fromisoformat(str(applied[-1]["until"])) - self._clock.now()
        return ReadBack(
            link.device_id,
            matches=kw == command.power_kw,
            setpoint_kw=kw,
            raw=json.dumps(applied[-1]),
            command_id=None if self._modbus else command_id,
            timer_remaining_s=left.total_seconds() if self._modbus else None,
        )

    async def read(self, links, timeout_s):
        raise NotImplementedError

    async def release(self, links, timeout_s):
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""


def answering(outcome: Outcome, *, times: int = 99):
    """A driver's `command` that gives this answer some times, and delivers only then."""
    left = [times]

    def wrap(driver):
        deliver = driver.command

        async def command(commands, now, timeout_s, tell):
            if left[0] == 0:
                return await deliver(commands, now, timeout_s, tell)
            left[0] -= 1
            driver.commanded += [c for _, c in commands]
            return [CommandResult(c.command_id, outcome, "", "as told") for _, c in commands]

        driver.command = command

    return wrap


class Bench:
    """A warehouse, a clock, devices and a driver a protocol, in one directory."""

    def __init__(self, directory: Path, now: datetime = BEFORE) -> None:
        self.clock = ManualClock(now)
        self.ledger = Ledger(Warehouse(directory / "warehouse"))
        self.orders = OrderBook(directory / "orders")
        self.holds = Holds(directory / "orders")
        self.leases = Leases(directory / "leases", "test")
        self.devices = plant()
        (directory / "devices").mkdir(exist_ok=True)
        self.drivers = {
            protocol: FileDriver(directory / "devices", self.clock, protocol)
            for protocol in PROTOCOLS
        }
        self.energy_kwh: float | None = 50.0

    def push(
        self,
        what: DueCommands | None = None,
        plan: PlanRef = PLAN,
        settings: PushSettings = SETTINGS,
    ) -> PushReport:
        asked = due(self.devices, plan=plan) if what is None else what
        return event_loop.run(push(self.dispatcher(settings), plan, asked, self.devices, START))

    def recheck(self, after: timedelta) -> RecheckReport:
        """Look again, so long after START."""
        self.clock.sleep_until(START + after)
        return event_loop.run(recheck(self.dispatcher(SETTINGS), self.devices))

    def dispatcher(self, settings: PushSettings) -> Dispatcher:
        return Dispatcher(
            ledger=self.ledger,
            drivers=self.drivers,
            clock=self.clock,
            read_states=lambda: healthy(self.devices, self.clock.now(), self.energy_kwh),
            orders=self.orders,
            holds=self.holds,
            leases=self.leases,
            actor="test",
            settings=settings,
        )

    def give(self, kind: Kind, scope: str, **fields: object) -> Order:
        """Give an order now; a timed one for two hours."""
        if kind in {"override", "grid_limit"}:
            fields = {"valid_until": self.clock.now() + timedelta(hours=2), **fields}
        order = Order(
            order_id=f"order-{len(self.orders.read())}",
            kind=kind,
            scope=scope,
            who="op",
            why="a test",
            given_at=self.clock.now(),
            **fields,
        )
        self.orders.give(order)
        return order

    def states(self) -> dict[str, str]:
        """Return the state of each device's newest command."""
        return dict(self.ledger.newest(START).select("device_id", "state").rows())

    def events(self, device_id: str) -> list[str]:
        return self.ledger.history(device_id, START + timedelta(minutes=10))["state"].to_list()

    def applications(self) -> dict[str, int]:
        return {
            name: len(self.drivers[name.split("-")[0]].applications(name))
            for name in self.devices["device_id"]
        }


class Watched(Warehouse):
    """A warehouse that tells of each write, all but committed."""

    before_commit: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def write(self, purpose: str = "write") -> Iterator[Connection]:
        with super().write(purpose) as connection:
            yield connection
            self.before_commit()


class Doomed(Ledger):
    """A ledger whose process dies just before, in or after the nth write of a kind."""

    def __init__(self, warehouse: Watched, point: str, nth: int) -> None:
        super().__init__(warehouse)
        self._watched = warehouse
        self._point = point
        self._left = nth

    def record_intents(self, commands, at, actor):
        with self._dying("intents"):
            return super().record_intents(commands, at, actor)

    def record_claimed_intents(self, commands, batch, at, actor):
        with self._dying("intents"):
            return super().record_claimed_intents(commands, batch, at, actor)

    def record_events(self, batch):
        with self._dying(batch["state"].cast(pl.String)[0]):
            return super().record_events(batch)

    @contextmanager
    def _dying(self, what: str) -> Iterator[None]:
        self.reached(f"before {what}")
        self._watched.before_commit = lambda: self.reached(f"before commit of {what}")
        yield
        self.reached(f"after {what}")

    def reached(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def push_until_killed(directory: Path, point: str, nth: int, now: datetime) -> None:
    """Push one interval at `now`, and die the `nth` time that the push comes to the point."""
    bench = Bench(directory, now)
    doomed = Doomed(Watched(directory / "warehouse"), point, nth)
    bench.ledger = doomed
    for driver in bench.drivers.values():
        driver.after_send = lambda: doomed.reached("after send")
    bench.push()
