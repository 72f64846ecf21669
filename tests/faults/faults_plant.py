"""The physics of a small plant whose devices misbehave as told, and its own record.

Belongs here: faults of devices, and what each truly obeyed. Does not: their protocols
(`faults_story`), faults on the way to them (`faults_proxy`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    Battery,
    EvCharger,
    Fleet,
    GridConnection,
    SimulatedConnection,
    Site,
)
from vpp_pipeline.simulation.plant import Plant
from vpp_pipeline.simulation.plant_protocol import AppliedSetpoint, Refused
from vpp_pipeline.simulation.world import recorded_world

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import polars as pl

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.protocol import Reading

POWER_KW = 10.0
CAPACITY_KWH = 100.0
SITE_LIMIT_KW = 60.0


def fleet(protocols: Sequence[str]) -> Fleet:
    """Two devices a protocol, `<protocol>-1` and `<protocol>-2`: batteries, or chargers on OCPP."""

    def device(protocol: str, number: int) -> Battery | EvCharger:
        device_id, over = f"{protocol}-{number}", SimulatedConnection(over=protocol)
        if protocol == "ocpp":
            return EvCharger(device_id=device_id, connection=over, max_charge_kw=POWER_KW)
        return Battery(
            device_id=device_id,
            connection=over,
            max_charge_kw=POWER_KW,
            max_discharge_kw=POWER_KW,
            energy_capacity_kwh=CAPACITY_KWH,
        )

    return Fleet(
        sites=(
            Site(
                site_id="site",
                latitude=52.5,
                longitude=13.4,
                grid=GridConnection(import_limit_kw=SITE_LIMIT_KW, export_limit_kw=SITE_LIMIT_KW),
                devices=tuple(device(p, n) for p in protocols for n in (1, 2)),
            ),
        )
    )


def devices_of(protocols: Sequence[str]) -> pl.DataFrame:
    return device_frame(fleet(protocols))


@dataclass(frozen=True)
class Applied:
    """A set-point that took effect, as the device itself has it."""

    device_id: str
    kw: float
    until: datetime
    command_id: str | None
    at: datetime
    told_kwh: float | None
    foreign: bool = False


class FaultyPlant(Plant):
    """A plant that keeps a record; what is put into its fields is how its devices misbehave."""

    def __init__(self, devices: pl.DataFrame, clock: Clock) -> None:
        world = recorded_world(devices, np.random.default_rng(1))
        super().__init__(devices, world, clock, np.random.default_rng(2))
        self.record: list[Applied] = []
        self.deaf: set[str] = set()  # they say yes and do nothing
        self.frozen: set[str] = set()  # they report the set-point before the one they obey
        self.most_kw: dict[str, float] = {}  # they clamp to this and say nothing
        self.twists: dict[str, Callable[[Reading], Reading]] = {}
        self._reported: dict[str, AppliedSetpoint | None] = {}

    def apply(
        self, device_id: str, setpoint_kw: float, until: datetime, command_id: str | None = None
    ) -> None:
        told = self.reading(device_id)
        if told.status == "local":
            raise Refused("somebody on site has the control")
        if device_id in self.deaf:
            return
        if device_id in self.frozen:
            self._reported.setdefault(device_id, self.setpoint(device_id))
        most_kw = self.most_kw.get(device_id, POWER_KW)
        clamped = min(max(setpoint_kw, -most_kw), most_kw)
        super().apply(device_id, clamped, until, command_id)
        self.record.append(
            Applied(device_id, clamped, until, command_id, self.clock.now(), told.energy_kwh)
        )

    def seize(self, device_id: str, kw: float, until: datetime) -> None:
        """Let somebody else than the dispatcher give a set-point."""
        super().apply(device_id, kw, until, None)
        self.record.append(
            Applied(device_id, kw, until, None, self.clock.now(), None, foreign=True)
        )

    def setpoint(self, device_id: str) -> AppliedSetpoint | None:
        if device_id in self.frozen and device_id in self._reported:
            return self._reported[device_id]
        return super().setpoint(device_id)

    def obeyed_kw(self, device_id: str) -> float | None:
        """Return what the device truly obeys now."""
        held = super().setpoint(device_id)
        return held.setpoint_kw if held else None

    def reading(self, device_id: str) -> Reading:
        reading = super().reading(device_id)
        twist = self.twists.get(device_id)
        return twist(reading) if twist else reading


def always(**fields: object) -> Callable[[Reading], Reading]:
    """A device that tells these values, whatever is true."""
    return lambda reading: replace(reading, **fields)
