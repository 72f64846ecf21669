"""A small running plant for the tests of the kill switch and the watchdog.

Belongs here: its fleet on the real protocols and its home. Does not: commands
(`watchdog_controller`), any promise.
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
from watchdog_controller import sent

from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.orders import Order
from vpp_pipeline.fleet import registry
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import Settings
from vpp_pipeline.simulation.fleet import SimulatedFleet
from vpp_pipeline.simulation.world import recorded_world

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from vpp_pipeline.devices.protocol import CommandResult

START = datetime(2020, 10, 5, 12, tzinfo=UTC)
RATE = 20.0
WITHOUT_ROOM = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"]
"""What a command's words follow that finds no room on any disk."""
PATIENCE_S = 90.0  # for a process to start on a busy machine


@dataclass(frozen=True)
class RunningPlant:
    """A plant whose simulated devices run in this process, on its home's clock."""

    runtime: Runtime
    fleet: SimulatedFleet
    steerable: Sequence[str]

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
        setpoints = {name: self.fleet.plant.setpoint(name) for name in self.steerable}
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
        self, validity: timedelta = timedelta(hours=1), only: Sequence[str] = ()
    ) -> list[CommandResult]:
        """Command the devices as a dispatcher does; every one must accept."""
        results = asyncio.run(sent(self.runtime, validity, only))
        assert [result.detail for result in results if result.outcome != "ACKED"] == []
        return results


def write_plant(home: Path, rate: float, fleet: str = FLEET) -> Settings:
    """Write a plant's registry and clock; the clock runs from `START` now."""
    home.mkdir(parents=True)
    (home / "fleet.yaml").write_text(fleet)
    clock = {"start": START.isoformat(), "anchor_epoch_s": time.time(), "rate": rate}
    (home / "clock.json").write_text(json.dumps(clock))
    return Settings(home, home / "fleet.yaml", "recorded", "")


@contextmanager
def running_plant(home: Path, rate: float = RATE, fleet: str = FLEET) -> Iterator[RunningPlant]:
    """Run a plant's devices on a clock of `rate` times the wall's."""
    runtime = Runtime.of(write_plant(home, rate, fleet))
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
        steerable = devices.filter("controllable")["device_id"].to_list()
        yield RunningPlant(runtime, fleet, steerable)
    finally:
        fleet.stop()


def wait_until(condition, what: str) -> None:
    """Wait for a condition, and fail with `what` was waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)
