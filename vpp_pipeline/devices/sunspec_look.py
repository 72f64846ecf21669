"""A SunSpec device as its models say it is.

Belongs here: which models are read for what, and the driver's questions answered from them. Does
not: the points' meaning (`sunspec_control`, `sunspec_reading`), requests (`modbus_session`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

from vpp_pipeline.devices import sunspec, sunspec_control, sunspec_models, sunspec_reading
from vpp_pipeline.devices.modbus_look import RegisterWrite
from vpp_pipeline.devices.modbus_session import LinkError, Session
from vpp_pipeline.devices.protocol import ReadBack
from vpp_pipeline.devices.registers import NotEncodable, to_bytes
from vpp_pipeline.devices.sunspec import Block
from vpp_pipeline.devices.sunspec_control import (
    CONTROL_MODEL,
    CURTAILED_TYPES,
    LEGACY_CONTROL_MODEL,
    LEGACY_RATING_MODEL,
    LEGACY_SETTING_MODEL,
    RATING_MODEL,
)
from vpp_pipeline.devices.sunspec_reading import (
    HEARTBEAT_MODEL,
    LEGACY_MEASUREMENT_MODELS,
    LEGACY_STORAGE_MODEL,
    MEASUREMENT_MODEL,
    STORAGE_MODEL,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from vpp_pipeline.devices.modbus_look import Purpose
    from vpp_pipeline.devices.protocol import Command, DeviceLink, Reading
    from vpp_pipeline.devices.sunspec import Frame
    from vpp_pipeline.devices.sunspec_models import Models

_VERIFYING = {
    RATING_MODEL: "W_SF",
    CONTROL_MODEL: "WSetPct_SF",
    LEGACY_RATING_MODEL: "WHRtg_SF",
    LEGACY_SETTING_MODEL: "WMax_SF",
    LEGACY_CONTROL_MODEL: "WMaxLimPct_SF",
}
_STEERING = _VERIFYING | {HEARTBEAT_MODEL: "DERHb"}
_READING = _STEERING | {
    MEASUREMENT_MODEL: "W_SF",
    STORAGE_MODEL: "Pct_SF",
    LEGACY_STORAGE_MODEL: "ChaState_SF",
    **dict.fromkeys(LEGACY_MEASUREMENT_MODELS, "St"),
}
_LAST_POINTS: dict[Purpose, dict[int, str]] = {
    "read": _READING,
    "steer": _STEERING,
    "verify": _VERIFYING,
}
"""The last point needed of each model."""


@dataclass(frozen=True)
class SunspecLook:
    """A SunSpec device's models as just read; a `modbus_look.Look`."""

    link: DeviceLink
    models: Models
    blocks: Mapping[int, Block]

    def reading(self, at: datetime) -> Reading:
        """Return what is measured; the store's content where there is one."""
        if sunspec_reading.measurement(self.blocks) is None:
            raise LinkError(
                f"the device has no SunSpec model {MEASUREMENT_MODEL}, 101, 102 or 103 to read"
            )
        return sunspec_reading.to_reading(self.link, self.blocks, at)

    def refusal(self) -> str:
        """Return why the device can't be steered now, or nothing."""
        if sunspec_reading.is_local(self.blocks.get(HEARTBEAT_MODEL)):
            return "somebody on site has the control (LOCAL)"
        return "" if sunspec_reading.control(self.blocks) else _no_control()

    def set_point(self, power_kw: float, timer_s: int) -> list[RegisterWrite]:
        """Return the one frame of the set-point and its timer."""
        control, rating = self._steered_by
        return self._write(
            sunspec_control.set_point_frame(
                self.link.device_type, power_kw, timer_s, control, rating
            )
        )

    def release(self) -> list[RegisterWrite]:
        """Return the one frame that disables the set-point and clears it."""
        return self._write(self._release_frame())

    def read_back(self, command: Command, longest_s: float) -> ReadBack:
        """Compare raw registers with the encoding of the command.

        A timer that is there and not armed does not match, nor does one that runs longer than the
        command: the set-point would outlive it.
        """
        control, rating = self._steered_by
        kind = self.link.device_type
        try:
            way = sunspec_control.steering(kind, control.model_id)
        except NotEncodable as error:
            raise LinkError(str(error)) from error
        state = sunspec_control.in_force(kind, control, rating)
        try:
            values = sunspec_control.set_point_values(kind, command.power_kw, control, rating)
            unlike = sunspec_control.differences(values, control, way.kept)
        except NotEncodable as error:
            unlike = [str(error)]
        if state.timer_s == 0:
            unlike.append("no reversion timer is armed")
        runs = state.enabled and state.timer_s and state.has_timer
        remaining_s = state.remaining_s if runs else None
        if remaining_s is not None and remaining_s > longest_s:
            unlike.append(f"its timer runs {remaining_s:g} s, the command {longest_s:g} s at most")
        told = [] if state.has_timer else [f"{way.timer} does not run: nothing ends this by itself"]
        points = sunspec.layout(control.model_id)
        window = control.registers[points[way.names[0]].offset : points[way.names[-1]].end + 2]
        return ReadBack(
            device_id=self.link.device_id,
            matches=not unlike,
            setpoint_kw=state.setpoint_kw,
            raw=to_bytes(window).hex(),
            timer_remaining_s=remaining_s,
            has_timer=state.has_timer,
            detail="; ".join(
                [*unlike, *told, *sunspec_control.others_in_force(kind, control)],
            ),
        )

    def left_over(self) -> str:
        """Return which of the release's registers say something else."""
        frame = self._release_frame()
        control, _ = self._steered_by
        way = sunspec_control.steering(self.link.device_type, control.model_id)
        told = {name: raw for name, raw in frame.values if name in (*way.kept, way.timer)}
        return "; ".join(sunspec_control.differences(told, control, told))

    def moved_span(self) -> tuple[int, int]:
        """Return address and number of the registers that a set-point moves, and its scale factor.

        Raises `LinkError`, `NotEncodable`.
        """
        control, _ = self._steered_by
        way = sunspec_control.steering(self.link.device_type, control.model_id)
        first = self.models[control.model_id].address + way.moved.start
        return first, way.moved.stop - way.moved.start

    def with_moved(self, address: int, words: Sequence[int]) -> SunspecLook:
        """Return this look with the control model's registers from `address` on read anew."""
        control, _ = self._steered_by
        first, old = address - self.models[control.model_id].address, control.registers
        new = Block(control.model_id, (*old[:first], *words, *old[first + len(words) :]))
        return SunspecLook(self.link, self.models, {**self.blocks, control.model_id: new})

    @cached_property
    def _steered_by(self) -> tuple[Block, Block | None]:
        control = sunspec_reading.control(self.blocks)
        if control is None:
            raise LinkError(_no_control())
        return control, sunspec_reading.rating(self.blocks)

    def _release_frame(self) -> Frame:
        control, _ = self._steered_by
        return sunspec_control.release_frame(self.link.device_type, control)

    def _write(self, frame: Frame) -> list[RegisterWrite]:
        address = self.models[frame.model_id].address + frame.offset
        return [RegisterWrite(address, frame.registers)]


