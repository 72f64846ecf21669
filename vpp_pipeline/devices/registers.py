"""Numbers in 16-bit Modbus registers.

Belongs here: packing and unpacking, and the refusal of what can't be said. Does not: what a
register means (`sunspec`, `register_map`), any connection.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["int16", "uint16", "int32", "uint32", "float32"]
WordOrder = Literal["high_first", "low_first"]

_FORMATS: dict[Kind, str] = {
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "float32": ">f",
}
LENGTHS: dict[Kind, int] = {kind: struct.calcsize(form) // 2 for kind, form in _FORMATS.items()}
"""How many registers a number of each kind takes."""


class NotEncodable(ValueError):  # noqa: N818 - names what the value is
    """A value that the registers can't say; the text names point, value and why."""


def encode(kind: Kind, number: float, order: WordOrder) -> tuple[int, ...]:
    """Return the registers of a number; integers must be whole.

    Raises `NotEncodable` for what is not finite or out of the kind's range.
    """
    if not math.isfinite(number):
        raise NotEncodable(f"{number} is not a finite number")
    try:
        data = struct.pack(_FORMATS[kind], number if kind == "float32" else int(number))
    except (struct.error, OverflowError) as error:
        raise NotEncodable(f"{kind} can't hold {number}: {error}") from error
    return _ordered(to_registers(data), order)


def decode(kind: Kind, registers: Sequence[int], order: WordOrder) -> float | None:
    """Return the number in the registers; None for a float that is none."""
    data = to_bytes(_ordered(tuple(registers), order))
    number: float = struct.unpack(_FORMATS[kind], data)[0]
    return number if math.isfinite(number) else None


def to_registers(data: bytes) -> tuple[int, ...]:
    """Return big-endian bytes as 16-bit registers."""
    return struct.unpack(f">{len(data) // 2}H", data)


def to_bytes(registers: Sequence[int]) -> bytes:
    """Return 16-bit registers as big-endian bytes."""
    return struct.pack(f">{len(registers)}H", *registers)


def whole_steps(value: float, step: float) -> int:
    """Return how many whole steps a value is, rounded towards zero: never more than asked.

    A millionth of a step is granted, so that 4.35 kW are 4350 W whatever a double makes of it.
    Raises `NotEncodable` for what is not finite.
    """
    steps = abs(value) / step + 1e-6
    if not math.isfinite(steps):
        raise NotEncodable(f"{value} in steps of {step:g} is not a finite number")
    return -int(steps) if value < 0 else int(steps)


def _ordered(words: tuple[int, ...], order: WordOrder) -> tuple[int, ...]:
    return words if order == "high_first" else words[::-1]
