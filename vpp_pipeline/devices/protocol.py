"""What every driver promises: read, command, read back, for many devices in one call.

Belongs here: the driver protocol and the values that pass through it. Does not: any wire
format (`sunspec`, `mqtt`, `http`), retries across calls or the ledger (`dispatch`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


@dataclass(frozen=True)
class DeviceLink:
    """A device as its driver needs it."""

    device_id: str
    device_type: str
    protocol: str  # modbus, mqtt, http, ocpp
    endpoint: str  # host:port (modbus, mqtt), base URL (http), charge point (ocpp)
    unit_id: int | None  # Modbus unit, OCPP connector
    max_inject_kw: float
    max_draw_kw: float
    writable: bool  # false: read-only, dry run, or real without `live: true`; never written
    register_map: str | None = None  # Modbus: a vendor's map; none is SunSpec
    base_address: int | None = None  # where a SunSpec map is looked for first
    tls: bool = False
    credentials: str | None = None  # their name; see `credentials`
    energy_capacity_kwh: float | None = None  # for devices that tell a state of charge only


@dataclass(frozen=True)
class Command:
    """One set-point for one device and interval.

    `power_kw` is signed (positive injects). For PV and wind it is the most they may inject.
    The device obeys from `valid_from` and falls back to its default at `valid_until`.
    """

    command_id: str
    device_id: str
    plan_id: str
    plan_version: int
    sequence: int
    power_kw: float
    valid_from: datetime
    valid_until: datetime


@dataclass(frozen=True)
class Reading:
    """What a device said of itself; see `schemas.Telemetry` for the fields."""

    device_id: str
    measured_at: datetime
    power_kw: float | None = None
    setpoint_kw: float | None = None
    energy_kwh: float | None = None
    temperature_c: float | None = None
    plugged_in: bool | None = None
    target_energy_kwh: float | None = None
    deadline: datetime | None = None
    available_power_kw: float | None = None
    heartbeat: int | None = None
    status: str = "ok"


@dataclass(frozen=True)
class Unreachable:
    """A device that did not answer, and why, in words that name the remedy."""

    device_id: str
    reason: str


class Outcome(StrEnum):
    """What is known after a command was offered to a device."""

    ACKED = "ACKED"  # the device said yes
    REJECTED = "REJECTED"  # the device said no; `detail` tells its reason
    FAILED = "FAILED"  # it certainly did not reach the device
    UNKNOWN = "UNKNOWN"  # it may have: read back before any resend


@dataclass(frozen=True)
class CommandResult:
    """The answer to one command."""

    command_id: str
    outcome: Outcome
    sent: str  # the bytes or the payload as sent (hex or JSON); empty if nothing was
    detail: str = ""
    answer: str = ""  # the device's, as it came (hex or JSON); empty if none did
    fence: int | None = None  # the token of the endpoint's lease, where it was sent under one
    read_back: ReadBack | None = None  # what was in force right after, where the driver looked


@dataclass(frozen=True)
class ReadBack:
    """What set-point a device says is in force.

    `matches` compares raw registers, or the reported set-point, with the command that was asked
    about; `command_id` is given by devices that keep it (MQTT, HTTP). `has_timer` tells whether
    the device was seen to end its set-points by itself; None where nothing was seen of it.
    """

    device_id: str
    matches: bool
    setpoint_kw: float | None
    raw: str
    command_id: str | None = None
    timer_remaining_s: float | None = None
    detail: str = ""
    has_timer: bool | None = None


Told = TypeVar("Told")
Tell = Callable[[int, Told], None]
"""Is told an answer before all others have come: its place in the batch, and the answer."""


def untold(_place: int, _answer: object) -> None:
    """Tell nobody: the caller waits for all answers."""


class Driver(Protocol):
    """One protocol. Calls are batched; a slow or dead device never delays the others.

    Every call ends within its `timeout_s`; a device without an answer by then is `Unreachable`,
    or its command `UNKNOWN` (sent) or `FAILED` (not sent). Results come in the order asked. Before
    that, `tell` is called with the place and the answer of each device that has answered.
    """

    async def read(
        self, links: Sequence[DeviceLink], timeout_s: float
    ) -> list[Reading | Unreachable]:
        """Read each device's measurements."""
        ...

    async def command(
        self,
        commands: Sequence[tuple[DeviceLink, Command]],
        now: datetime,
        timeout_s: float,
        tell: Tell[CommandResult] = untold,
    ) -> list[CommandResult]:
        """Offer each command to its device, with the timer that ends it at `valid_until`."""
        ...

    async def read_back(
        self,
        commands: Sequence[tuple[DeviceLink, Command]],
        timeout_s: float,
        tell: Tell[ReadBack | Unreachable] = untold,
    ) -> list[ReadBack | Unreachable]:
        """Ask each device for the set-point in force and compare it with the command."""
        ...

    async def release(self, links: Sequence[DeviceLink], timeout_s: float) -> list[CommandResult]:
        """Return each device to its own default, leaving no enable over a stale value."""
        ...

    async def close(self) -> None:
        """Close every connection and give back every lease."""
        ...
