"""The SunSpec registers of one simulated device, filled from its physics and obeyed when written.

Belongs here: models 1, 701, 702, 704, 713, 715 as a real device serves them, and what it refuses.
Does not: sockets and unit ids (`sunspec_server`), the physics (`plant_protocol.Plant`).
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pymodbus.constants import ExcCodes
from sunspec2 import device

from vpp_pipeline.devices import sunspec, sunspec_control, sunspec_reading
from vpp_pipeline.devices.registers import NotEncodable, to_registers
from vpp_pipeline.devices.sunspec import Block
from vpp_pipeline.devices.sunspec_control import (
    CONTROL_MODEL,
    RATING_MODEL,
    SET,
    UNSTEERED_TYPES,
)
from vpp_pipeline.devices.sunspec_reading import HEARTBEAT_MODEL, MEASUREMENT_MODEL, STORAGE_MODEL
from vpp_pipeline.simulation.plant_protocol import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vpp_pipeline.devices.protocol import Reading
    from vpp_pipeline.simulation.plant_protocol import Plant

BASE_ADDRESS = 40000
COMMON_MODEL = 1
FOREVER = datetime(2999, 1, 1, tzinfo=UTC)
"""When a set-point without a reversion timer ends: it does not."""
_W_PER_KW = 1000
_FULL_PCT = 100
_HEADROOM = 1.5  # measured power may pass the nameplate for a moment
_PERCENT_SCALE, _STEPS_PER_PERCENT = -2, 100
_RUNNING = 3  # InvSt
_LARGEST_INT16, _LARGEST_UINT16, _LARGEST_UINT32 = 32767, 65534, 0xFFFFFFFE


@dataclass(frozen=True)
class SunspecUnit:
    """A device as its SunSpec nameplate shows it. Powers are magnitudes in kW.

    One with an `energy_capacity_kwh` has model 713; a plain load has no model 704.
    """

    device_id: str
    device_type: str
    max_inject_kw: float
    max_draw_kw: float
    energy_capacity_kwh: float | None = None


class UnitRegisters:
    """The holding registers of one device. Reading them advances its physics to now."""

    def __init__(self, unit: SunspecUnit, plant: Plant) -> None:
        self._unit = unit
        self._plant = plant
        self._way = sunspec_control.steering(unit.device_type)
        self._first: dict[int, int] = {}  # a model's first register
        self._registers = list(sunspec.MARKER)
        for model_id in _models(unit):
            self._first[model_id] = len(self._registers)
            self._registers += to_registers(device.Model(model_id).get_mb())
        self._registers += [sunspec.END_MODEL, 0]
        self._steering = self._span(CONTROL_MODEL, self._way.names)
        self._writable = self._steering | self._span(HEARTBEAT_MODEL, ("ControllerHb",))
        self._engrave()

    def read(self, address: int, count: int) -> list[int] | ExcCodes:
        """Return `count` registers from a Modbus address on, as of now."""
        start = address - BASE_ADDRESS
        if start < 0 or start + count > len(self._registers):
            return ExcCodes.ILLEGAL_ADDRESS
        self._refresh()
        return self._registers[start : start + count]

    def write(self, address: int, values: Sequence[int]) -> ExcCodes | None:
        """Take registers as one whole, or refuse all of them; None is yes.

        A set-point obeys its timer; one over a timer of 0 is obeyed for ever, as by real devices.
        """
        touched = range(address - BASE_ADDRESS, address - BASE_ADDRESS + len(values))
        if not self._writable.issuperset(touched):
            return ExcCodes.ILLEGAL_ADDRESS
        self._refresh()
        written = list(self._registers)
        written[touched.start : touched.stop] = values
        if not self._steering.isdisjoint(touched):
            control = self._block(CONTROL_MODEL, written)
            if (refusal := self._obey(control)) is not None:
                return refusal
        self._registers = written
        return None

    def _obey(self, control: Block) -> ExcCodes | None:
        enable = control.raw(self._way.enable)
        if enable == sunspec_control.DISABLED:
            self._plant.release(self._unit.device_id)
            return None
        if enable != sunspec_control.ENABLED:
            return ExcCodes.ILLEGAL_VALUE
        # This device falls back to its own default only, never to a second set-point.
        if control.raw(self._way.revert_enable) != sunspec_control.DISABLED:
            return ExcCodes.ILLEGAL_VALUE
        setpoint_kw = self._within_nameplate(control)
        timer_s = control.raw(self._way.timer)
        if setpoint_kw is None or timer_s is None:
            return ExcCodes.ILLEGAL_VALUE
        until = self._plant.clock.now() + timedelta(seconds=timer_s) if timer_s else FOREVER
        try:
            self._plant.apply(self._unit.device_id, setpoint_kw, until)
        except Refused:
            return ExcCodes.ILLEGAL_VALUE
        return None

    def _within_nameplate(self, control: Block) -> float | None:
        """Return the set-point; None where it can't be read or is out of range.

        A nameplate is published rounded to its register: one step beyond it is clamped.
        """
        rating = self._block(RATING_MODEL, self._registers)
        setpoint_kw = sunspec_control.in_force(self._unit.device_type, control, rating).setpoint_kw
        if setpoint_kw is None:
            return None
        low, high = -self._unit.max_draw_kw, self._unit.max_inject_kw
        step_kw = sunspec.scaled(1, rating.scale("WMaxRtg") or 0) / _W_PER_KW
        if not low - step_kw <= setpoint_kw <= high + step_kw:
            return None
        return min(max(setpoint_kw, low), high)

    def _refresh(self) -> None:
        reading = self._plant.reading(self._unit.device_id)
        fault = reading.status == "fault"
        self._put_scaled(MEASUREMENT_MODEL, "W", reading.power_kw)
        self._put(MEASUREMENT_MODEL, "InvSt", sunspec_reading.INVERTER_FAULT if fault else _RUNNING)
        self._put(HEARTBEAT_MODEL, "DERHb", reading.heartbeat)
        self._put(
            HEARTBEAT_MODEL,
            "LocRemCtl",
            sunspec_reading.LOCAL_CONTROL if reading.status == "local" else 0,
        )
        if STORAGE_MODEL in self._first:
            self._refresh_storage(reading)
        if CONTROL_MODEL in self._first:
            self._refresh_control()

    def _refresh_storage(self, reading: Reading) -> None:
        self._put_scaled(STORAGE_MODEL, "WHAvail", reading.energy_kwh)
        capacity_kwh = self._unit.energy_capacity_kwh
        if reading.energy_kwh is None or capacity_kwh is None:
            self._put(STORAGE_MODEL, "SoC", None)
        else:
            share = reading.energy_kwh / capacity_kwh
            self._put(STORAGE_MODEL, "SoC", round(share * _FULL_PCT * _STEPS_PER_PERCENT))

    def _refresh_control(self) -> None:
        """Say what the plant obeys, not what was written: the two may differ, as in the field."""
        setpoint = self._plant.setpoint(self._unit.device_id)
        if setpoint is None:
            self._put(CONTROL_MODEL, self._way.enable, sunspec_control.DISABLED)
            self._put(CONTROL_MODEL, self._way.remaining, 0)
            return
        self._put(CONTROL_MODEL, self._way.enable, sunspec_control.ENABLED)
        self._put(CONTROL_MODEL, self._way.value, self._raw_setpoint(setpoint.setpoint_kw))
        left_s = (setpoint.until - self._plant.clock.now()).total_seconds()
        armed = setpoint.until < FOREVER
        self._put(CONTROL_MODEL, self._way.remaining, math.ceil(max(left_s, 0)) if armed else 0)

    def _raw_setpoint(self, setpoint_kw: float) -> int:
        if self._way is SET:
            return round(setpoint_kw * _W_PER_KW)
        rated_kw = sunspec_control.rated_power_kw(self._block(RATING_MODEL, self._registers))
        share = setpoint_kw / rated_kw if rated_kw else 0.0
        return round(share * _FULL_PCT * _STEPS_PER_PERCENT)

    def _engrave(self) -> None:
        """Write what never changes: names, ratings, scale factors, disabled set-points."""
        unit = self._unit
        rated_w = max(unit.max_inject_kw, unit.max_draw_kw) * _W_PER_KW
        self._put_text("Mn", "vpp_pipeline")
        self._put_text("Md", unit.device_type)
        self._put_text("SN", unit.device_id)
        self._put(MEASUREMENT_MODEL, "ACType", 2)
        self._put(MEASUREMENT_MODEL, "W_SF", _scale(rated_w * _HEADROOM, _LARGEST_INT16))
        self._put(RATING_MODEL, "W_SF", _scale(rated_w, _LARGEST_UINT16))
        self._put_scaled(RATING_MODEL, "WMaxRtg", rated_w / _W_PER_KW)
        if unit.energy_capacity_kwh is not None:
            self._put_scaled(RATING_MODEL, "WChaRteMaxRtg", unit.max_draw_kw)
            self._put_scaled(RATING_MODEL, "WDisChaRteMaxRtg", unit.max_inject_kw)
            capacity_wh = unit.energy_capacity_kwh * _W_PER_KW
            self._put(STORAGE_MODEL, "WH_SF", _scale(capacity_wh, _LARGEST_UINT16))
            self._put(STORAGE_MODEL, "Pct_SF", _PERCENT_SCALE)
            self._put_scaled(STORAGE_MODEL, "WHRtg", unit.energy_capacity_kwh)
            self._put(STORAGE_MODEL, "Sta", 0)
        if CONTROL_MODEL in self._first:
            scale = 0 if self._way is SET else _PERCENT_SCALE
            self._put(CONTROL_MODEL, self._way.scale, scale)
            self._put(CONTROL_MODEL, self._way.timer, 0)
            control = self._block(CONTROL_MODEL, self._registers)
            frame = sunspec_control.release_frame(unit.device_type, control)
            for name, raw in frame.values:
                self._put(CONTROL_MODEL, name, raw)
            self._put(CONTROL_MODEL, self._way.remaining, 0)

    def _put_scaled(self, model_id: int, name: str, kilo: float | None) -> None:
        """Write kW or kWh into a point in W or Wh."""
        scale = self._block(model_id, self._registers).scale(name)
        if kilo is None or scale is None or not math.isfinite(kilo):
            self._put(model_id, name, None)
        else:
            self._put(model_id, name, round(kilo * _W_PER_KW / 10**scale))

    def _put(self, model_id: int, name: str, raw: int | None) -> None:
        """Write a point; what its type can't hold is not implemented, as a device would say."""
        words = sunspec.not_implemented(model_id, name)
        if raw is not None:
            with contextlib.suppress(NotEncodable):
                words = sunspec.pack(model_id, name, raw)
        self._write_words(model_id, name, words)

    def _put_text(self, name: str, text: str) -> None:
        size = sunspec.layout(COMMON_MODEL)[name].length * 2
        padded = text.encode()[:size].ljust(size, b"\0")
        self._write_words(COMMON_MODEL, name, to_registers(padded))

    def _write_words(self, model_id: int, name: str, words: Sequence[int]) -> None:
        start = self._first[model_id] + sunspec.layout(model_id)[name].offset
        self._registers[start : start + len(words)] = words

    def _block(self, model_id: int, registers: Sequence[int]) -> Block:
        first = self._first[model_id]
        return Block(model_id, tuple(registers[first : first + sunspec.length(model_id)]))

    def _span(self, model_id: int, names: Sequence[str]) -> set[int]:
        if model_id not in self._first:
            return set()
        first, points = self._first[model_id], sunspec.layout(model_id)
        return {
            first + offset
            for name in names
            for offset in range(points[name].offset, points[name].end)
        }


def _models(unit: SunspecUnit) -> list[int]:
    models = [COMMON_MODEL, MEASUREMENT_MODEL, RATING_MODEL]
    if unit.device_type not in UNSTEERED_TYPES:
        models.append(CONTROL_MODEL)
    if unit.energy_capacity_kwh is not None:
        models.append(STORAGE_MODEL)
    return [*models, HEARTBEAT_MODEL]


def _scale(largest: float, most: int) -> int:
    """Return the smallest scale factor from 0 on at which the register holds `largest`."""
    return max(0, math.ceil(math.log10(max(largest, 1) / most)))
