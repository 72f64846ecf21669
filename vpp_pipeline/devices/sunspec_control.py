"""Set-points in SunSpec model 704: the frame that commands, and what a device says is in force.

Belongs here: the two ways to steer active power and their failsafe timer. Does not: register
layouts (`sunspec`), connections (`modbus_session`), whether a command may be sent (`modbus`).

A store or a CHP gets `WSet` in watts (positive injects, as model 701 measures it); PV and wind
get `WMaxLimPct`, a share of the nameplate `WMaxRtg` (model 702).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vpp_pipeline.devices import sunspec

if TYPE_CHECKING:
    from vpp_pipeline.devices.sunspec import Block, Frame

RATING_MODEL = 702
CONTROL_MODEL = 704
CURTAILED_TYPES = frozenset({"pv", "wind"})
UNSTEERED_TYPES = frozenset({"load"})
ENABLED, DISABLED = 1, 0
WATTS = 1  # WSetMod
_W_PER_KW = 1000
_FULL_PCT = 100


@dataclass(frozen=True)
class Steering:
    """The points of one way to steer active power, in register order."""

    enable: str
    value: str
    scale: str
    revert_enable: str
    timer: str
    remaining: str
    names: tuple[str, ...]
    kept: tuple[str, ...]
    """What a device must still say when it obeys; the timer runs, unused points may change."""


SET = Steering(
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


@dataclass(frozen=True)
class InForce:
    """What a device says of its set-point; `setpoint_kw` is None where none is in force."""

    enabled: bool
    setpoint_kw: float | None
    timer_armed: bool
    remaining_s: float | None


def steering(device_type: str) -> Steering:
    """Return how a device of this type is steered."""
    return LIMIT if device_type in CURTAILED_TYPES else SET


def set_point_frame(
    device_type: str, power_kw: float, timer_s: int, control: Block, rating: Block | None
) -> Frame:
    """Return the one frame that enables a set-point and arms its reversion timer.

    `control` is model 704 as just read (its scale factors), `rating` model 702 where there is
    one. Raises `NotEncodable` for a power that is not finite, beyond the device's rating or
    without a scale factor, and for a timer of no second: that one would never run out.
    """
    if not math.isfinite(power_kw):
        raise sunspec.NotEncodable(f"power_kw {power_kw} is not a finite number")
    if timer_s < 1:
        raise sunspec.NotEncodable(f"a timer of {timer_s} s would hold the set-point for ever")
    check_rating(power_kw, rating)
    if steering(device_type) is SET:
        watts = sunspec.unscaled(power_kw * _W_PER_KW, _scale(control, "WSet"))
        return _set_frame(ENABLED, watts, timer_s)
    rated_kw = rated_power_kw(rating)
    if rated_kw is None:
        raise sunspec.NotEncodable(
            "WMaxRtg of model 702 or its scale factor is not implemented: "
            "a share of an unknown nameplate says nothing"
        )
    scale = _scale(control, "WMaxLimPct")
    share_pct = min(power_kw / rated_kw * _FULL_PCT, _FULL_PCT)
    return _limit_frame(ENABLED, sunspec.unscaled(share_pct, scale), timer_s, scale)


def release_frame(device_type: str, control: Block) -> Frame:
    """Return the frame that disables the set-point and clears its value and timer.

    Raises `NotEncodable` where the scale factor of a limit is missing.
    """
    if steering(device_type) is SET:
        return _set_frame(DISABLED, 0, 0)
    scale = _scale(control, "WMaxLimPct")
    return _limit_frame(DISABLED, sunspec.unscaled(_FULL_PCT, scale), 0, scale)


def in_force(device_type: str, control: Block, rating: Block | None) -> InForce:
    """Return what model 704 says is in force; a set-point that can't be read is None."""
    way = steering(device_type)
    enabled = control.raw(way.enable) == ENABLED
    remaining_s = control.raw(way.remaining)
    return InForce(
        enabled=enabled,
        setpoint_kw=_setpoint_kw(way, control, rating) if enabled else None,
        timer_armed=bool(control.raw(way.timer)),
        remaining_s=None if remaining_s is None else float(remaining_s),
    )


def differences(frame: Frame, control: Block, names: tuple[str, ...]) -> list[str]:
    """Return, in words, where the registers say something else than the frame at `names`."""
    return [
        f"{name} is {control.raw(name)}, not {raw}"
        for name, raw in frame.values
        if name in names and control.raw(name) != raw
    ]


def rated_power_kw(rating: Block | None) -> float | None:
    """Return WMaxRtg in kW; None where it, its scale factor or model 702 is missing, or it is 0."""
    watts = rating.value("WMaxRtg") if rating is not None else None
    return watts / _W_PER_KW if watts else None


def check_rating(power_kw: float, rating: Block | None) -> None:
    """Raise `NotEncodable` where the power is beyond the rating the device itself publishes.

    One step of the rating's register is granted: a nameplate is rounded to it.
    """
    if rating is None:
        return
    directed = "WChaRteMaxRtg" if power_kw < 0 else "WDisChaRteMaxRtg"
    name = directed if rating.value(directed) is not None else "WMaxRtg"
    watts, scale = rating.value(name), rating.scale(name)
    if watts is None or scale is None:
        return
    step_w = sunspec.scaled(1, scale)
    if abs(power_kw) * _W_PER_KW > watts + step_w:
        raise sunspec.NotEncodable(
            f"power_kw {power_kw} is beyond the device's {name} of {watts / _W_PER_KW} kW"
        )


def _scale(control: Block, name: str) -> int:
    scale = control.scale(name)
    if scale is None:
        raise sunspec.NotEncodable(
            f"the scale factor of {name} is not implemented: no number means a power"
        )
    return scale


def _set_frame(enable: int, watts: int, timer_s: int) -> Frame:
    return _frame(SET, {"WSetEna": enable, "WSetMod": WATTS, "WSet": watts, "WSetRvrtTms": timer_s})


def _limit_frame(enable: int, share: int, timer_s: int, scale: int) -> Frame:
    return _frame(
        LIMIT,
        {
            "WMaxLimPctEna": enable,
            "WMaxLimPct": share,
            "WMaxLimPctRvrt": sunspec.unscaled(_FULL_PCT, scale),
            "WMaxLimPctRvrtTms": timer_s,
        },
    )


def _frame(way: Steering, values: dict[str, int]) -> Frame:
    return sunspec.Frame(CONTROL_MODEL, tuple((name, values.get(name, 0)) for name in way.names))


def _setpoint_kw(way: Steering, control: Block, rating: Block | None) -> float | None:
    if way is SET and control.raw("WSetMod") == WATTS:
        watts = control.value("WSet")
        return None if watts is None else watts / _W_PER_KW
    share_pct = control.value(way.value if way is LIMIT else "WSetPct")
    rated_kw = rated_power_kw(rating)
    return None if share_pct is None or rated_kw is None else share_pct / _FULL_PCT * rated_kw
