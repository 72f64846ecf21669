"""A vendor's registers as data: where a device keeps its readings, how it takes a set-point.

Belongs here: the typed form of `register_maps/*.yaml` and its checks. Does not: reading or writing
registers (`register_map_look`), SunSpec (`sunspec`).

A map names registers as they go over the wire (from 0). Powers are kW in the pipeline's sign, so
the scale of a reading that counts draws as positive is negative; a set-point is written as a
magnitude, by the writes for its direction. Writes go out in the order given; those that touch go
out as one frame. An enable should stand last, behind the value and the timer it enables.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)

from vpp_pipeline.devices.registers import Kind, WordOrder  # noqa: TC001 - pydantic reads them
from vpp_pipeline.fleet.register_maps import map_files

WholeNumber = Annotated[int, Strict()]
Address = Annotated[WholeNumber, Field(ge=0, le=0xFFFF)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Table = Literal["holding", "input"]


class MapError(ValueError):
    """A register map that is unknown or wrong; the text names file, field, value and remedy."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(_Record):
    """Where a number stands."""

    address: Address
    type: Kind
    table: Table = "holding"


class Measure(Point):
    """A number with a unit: `raw · scale`."""

    scale: Number = 1.0
    missing: WholeNumber | None = None
    """The raw number that says that there is no value."""


class State(Point):
    """A number of which some `values` mean yes."""

    values: Annotated[tuple[WholeNumber, ...], Field(min_length=1)]


class Write(_Record):
    """One number to be written: a fixed `value`, the set-point, the timer, or another register."""

    address: Address
    type: Kind
    value: WholeNumber | None = None
    holds: Literal["power", "timer"] | None = None
    copy_of: Address | None = None
    """A holding register of the same type whose number is written, such as a default."""
    scale: Annotated[Number, Field(gt=0)] = 1.0
    """kW of a power, or seconds of a timer, in one step."""
    least: WholeNumber | None = None
    most: WholeNumber | None = None
    """What the device takes, in its own steps."""
    read_back: Address | None = None
    """Where the device tells what it took, if not in the register itself."""
    daily_writes: Annotated[WholeNumber, Field(ge=1)] | None = None
    """How often a register in flash may be written in a day; none: as often as one likes."""

    @property
    def told_in(self) -> int:
        """The register that tells what the device took."""
        return self.address if self.read_back is None else self.read_back

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if sum(one is not None for one in (self.value, self.holds, self.copy_of)) != 1:
            raise ValueError("give one of value, holds and copy_of")
        return self


class Readings(_Record):
    """What is measured.

    A store's content is `energy_kwh`, or `soc_pct` of `capacity_kwh`, else of the registry's.
    """

    power_kw: Measure
    energy_kwh: Measure | None = None
    soc_pct: Measure | None = None
    capacity_kwh: Measure | None = None
    temperature_c: Measure | None = None
    heartbeat: Measure | None = None


class States(_Record):
    """What is known besides; a state without a point is not known."""

    plugged_in: State | None = None
    fault: State | None = None
    local: State | None = None


class SetPoint(_Record):
    """How a set-point is given: by the writes of its direction, or those of `rest` for 0 kW."""

    inject: tuple[Write, ...] = ()
    draw: tuple[Write, ...] = ()
    rest: tuple[Write, ...] = ()
    release: Annotated[tuple[Write, ...], Field(min_length=1)]
    remaining_s: Measure | None = None
    """Where the device tells how long its timer runs on."""

    @property
    def has_timer(self) -> bool:
        """Whether every set-point arms a timer of the device's own."""
        return all(_holds(writes, "timer") for writes in self._given)

    @property
    def writes(self) -> tuple[Write, ...]:
        """Every write of the map."""
        return (*self.inject, *self.draw, *self.rest, *self.release)

    @property
    def _given(self) -> list[tuple[Write, ...]]:
        return [writes for writes in (self.inject, self.draw, self.rest) if writes]

    @model_validator(mode="after")
    def _can_be_followed(self) -> Self:
        if not (self.inject or self.draw):
            raise ValueError("give the writes of inject, of draw or of both")
        for name, writes in (("inject", self.inject), ("draw", self.draw)):
            if writes and _holds(writes, "power") != 1:
                raise ValueError(f"{name}: exactly one of its writes holds the power")
        if _holds((*self.rest, *self.release), "power"):
            raise ValueError("rest and release hold no power; write a value")
        if any(_holds(writes, "timer") != self.has_timer for writes in self._given):
            raise ValueError("one write of inject, draw and rest each holds the timer, or none")
        if _holds(self.release, "timer"):
            raise ValueError("release holds no timer; write the value that ends it")
        if not any(write.value is not None for write in self.release):
            raise ValueError("release writes at least one fixed value, by which it is known")
        return self


class RegisterMap(_Record):
    """One vendor's device; without a `set_point` it is only read."""

    device: str
    device_types: tuple[str, ...] = ()
    """Which of the registry's types it is for; none: all, as a meter."""
    source: str
    word_order: WordOrder = "high_first"
    readings: Readings
    states: States = States()
    set_point: SetPoint | None = None


@cache
def register_map(name: str) -> RegisterMap:
    """Return the shipped map of that name. Raises `MapError`."""
    files = map_files()
    if name not in files:
        raise MapError(f"no register map is called {name!r}; there are {', '.join(files)}")
    return parse(files[name].name, files[name].read_text(encoding="utf-8"))


@cache
def maps_with_a_timer() -> frozenset[str]:
    """Return the names of the maps whose device ends a set-point by itself. Raises `MapError`."""
    return frozenset(
        name
        for name in map_files()
        if (set_point := register_map(name).set_point) is not None and set_point.has_timer
    )


def parse(file: str, text: str) -> RegisterMap:
    """Return the map that a YAML text holds. Raises `MapError`, naming `file`, field and value."""
    try:
        return RegisterMap.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise MapError(f"{file} is no YAML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'the map'}: {fault['input']!r}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        )
        raise MapError(f"{file}: {faults}") from None


def _holds(writes: tuple[Write, ...], what: str) -> int:
    return sum(write.holds == what for write in writes)
