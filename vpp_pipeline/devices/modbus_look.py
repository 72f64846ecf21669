"""What a Modbus device says of itself just now, whatever its registers are called.

Belongs here: the questions the driver asks of it, and a write that answers one of them. Does not:
how they are answered (`sunspec_look`, `register_map_look`), sending anything (`modbus`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from vpp_pipeline.devices.protocol import Command, ReadBack, Reading


Purpose = Literal["read", "steer", "verify"]
"""What a look is for; it asks for no more registers than that takes."""


@dataclass(frozen=True)
class RegisterWrite:
    """Neighbouring holding registers, to be written as one frame."""

    address: int
    registers: tuple[int, ...]
    daily_writes: Mapping[int, int] = field(default_factory=dict)
    """How often those in flash may be written in a day, by address."""


class Look(Protocol):
    """One device's registers as just read. Nothing here waits or sends."""

    def reading(self, at: datetime) -> Reading:
        """Return what is measured. Raises `LinkError` where nothing can be."""
        ...

    def refusal(self) -> str:
        """Return why the device can't be steered now, or nothing."""
        ...

    def set_point(self, power_kw: float, timer_s: int) -> list[RegisterWrite]:
        """Return the writes, in order, that bring the set-point into force for `timer_s`.

        Raises `NotEncodable`.
        """
        ...

    def release(self) -> list[RegisterWrite]:
        """Return the writes, in order, that give the device back to itself.

        Raises `NotEncodable`.
        """
        ...

    def read_back(self, command: Command, longest_s: float) -> ReadBack:
        """Compare with a command whose timer may run `longest_s`. Raises `LinkError`."""
        ...

    def left_over(self) -> str:
        """Return what a release should have cleared and did not, or nothing."""
        ...
