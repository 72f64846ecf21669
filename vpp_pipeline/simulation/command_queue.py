"""A simulated device's own judgement of commands: what it accepts, and when it acts.

Belongs here: accepting, refusing, waiting for `valid_from`, remembering what was answered; the
same for MQTT and HTTP. Does not: any wire format, the physics (`plant`).
"""

from __future__ import annotations

import heapq
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from vpp_pipeline.devices.wire import (
    SETPOINT_TOLERANCE_KW,
    AckMessage,
    CommandMessage,
    CommandReport,
)
from vpp_pipeline.simulation.plant_protocol import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from vpp_pipeline.simulation.plant_protocol import Plant

_REMEMBERED = timedelta(hours=1)
"""How long after its end a command is still answered for, but never less than its validity."""

_MOST_WAITING = 16
"""Commands that a device keeps for later; a real one's memory is small."""


@dataclass(frozen=True)
class SimulatedDevice:
    """What a device knows of itself: its nameplate, and whether it takes set-points at all."""

    device_id: str
    max_inject_kw: float
    max_draw_kw: float
    controllable: bool


class _Entry(BaseModel):
    """A command and what became of it. The ack stays as it was first given."""

    message: CommandMessage
    ack: AckMessage
    state: Literal["accepted", "applied", "rejected", "expired"] = "accepted"
    reason: str = ""

    @property
    def over(self) -> bool:
        return self.state in {"rejected", "expired"}

    def outranks(self, message: CommandMessage) -> bool:
        """Tell whether a newer plan's command for the same interval was accepted."""
        mine = self.message
        return (
            self.ack.accepted
            and mine.sequence == message.sequence
            and mine.plan_version > message.plan_version
        )

    def follows(self, message: CommandMessage) -> bool:
        """Tell whether a later interval's command has taken over already."""
        return self.state == "applied" and self.message.sequence > message.sequence


