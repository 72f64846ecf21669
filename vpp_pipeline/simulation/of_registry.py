"""The simulated fleet of a plant's registry: what stands in for its devices, and what they did before.

Belongs here: opening it with the plant's seed, running it until it is stopped, its history. Does
not: the fleet itself (`fleet`), the day that the demo runs with it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.fleet import registry
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.simulation.fleet import SimulatedFleet
from vpp_pipeline.simulation.history import unmanaged_history
from vpp_pipeline.simulation.world import recorded_world
from vpp_pipeline.warehouse import landing

if TYPE_CHECKING:
    from threading import Event

    from vpp_pipeline.runtime import Runtime

SEED = 20200826
HISTORY = timedelta(days=15)


def open_fleet(runtime: Runtime) -> SimulatedFleet:
    """Return the simulated fleet of the registry in `runtime`, not yet started."""
    devices = device_frame(registry.load(runtime.settings.fleet_file))
    world = recorded_world(devices, np.random.default_rng(SEED))
    return SimulatedFleet(
        devices,
        world,
        runtime.clock,
        np.random.default_rng(SEED + 1),
        runtime.settings.simulation_dir,
        central_system=runtime.settings.charge_point_dir / "url",
    )


def seed_history(runtime: Runtime) -> None:
    """Land what the meters would have seen in the weeks before now, with nobody steering."""
    devices = device_frame(registry.load(runtime.settings.fleet_file))
    world = recorded_world(devices, np.random.default_rng(SEED))
    now = market_day.floor_interval(runtime.clock.now())
    history = unmanaged_history(devices, world, now - HISTORY, now, np.random.default_rng(SEED + 2))
    landing.land(runtime.settings.landing_dir, "telemetry", history, now)


def simulate(runtime: Runtime, stopped: Event) -> None:
    """Run the simulated fleet on the plant's running clock until `stopped`."""
    fleet = open_fleet(runtime)
    fleet.start(ticking=True)
    try:
        stopped.wait()
    finally:
        fleet.stop()
