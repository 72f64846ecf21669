"""How fast commands reach their devices and are known to stand there, beside the bare libraries.

Belongs here: our side, the alternation of the two, the check of every device, the table. Does not:
the bare side (`dispatch_bare`), the devices (`dispatch_devices`).

    python -m benchmarks.dispatch [--modbus 1000] [--mqtt 10000] [--repeat 5]

Ours is `dispatch.push` as a dispatch run makes it, drivers opened and closed within: guard under a
standing grid limit, intents and claims, send, answers and read-back, each in the ledger on the disk.
Fails where a device was not told exactly once, or holds another value.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count as count_from
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from benchmarks.dispatch_bare import BareModbus, BareMqtt
from benchmarks.dispatch_devices import CAPACITY_KWH, LIMIT_KW, name_of
from vpp_pipeline import event_loop
from vpp_pipeline.clock import ScaledClock
from vpp_pipeline.devices import sunspec
from vpp_pipeline.devices.leases import Leases
from vpp_pipeline.devices.modbus import ModbusDriver
from vpp_pipeline.devices.modbus_session import open_session
from vpp_pipeline.devices.mqtt import MqttDriver
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.devices.sunspec_control import CONTROL_MODEL
from vpp_pipeline.devices.sunspec_models import models
from vpp_pipeline.devices.sunspec_reading import HEARTBEAT_MODEL
from vpp_pipeline.dispatch.commands import PlanRef, due_commands
from vpp_pipeline.dispatch.dispatcher import Dispatcher, PushSettings
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.orders import Order
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.dispatch.spread import SpreadSettings
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    Battery,
    Fleet,
    GridConnection,
    ModbusConnection,
    MqttConnection,
    Site,
)
from vpp_pipeline.simulation.broker import start_broker
from vpp_pipeline.warehouse.store import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from vpp_pipeline.devices.protocol import Driver

START = datetime(2026, 3, 1, tzinfo=UTC)
STEP = timedelta(minutes=15)
_ROOT = Path(__file__).parent.parent
_TABLE = _ROOT / "docs" / "benchmarks" / "dispatch.md"
_BAR = 0.60
_DEAD_SHARE = 10
_MOST_COST = 0.05
_SAME_KW = 1e-9
_WORDS = """\
CPU is that of the commanding process. Devices run in processes of their own on the same cores, so
that what they take counts on both sides. In each round every device is asked whether it was told
exactly once, and what; a wrong answer ends the benchmark.

