"""A plant that obeys at once, and what a test of the Modbus ends needs around it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.devices.protocol import Command, DeviceLink, Reading
from vpp_pipeline.simulation.plant_protocol import AppliedSetpoint, Refused
from vpp_pipeline.simulation.sunspec_registers import SunspecUnit

if TYPE_CHECKING:
    from collections.abc import Mapping

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BATTERY = SunspecUnit("battery-1", "battery", 5.0, 4.0, energy_capacity_kwh=13.5)
PV = SunspecUnit("pv-1", "pv", 10.0, 0.0)


class FakePlant:
    """Power follows the set-point without delay; `out` devices are dead."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOON)
        self.readings: dict[str, Reading] = {}
        self.out: set[str] = set()
        self.deaf: set[str] = set()  # they say yes and do nothing
        self.applied: list[tuple[str, AppliedSetpoint]] = []
        self._setpoints: dict[str, AppliedSetpoint] = {}

    def reading(self, device_id: str) -> Reading:
        reading = self.readings.get(device_id, Reading(device_id, NOON, power_kw=0.0))
        setpoint = self.setpoint(device_id)
        return reading if setpoint is None else replace(reading, power_kw=setpoint.setpoint_kw)

    def apply(
        self, device_id: str, setpoint_kw: float, until: datetime, command_id: str | None = None
    ) -> None:
        if self.readings.get(device_id, Reading(device_id, NOON)).status == "local":
            raise Refused("somebody on site has the control")
        setpoint = AppliedSetpoint(setpoint_kw, until, command_id)
        self.applied.append((device_id, setpoint))
        if device_id not in self.deaf:
            self._setpoints[device_id] = setpoint

    def release(self, device_id: str) -> None:
        self._setpoints.pop(device_id, None)

    def setpoint(self, device_id: str) -> AppliedSetpoint | None:
        setpoint = self._setpoints.get(device_id)
        return setpoint if setpoint and self.clock.now() < setpoint.until else None

    def is_out(self, device_id: str) -> bool:
        return device_id in self.out


def link_of(
    unit: SunspecUnit, links: Mapping[str, tuple[str, int]], writable: bool = True
) -> DeviceLink:
    endpoint, unit_id = links[unit.device_id]
    return DeviceLink(
        device_id=unit.device_id,
        device_type=unit.device_type,
        protocol="modbus",
        endpoint=endpoint,
        unit_id=unit_id,
        max_inject_kw=unit.max_inject_kw,
        max_draw_kw=unit.max_draw_kw,
        writable=writable,
    )


def command_of(
    unit: SunspecUnit, power_kw: float, start: datetime = NOON, minutes: float = 15
) -> Command:
    return Command(
        command_id=f"command-{unit.device_id}-{power_kw}",
        device_id=unit.device_id,
        plan_id="plan-1",
        plan_version=1,
        sequence=1,
        power_kw=power_kw,
        valid_from=start,
        valid_until=start + timedelta(minutes=minutes),
    )