async def look_at(
    session: Session, link: DeviceLink, unit_id: int, purpose: Purpose
) -> SunspecLook:
    """Read the models that the purpose needs. Raises `LinkError`."""
    blocks = await sunspec_models.blocks(
        session, unit_id, _lengths(purpose), link.base_address, _remembered(link, purpose)
    )
    models = await sunspec_models.models(session, unit_id, link.base_address)
    return SunspecLook(link, models, blocks)


async def look_again(session: Session, look: SunspecLook, unit_id: int) -> SunspecLook:
    """Read what a write just moved; the rest is as `look` saw it right before.

    Raises `LinkError`, `NotEncodable`.
    """
    address, count = look.moved_span()
    return look.with_moved(address, await session.read(unit_id, address, count))


@cache
def _lengths(purpose: Purpose) -> dict[int, int]:
    last = _LAST_POINTS[purpose]
    return {model_id: sunspec.layout(model_id)[name].end for model_id, name in last.items()}


def _remembered(link: DeviceLink, purpose: Purpose) -> frozenset[int]:
    """Return the models whose content may be a day old.

    A nameplate only keeps a set-point in watts from being too high; a limit is a share of it.
    """
    steered = purpose != "read" and link.device_type not in CURTAILED_TYPES
    return frozenset({RATING_MODEL}) if steered else frozenset()


def _no_control() -> str:
    return (
        f"the device has no SunSpec model {CONTROL_MODEL} or {LEGACY_CONTROL_MODEL}: its active"
        " power can't be steered"
    )
