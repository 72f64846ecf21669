"""A small simulated fleet in a process of its own, that a test may kill.

Run as `simulation_child.py DIRECTORY RATE ANCHOR_EPOCH_S`; it says `ready` once it listens.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vpp_pipeline.clock import ScaledClock
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.sample import sample_fleet
from vpp_pipeline.simulation.fleet import SimulatedFleet
from vpp_pipeline.simulation.world import recorded_world

DEVICES = device_frame(sample_fleet(12, seed=3))
START = datetime(2020, 8, 12, 10, tzinfo=UTC)


def main(directory: str, rate: str, anchor_epoch_s: str) -> None:
    """Run the fleet on a clock that shows `START` at the anchor, until killed or stdin closes."""
    clock = ScaledClock(START, float(anchor_epoch_s), float(rate))
    world = recorded_world(DEVICES, np.random.default_rng(1))
    fleet = SimulatedFleet(DEVICES, world, clock, np.random.default_rng(2), Path(directory))
    fleet.start(ticking=True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    fleet.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
