"""SunSpec registers: where a model keeps its points, and what their bits mean.

Belongs here: layouts (from pysunspec2's model files), decoding a block, packing a frame. Does
not: what the points mean for a plant (`sunspec_control`, `sunspec_reading`), any connection.

Rules from the SunSpec Information Model Specification: a point that is not implemented holds its
type's sentinel; a scaled value is `raw · 10^sf`, sf in -10..10.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sunspec2 import device, mb

from vpp_pipeline.devices.registers import NotEncodable, to_registers, whole_steps

if TYPE_CHECKING:
    from collections.abc import Mapping

MARKER = (0x5375, 0x6E53)  # "SunS"
END_MODEL = 0xFFFF
HEADER_LENGTH = 2  # ID and L, which a model's own length leaves out
_LARGEST_SCALE = 10


@dataclass(frozen=True)
class Point:
    """Where a point lies in its model (registers from the model's ID) and how it is coded."""

    name: str
    offset: int
    length: int
    kind: str  # SunSpec's type: int16, uint32, enum16, …
    scale: str | None
    writable: bool

    @property
    def end(self) -> int:
        """The register behind the point's last."""
        return self.offset + self.length

    @cached_property
    def words(self) -> slice:
        """Where its registers are among the model's."""
        return slice(self.offset, self.end)

    @cached_property
    def packing(self) -> struct.Struct:
        """Its registers as bytes."""
        return struct.Struct(f">{self.length}H")

    @cached_property
    def coding(self) -> Any:
        """pysunspec2's coding of the point's type."""
        return mb.point_type_info[self.kind]


@cache
def layout(model_id: int) -> Mapping[str, Point]:
    """Return the top-level points of a SunSpec model by name, in register order.

    Raises `ValueError` for a model that pysunspec2 does not know.
    """
    model = device.Model(model_id)
    if model.error_info:
        raise ValueError(f"SunSpec model {model_id}: {model.error_info.strip()}")
    return MappingProxyType(
        {
            name: Point(
                name=name,
                offset=point.offset,
                length=point.len,
                kind=point.pdef["type"],
                scale=point.pdef.get("sf"),
                writable=point.pdef.get("access") == "RW",
            )
            for name, point in model.points.items()
        }
    )


@cache
def length(model_id: int) -> int:
    """Return how many registers a model's top-level points take, from its ID on."""
    return max(point.end for point in layout(model_id).values())


@dataclass(frozen=True)
class Block:
    """A model's registers as read, from its ID on; it may end before the model does."""

    model_id: int
    registers: tuple[int, ...]

    def raw(self, name: str) -> int | None:
        """Return a numeric point as its registers say it; None where not implemented or not read."""
        return unpack(self.model_id, name, self.registers[layout(self.model_id)[name].words])

    def value(self, name: str) -> float | None:
        """Return a point in its unit; None where it or its scale factor is not implemented."""
        raw, scale = self.raw(name), self.scale(name)
        return None if raw is None or scale is None else scaled(raw, scale)

    def scale(self, name: str) -> int | None:
        """Return the scale factor of a point (0 where it has none); None where not usable."""
        factor = layout(self.model_id)[name].scale
        if factor is None:
            return 0
        scale = self.raw(factor)
        return scale if scale is not None and abs(scale) <= _LARGEST_SCALE else None


@dataclass(frozen=True)
class Frame:
    """Neighbouring points and their raw values, to be written as one request."""

    model_id: int
    values: tuple[tuple[str, int], ...]

    @property
    def offset(self) -> int:
        """The first register, counted from the model's ID."""
        return layout(self.model_id)[self.values[0][0]].offset

    @property
    def registers(self) -> tuple[int, ...]:
        """The registers from `offset` on.

        Raises `NotEncodable` where a value is out of its type's range or equals its sentinel.
        """
        return tuple(word for name, raw in self.values for word in pack(self.model_id, name, raw))


@lru_cache(maxsize=4096)  # devices of a kind say much the same
def unpack(model_id: int, name: str, words: tuple[int, ...]) -> int | None:
    """Return one numeric point's raw value; None where not implemented, or registers are missing."""
    point = layout(model_id)[name]
    if len(words) < point.length:
        return None
    value: int = point.coding.data_to(point.packing.pack(*words))
    return value if point.coding.is_impl(value) else None


@lru_cache(maxsize=4096)
def pack(model_id: int, name: str, raw: int) -> tuple[int, ...]:
    """Return the registers of one point's raw value.

    Raises `NotEncodable` where it is out of the type's range or equals the type's sentinel.
    """
    coding = layout(model_id)[name].coding
    try:
        data = coding.to_data(raw)
    except struct.error as error:
        raise NotEncodable(f"{name} of model {model_id} can't hold {raw}: {error}") from error
    if not coding.is_impl(raw):
        raise NotEncodable(f"{name} of model {model_id} can't hold {raw}: it means 'no value'")
    return to_registers(data)


@cache
def not_implemented(model_id: int, name: str) -> tuple[int, ...]:
    """Return the registers that say a numeric point is not implemented."""
    return to_registers(mb.create_unimpl_value(layout(model_id)[name].kind))


def scaled(raw: int, scale: int) -> float:
    """Return `raw · 10^scale`, dividing where that keeps decimal values exact."""
    return float(raw * 10**scale) if scale >= 0 else raw / 10**-scale


def unscaled(value: float, scale: int) -> int:
    """Return the raw number for a finite value, rounded towards zero: never more than asked."""
    return whole_steps(value, 10**scale) if scale >= 0 else whole_steps(value * 10**-scale, 1)
