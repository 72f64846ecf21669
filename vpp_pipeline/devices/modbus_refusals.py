"""What is refused before anything is sent to a Modbus device.

Belongs here: the reasons that need no answer from the device. Does not: those that do (local
control, scale factors, the device's own rating: `modbus`, `sunspec_control`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vpp_pipeline.devices.sunspec_control import UNSTEERED_TYPES

if TYPE_CHECKING:
    from datetime import datetime

    from vpp_pipeline.devices.protocol import Command, DeviceLink

_EARLY_S = 2
_NAMEPLATE_TOLERANCE_KW = 1e-6


def unwritable(link: DeviceLink) -> str:
    """Return why a device must not be written at all, or nothing."""
    if not link.writable:
        return f"{link.device_id} is read-only here: a dry run, or real without `live: true`"
    if link.device_type in UNSTEERED_TYPES:
        return f"{link.device_id} is a {link.device_type}: nobody steers it"
    return ""


def refusal_of(link: DeviceLink, command: Command, now: datetime) -> str:
    """Return why a command must not be sent, or nothing."""
    if reason := unwritable(link):
        return reason
    if not math.isfinite(command.power_kw):
        return f"power_kw {command.power_kw} is not a finite number"
    low, high = -link.max_draw_kw, link.max_inject_kw
    if not low - _NAMEPLATE_TOLERANCE_KW <= command.power_kw <= high + _NAMEPLATE_TOLERANCE_KW:
        return f"power_kw {command.power_kw} is outside the nameplate's [{low}, {high}]"
    if (command.valid_from - now).total_seconds() > _EARLY_S:
        return f"valid only from {command.valid_from}: Modbus has no start time, send it then"
    if (command.valid_until - now).total_seconds() < 1:
        return f"valid until {command.valid_until}: less than a second is left"
    return ""
