"""A broker killed with SIGKILL in a burst of commands: what came of each of them.

Belongs here: one push to simulated devices in a process of their own, the kill, the count. Does
not: the driver's rate (other programs measure it).

    python benchmarks/broker_killed.py [COMMANDS]

Devices and push come with the accounts of a simulated plant. When a third of the commands has been
applied, mosquitto is killed and, half a second later, started again at its port. At the end each
command must be VERIFIED in the ledger and applied exactly once at its device, by the device's own
journal. Exits with 1 if one is not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import psutil

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ScaledClock
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.leases import Leases
from vpp_pipeline.devices.mqtt import MqttDriver
from vpp_pipeline.devices.mqtt_client import BrokerAddress
from vpp_pipeline.devices.protocol import Reading
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.dispatch.commands import PlanRef, due_commands
from vpp_pipeline.dispatch.dispatcher import Dispatcher, PushSettings
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.dispatch.spread import SpreadSettings
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import Battery, Fleet, GridConnection, MqttConnection, Site
from vpp_pipeline.simulation.broker import Broker, start_broker
from vpp_pipeline.simulation.broker_access import SIMULATED_BROKER, generated_access
from vpp_pipeline.simulation.command_queue import SimulatedDevice
from vpp_pipeline.simulation.mqtt_devices import MqttDevices
from vpp_pipeline.simulation.plant_protocol import AppliedSetpoint
from vpp_pipeline.warehouse.store import Warehouse

if TYPE_CHECKING:
    from vpp_pipeline.dispatch.report import PushReport

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
PLAN = PlanRef("burst", 1)
LIMIT_KW = 5.0
DOWN_S = 0.5


def clock(anchor_epoch_s: float) -> ScaledClock:
    """The clock that push and devices share: the interval has just begun."""
    return ScaledClock(START + timedelta(seconds=1), anchor_epoch_s, 1.0)


class JournalPlant:
    """Devices that obey at once and write every application down."""

    def __init__(self, journal: Path, anchor_epoch_s: float) -> None:
        self.clock = clock(anchor_epoch_s)
        self._journal = journal.open("a", buffering=1)
        self._setpoints: dict[str, AppliedSetpoint] = {}

    def apply(
        self, device_id: str, setpoint_kw: float, until: datetime, command_id: str | None = None
    ) -> None:
        self._journal.write(f"{device_id} {command_id}\n")
        self._setpoints[device_id] = AppliedSetpoint(setpoint_kw, until, command_id)

    def release(self, device_id: str) -> None:
        self._setpoints.pop(device_id, None)

    def setpoint(self, device_id: str) -> AppliedSetpoint | None:
        return self._setpoints.get(device_id)

    def reading(self, device_id: str) -> Reading:
        standing = self.setpoint(device_id)
        kw = standing.setpoint_kw if standing else None
        return Reading(device_id, self.clock.now(), power_kw=kw or 0.0, setpoint_kw=kw)

    def is_out(self, _device_id: str) -> bool:
        return False


def names(commands: int) -> list[str]:
    return [f"battery-{number}" for number in range(commands)]


def be_devices(directory: Path, endpoint: str, commands: int, anchor_epoch_s: float) -> None:
    """Run the devices until standard input closes."""
    known = Credentials.read({}, generated=directory / "credentials.toml")
    plant = JournalPlant(directory / "journal", anchor_epoch_s)
    nameplates = [
        SimulatedDevice(n, LIMIT_KW, LIMIT_KW, controllable=True) for n in names(commands)
    ]
    devices = MqttDevices(nameplates, plant)
    devices.start(BrokerAddress(endpoint, credential=known.named(SIMULATED_BROKER, "devices")))
    print("ready", flush=True)
    sys.stdin.read()
    devices.stop()


def fleet(endpoint: str, commands: int) -> pl.DataFrame:
    host, _, port = endpoint.rpartition(":")
    wire = MqttConnection(host=host, port=int(port), credentials=SIMULATED_BROKER)
    devices = tuple(
        Battery(
            device_id=name,
            connection=wire,
            live=True,
            max_charge_kw=LIMIT_KW,
            max_discharge_kw=LIMIT_KW,
            energy_capacity_kwh=100,
        )
        for name in names(commands)
    )
    grid = GridConnection(import_limit_kw=1e6, export_limit_kw=1e6)
    site = Site(site_id="site", latitude=52.5, longitude=13.4, grid=grid, devices=devices)
    return device_frame(Fleet(sites=(site,)))


def healthy(devices: pl.DataFrame, at: datetime) -> pl.DataFrame:
    rows = [
        {"device_id": n, "measured_at": at, "power_kw": 0.0, "energy_kwh": 50.0, "status": "ok"}
        for n in devices["device_id"]
    ]
    return pl.DataFrame(rows, schema=Telemetry.create_empty().schema)


def applied(directory: Path) -> list[str]:
    journal = directory / "journal"
    return journal.read_text().splitlines() if journal.exists() else []


class Killer(threading.Thread):
    """Kills the broker in the middle of the burst, and starts it again."""

    def __init__(self, directory: Path, broker: Broker, commands: int) -> None:
        super().__init__(daemon=True)
        self.broker = broker
        self.killed_after = 0
        self._directory = directory
        self._commands = commands

    def run(self) -> None:
        while len(applied(self._directory)) < self._commands // 3:
            time.sleep(0.002)
        parts = psutil.Process(self.broker.process.pid).children()
        next(part for part in parts if part.name() == "mosquitto").kill()
        self.killed_after = len(applied(self._directory))
        self.broker.stop()
        time.sleep(DOWN_S)
        access = generated_access(self._directory / "credentials.toml")
        self.broker = start_broker(self._directory / "broker", self.broker.port, access)


def burst(directory: Path, broker: Broker, commands: int, anchor_epoch_s: float) -> PushReport:
    """Push one interval to all devices."""
    frame = fleet(broker.endpoint, commands)
    now = clock(anchor_epoch_s)
    known = Credentials.read({}, generated=directory / "credentials.toml")
    schedules = frame.select(
        "device_id",
        interval_start=pl.lit(START).cast(pl.Datetime("us", "UTC")),
        power_kw=pl.lit(3.0),
        limit_kw=pl.lit(None, pl.Float64),
        energy_kwh=pl.lit(None, pl.Float64),
    )
    driver = MqttDriver("dispatcher", now, lambda: known)
    dispatcher = Dispatcher(
        ledger=Ledger(Warehouse(directory / "warehouse")),
        drivers={"mqtt": driver},
        clock=now,
        read_states=lambda: healthy(frame, now.now()),
        orders=OrderBook(directory / "orders"),
        holds=Holds(directory / "orders"),
        leases=Leases(directory / "leases", "benchmark"),
        actor="benchmark",
        settings=PushSettings(spread=SpreadSettings(window=timedelta(0)), timeout_s=20.0, rounds=6),
    )

    async def run() -> PushReport:
        try:
            due = due_commands(PLAN, schedules, frame, START)
            return await push(dispatcher, PLAN, due, frame, START)
        finally:
            await driver.close()

    return event_loop.run(run())


def run(directory: Path, commands: int) -> dict[str, object]:
    """Run it all in `directory`; return the figures."""
    anchor = time.time()
    access = generated_access(directory / "credentials.toml")
    killer = Killer(directory, start_broker(directory / "broker", access=access), commands)
    arguments = [str(directory), killer.broker.endpoint, str(commands), str(anchor)]
    with subprocess.Popen(
        [sys.executable, __file__, "devices", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as devices:
        try:
            assert devices.stdout is not None
            assert devices.stdout.readline() == b"ready\n"
            killer.start()
            began = time.perf_counter()
            report = burst(directory, killer.broker, commands, anchor)
            took_s = time.perf_counter() - began
        finally:
            devices.communicate()
            killer.join(60)
            killer.broker.stop()
    times = Counter(applied(directory))
    states = {str(state): count for state, count in report.counts.items()}
    return {
        "commands": commands,
        "killed_after": killer.killed_after,
        "states": states,
        "lost": commands - len(times),
        "doubled": sum(count > 1 for count in times.values()),
        "unresolved": commands - states.get("VERIFIED", 0),
        "seconds": round(took_s, 1),
    }


def main(commands: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        figures = run(Path(directory), commands)
    print(json.dumps(figures))
    broken = [name for name in ("lost", "doubled", "unresolved") if figures[name]]
    assert 0 < int(str(figures["killed_after"])) < commands, (
        "the broker was not killed in the burst"
    )
    if broken:
        sys.exit(f"broken: {', '.join(broken)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["devices"]:
        be_devices(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 3000)
