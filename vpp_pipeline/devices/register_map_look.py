"""A device with a vendor's register map, as its registers say it is.

Belongs here: which registers are read for what, and the driver's questions answered from them.
Does not: what a map may say (`register_map`), requests (`modbus_session`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from vpp_pipeline.devices.modbus_look import RegisterWrite
from vpp_pipeline.devices.modbus_session import LinkError, Refusal, Session
from vpp_pipeline.devices.protocol import ReadBack, Reading
from vpp_pipeline.devices.register_map import MapError, register_map
from vpp_pipeline.devices.registers import (
    LENGTHS,
    NotEncodable,
    decode,
    encode,
    to_bytes,
    whole_steps,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from vpp_pipeline.devices.modbus_look import Purpose
    from vpp_pipeline.devices.protocol import Command, DeviceLink
    from vpp_pipeline.devices.register_map import (
        Measure,
        RegisterMap,
        SetPoint,
        State,
        Table,
        Write,
    )
    from vpp_pipeline.devices.registers import Kind

_FULL_PCT = 100
_MOST_WRITTEN = 123  # registers in a Modbus write
_MOST_READ = 125


@dataclass(frozen=True)
class MapLook:
    """A device's registers as just read, by table and address; a `modbus_look.Look`.

    What the device refused to give is not among them.
    """

    link: DeviceLink
    map: RegisterMap
    registers: Mapping[tuple[Table, int], int]

    def reading(self, at: datetime) -> Reading:
        """Return what is measured; what a register says is missing becomes None."""
        given, states = self.map.readings, self.map.states
        energy_kwh = self._value(given.energy_kwh)
        soc_pct, capacity_kwh = self._value(given.soc_pct), self._value(given.capacity_kwh)
        if given.capacity_kwh is None:
            capacity_kwh = self.link.energy_capacity_kwh
        if energy_kwh is None and soc_pct is not None and capacity_kwh is not None:
            energy_kwh = soc_pct / _FULL_PCT * capacity_kwh
        heartbeat = self._value(given.heartbeat)
        fault, local = self._is(states.fault), self._is(states.local)
        return Reading(
            device_id=self.link.device_id,
            measured_at=at,
            power_kw=self._value(given.power_kw),
            setpoint_kw=self._in_force()[1],
            energy_kwh=energy_kwh,
            temperature_c=self._value(given.temperature_c),
            plugged_in=self._is(states.plugged_in),
            heartbeat=None if heartbeat is None else int(heartbeat),
            status="fault" if fault else "local" if local else "ok",
        )

    def refusal(self) -> str:
        """Return why the device can't be steered now, or nothing."""
        if self.map.set_point is None:
            return f"its register map ({self.map.device}) takes no set-point"
        return "somebody on site has the control" if self._is(self.map.states.local) else ""

    def set_point(self, power_kw: float, timer_s: int) -> list[RegisterWrite]:
        """Return the map's writes for this power, the enable where the map has it."""
        if timer_s < 1:
            raise NotEncodable(f"a timer of {timer_s} s would hold the set-point for ever")
        return self._frames(self._words(self._writes_for(power_kw), power_kw, timer_s))

    def release(self) -> list[RegisterWrite]:
        """Return the map's writes that give the device back to itself."""
        return self._frames(self._words(self._set_point.release, 0.0, 0))

    def read_back(self, command: Command, longest_s: float) -> ReadBack:
        """Compare the registers with what the command writes; a timer must be armed if there is one.

        Raises `LinkError` where the map takes no set-point.
        """
        if self.map.set_point is None:
            raise LinkError(self.refusal())
        has_timer = self._set_point.has_timer
        unlike = self._unlike(command)
        enabled, setpoint_kw = self._in_force()
        remaining_s = self._value(self._set_point.remaining_s) if enabled else None
        if remaining_s is not None and remaining_s > longest_s:
            unlike.append(f"its timer runs {remaining_s:g} s, the command {longest_s:g} s at most")
        told = [] if has_timer else ["it has no timer: nothing ends this by itself"]
        return ReadBack(
            device_id=self.link.device_id,
            matches=not unlike,
            setpoint_kw=setpoint_kw,
            raw=self._raw(),
            timer_remaining_s=remaining_s,
            has_timer=has_timer,
            detail="; ".join([*unlike, *told]),
        )

    def left_over(self) -> str:
        """Return which of the release's registers say something else."""
        told = self._words(self._set_point.release, 0.0, 0)
        return "; ".join(self._differences(told))

    @property
    def _set_point(self) -> SetPoint:
        if self.map.set_point is None:
            raise NotEncodable(self.refusal())
        return self.map.set_point

    def _writes_for(self, power_kw: float) -> tuple[Write, ...]:
        given = self._set_point
        if power_kw == 0:
            writes = given.rest or given.inject or given.draw
        else:
            writes = given.inject if power_kw > 0 else given.draw
        if not writes:
            direction = "inject" if power_kw > 0 else "draw"
            raise NotEncodable(f"power_kw {power_kw}: {self.map.device} can't {direction}")
        return writes

    def _words(
        self, writes: Sequence[Write], power_kw: float, timer_s: int
    ) -> list[tuple[Write, tuple[int, ...]]]:
        """Return the registers of each write. Raises `NotEncodable` with address and value."""
        return [
            (write, self._encoded(write, self._number(write, power_kw, timer_s)))
            for write in writes
        ]

    def _number(self, write: Write, power_kw: float, timer_s: int) -> float:
        if write.value is not None:
            return write.value
        if write.copy_of is not None:
            original = self._raw_number("holding", write.copy_of, write.type)
            if original is None:
                raise NotEncodable(f"register {write.copy_of}, to be copied, could not be read")
            return original
        number = abs(power_kw) if write.holds == "power" else timer_s
        if write.type == "float32":
            return number / write.scale
        return whole_steps(number, write.scale)

    def _encoded(self, write: Write, number: float) -> tuple[int, ...]:
        if write.holds == "timer" and number < 1:
            raise NotEncodable(
                f"the timer at {write.address} counts {write.scale:g} s a step: less is left"
            )
        low, high = write.least, write.most
        if (low is not None and number < low) or (high is not None and number > high):
            raise NotEncodable(
                f"register {write.address} ({write.holds}) takes {low} to {high}, not {number:g}"
            )
        try:
            return encode(write.type, number, self.map.word_order)
        except NotEncodable as error:
            raise NotEncodable(f"register {write.address}: {error}") from error

    def _frames(self, told: Sequence[tuple[Write, tuple[int, ...]]]) -> list[RegisterWrite]:
        """Join writes that touch; leave out what is in flash and is there already, as just read."""
        frames: list[RegisterWrite] = []
        for write, words in told:
            if write.daily_writes is not None and self._holding(write.told_in, words) == words:
                continue
            limits = {} if write.daily_writes is None else {write.address: write.daily_writes}
            last = frames[-1] if frames else None
            if (
                last is not None
                and last.address + len(last.registers) == write.address
                and len(last.registers) + len(words) <= _MOST_WRITTEN
            ):
                frames[-1] = RegisterWrite(
                    last.address, last.registers + words, {**last.daily_writes, **limits}
                )
            else:
                frames.append(RegisterWrite(write.address, words, limits))
        return frames

    def _unlike(self, command: Command) -> list[str]:
        """Return, in words, where the registers are not as the command writes them."""
        try:
            writes = self._writes_for(command.power_kw)
            told = self._words(
                [write for write in writes if write.holds != "timer"], command.power_kw, 0
            )
        except NotEncodable as error:
            return [str(error)]
        unlike = self._differences(told)
        if any(
            write.holds == "timer" and not self._raw_number("holding", write.told_in, write.type)
            for write in writes
        ):
            unlike.append("no timer is armed")
        return unlike

    def _differences(self, told: Sequence[tuple[Write, tuple[int, ...]]]) -> list[str]:
        return [
            f"register {write.told_in} is {self._shown(write)}, not "
            f"{decode(write.type, words, self.map.word_order)}"
            for write, words in told
            if self._holding(write.told_in, words) != words
        ]

    def _shown(self, write: Write) -> str:
        number = self._raw_number("holding", write.told_in, write.type)
        return "not readable" if number is None else f"{number:g}"

    def _in_force(self) -> tuple[bool, float | None]:
        """Return whether a set-point is in force, and which; None where it can't be read."""
        given = self.map.set_point
        if given is None or self._stands(given.release):
            return False, None
        if self._stands(given.rest):
            return True, 0.0
        for writes, sign in ((given.inject, 1.0), (given.draw, -1.0)):
            power = next((write for write in writes if write.holds == "power"), None)
            if power is None or not self._stands(writes, or_bare=True):
                continue
            number = self._raw_number("holding", power.told_in, power.type)
            return True, None if number is None else sign * number * power.scale
        return False, None

    def _stands(self, writes: Sequence[Write], *, or_bare: bool = False) -> bool:
        """Tell whether the registers hold every fixed value of the writes."""
        fixed = [write for write in writes if write.value is not None]
        return bool(fixed or (or_bare and writes)) and all(
            self._raw_number("holding", write.told_in, write.type) == write.value for write in fixed
        )

    def _is(self, state: State | None) -> bool | None:
        if state is None:
            return None
        number = self._raw_number(state.table, state.address, state.type)
        return None if number is None else number in state.values

    def _value(self, measure: Measure | None) -> float | None:
        if measure is None:
            return None
        number = self._raw_number(measure.table, measure.address, measure.type)
        return None if number is None or number == measure.missing else number * measure.scale

    def _raw_number(self, table: Table, address: int, kind: Kind) -> float | None:
        words = self._read(table, address, LENGTHS[kind])
        return None if words is None else decode(kind, words, self.map.word_order)

    def _holding(self, address: int, like: Sequence[int]) -> tuple[int, ...] | None:
        return self._read("holding", address, len(like))

    def _read(self, table: Table, address: int, count: int) -> tuple[int, ...] | None:
        words = [self.registers.get((table, address + i)) for i in range(count)]
        known = tuple(word for word in words if word is not None)
        return known if len(known) == count else None

    def _raw(self) -> str:
        """Return the written registers as read: `address:hex` of each run of neighbours."""
        given = self._set_point.writes
        wanted = {
            ("holding", write.told_in + i) for write in given for i in range(LENGTHS[write.type])
        }
        runs = _spans(
            sorted(address for table, address in wanted if (table, address) in self.registers)
        )
        return " ".join(
            f"{start}:{to_bytes([self.registers['holding', start + i] for i in range(count)]).hex()}"
            for start, count in runs
        )


