"""OCPP 1.6 charge points: the driver that commands, asks and releases them.

Belongs here: what a charge point's answers, or their silence, mean. Does not: profiles
(`ocpp_profile`), meters (`ocpp_metering`), connections: the charge points call the resident
central system, and this driver speaks to it (`ocpp_channel`).

A link's `endpoint` is the charge point, its `unit_id` the connector.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from vpp_pipeline.devices.ocpp_channel import Channel
from vpp_pipeline.devices.ocpp_metering import Look, reading
from vpp_pipeline.devices.ocpp_profile import (
    charging_profile,
    dialect,
    in_force,
    profile_ids,
)
from vpp_pipeline.devices.protocol import (
    Command,
    CommandResult,
    DeviceLink,
    Outcome,
    ReadBack,
    Reading,
    Unreachable,
    untold,
)
from vpp_pipeline.devices.wire import refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.ocpp_channel import Action, Told
    from vpp_pipeline.devices.ocpp_profile import Dialect, InForce
    from vpp_pipeline.devices.protocol import Tell

T = TypeVar("T")

_EARLY_S = 2
_SLACK_S = 60  # by which a charge point's clock and ours may differ
_LAG_S = 5  # wall seconds that an answer may take
_SHOULD_BE_DEFAULT_S = 3600  # how far ahead a release is looked at
_MAY_HAVE_APPLIED = frozenset({"InternalError", "GenericError"})


class OcppDriver:
    """Speaks to charge points through the central system at `channel`; see `protocol.Driver`.

    A command is a limit for whatever transaction begins, and one for that which runs. Each
    replaces the one before, so that it is sent when its time has come and not ahead.
    """

    def __init__(self, channel: Path, clock: Clock) -> None:
        self._channel = Channel(channel)
        self._clock = clock

    async def read(
        self, links: Sequence[DeviceLink], timeout_s: float
    ) -> list[Reading | Unreachable]:
        """Let each connector's meter be read; a charge point that won't is told as of before."""
        deadline = _deadline(timeout_s)
        return await asyncio.gather(*(self._read(link, deadline) for link in links))

    async def command(
        self,
        commands: Sequence[tuple[DeviceLink, Command]],
        now: datetime,
        timeout_s: float,
        tell: Tell[CommandResult] = untold,
    ) -> list[CommandResult]:
        """Set each command's charging profiles, which end at its `valid_until`."""
        deadline = _deadline(timeout_s)
        return await _told(
            (self._command(link, command, now, deadline) for link, command in commands), tell
        )

    async def read_back(
        self,
        commands: Sequence[tuple[DeviceLink, Command]],
        timeout_s: float,
        tell: Tell[ReadBack | Unreachable] = untold,
    ) -> list[ReadBack | Unreachable]:
        """Ask each charge point what schedule results from all it was told."""
        deadline = _deadline(timeout_s)
        return await _told(
            (self._read_back(link, command, deadline) for link, command in commands), tell
        )

    async def release(self, links: Sequence[DeviceLink], timeout_s: float) -> list[CommandResult]:
        """Clear our profiles, and see that the charger may draw all it can again."""
        deadline = _deadline(timeout_s)
        return await asyncio.gather(*(self._release(link, deadline) for link in links))

    async def close(self) -> None:
        """Close the channel; the charge points stay connected to the central system."""
        await self._channel.close()

    async def _look(self, link: DeviceLink, deadline: float, *, fresh: bool) -> Look | Told:
        payload = {"connector_id": _connector(link), "fresh": fresh}
        told = await self._ask(link, "Look", payload, deadline)
        return Look.model_validate(told.answer) if told.outcome == "answered" else told

    async def _ask(
        self, link: DeviceLink, action: Action, payload: dict[str, Any], deadline: float
    ) -> Told:
        left_s = max(deadline - asyncio.get_running_loop().time(), 0.0)
        return await self._channel.ask(link.endpoint, action, payload, left_s)

    async def _schedule(
        self, link: DeviceLink, how: Dialect, seconds: int, deadline: float
    ) -> tuple[Told, InForce | None]:
        payload = {
            "connector_id": _connector(link),
            "duration": seconds,
            "charging_rate_unit": how.unit,
        }
        told = await self._ask(link, "GetCompositeSchedule", payload, deadline)
        return told, in_force(told.answer, seconds, how)

    async def _read(self, link: DeviceLink, deadline: float) -> Reading | Unreachable:
        look = await self._look(link, deadline, fresh=True)
        if not isinstance(look, Look):
            return Unreachable(link.device_id, look.words)
        found = reading(
            link.device_id,
            look.connector,
            look.heard_at or self._clock.now(),
            link.energy_capacity_kwh,
        )
        if found is not None:
            return replace(found, setpoint_kw=await self._setpoint_kw(link, look, deadline))
        return Unreachable(
            link.device_id,
            f"charge point {link.endpoint} is connected, but tells nothing of connector"
            f" {_connector(link)}: see its number, and MeterValuesSampledData in its configuration",
        )

    async def _setpoint_kw(self, link: DeviceLink, look: Look, deadline: float) -> float | None:
        how = dialect(look.configuration, _connector(link))
        _, found = await self._schedule(link, how, _SLACK_S, deadline)
        limited = found is not None and not found.is_default(link.max_draw_kw)
        return found.power_kw if found and limited else None

    async def _command(
        self, link: DeviceLink, command: Command, now: datetime, deadline: float
    ) -> CommandResult:
        if reason := _objection(link, command, now):
            return CommandResult(command.command_id, Outcome.REJECTED, "", reason)
        look = await self._look(link, deadline, fresh=False)
        if not isinstance(look, Look):
            return CommandResult(command.command_id, Outcome.FAILED, "", look.words)
        result = await self._set(link, command, look, "TxDefaultProfile", deadline)
        if result.outcome is not Outcome.ACKED or not look.connector.may_charge:
            return result
        running = await self._set(link, command, look, "TxProfile", deadline)
        sent = f"{result.sent}\n{running.sent}".rstrip()
        if running.outcome is Outcome.REJECTED:
            again = await self._look(link, deadline, fresh=False)
            if isinstance(again, Look) and not again.connector.in_transaction:
                why = "no transaction runs, or none any more; the limit is for the next one"
                return CommandResult(command.command_id, Outcome.ACKED, sent, why)
            if isinstance(again, Look) and _transaction(again) != _transaction(look):
                running = await self._set(link, command, again, "TxProfile", deadline)
                sent = f"{sent}\n{running.sent}".rstrip()
        if running.outcome is Outcome.FAILED:
            why = f"the running transaction was not reached: {running.detail}"
            return CommandResult(command.command_id, Outcome.UNKNOWN, sent, why)
        return replace(running, sent=sent)

    async def _set(
        self,
        link: DeviceLink,
        command: Command,
        look: Look,
        purpose: Literal["TxProfile", "TxDefaultProfile"],
        deadline: float,
    ) -> CommandResult:
        connector_id = _connector(link)
        how = dialect(look.configuration, connector_id)
        profile = charging_profile(command, how, connector_id, purpose, self._clock.now())
        if purpose == "TxProfile":
            profile["transaction_id"] = _transaction(look)
        payload = {"connector_id": connector_id, "cs_charging_profiles": profile}
        told = await self._ask(link, "SetChargingProfile", payload, deadline)
        outcome, detail = _outcome(told, f"{purpose}: ")
        return CommandResult(command.command_id, outcome, told.sent, detail, _said(told))

    async def _read_back(
        self, link: DeviceLink, command: Command, deadline: float
    ) -> ReadBack | Unreachable:
        look = await self._look(link, deadline, fresh=False)
        if not isinstance(look, Look):
            return Unreachable(link.device_id, look.words)
        how = dialect(look.configuration, _connector(link))
        left_s = max((command.valid_until - self._clock.now()).total_seconds(), 0.0)
        slack_s = _SLACK_S + _LAG_S * self._clock.rate
        told, found = await self._schedule(link, how, math.ceil(left_s + 2 * slack_s), deadline)
        if told.outcome != "answered":
            return Unreachable(link.device_id, told.words)
        limited = found is not None and not found.is_default(link.max_draw_kw)
        ends = found is not None and found.holds_s <= left_s + slack_s
        if found is None:
            detail = f"its composite schedule is {told.answer.get('status')}, and holds no limit"
        elif not found.same_as(command.power_kw, how):
            detail = f"its composite schedule allows {found.draw_kw:g} kW"
        elif limited and not ends:
            detail = "it keeps the limit beyond its validTo: see its clock, and other profiles"
        else:
            detail = ""
        return ReadBack(
            link.device_id,
            matches=not detail,
            setpoint_kw=found.power_kw if found and (limited or not detail) else None,
            raw=json.dumps(told.answer),
            timer_remaining_s=found.holds_s if found and math.isfinite(found.holds_s) else None,
            detail=detail,
            has_timer=ends if limited else None,
        )

    async def _release(self, link: DeviceLink, deadline: float) -> CommandResult:
        release_id = f"release-{link.device_id}-{self._clock.now().isoformat()}"
        if not link.writable:
            reason = "read-only: the device is not live, or this is a dry run; nothing was sent"
            return CommandResult(release_id, Outcome.REJECTED, "", reason)
        sent = []
        for purpose, profile_id in profile_ids(_connector(link)).items():
            told = await self._ask(link, "ClearChargingProfile", {"id": profile_id}, deadline)
            sent.append(told.sent)
            outcome, detail = _outcome(told, f"{purpose}: ")
            if outcome is not Outcome.ACKED:
                if outcome is Outcome.FAILED and len(sent) > 1:
                    outcome = Outcome.UNKNOWN
                return CommandResult(release_id, outcome, "\n".join(sent), detail)
        doubt = await self._doubt_of_rest(link, deadline)
        outcome = Outcome.UNKNOWN if doubt else Outcome.ACKED
        return CommandResult(release_id, outcome, "\n".join(sent), doubt)

    async def _doubt_of_rest(self, link: DeviceLink, deadline: float) -> str:
        """Tell why a cleared charge point is not seen at its default; empty where it is."""
        look = await self._look(link, deadline, fresh=False)
        if not isinstance(look, Look):
            return f"cleared, but not seen to rest: {look.words}"
        how = dialect(look.configuration, _connector(link))
        told, found = await self._schedule(link, how, _SHOULD_BE_DEFAULT_S, deadline)
        if told.outcome != "answered":
            return f"cleared, but not seen to rest: {told.words}"
        if found is None or found.is_default(link.max_draw_kw):
            return ""
        return (
            f"cleared, but its composite schedule allows {found.draw_kw:g} kW of"
            f" {link.max_draw_kw:g}: see other profiles and limits at the charge point"
        )