class CommandQueue:
    """The commands of many devices. Every method is safe to call from any thread.

    `sequence` is the number of a command's interval. For one interval `plan_version` must grow; a
    plan for another interval, whatever its version, is none of its business. A later interval's
    set-point in force is never replaced by an earlier one's. One id is applied once and always
    gets the same ack.
    """

    def __init__(self, devices: Sequence[SimulatedDevice], plant: Plant) -> None:
        self._devices = {device.device_id: device for device in devices}
        self._plant = plant
        self._lock = threading.RLock()
        self._entries: dict[str, dict[str, _Entry]] = {d: {} for d in self._devices}
        self._agenda: list[tuple[datetime, str, str]] = []  # an item an entry, until forgotten

    def offer(self, device_id: str, message: CommandMessage) -> AckMessage:
        """Accept a command, and apply it if its time has come; or refuse it and say why."""
        with self._lock:
            entries = self._entries[device_id]
            if message.command_id in entries:
                return entries[message.command_id].ack
            now = self._plant.clock.now()
            objection = self._objection(device_id, message, now)
            ack = AckMessage(command_id=message.command_id, accepted=True)
            entry = entries[message.command_id] = _Entry(message=message, ack=ack)
            if objection:
                self._end(device_id, entry, "rejected", objection)
            elif message.valid_from <= now:
                self._begin(device_id, entry)
            else:
                self._look_again(device_id, entry)
            if entry.state == "rejected":
                entry.ack = ack.model_copy(update={"accepted": False, "reason": entry.reason})
            return entry.ack

    def is_full(self, device_id: str) -> bool:
        """Tell whether so many commands wait that the device takes no further one for now."""
        with self._lock:
            waiting = [e for e in self._entries[device_id].values() if e.state == "accepted"]
            return len(waiting) >= _MOST_WAITING

    def release(self, device_id: str) -> None:
        """Run the default at once and drop every command that waits."""
        with self._lock:
            for entry in self._entries[device_id].values():
                if entry.state == "accepted":
                    entry.state, entry.reason = "rejected", "the device was released meanwhile"
            self._plant.release(device_id)

    def report(self, device_id: str, command_id: str) -> CommandReport | None:
        """Tell what became of a command; None if it is not known, or no longer."""
        with self._lock:
            entry = self._entries[device_id].get(command_id)
            if entry is None:
                return None
            in_force = self._plant.setpoint(device_id)
            obeyed = in_force is not None and in_force.command_id == command_id
            return CommandReport(
                command_id=command_id,
                state=entry.state,
                reason=entry.reason,
                setpoint_kw=in_force.setpoint_kw if in_force and obeyed else None,
            )

    def tick(self) -> set[str]:
        """Do what is due by the plant's clock; return the devices it concerned."""
        touched: set[str] = set()
        with self._lock:
            now = self._plant.clock.now()
            while self._agenda and self._agenda[0][0] <= now:
                _, device_id, command_id = heapq.heappop(self._agenda)
                touched.add(device_id)
                entry = self._entries[device_id][command_id]
                if entry.over and entry.message.valid_until <= now:
                    del self._entries[device_id][command_id]
                elif entry.over:  # released before its time came
                    self._look_again(device_id, entry)
                elif entry.message.valid_until <= now:
                    self._end(device_id, entry, "expired", "its validity is over")
                else:
                    self._begin(device_id, entry)
        return touched

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs to go on from here, as JSON values."""
        with self._lock:
            return {
                device_id: [entry.model_dump(mode="json") for entry in entries.values()]
                for device_id, entries in self._entries.items()
                if entries
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; devices that are no longer there are left out."""
        with self._lock:
            for device_id in self._devices.keys() & state.keys():
                for saved in state[device_id]:
                    entry = _Entry.model_validate(saved, strict=False)
                    self._entries[device_id][entry.message.command_id] = entry
                    self._look_again(device_id, entry)

    def _objection(self, device_id: str, message: CommandMessage, now: datetime) -> str:
        device = self._devices[device_id]
        if not device.controllable:
            return "read-only: this device takes no set-points"
        if message.valid_until <= now:
            return f"expired: valid until {message.valid_until.isoformat()}"
        lowest_kw = -device.max_draw_kw - SETPOINT_TOLERANCE_KW
        highest_kw = device.max_inject_kw + SETPOINT_TOLERANCE_KW
        if not lowest_kw <= message.power_kw <= highest_kw:
            return (
                f"out of range: {message.power_kw:g} kW is not within"
                f" {-device.max_draw_kw:g} to {device.max_inject_kw:g} kW"
            )
        versions = [
            entry.message.plan_version
            for entry in self._entries[device_id].values()
            if entry.ack.accepted and entry.message.sequence == message.sequence
        ]
        if versions and message.plan_version <= max(versions):
            return (
                f"stale: plan_version {message.plan_version} is not above {max(versions)},"
                f" accepted for sequence {message.sequence}"
            )
        return ""

    def _begin(self, device_id: str, entry: _Entry) -> None:
        message = entry.message
        for other in self._entries[device_id].values():
            if other.outranks(message) or other.follows(message):
                by = f"superseded by command {other.message.command_id}"
                self._end(device_id, entry, "rejected", by)
                return
        try:
            self._plant.apply(device_id, message.power_kw, message.valid_until, message.command_id)
        except Refused as refusal:
            self._end(device_id, entry, "rejected", str(refusal))
            return
        entry.state = "applied"
        self._look_again(device_id, entry)

    def _end(
        self, device_id: str, entry: _Entry, state: Literal["rejected", "expired"], reason: str
    ) -> None:
        entry.state, entry.reason = state, reason
        self._look_again(device_id, entry)

    def _look_again(self, device_id: str, entry: _Entry) -> None:
        """Note when the entry's state may change next, or when it may be forgotten."""
        match entry.state:
            case "accepted":
                moment = entry.message.valid_from
            case "applied":
                moment = entry.message.valid_until
            case _:
                moment = max(self._plant.clock.now() + _REMEMBERED, entry.message.valid_until)
        heapq.heappush(self._agenda, (moment, device_id, entry.message.command_id))
