"""A reading from SunSpec models 701, 702, 704, 713 and 715, or from the older 101-103 and 120-124.

Belongs here: what these models say of a device now. Does not: register layouts (`sunspec`),
set-points to be sent (`sunspec_control`), how the registers were got (`modbus_session`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpp_pipeline.devices import sunspec_control
from vpp_pipeline.devices.protocol import Reading
from vpp_pipeline.devices.registers import NotEncodable
from vpp_pipeline.devices.sunspec_control import (
    CONTROL_MODEL,
    CURTAILED_TYPES,
    LEGACY_CONTROL_MODEL,
    LEGACY_RATING_MODEL,
    LEGACY_SETTING_MODEL,
    RATING_MODEL,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from vpp_pipeline.devices.protocol import DeviceLink
    from vpp_pipeline.devices.sunspec import Block

MEASUREMENT_MODEL = 701
LEGACY_MEASUREMENT_MODELS = (101, 102, 103)  # one phase, split phase, three phases
STORAGE_MODEL, LEGACY_STORAGE_MODEL = 713, 124
HEARTBEAT_MODEL = 715
INVERTER_FAULT = 6  # InvSt
LEGACY_INVERTER_FAULT = 7  # St
STORAGE_ERROR = 2  # Sta
LOCAL_CONTROL = 1  # LocRemCtl
_PER_KILO = 1000
_FULL_PCT = 100


def to_reading(link: DeviceLink, blocks: Mapping[int, Block], measured_at: datetime) -> Reading:
    """Return what the blocks (by model id) say; a point that is not implemented becomes None.

    `available_power_kw` is known only where nothing curtails: it equals the power then.
    """
    power_kw = _kilo(measurement(blocks), "W")
    enabled, setpoint_kw = _set_point(link, blocks)
    free = link.device_type in CURTAILED_TYPES and not enabled
    heartbeat = blocks.get(HEARTBEAT_MODEL)
    return Reading(
        device_id=link.device_id,
        measured_at=measured_at,
        power_kw=power_kw,
        setpoint_kw=setpoint_kw,
        energy_kwh=stored_kwh(blocks),
        available_power_kw=power_kw if free else None,
        heartbeat=heartbeat.raw("DERHb") if heartbeat is not None else None,
        status=_status(blocks),
    )


def measurement(blocks: Mapping[int, Block]) -> Block | None:
    """Return the model that measures power, the newer one first."""
    return _first(blocks, MEASUREMENT_MODEL, *LEGACY_MEASUREMENT_MODELS)


def control(blocks: Mapping[int, Block]) -> Block | None:
    """Return the model that steers active power, the newer one first."""
    return _first(blocks, CONTROL_MODEL, LEGACY_CONTROL_MODEL)


def rating(blocks: Mapping[int, Block]) -> Block | None:
    """Return the model that a limit of `control` is a share of."""
    if CONTROL_MODEL in blocks:
        return blocks.get(RATING_MODEL)
    setting = blocks.get(LEGACY_SETTING_MODEL)
    if setting is not None and sunspec_control.rated_power_kw(setting) is not None:
        return setting
    return blocks.get(LEGACY_RATING_MODEL)


def is_local(heartbeat: Block | None) -> bool:
    """Tell whether model 715 says that somebody on site has the control."""
    return heartbeat is not None and heartbeat.raw("LocRemCtl") == LOCAL_CONTROL


def stored_kwh(blocks: Mapping[int, Block]) -> float | None:
    """Return a store's content: WHAvail, else WHRtg · SoC · SoH (model 713's own formula).

    A state of health that is not implemented counts as 100 %; a missing SoC is never read as 0.
    An older device tells ChaState (model 124), a share of WHRtg (model 120).
    """
    storage = blocks.get(STORAGE_MODEL)
    if storage is None:
        legacy = blocks.get(LEGACY_STORAGE_MODEL)
        rated_kwh = _kilo(blocks.get(LEGACY_RATING_MODEL), "WHRtg")
        return _share(rated_kwh, legacy.value("ChaState") if legacy is not None else None)
    if (available_kwh := _kilo(storage, "WHAvail")) is not None:
        return available_kwh
    health_pct = storage.value("SoH")
    charged_kwh = _share(_kilo(storage, "WHRtg"), storage.value("SoC"))
    return charged_kwh if health_pct is None else _share(charged_kwh, health_pct)


def _share(whole: float | None, share_pct: float | None) -> float | None:
    return None if whole is None or share_pct is None else whole * share_pct / _FULL_PCT


def _first(blocks: Mapping[int, Block], *models: int) -> Block | None:
    for model in models:
        if model in blocks:
            return blocks[model]
    return None


def _set_point(link: DeviceLink, blocks: Mapping[int, Block]) -> tuple[bool, float | None]:
    steered_by = control(blocks)
    if steered_by is None:
        return False, None
    try:
        told = sunspec_control.in_force(link.device_type, steered_by, rating(blocks))
    except NotEncodable:
        return False, None
    return told.enabled, told.setpoint_kw


def _kilo(block: Block | None, name: str) -> float | None:
    value = block.value(name) if block is not None else None
    return None if value is None else value / _PER_KILO


def _status(blocks: Mapping[int, Block]) -> str:
    measured, storage = measurement(blocks), blocks.get(STORAGE_MODEL)
    if measured is not None:
        newer = measured.model_id == MEASUREMENT_MODEL
        state, fault = ("InvSt", INVERTER_FAULT) if newer else ("St", LEGACY_INVERTER_FAULT)
        if measured.raw(state) == fault:
            return "fault"
    if storage is not None and storage.raw("Sta") == STORAGE_ERROR:
        return "fault"
    return "local" if is_local(blocks.get(HEARTBEAT_MODEL)) else "ok"
