"""Commands as OCPP 1.6 charging profiles, and composite schedules read back as set-points.

Belongs here: units, rounding, validity, and what a schedule in force means. Does not: asking a
charge point (`ocpp`, `ocpp_channel`), what its meter says (`ocpp_metering`).

A profile stands between `validFrom` and `validTo`; after that the charge point falls back to its
default by itself (OCPP 1.6 edition 2, 3.13 and 7.8). A limit has one decimal at most, and is
rounded towards zero. Alternating current is taken at 230 V a phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from vpp_pipeline.devices.protocol import Command

Unit = Literal["W", "A"]

_VOLTS = 230.0
_FLOAT_NOISE = 1e-6
_SAME_LIMIT = 0.05  # half of the last digit a limit has
_WHOLE_AMPERES = 0.98
_SPEC_PHASES = 3  # what a period means that does not name its phases (OCPP 1.6, 7.9)


@dataclass(frozen=True)
class Dialect:
    """How a charge point wants its limits, by its own configuration."""

    unit: Unit = "W"
    phases: int = _SPEC_PHASES
    stack_level: int = 0

    def limit(self, power_kw: float) -> float:
        """Return the limit that lets at most `power_kw` (negative: drawn) flow."""
        tenths = -power_kw * 10_000 / self._watts_a_unit
        return math.floor(tenths + _FLOAT_NOISE) / 10

    def draw_kw(self, limit: float) -> float:
        """Return the power that a limit lets be drawn."""
        return limit * self._watts_a_unit / 1000

    @property
    def _watts_a_unit(self) -> float:
        return 1.0 if self.unit == "W" else _VOLTS * self.phases


def dialect(configuration: Mapping[str, str], connector_id: int) -> Dialect:
    """Return how the charge point's configuration keys (OCPP 1.6, 9.1 and 9.4) want limits.

    Watts wherever it takes them: a current means a power only where the phases are known. It
    says of a single phase `NotApplicable` in `ConnectorPhaseRotation`; all else counts as three,
    so that a current is too small rather than too large.
    """
    allowed = configuration.get("ChargingScheduleAllowedChargingRateUnit", "Power")
    rotation = configuration.get("ConnectorPhaseRotation", "").replace(" ", "").split(",")
    single = {"NotApplicable", f"{connector_id}.NotApplicable"} & set(rotation)
    level = configuration.get("ChargeProfileMaxStackLevel", "")
    return Dialect(
        unit="W" if "Power" in allowed or "Current" not in allowed else "A",
        phases=1 if single else _SPEC_PHASES,
        stack_level=int(level) if level.isdecimal() else 0,
    )


def profile_ids(connector_id: int) -> dict[str, int]:
    """Return the ids of our two profiles at a connector, by purpose; a new one replaces the old."""
    return {"TxProfile": 2 * connector_id, "TxDefaultProfile": 2 * connector_id + 1}


def charging_profile(
    command: Command, how: Dialect, connector_id: int, purpose: str, now: datetime
) -> dict[str, Any]:
    """Return `command` as a ChargingProfile; it is in force from `now` where its time has come.

    `TxProfile` is for the transaction that runs, `TxDefaultProfile` for each that begins.
    """
    begin = min(command.valid_from, now)
    period: dict[str, Any] = {"start_period": 0, "limit": how.limit(command.power_kw)}
    if how.unit == "A":
        period["number_phases"] = how.phases
    return {
        "charging_profile_id": profile_ids(connector_id)[purpose],
        "stack_level": how.stack_level,
        "charging_profile_purpose": purpose,
        "charging_profile_kind": "Absolute",
        "valid_from": timestamp(begin),
        "valid_to": timestamp(command.valid_until),
        "charging_schedule": {
            "start_schedule": timestamp(begin),
            "duration": math.floor((command.valid_until - begin).total_seconds()),
            "charging_rate_unit": how.unit,
            "charging_schedule_period": [period],
        },
    }


@dataclass(frozen=True)
class InForce:
    """The limit that a charge point says it keeps now, and for how long from now."""

    limit: float
    how: Dialect
    holds_s: float  # infinite: to the end of what was asked for

    @property
    def draw_kw(self) -> float:
        """The most that may be drawn."""
        return self.how.draw_kw(self.limit)

    @property
    def power_kw(self) -> float:
        """The limit as a set-point; never a negative zero."""
        return 0.0 - self.draw_kw

    def is_default(self, max_draw_kw: float) -> bool:
        """Tell whether it is no limit at all: all that the charger may draw, in whole amperes."""
        return self.draw_kw >= _WHOLE_AMPERES * max_draw_kw

    def same_as(self, power_kw: float, asked: Dialect) -> bool:
        """Tell whether it is what `power_kw` was sent as; in another unit, to its last digit."""
        if self.how.unit == asked.unit:
            return abs(self.limit - asked.limit(power_kw)) <= _SAME_LIMIT
        step_kw = self.how.draw_kw(0.1) + asked.draw_kw(0.1)
        return abs(self.draw_kw - asked.draw_kw(asked.limit(power_kw))) <= step_kw


def in_force(answer: Mapping[str, Any], asked_s: int, how: Dialect) -> InForce | None:
    """Return what a GetCompositeSchedule answer (keys in snake case) says is in force now.

    None where the charge point has no schedule: it then knows no limit.
    """
    schedule = answer.get("charging_schedule") or {}
    periods = sorted(
        schedule.get("charging_schedule_period") or [], key=lambda period: period["start_period"]
    )
    if answer.get("status") != "Accepted" or not periods or periods[0]["start_period"] > 0:
        return None
    now = [period for period in periods if period["start_period"] <= 0][-1]
    later = [
        float(period["start_period"])
        for period in periods
        if period["start_period"] > 0 and abs(period["limit"] - now["limit"]) > _SAME_LIMIT
    ]
    covered_s = schedule.get("duration")
    ends = [float(covered_s)] if covered_s is not None and covered_s < asked_s else []
    return InForce(
        limit=float(now["limit"]),
        how=Dialect(schedule["charging_rate_unit"], now.get("number_phases") or how.phases),
        holds_s=min(later + ends, default=math.inf),
    )


def timestamp(moment: datetime) -> str:
    """Return a moment as OCPP writes it: UTC, whole seconds, cut off."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
