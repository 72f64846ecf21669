"""Set-points in SunSpec: the frame that commands, and what a device says is in force.

Belongs here: the ways to steer active power and their failsafe timer. Does not: register layouts
(`sunspec`), connections (`modbus_session`), whether a command may be sent (`modbus`).

Model 704: a store or a CHP gets `WSet` in watts (positive injects, as model 701 measures it); PV
and wind get `WMaxLimPct`, a share of the nameplate. Older inverters have model 123 instead, whose
`WMaxLimPct` is a share of `WMax` (model 121) or, without that, of `WRtg` (model 120).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from vpp_pipeline.devices import sunspec
from vpp_pipeline.devices.registers import NotEncodable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vpp_pipeline.devices.sunspec import Block, Frame

RATING_MODEL, LEGACY_RATING_MODEL, LEGACY_SETTING_MODEL = 702, 120, 121
CONTROL_MODEL, LEGACY_CONTROL_MODEL = 704, 123
CURTAILED_TYPES = frozenset({"pv", "wind"})
UNSTEERED_TYPES = frozenset({"load"})
ENABLED, DISABLED = 1, 0
WATTS = 1  # WSetMod
_W_PER_KW = 1000
_FULL_PCT = 100
_RATINGS = {
    RATING_MODEL: "WMaxRtg",
    LEGACY_SETTING_MODEL: "WMax",
    LEGACY_RATING_MODEL: "WRtg",
}


@dataclass(frozen=True)
class Steering:
    """The points of one way to steer active power; `names` are in register order."""

    model_id: int
    enable: str
    value: str
    scale: str
    timer: str
    names: tuple[str, ...]
    kept: tuple[str, ...]
    """What a device must still say when it obeys; the timer runs, unused points may change."""
    revert_enable: str = ""  # none
    remaining: str = ""  # none

    @cached_property
    def moved(self) -> slice:
        """The registers that a set-point moves and its scale factor's, from the model's ID."""
        points = sunspec.layout(self.model_id)
        told = [points[name] for name in (*self.names, self.scale, self.remaining) if name]
        return slice(min(point.offset for point in told), max(point.end for point in told))


SET = Steering(
    model_id=CONTROL_MODEL,
    enable="WSetEna",
    value="WSet",
    scale="WSet_SF",
    revert_enable="WSetEnaRvrt",
    timer="WSetRvrtTms",
    remaining="WSetRvrtRem",
    names=(
        "WSetEna",
        "WSetMod",
        "WSet",
        "WSetRvrt",
        "WSetPct",
        "WSetPctRvrt",
        "WSetEnaRvrt",
        "WSetRvrtTms",
    ),
    kept=("WSetEna", "WSetMod", "WSet", "WSetEnaRvrt"),
)
LIMIT = Steering(
    model_id=CONTROL_MODEL,
    enable="WMaxLimPctEna",
    value="WMaxLimPct",
    scale="WMaxLimPct_SF",
    revert_enable="WMaxLimPctEnaRvrt",
    timer="WMaxLimPctRvrtTms",
    remaining="WMaxLimPctRvrtRem",
    names=(
        "WMaxLimPctEna",
        "WMaxLimPct",
        "WMaxLimPctRvrt",
        "WMaxLimPctEnaRvrt",
        "WMaxLimPctRvrtTms",
    ),
    kept=("WMaxLimPctEna", "WMaxLimPct", "WMaxLimPctEnaRvrt"),
)
LEGACY_LIMIT = Steering(
    model_id=LEGACY_CONTROL_MODEL,
    enable="WMaxLim_Ena",
    value="WMaxLimPct",
    scale="WMaxLimPct_SF",
    timer="WMaxLimPct_RvrtTms",
    names=(
        "WMaxLimPct",
        "WMaxLimPct_WinTms",
        "WMaxLimPct_RvrtTms",
        "WMaxLimPct_RmpTms",
        "WMaxLim_Ena",
    ),
    kept=("WMaxLim_Ena", "WMaxLimPct"),
)


@dataclass(frozen=True)
class InForce:
    """What a device says of its set-point; `setpoint_kw` is None where none is in force."""

    enabled: bool
    setpoint_kw: float | None
    timer_s: float | None  # as armed; none: the device does not implement it
    remaining_s: float | None
    has_timer: bool
    """Whether a set-point here ends by itself when nobody refreshes it.

    A timer that is not implemented does not, nor does one that is armed and, where the model has
    a point for it, not seen to run. Model 123 has none: its timer is believed.
    """


def steering(device_type: str, model_id: int = CONTROL_MODEL) -> Steering:
    """Return how a device of this type is steered by that model.

    Raises `NotEncodable` where it can't be: model 123 only limits what is injected.
    """
    if model_id == LEGACY_CONTROL_MODEL:
        if device_type not in CURTAILED_TYPES:
            raise NotEncodable(
                f"SunSpec model {LEGACY_CONTROL_MODEL} limits what PV and wind inject, it steers no"
                f" {device_type}: the device has no model {CONTROL_MODEL}; name its register map"
            )
        return LEGACY_LIMIT
    return LIMIT if device_type in CURTAILED_TYPES else SET


def set_point_frame(
    device_type: str, power_kw: float, timer_s: int, control: Block, rating: Block | None
) -> Frame:
    """Return the one frame that enables a set-point and arms its reversion timer.

    A timer that the device does not implement is left out. Raises `NotEncodable` as
    `set_point_values`, and for a timer of no second: that one would never run out.
    """
    values = set_point_values(device_type, power_kw, control, rating)
    if timer_s < 1:
        raise NotEncodable(f"a timer of {timer_s} s would hold the set-point for ever")
    return _frame(steering(device_type, control.model_id), control, values, timer_s)


def set_point_values(
    device_type: str, power_kw: float, control: Block, rating: Block | None
) -> dict[str, int]:
    """Return the raw points that say a set-point; those it does not name are 0, but the timer.

    `control` is model 704 or 123 as just read (its scale factors), `rating` model 702, 121 or 120
    where there is one. Raises `NotEncodable` for a power that is not finite, beyond the device's
    rating or without a scale factor.
    """
    if not math.isfinite(power_kw):
        raise NotEncodable(f"power_kw {power_kw} is not a finite number")
    way = steering(device_type, control.model_id)
    check_rating(power_kw, rating)
    if way is SET:
        raw = sunspec.unscaled(power_kw * _W_PER_KW, _scale(control, way))
        return {"WSetEna": ENABLED, "WSetMod": WATTS, "WSet": raw}
    rated_kw = rated_power_kw(rating)
    if rated_kw is None:
        names = " or ".join(f"{name} of model {model}" for model, name in _RATINGS.items())
        raise NotEncodable(
            f"{names}, or its scale factor, is not implemented: "
            "a share of an unknown nameplate says nothing"
        )
    share_pct = min(power_kw / rated_kw * _FULL_PCT, _FULL_PCT)
    return _limit_values(way, control, ENABLED, share_pct)


def release_frame(device_type: str, control: Block) -> Frame:
    """Return the frame that disables the set-point and clears its value and timer.

    Raises `NotEncodable` where the scale factor of a limit is missing.
    """
    way = steering(device_type, control.model_id)
    if way is SET:
        values = {"WSetEna": DISABLED, "WSetMod": WATTS, "WSet": 0}
    else:
        values = _limit_values(way, control, DISABLED, _FULL_PCT)
    return _frame(way, control, values, 0)


def in_force(device_type: str, control: Block, rating: Block | None) -> InForce:
    """Return what the control model says is in force; a set-point that can't be read is None."""
    way = steering(device_type, control.model_id)
    enabled = control.raw(way.enable) == ENABLED
    timer_s = control.raw(way.timer)
    remaining_s = control.raw(way.remaining) if way.remaining else None
    should_run = enabled and bool(timer_s) and bool(way.remaining)
    return InForce(
        enabled=enabled,
        setpoint_kw=_setpoint_kw(way, control, rating) if enabled else None,
        timer_s=timer_s,
        remaining_s=None if remaining_s is None else float(remaining_s),
        has_timer=timer_s is not None and (bool(remaining_s) or not should_run),
    )