async def look_at(session: Session, link: DeviceLink, unit_id: int, purpose: Purpose) -> MapLook:
    """Read those registers of the map that the purpose needs. Raises `LinkError`."""
    name = link.register_map or ""
    try:
        spans = _wanted(name, purpose)
        vendor = register_map(name)
    except MapError as error:
        raise LinkError(f"{link.device_id}: {error}") from error
    registers: dict[tuple[Table, int], int] = {}
    refused: Refusal | None = None
    for table, address, count in spans:
        try:
            words = await session.read(unit_id, address, count, table)
        except Refusal as refusal:
            if not refusal.is_final:
                raise
            refused = refusal  # a device without this option; what it has is read all the same
            continue
        registers |= {(table, address + i): word for i, word in enumerate(words)}
    if refused is not None and not registers:
        raise refused
    return MapLook(link, vendor, registers)


@cache
def _wanted(name: str, purpose: Purpose) -> list[tuple[Table, int, int]]:
    """Return the spans to read: neighbours together, but nothing that the map does not name."""
    vendor = register_map(name)
    points: set[tuple[Table, int]] = set()

    def add(table: Table, address: int, kind: Kind) -> None:
        points.update((table, address + i) for i in range(LENGTHS[kind]))

    given, states = vendor.readings, vendor.states
    measured = [one for one in dict(given).values() if one is not None]
    told = [one for one in dict(states).values() if one is not None]
    for point in ([*measured, *told] if purpose == "read" else []) + (
        [states.local] if states.local else []
    ):
        add(point.table, point.address, point.type)
    if vendor.set_point is not None:
        for write in vendor.set_point.writes:
            add("holding", write.told_in, write.type)
            if write.copy_of is not None:
                add("holding", write.copy_of, write.type)
        if remaining := vendor.set_point.remaining_s:
            add(remaining.table, remaining.address, remaining.type)
    tables: tuple[Table, ...] = ("holding", "input")
    return [
        (table, *span)
        for table in tables
        for span in _spans(sorted(address for kept, address in points if kept == table))
    ]


def _spans(addresses: Sequence[int]) -> list[tuple[int, int]]:
    """Join sorted addresses that touch into (first, count), as many as one read takes."""
    spans: list[tuple[int, int]] = []
    for address in addresses:
        if spans and address == sum(spans[-1]) and spans[-1][1] < _MOST_READ:
            spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        else:
            spans.append((address, 1))
    return spans
