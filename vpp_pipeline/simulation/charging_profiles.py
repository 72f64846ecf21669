"""A simulated charge point's own judgement of charging profiles, and what results of them.

Belongs here: what it accepts, which profile leads when, and the composite schedule. Does not:
messages and connections (`ocpp_charge_point`, `ocpp_devices`), the physics (`plant`).

OCPP 1.6 edition 2, 3.13: of each purpose the valid profile of the highest stack level leads; a
TxProfile, where one is valid, overrules the TxDefaultProfile; a profile replaces the one with its
id, or with its purpose and stack level.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HIGHEST_STACK_LEVEL = 5
PHASES = 3
VOLTS = 230.0
_TOLERANCE_W = 1.0
_NEVER = datetime.max.replace(tzinfo=UTC)


class _Period(BaseModel):
    model_config = ConfigDict(frozen=True)

    start_period: int
    limit: float = Field(ge=0)
    number_phases: int = PHASES

    def watts(self, unit: Literal["W", "A"]) -> float:
        return self.limit if unit == "W" else self.limit * VOLTS * self.number_phases


class _Schedule(BaseModel):
    model_config = ConfigDict(frozen=True)

    charging_rate_unit: Literal["W", "A"]
    charging_schedule_period: tuple[_Period, ...] = Field(min_length=1)
    start_schedule: AwareDatetime
    duration: int | None = None


class Profile(BaseModel):
    """A profile with an absolute schedule; a charge point may refuse the other kinds, as this."""

    model_config = ConfigDict(frozen=True)

    charging_profile_id: int
    stack_level: int = Field(ge=0, le=HIGHEST_STACK_LEVEL)
    charging_profile_purpose: Literal["TxProfile", "TxDefaultProfile"]
    charging_profile_kind: Literal["Absolute"]
    charging_schedule: _Schedule
    transaction_id: int | None = None
    valid_from: AwareDatetime | None = None
    valid_to: AwareDatetime | None = None

    def limit_w(self, at: datetime) -> float | None:
        """Return the limit this profile sets at a moment; None where it sets none."""
        schedule = self.charging_schedule
        if self.valid_from is not None and at < self.valid_from:
            return None
        if at >= self.ends_at or at < schedule.start_schedule:
            return None
        begun = [
            period
            for period in schedule.charging_schedule_period
            if schedule.start_schedule + timedelta(seconds=period.start_period) <= at
        ]
        if not begun:
            return None
        return begun[-1].watts(schedule.charging_rate_unit)

    @property
    def ends_at(self) -> datetime:
        """The moment from which it sets nothing any more."""
        schedule, ends = self.charging_schedule, [_NEVER]
        if schedule.duration is not None:
            ends.append(schedule.start_schedule + timedelta(seconds=schedule.duration))
        if self.valid_to is not None:
            ends.append(self.valid_to)
        return min(ends)

    def highest_w(self) -> float:
        """Return the highest limit it ever sets."""
        schedule = self.charging_schedule
        return max(
            period.watts(schedule.charging_rate_unit)
            for period in schedule.charging_schedule_period
        )

    def turns(self) -> Iterator[datetime]:
        """Yield every moment at which its limit may change."""
        schedule = self.charging_schedule
        yield self.ends_at
        if self.valid_from is not None:
            yield self.valid_from
        for period in schedule.charging_schedule_period:
            yield schedule.start_schedule + timedelta(seconds=period.start_period)


class Stretch(NamedTuple):
    """A time with one limit; None is none but the charger's own."""

    begin: datetime
    limit_w: float | None


class ProfileStack:
    """The profiles that one connector holds."""

    def __init__(self, max_draw_kw: float) -> None:
        self._max_w = max_draw_kw * 1000
        self._profiles: dict[int, Profile] = {}

    def install(
        self, sent: Mapping[str, Any], now: datetime, transaction_id: int | None
    ) -> Literal["Accepted", "Rejected"]:
        """Take a profile in (keys in snake case), or refuse what this charger can't keep to."""
        try:
            profile = Profile.model_validate(sent)
        except ValidationError:
            return "Rejected"
        if profile.charging_profile_purpose == "TxProfile" and (
            transaction_id is None or profile.transaction_id not in {None, transaction_id}
        ):
            return "Rejected"
        if profile.ends_at <= now or profile.highest_w() > self._max_w + _TOLERANCE_W:
            return "Rejected"
        rank = profile.charging_profile_purpose, profile.stack_level
        self._profiles = {
            id_: other
            for id_, other in self._profiles.items()
            if (other.charging_profile_purpose, other.stack_level) != rank
        }
        self._profiles[profile.charging_profile_id] = profile
        return "Accepted"

    def clear(
        self, profile_id: int | None, purpose: str | None, stack_level: int | None
    ) -> Literal["Accepted", "Unknown"]:
        """Forget the profile with an id, or those that fit both others."""
        gone = [
            id_
            for id_, profile in self._profiles.items()
            if (id_ == profile_id)
            or (
                profile_id is None
                and purpose in {None, profile.charging_profile_purpose}
                and stack_level in {None, profile.stack_level}
            )
        ]
        for id_ in gone:
            del self._profiles[id_]
        return "Accepted" if gone else "Unknown"

    def end_transaction(self) -> None:
        """Forget the profiles of the transaction that ended."""
        self.clear(None, "TxProfile", None)

    def composite(self, now: datetime, until: datetime) -> list[Stretch]:
        """Return the limits from now on; neighbours differ."""
        turns = {t for profile in self._profiles.values() for t in profile.turns()}
        found = [Stretch(now, self._limit_w(now))]
        for turn in sorted(t for t in turns if now < t < until):
            if (limit_w := self._limit_w(turn)) != found[-1].limit_w:
                found.append(Stretch(turn, limit_w))
        return found

    def state(self) -> list[dict[str, Any]]:
        """Return the profiles as JSON values."""
        return [profile.model_dump(mode="json") for profile in self._profiles.values()]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Go on with saved profiles."""
        profiles = [Profile.model_validate(saved) for saved in state]
        self._profiles = {profile.charging_profile_id: profile for profile in profiles}

    def _limit_w(self, at: datetime) -> float | None:
        for purpose in ("TxProfile", "TxDefaultProfile"):
            limits = {
                profile.stack_level: limit_w
                for profile in self._profiles.values()
                if profile.charging_profile_purpose == purpose
                and (limit_w := profile.limit_w(at)) is not None
            }
            if limits:
                return limits[max(limits)]
        return None