The bare libraries run on asyncio's own loop, ours on the pipeline's (uvloop's).

Ours is a whole push, with drivers opened and closed within: guard under a standing grid limit,
intents and claims stored, send, answers and read-backs stored. Each stored batch is one durable
transaction. A Modbus device is sent three requests (its scale factors and local control; one
frame of set-point and timer; what it made of them) on a connection under a lease; the bare loop
sends two and trusts the first, but for the row in which it sends all three. An MQTT command counts
as done when its ack is safe in the ledger.

What a push costs before its first device, mostly for guard and ledger, hardly grows with its size:
10,000 devices pay little of it each, 1,000 a good deal.

    python -m benchmarks.dispatch --write
"""


@dataclass(frozen=True)
class Took:
    """What one repetition took: on the clock, and of our own process's CPU."""

    wall_s: float
    cpu_s: float


class DeviceProcess:
    """A process of `dispatch_devices`."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.dispatch_devices", *arguments],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.links: dict[str, tuple[str, int]] = {
            name: (endpoint, unit_id) for name, (endpoint, unit_id) in self._told()["links"].items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def take(self) -> dict[str, tuple[int, float, float]]:
        """Return what each device was told since the last time."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._told()

    def _told(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told


class TimedLedger(Ledger):
    """A ledger that notes when answers were safe in it."""

    def __init__(self, warehouse: Warehouse) -> None:
        super().__init__(warehouse)
        self.acked_at = Took(0.0, 0.0)
        self.verified_at: dict[str, float] = {}
        """By device, on the monotonic clock."""
        self._began = Took(0.0, 0.0)
        self._stages: dict[str, list[float]] = {}
        """CPU seconds from push to push, by what was reached."""

    def begin(self) -> None:
        """Note that a push begins."""
        self._began = Took(time.perf_counter(), time.process_time())

    def reached(self, stage: str) -> None:
        """Note the CPU that the push took up to here."""
        self._stages.setdefault(stage, []).append(time.process_time() - self._began.cpu_s)

    def stages(self) -> list[str]:
        """Return a row a stage: its own CPU, of all pushes but the first."""
        medians = {stage: median(taken[1:]) for stage, taken in self._stages.items()}
        begins = [0.0, *medians.values()]
        return [
            f"| of ours: {stage} | | {until_s - since_s:.2f} s CPU | | |"
            for (stage, until_s), since_s in zip(medians.items(), begins, strict=False)
        ]

    def record_claimed_intents(
        self, commands: pl.DataFrame, batch: pl.DataFrame, at: datetime, actor: str
    ) -> pl.DataFrame:
        refused = super().record_claimed_intents(commands, batch, at, actor)
        self.reached("the past closed, telemetry and orders read, guard, intents and claims stored")
        return refused

    def record_events(self, batch: pl.DataFrame) -> pl.DataFrame:
        refused = super().record_events(batch)
        state = pl.col("state").cast(pl.String)
        if not batch.filter(state == State.ACKED.value).is_empty():
            self.acked_at = Took(time.perf_counter(), time.process_time())
        verified = batch.filter(state == State.VERIFIED.value)["command_id"]
        names = verified.str.split(".").list.first().to_list()
        self.verified_at |= dict.fromkeys(names, time.monotonic())
        return refused


class Ours:
    """A plant's dispatch: each run pushes the next quarter-hour, as a process of its own would."""

    def __init__(
        self,
        directory: Path,
        devices: pl.DataFrame,
        protocol: str,
        driver: Callable[[ScaledClock], Driver],
    ) -> None:
        self.ledger = TimedLedger(Warehouse(directory / "warehouse"))
        self._directory = directory
        self._devices = devices
        self._protocol = protocol
        self._driver = driver
        self._runs = 0
        OrderBook(directory / "orders").give(
            Order(
                order_id="limit",
                kind="grid_limit",
                scope="fleet",
                who="grid operator",
                why="benchmark",
                given_at=START,
                valid_until=START + timedelta(days=30),
                min_kw=-1e5,
                max_kw=1e5,
            )
        )

    async def command(self, setpoints_kw: Mapping[str, float]) -> dict[str, int]:
        """Push one quarter-hour; return how many commands ended in which state."""
        start = START + self._runs * STEP
        self._runs += 1
        clock = ScaledClock(start + timedelta(seconds=1), time.time(), 1.0)
        plan = PlanRef("benchmark", 1)
        frame = self._devices.filter(pl.col("device_id").is_in(list(setpoints_kw)))
        schedules = pl.DataFrame(
            {"device_id": list(setpoints_kw), "power_kw": list(setpoints_kw.values())}
        ).with_columns(
            interval_start=pl.lit(start).cast(pl.Datetime("us", "UTC")),
            limit_kw=pl.lit(None, pl.Float64),
            energy_kwh=pl.lit(None, pl.Float64),
        )
        driver = self._driver(clock)
        dispatcher = Dispatcher(
            ledger=self.ledger,
            drivers={self._protocol: driver},
            clock=clock,
            read_states=lambda: _healthy(frame, clock.now()),
            orders=OrderBook(self._directory / "orders"),
            holds=Holds(self._directory / "orders"),
            leases=Leases(self._directory / "leases", "benchmark"),
            actor="benchmark",
            settings=PushSettings(
                spread=SpreadSettings(window=timedelta(0)), timeout_s=20.0, settle_s=0.0
            ),
        )
        self.ledger.begin()
        try:
            due = due_commands(plan, schedules, frame, start)
            report = await push(dispatcher, plan, due, frame, start)
        finally:
            await driver.close()
        self.ledger.reached("devices asked, answers and read-backs stored, report")
        return {str(state): count for state, count in report.counts.items()}


def _fleet(connections: Mapping[str, ModbusConnection | MqttConnection]) -> pl.DataFrame:
    devices = tuple(
        Battery(
            device_id=name,
            connection=connection,
            live=True,
            max_charge_kw=LIMIT_KW,
            max_discharge_kw=LIMIT_KW,
            energy_capacity_kwh=CAPACITY_KWH,
        )
        for name, connection in connections.items()
    )
    grid = GridConnection(import_limit_kw=1e6, export_limit_kw=1e6)
    site = Site(site_id="site", latitude=52.5, longitude=13.4, grid=grid, devices=devices)
    return device_frame(Fleet(sites=(site,)))


def _healthy(devices: pl.DataFrame, at: datetime) -> pl.DataFrame:
    schema = Telemetry.create_empty().schema
    told = devices.select(
        "device_id",
        measured_at=pl.lit(at),
        power_kw=pl.lit(0.0),
        energy_kwh=pl.lit(CAPACITY_KWH / 2),
        status=pl.lit("ok"),
    )
    return pl.concat(
        [pl.DataFrame(schema=schema), told.cast({"status": schema["status"]})],
        how="diagonal_relaxed",
    )


def _setpoints(names: Sequence[str], run: int) -> dict[str, float]:
    """Return set-points that differ from device to device and from run to run."""
    return {name: (1 + (7 * n + 11 * run) % 39) / 10 for n, name in enumerate(names)}


def _check(processes: Sequence[DeviceProcess], asked_kw: Mapping[str, float]) -> dict[str, float]:
    """Return when each device's set-point was read back. Raises where one is not as asked."""
    told = {name: t for process in processes for name, t in process.take().items()}
    wrong = [
        name
        for name, kw in asked_kw.items()
        if name not in told or told[name][0] != 1 or abs(told[name][1] - kw) > _SAME_KW
    ]
    if wrong or told.keys() - asked_kw.keys():
        raise AssertionError(
            f"{len(wrong)} devices were not told once what was asked, such as {wrong[:3]}:"
            f" {[told.get(name) for name in wrong[:3]]}"
        )
    return {name: at for name, (_, _, at) in told.items()}


@contextmanager
def _timed(into: list[Took]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into.append(Took(time.perf_counter() - wall, time.process_time() - cpu))


def _must_be_verified(counts: Mapping[str, int], expected: int) -> None:
    if counts != {"VERIFIED": expected}:
        raise AssertionError(f"of {expected} commands: {counts}")


def _modbus(directory: Path, count: int, repeat: int) -> list[str]:
    with ExitStack() as stack:
        bare_loop = stack.enter_context(asyncio.Runner())  # as anyone uses the bare library
        our_loop = stack.enter_context(event_loop.runner())
        halves = [(0, count // 2), (count // 2, count - count // 2)]
        processes = [
            stack.enter_context(DeviceProcess("modbus", str(first), str(number)))
            for first, number in halves
        ]
        links = {name: link for process in processes for name, link in process.links.items()}
        names = list(links)
        address, look = our_loop.run(_registers(*links[names[0]]))

        async def connected() -> BareModbus:
            bare = BareModbus(links, address)
            await bare.connect()
            return bare

        kept = bare_loop.run(connected())
        stack.callback(kept.close)
        fleet = _fleet(_modbus_connections(links))
        ours = Ours(directory, fleet, "modbus", _modbus_driver(directory))

        async def visiting(
            setpoints_kw: Mapping[str, float], look: tuple[int, int] | None = None
        ) -> None:
            bare = await connected()
            try:
                await bare.command(setpoints_kw, look)
            finally:
                bare.close()

        sides: dict[str, Callable[[Mapping[str, float]], None]] = {
            "kept": lambda asked: bare_loop.run(kept.command(asked)),
            "connecting": lambda asked: bare_loop.run(visiting(asked)),
            "looking": lambda asked: bare_loop.run(visiting(asked, look)),
            "ours": lambda asked: _must_be_verified(our_loop.run(ours.command(asked)), count),
        }
        took = _alternate(sides, names, processes, repeat)
        what = f"{count:,} Modbus devices, write and read-back"
        return [
            _row(
                f"{what}; bare on connections kept from before", count, took["kept"], took["ours"]
            ),
            _row(
                f"{what}; both connect first, as a run of its own must",
                count,
                took["connecting"],
                took["ours"],
            ),
            _row(
                f"{what}; both connect and look before they write, as who is safe must",
                count,
                took["looking"],
                took["ours"],
                bar=False,
            ),
            *ours.ledger.stages(),
        ]


def _alternate(
    sides: Mapping[str, Callable[[Mapping[str, float]], None]],
    names: Sequence[str],
    processes: Sequence[DeviceProcess],
    repeat: int,
) -> dict[str, list[Took]]:
    """Run the sides in turn, in another order each time; the first round is to warm up."""
    took: dict[str, list[Took]] = {side: [] for side in sides}
    for run in range(repeat + 1):
        turn = list(sides)[run % len(sides) :] + list(sides)[: run % len(sides)]
        for number, side in enumerate(turn):
            setpoints = _setpoints(names, len(sides) * run + number)
            with _timed(took[side]):
                sides[side](setpoints)
            _check(processes, setpoints)
    return {side: times[1:] for side, times in took.items()}


def _blackholed(directory: Path, count: int, repeat: int) -> list[str]:
    """Compare the times of nine devices in ten while the tenth answers, and while it never does."""
    with ExitStack() as stack:
        our_loop = stack.enter_context(event_loop.runner())
        process = stack.enter_context(DeviceProcess("modbus", "0", str(count)))
        links = process.links
        holes = {}
        for name in list(links)[::_DEAD_SHARE]:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            holes[name] = (f"127.0.0.1:{listener.getsockname()[1]}", 1)
        sides = {}
        for side, places in {"answers": links, "silent": links | holes}.items():
            (directory / side).mkdir()
            fleet = _fleet(_modbus_connections(places))
            driver = _modbus_driver(directory / side)
            sides[side] = Ours(directory / side, fleet, "modbus", driver)
        times: dict[str, list[float]] = {side: [] for side in sides}
        for run in range(2 * (repeat + 1)):
            side = list(sides)[(run + run // 2) % 2]
            setpoints = _setpoints(list(links), run)
            asked = {name: kw for name, kw in setpoints.items() if name not in holes}
            began = time.monotonic()
            counts = our_loop.run(sides[side].command(setpoints))
            _must_be_verified(
                {"VERIFIED": counts["VERIFIED"]}, len(asked if side == "silent" else links)
            )
            _check([process], asked if side == "silent" else setpoints)
            safe = sides[side].ledger.verified_at
            times[side].append(max(safe[name] for name in asked) - began)
        without_s, with_s = (median(times[side][1:]) for side in ("answers", "silent"))
        row = (
            f"| one of {_DEAD_SHARE} blackholed: time until all others are verified, in the ledger |"
            f" {without_s:.3f} s without | {with_s:.3f} s with | {with_s / without_s - 1:+.1%} |"
            f" at most {_MOST_COST:+.0%} |"
        )
        return [row]


def _mqtt(directory: Path, count: int, repeat: int) -> list[str]:
    with ExitStack() as stack:
        our_loop = stack.enter_context(event_loop.runner())
        broker = start_broker(directory / "broker")
        stack.callback(broker.stop)
        process = stack.enter_context(DeviceProcess("mqtt", broker.endpoint))
        names = [name_of(number) for number in range(count)]
        wire = MqttConnection(host=broker.host, port=broker.port)
        fleet = _fleet(dict.fromkeys(names, wire))
        ours = Ours(directory, fleet, "mqtt", lambda clock: MqttDriver("dispatcher", clock))
        bare = BareMqtt(broker.endpoint)
        stack.callback(bare.close)
        acked: list[Took] = []
        runs = count_from(0)

        def naked(setpoints_kw: Mapping[str, float]) -> None:
            bare.command(setpoints_kw, f"bare{next(runs)}", whole=False)

        def whole(setpoints_kw: Mapping[str, float]) -> None:
            bare.command(setpoints_kw, f"bare{next(runs)}", whole=True)

        def pushing(setpoints_kw: Mapping[str, float]) -> None:
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            _must_be_verified(our_loop.run(ours.command(setpoints_kw)), count)
            safe = ours.ledger.acked_at
            acked.append(Took(safe.wall_s - wall_s, safe.cpu_s - cpu_s))

        took = _alternate(
            {"naked": naked, "whole": whole, "ours": pushing}, names, [process], repeat
        )
        what = f"{count:,} MQTT devices, command and ack"
        return [
            _row(f"{what}; bare without MQTT 5 properties", count, took["naked"], acked[1:]),
            _row(f"{what}; bare with ours: expiry, correlation", count, took["whole"], acked[1:]),
            _row(
                "ours until verified by state and telemetry, beside bare's ack",
                count,
                took["whole"],
                took["ours"],
                bar=False,
            ),
        ]


def _row(
    what: str, count: int, bare: Sequence[Took], ours: Sequence[Took], *, bar: bool = True
) -> str:
    theirs_s, ours_s = (median(took.wall_s for took in side) for side in (bare, ours))
    theirs_cpu, ours_cpu = (median(took.cpu_s for took in side) for side in (bare, ours))
    return (
        f"| {what} | {count / theirs_s:,.0f}/s ({theirs_cpu:.2f} s CPU) |"
        f" {count / ours_s:,.0f}/s ({ours_cpu:.2f} s CPU) | {theirs_s / ours_s:.2f} |"
        f" {f'at least {_BAR:.2f}' if bar else ''} |"
    )


def _modbus_connections(links: Mapping[str, tuple[str, int]]) -> dict[str, ModbusConnection]:
    connections = {}
    for name, (endpoint, unit_id) in links.items():
        host, _, port = endpoint.rpartition(":")
        connections[name] = ModbusConnection(host=host, port=int(port), unit_id=unit_id)
    return connections


def _modbus_driver(directory: Path) -> Callable[[ScaledClock], Driver]:
    return lambda clock: ModbusDriver(directory / "leases", "dispatcher", clock)


async def _registers(endpoint: str, unit_id: int) -> tuple[int, tuple[int, int]]:
    """Return where a set-point is written, and what we read before (address and count)."""
    session = await open_session(endpoint, {}, 5.0)
    try:
        placed = await models(session, unit_id, None)
    finally:
        session.close()
    control = placed[CONTROL_MODEL].address
    heartbeat_end = placed[HEARTBEAT_MODEL].address + sunspec.layout(HEARTBEAT_MODEL)["DERHb"].end
    return control + sunspec.layout(CONTROL_MODEL)["WSetEna"].offset, (
        control,
        heartbeat_end - control,
    )


def _report(rows: Sequence[str], arguments: argparse.Namespace) -> str:
    machine = (
        f"{os.cpu_count()} cores ({platform.machine()}) shared with other work, load"
        f" {arguments.load:.1f} before; Python {platform.python_version()}; medians of"
        f" {arguments.repeat} rounds in which the sides take turns, after one to warm up."
    )
    head = ["| | bare library | ours | ratio | bar |", "| --- | --- | --- | --- | --- |"]
    title = "# Dispatch beside the bare libraries"
    return "\n".join([title, "", machine, "", *head, *rows, "", _WORDS])


def _run(parts: Sequence[Callable[[Path], list[str]]]) -> list[str]:
    rows: list[str] = []
    for part in parts:
        with tempfile.TemporaryDirectory() as directory:
            told = part(Path(directory))
        print("\n".join(told), flush=True)
        rows += told
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modbus", type=int, default=1000)
    parser.add_argument("--mqtt", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--write", action="store_true", help=f"write {_TABLE.name}")
    arguments = parser.parse_args()
    arguments.load = os.getloadavg()[0]
    parts = []
    if arguments.modbus:
        parts += [
            lambda directory: _modbus(directory, arguments.modbus, arguments.repeat),
            lambda directory: _blackholed(directory, arguments.modbus, arguments.repeat),
        ]
    if arguments.mqtt:
        parts.append(lambda directory: _mqtt(directory, arguments.mqtt, arguments.repeat))
    rows = _run(parts)
    if arguments.write:
        _TABLE.write_text(_report(rows, arguments))


if __name__ == "__main__":
    main()
