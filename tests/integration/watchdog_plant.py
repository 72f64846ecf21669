"""A small running plant for the tests of the kill switch and the watchdog.

Belongs here: its fleet on the real protocols, its home, and a dispatcher's hand on its devices.
Does not: any promise.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from defs_plant import FLEET

from vpp_pipeline.devices.protocol import Command, CommandResult
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.orders import Order
from vpp_pipeline.dispatch.release import releasable
from vpp_pipeline.fleet import registry
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import Settings
from vpp_pipeline.simulation.fleet import SimulatedFleet
from vpp_pipeline.simulation.world import recorded_world

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

START = datetime(2020, 10, 5, 12, tzinfo=UTC)
RATE = 20.0
PATIENCE_S = 15.0
COMMANDED = ("alba-battery", "alba-pv", "alba-heat-pump", "borgo-battery")
"""Over HTTP and Modbus; the charger, over MQTT, needs a vehicle: see `SENT_KW`."""
SENT_KW = {
    "alba-battery": -1.0,
    "alba-pv": 0.5,
    "alba-heat-pump": -0.5,
    "borgo-battery": -2.0,
    "borgo-charger": 0.0,
}


@dataclass(frozen=True)
class RunningPlant:
    """A plant whose simulated devices run in this process, on its home's clock."""

    runtime: Runtime
    fleet: SimulatedFleet

    @property
    def home(self) -> Path:
        """Where its files are."""
        return self.runtime.settings.home

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes a process one of this plant's."""
        settings = self.runtime.settings
        return {"VPP_HOME": str(settings.home), "VPP_FLEET": str(settings.fleet_file)}

    @property
    def obeying(self) -> dict[str, float]:
        """The set-point of each device that obeys one, as the device itself has it."""
        setpoints = {name: self.fleet.plant.setpoint(name) for name in SENT_KW}
        return {name: held.setpoint_kw for name, held in setpoints.items() if held is not None}

    def order(self, kind: str, scope: str = "fleet", **fields: object) -> Order:
        """Put an order in the book, as another process would."""
        now = self.runtime.clock.now()
        order_id = f"{kind}-{now.timestamp()}"
        order = Order(
            order_id=order_id, kind=kind, scope=scope, who="kim", why="test", given_at=now, **fields
        )
        OrderBook(self.runtime.settings.order_dir).give(order)
        return order

    def send(
        self, validity: timedelta = timedelta(hours=1), only: Sequence[str] = tuple(SENT_KW)
    ) -> list[CommandResult]:
        """Command the devices as a dispatcher does; every one must accept."""
        results = asyncio.run(sent(self.runtime, validity, only))
        assert [result.detail for result in results if result.outcome != "ACKED"] == []
        return results


async def sent(
    runtime: Runtime, validity: timedelta, only: Sequence[str] = tuple(SENT_KW)
) -> list[CommandResult]:
    """Command devices until `validity` from now, and return how each answered."""
    links, _ = releasable(runtime.registered_devices())
    drivers = runtime.drivers("dispatcher")
    now = runtime.clock.now()
    version = int(now.timestamp() * 1000)
    results: list[CommandResult] = []
    for protocol, driver in drivers.items():
        pairs = [
            (
                link,
                Command(
                    f"{link.device_id}.v{version}.1",
                    link.device_id,
                    "plan",
                    version,
                    1,
                    SENT_KW[link.device_id],
                    now,
                    now + validity,
                ),
            )
            for link in links
            if link.protocol == protocol and link.device_id in only
        ]
        if pairs:
            results += await driver.command(pairs, now, PATIENCE_S)
        await driver.close()
    return results


def write_plant(home: Path, rate: float) -> Settings:
    """Write a plant's registry and clock; the clock runs from `START` now."""
    home.mkdir(parents=True)
    (home / "fleet.yaml").write_text(FLEET)
    clock = {"start": START.isoformat(), "anchor_epoch_s": time.time(), "rate": rate}
    (home / "clock.json").write_text(json.dumps(clock))
    return Settings(home, home / "fleet.yaml", "recorded", "")


@contextmanager
def running_plant(home: Path, rate: float = RATE) -> Iterator[RunningPlant]:
    """Run a plant's devices on a clock of `rate` times the wall's."""
    runtime = Runtime.of(write_plant(home, rate))
    devices = registry.read_devices(runtime.settings.fleet_file)
    fleet = SimulatedFleet(
        devices,
        recorded_world(devices, np.random.default_rng(1)),
        runtime.clock,
        np.random.default_rng(2),
        runtime.settings.simulation_dir,
    )
    fleet.start(ticking=True)
    try:
        yield RunningPlant(runtime, fleet)
    finally:
        fleet.stop()


def wait_until(condition, what: str) -> None:
    """Wait for a condition, and fail with `what` was waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
