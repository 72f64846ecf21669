"""What a simulated gateway needs of the simulated physics.

Belongs here: the plant as its gateways (Modbus, MQTT, HTTP) see it, and the values between them.
Does not: the physics itself, any wire format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.protocol import Reading


class Refused(Exception):  # noqa: N818 - a device's answer, not a program's failure
    """A device's refusal of a set-point; its text is the device's reason."""


@dataclass(frozen=True)
class AppliedSetpoint:
    """The set-point a device obeys. `setpoint_kw` is signed: positive injects.

    The device falls back to its default at `until`. `command_id` is kept where the protocol
    carries one (MQTT, HTTP; Modbus does not).
    """

    setpoint_kw: float
    until: datetime
    command_id: str | None = None


class Plant(Protocol):
    """The physics of all simulated devices, on one clock. Every method is safe to call at once."""

    @property
    def clock(self) -> Clock:
        """The clock the physics and the devices' timers run on."""
        ...

    def reading(self, device_id: str) -> Reading:
        """Advance the device to the clock's now and return its measurements."""
        ...

    def apply(
        self, device_id: str, setpoint_kw: float, until: datetime, command_id: str | None = None
    ) -> None:
        """Obey `setpoint_kw` until `until`; for PV and wind it is the most they may inject.

        Raises `Refused` with the device's reason.
        """
        ...

    def release(self, device_id: str) -> None:
        """Return the device to its default at once."""
        ...

    def setpoint(self, device_id: str) -> AppliedSetpoint | None:
        """Return the set-point in force now; None once it has run out or was released."""
        ...

    def is_out(self, device_id: str) -> bool:
        """Tell whether the device is dead: its gateway must then not answer for it."""
        ...