def _objection(link: DeviceLink, command: Command, now: datetime) -> str:
    """Tell why a command may not be sent; empty where it may."""
    if reason := refusal(link, command, now):
        return reason
    if command.power_kw > 0:
        return "OCPP 1.6 knows no discharging; nothing was sent"
    if (command.valid_from - now).total_seconds() > _EARLY_S:
        return (
            f"valid only from {command.valid_from}: its profile would replace the one in force now,"
            " send it then"
        )
    return ""


def _outcome(told: Told, what: str) -> tuple[Outcome, str]:
    """Return what is known after a call that sets or clears a profile."""
    match told.outcome:
        case "not_sent":
            return Outcome.FAILED, told.words
        case "silent":
            return Outcome.UNKNOWN, what + told.words
        case "refused" if told.code in _MAY_HAVE_APPLIED:
            return Outcome.UNKNOWN, what + told.words
        case "refused":
            return Outcome.REJECTED, what + told.words
    status = cast("str", told.answer["status"])
    # Clearing: "Unknown" is a profile that isn't there.
    said_yes = status in {"Accepted", "Unknown"}
    if said_yes:
        return Outcome.ACKED, ""
    return Outcome.REJECTED, f"{what}the charge point answered {status}"


def _said(told: Told) -> str:
    """Return a charge point's answer as the ledger keeps it; empty if none came."""
    if told.outcome == "refused":
        return told.words
    return json.dumps(told.answer) if told.outcome == "answered" else ""


def _transaction(look: Look) -> int | None:
    return look.connector.transaction_id


def _connector(link: DeviceLink) -> int:
    return link.unit_id or 1


async def _told(asked: Iterable[Awaitable[T]], tell: Tell[T]) -> list[T]:
    """Return all answers in order, and tell each as it comes."""

    async def told(place: int, answer: Awaitable[T]) -> T:
        tell(place, come := await answer)
        return come

    return await asyncio.gather(*(told(*one) for one in enumerate(asked)))


def _deadline(timeout_s: float) -> float:
    return asyncio.get_running_loop().time() + timeout_s