def others_in_force(device_type: str, control: Block) -> list[str]:
    """Return, in words, what else in the control model bounds the power: left over, or another's."""
    way = steering(device_type, control.model_id)
    if control.model_id != CONTROL_MODEL:
        return []
    other = LIMIT if way is SET else SET
    if control.raw(other.enable) != ENABLED:
        return []
    return [f"{other.enable} is on as well, with {other.value} {control.raw(other.value)}"]


def differences(told: Mapping[str, int], control: Block, names: Iterable[str]) -> list[str]:
    """Return, in words, where registers differ from what they were told; a name untold is 0."""
    return [
        f"{name} is {control.raw(name)}, not {raw}"
        for name in names
        if control.raw(name) != (raw := told.get(name, 0))
    ]


def rated_power_kw(rating: Block | None) -> float | None:
    """Return the nameplate in kW; None where it, its scale factor or its model is missing, or 0."""
    watts = rating.value(_RATINGS[rating.model_id]) if rating is not None else None
    return watts / _W_PER_KW if watts else None


def check_rating(power_kw: float, rating: Block | None) -> None:
    """Raise `NotEncodable` where the power is beyond the rating the device itself publishes.

    One step of the rating's register is granted: a nameplate is rounded to it.
    """
    if rating is None:
        return
    name, rated_w, step_w = _most(rating, draws=power_kw < 0)
    if rated_w is not None and abs(power_kw) * _W_PER_KW > rated_w + step_w:
        raise NotEncodable(
            f"power_kw {power_kw} is beyond the device's {name} of {rated_w / _W_PER_KW} kW"
        )


