"""What a charge point tells of its connectors, kept and read.

Belongs here: MeterValues, StatusNotification and transactions as one account a connector. Does
not: the connection (`ocpp_session`), commands and set-points (`ocpp_profile`).

What comes late or twice never replaces what is newer: queued messages of an offline charge point
arrive in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from vpp_pipeline.devices.protocol import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PLUGGED = {
    "Available": False,
    "Reserved": False,
    "Preparing": True,
    "Charging": True,
    "SuspendedEV": True,
    "SuspendedEVSE": True,
    "Finishing": True,
}
_IN_TRANSACTION = frozenset({"Charging", "SuspendedEV", "SuspendedEVSE"})
_STATUS = {"Faulted": "fault", "Unavailable": "local"}
_TO_KW = {"W": 1e-3, "kW": 1.0}


@dataclass(frozen=True)
class Measured:
    """One sampling of a connector's meter; `power_kw` is drawn, positive."""

    measured_at: datetime
    power_kw: float | None = None
    soc_percent: float | None = None


class Connector(BaseModel):
    """All that is known of one connector; moments are the charge point's own."""

    model_config = ConfigDict(frozen=True)

    status: str | None = None
    status_at: datetime | None = None
    transaction_id: int | None = None
    measured: Measured | None = None
    soc_percent: float | None = None
    """Of the vehicle that is there: seldom in every sampling."""

    @property
    def in_transaction(self) -> bool:
        """Tell whether a transaction runs; one from before our start has no id."""
        return self.transaction_id is not None or self.status in _IN_TRANSACTION

    @property
    def may_charge(self) -> bool:
        """Tell whether a transaction runs, or may: it has never told its status."""
        return self.in_transaction or self.status is None

    def told_status(self, status: str, at: datetime) -> Connector:
        """Return the account after a StatusNotification."""
        if self.status_at is not None and at < self.status_at:
            return self
        changed: dict[str, Any] = {"status": status, "status_at": at}
        if status == "Available":
            changed |= {"transaction_id": None, "soc_percent": None}
        return self.model_copy(update=changed)

    def told_meter(self, measured: Measured, transaction_id: int | None) -> Connector:
        """Return the account after a sampling."""
        if self.measured is not None and measured.measured_at < self.measured.measured_at:
            return self
        changed: dict[str, Any] = {"measured": measured}
        if measured.soc_percent is not None:
            changed["soc_percent"] = measured.soc_percent
        if transaction_id is not None:
            changed["transaction_id"] = transaction_id
        return self.model_copy(update=changed)

    def began(self, transaction_id: int) -> Connector:
        """Return the account after a StartTransaction."""
        return self.model_copy(update={"transaction_id": transaction_id})

    def ended(self) -> Connector:
        """Return the account after the StopTransaction of the transaction that ran."""
        return self.model_copy(update={"transaction_id": None, "soc_percent": None})


class Look(BaseModel):
    """A connector as the central system knows it."""

    model_config = ConfigDict(frozen=True)

    connector: Connector
    heard_at: datetime | None
    configuration: dict[str, str]


def reading(
    device_id: str, told: Connector, heard_at: datetime, capacity_kwh: float | None
) -> Reading | None:
    """Return what a connector's account amounts to; None where it has told nothing yet.

    Without a vehicle nothing flows, and the status stands until the charge point tells another:
    such a reading is as fresh as `heard_at`, the last message. Any other is as old as its
    sampling. A vehicle's energy is known where it tells its state of charge.
    """
    plugged_in = _PLUGGED.get(told.status or "")
    status = _STATUS.get(told.status or "", "ok")
    if told.status == "Available":
        at = heard_at.astimezone(UTC)
        return Reading(device_id, at, power_kw=0.0, plugged_in=False, status=status)
    if told.measured is None:
        if told.status_at is None:
            return None
        at = told.status_at.astimezone(UTC)
        return Reading(device_id, at, plugged_in=plugged_in, status=status)
    soc = told.soc_percent
    drawn_kw = told.measured.power_kw
    return Reading(
        device_id,
        told.measured.measured_at.astimezone(UTC),
        power_kw=None if drawn_kw is None else 0.0 - drawn_kw,
        energy_kwh=None if soc is None or capacity_kwh is None else soc / 100 * capacity_kwh,
        plugged_in=plugged_in,
        status=status,
    )


def samplings(meter_values: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """Return the samplings of a MeterValues request (keys in snake case), oldest first.

    Raises ValueError on a timestamp that is none. Values that are no finite numbers, and signed
    ones, are passed over.
    """
    found = []
    for meter_value in meter_values:
        values = [v for v in meter_value["sampled_value"] if v.get("format", "Raw") == "Raw"]
        measured = Measured(moment(meter_value["timestamp"]))
        drawn, given = (_power_kw(values, f"Power.Active.{way}") for way in ("Import", "Export"))
        if drawn is not None or given is not None:
            measured = replace(measured, power_kw=(drawn or 0.0) - (given or 0.0))
        soc = [n for v in values if v.get("measurand") == "SoC" and (n := _number(v)) is not None]
        if soc and 0 <= soc[-1] <= 100:  # noqa: PLR2004 - percent
            measured = replace(measured, soc_percent=soc[-1])
        found.append(measured)
    return sorted(found, key=lambda one: one.measured_at)


def moment(text: str) -> datetime:
    """Return an OCPP timestamp in UTC; one without an offset is UTC by the specification.

    Raises ValueError.
    """
    told = datetime.fromisoformat(text)
    return told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)


def _power_kw(values: Iterable[Mapping[str, Any]], measurand: str) -> float | None:
    """Return the power of a connector: its total where it tells one, else that of its phases."""
    by_phase = {
        value.get("phase"): number * _TO_KW[unit]
        for value in values
        if value.get("measurand") == measurand
        and (unit := value.get("unit", "W")) in _TO_KW
        and (number := _number(value)) is not None
    }
    if None in by_phase:
        return by_phase[None]
    phases = [power for phase, power in by_phase.items() if phase in {"L1", "L2", "L3"}]
    return sum(phases) if phases else None


def _number(value: Mapping[str, Any]) -> float | None:
    try:
        number = float(value["value"])
    except ValueError:
        return None
    return number if math.isfinite(number) else None
