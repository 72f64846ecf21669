"""A reading from SunSpec models 701, 702, 704, 713 and 715.

Belongs here: what these models say of a device now. Does not: register layouts (`sunspec`),
set-points to be sent (`sunspec_control`), how the registers were got (`modbus_session`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpp_pipeline.devices import sunspec_control
from vpp_pipeline.devices.protocol import Reading
from vpp_pipeline.devices.sunspec_control import CONTROL_MODEL, CURTAILED_TYPES, RATING_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from vpp_pipeline.devices.protocol import DeviceLink
    from vpp_pipeline.devices.sunspec import Block

MEASUREMENT_MODEL = 701
STORAGE_MODEL = 713
HEARTBEAT_MODEL = 715
INVERTER_FAULT = 6  # InvSt
STORAGE_ERROR = 2  # Sta
LOCAL_CONTROL = 1  # LocRemCtl
_PER_KILO = 1000
_FULL_PCT = 100


def to_reading(link: DeviceLink, blocks: Mapping[int, Block], measured_at: datetime) -> Reading:
    """Return what the blocks (by model id) say; a point that is not implemented becomes None.

    `available_power_kw` is known only where nothing curtails: it equals the power then.
    """
    power_kw = _kilo(blocks.get(MEASUREMENT_MODEL), "W")
    control = blocks.get(CONTROL_MODEL)
    setpoint = (
        sunspec_control.in_force(link.device_type, control, blocks.get(RATING_MODEL))
        if control is not None
        else None
    )
    free = link.device_type in CURTAILED_TYPES and not (setpoint and setpoint.enabled)
    heartbeat = blocks.get(HEARTBEAT_MODEL)
    return Reading(
        device_id=link.device_id,
        measured_at=measured_at,
        power_kw=power_kw,
        setpoint_kw=setpoint.setpoint_kw if setpoint else None,
        energy_kwh=stored_kwh(blocks.get(STORAGE_MODEL)),
        available_power_kw=power_kw if free else None,
        heartbeat=heartbeat.raw("DERHb") if heartbeat is not None else None,
        status=_status(blocks),
    )


def is_local(heartbeat: Block | None) -> bool:
    """Tell whether model 715 says that somebody on site has the control."""
    return heartbeat is not None and heartbeat.raw("LocRemCtl") == LOCAL_CONTROL


def stored_kwh(storage: Block | None) -> float | None:
    """Return a store's content: WHAvail, else WHRtg · SoC · SoH (model 713's own formula).

    A state of health that is not implemented counts as 100 %; a missing SoC is never read as 0.
    """
    if storage is None:
        return None
    if (available_kwh := _kilo(storage, "WHAvail")) is not None:
        return available_kwh
    rated_kwh, soc_pct = _kilo(storage, "WHRtg"), storage.value("SoC")
    if rated_kwh is None or soc_pct is None:
        return None
    health_pct = storage.value("SoH")
    health = 1.0 if health_pct is None else health_pct / _FULL_PCT
    return rated_kwh * soc_pct / _FULL_PCT * health


def _kilo(block: Block | None, name: str) -> float | None:
    value = block.value(name) if block is not None else None
    return None if value is None else value / _PER_KILO


def _status(blocks: Mapping[int, Block]) -> str:
    measurement, storage = blocks.get(MEASUREMENT_MODEL), blocks.get(STORAGE_MODEL)
    if measurement is not None and measurement.raw("InvSt") == INVERTER_FAULT:
        return "fault"
    if storage is not None and storage.raw("Sta") == STORAGE_ERROR:
        return "fault"
    return "local" if is_local(blocks.get(HEARTBEAT_MODEL)) else "ok"