@lru_cache(maxsize=1024)
def _most(rating: Block, *, draws: bool) -> tuple[str, float | None, float]:
    """Return the rating that bounds a direction: its point, its watts and the register's step."""
    directed = "WChaRteMaxRtg" if draws else "WDisChaRteMaxRtg"
    if rating.model_id == RATING_MODEL and rating.value(directed) is not None:
        name = directed
    else:
        name = _RATINGS[rating.model_id]
    return name, rating.value(name), sunspec.scaled(1, rating.scale(name) or 0)


def _scale(control: Block, way: Steering) -> int:
    scale = control.scale(way.value)
    if scale is None:
        raise NotEncodable(
            f"the scale factor of {way.value} is not implemented: no number means a power"
        )
    return scale


def _limit_values(way: Steering, control: Block, enable: int, share_pct: float) -> dict[str, int]:
    scale = _scale(control, way)
    values = {way.enable: enable, way.value: sunspec.unscaled(share_pct, scale)}
    if way is LIMIT:
        values["WMaxLimPctRvrt"] = sunspec.unscaled(_FULL_PCT, scale)
    return values


def _frame(way: Steering, control: Block, values: dict[str, int], timer_s: int) -> Frame:
    """Return the points of `way`; those without a value are 0, as is a timer amid the others."""
    names = way.names
    if control.raw(way.timer) is None:
        names, timer_s = (names[:-1], 0) if names[-1] == way.timer else (names, 0)
    told = values | {way.timer: timer_s}
    return sunspec.Frame(way.model_id, tuple((name, told.get(name, 0)) for name in names))


def _setpoint_kw(way: Steering, control: Block, rating: Block | None) -> float | None:
    if way is SET and control.raw("WSetMod") == WATTS:
        watts = control.value("WSet")
        return None if watts is None else watts / _W_PER_KW
    share_pct = control.value("WSetPct" if way is SET else way.value)
    rated_kw = rated_power_kw(rating)
    return None if share_pct is None or rated_kw is None else share_pct / _FULL_PCT * rated_kw
