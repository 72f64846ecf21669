"""The JSON messages that MQTT and HTTP devices exchange with us, and the rules for sending one.

Belongs here: the payloads both protocols share, as typed models, and parsing with clear errors.
Does not: topics and properties (`mqtt`), URLs and status codes (`http`), a device's judgement.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from vpp_pipeline.devices.protocol import Command, DeviceLink, Reading

SETPOINT_TOLERANCE_KW = 1e-6
"""Two set-points closer than this are the same set-point."""


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is UTC:
        return moment
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the calendar in UTC") from None


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Counter = Annotated[int, Field(ge=0, lt=2**63)]
MessageId = Annotated[str, Field(min_length=1, max_length=200)]


class MalformedMessage(ValueError):  # noqa: N818 - what a peer sent, not a program's failure
    """A payload that is not the message it should be; the text names field, value and rule."""


class Message(BaseModel):
    """What all messages keep: exact types, and fields from a newer peer are passed over."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class CommandMessage(Message):
    """A set-point for one device; `power_kw` is signed, positive injects."""

    command_id: MessageId
    plan_version: Counter
    sequence: Counter
    power_kw: Finite
    valid_from: Instant
    valid_until: Instant

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.valid_until <= self.valid_from:
            raise ValueError(
                f"valid_until {self.valid_until.isoformat()} is not after"
                f" valid_from {self.valid_from.isoformat()}"
            )
        return self


class ReleaseMessage(Message):
    """An order to drop the set-point and every command that waits, and run the default."""

    command_id: MessageId


class AckMessage(Message):
    """A device's yes or no to one command or release."""

    command_id: MessageId
    accepted: bool
    reason: str = ""


class StateMessage(Message):
    """The set-point a device obeys; nulls where none is in force. Its last will is `offline`."""

    command_id: str | None = None
    setpoint_kw: Finite | None = None
    measured_at: Instant | None = None
    status: Literal["ok", "local", "fault", "offline"]


class TelemetryMessage(Message):
    """What a device measured; the fields of `schemas.Telemetry`, less when we learned of it."""

    device_id: str
    measured_at: Instant
    power_kw: Finite | None = None
    setpoint_kw: Finite | None = None
    energy_kwh: Finite | None = None
    temperature_c: Finite | None = None
    plugged_in: bool | None = None
    target_energy_kwh: Finite | None = None
    deadline: Instant | None = None
    available_power_kw: Finite | None = None
    heartbeat: Counter | None = None
    status: Literal["ok", "local", "fault", "offline"] = "ok"


class CommandReport(Message):
    """Where an HTTP device stands with a command.

    `setpoint_kw` is the set-point by which the device obeys this command now, else null.
    """

    command_id: MessageId
    state: Literal["accepted", "applied", "rejected", "expired"]
    reason: str = ""
    setpoint_kw: Finite | None = None


M = TypeVar("M", bound=Message)


def parse(model: type[M], payload: bytes | bytearray | str) -> M:
    """Read one message. Raises `MalformedMessage` that names every field at fault."""
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'message'}: {fault['msg']}"
            f" (got {str(fault['input'])[:80]!r})"
            for fault in error.errors(include_url=False)
        )
        raise MalformedMessage(f"no valid {model.__name__}: {faults}") from error


def command_message(command: Command) -> CommandMessage:
    """Return the message that carries `command`. Raises `pydantic.ValidationError` on NaN."""
    return CommandMessage(
        command_id=command.command_id,
        plan_version=command.plan_version,
        sequence=command.sequence,
        power_kw=command.power_kw,
        valid_from=command.valid_from,
        valid_until=command.valid_until,
    )


def telemetry_message(reading: Reading) -> TelemetryMessage:
    """Return the message that carries `reading`."""
    return TelemetryMessage(**asdict(reading))


def parse_reading(device_id: str, payload: bytes | bytearray | str) -> Reading:
    """Read the telemetry of `device_id`. Raises `MalformedMessage`, also on another's telemetry."""
    message = parse(TelemetryMessage, payload)
    if message.device_id != device_id:
        raise MalformedMessage(
            f"device_id: telemetry of {message.device_id!r} came under the name {device_id!r}"
        )
    return Reading(**message.model_dump())


def refusal(link: DeviceLink, command: Command, now: datetime) -> str:
    """Tell why `command` may not be sent over `link` at `now`; empty where it may.

    The last look before the wire: writable, finite, within the nameplate, still valid.
    """
    if not link.writable:
        return "read-only: the device is not live, or this is a dry run; nothing was sent"
    if not math.isfinite(command.power_kw):
        return f"power_kw {command.power_kw} is no finite number; nothing was sent"
    if not (
        -link.max_draw_kw - SETPOINT_TOLERANCE_KW
        <= command.power_kw
        <= link.max_inject_kw + SETPOINT_TOLERANCE_KW
    ):
        return (
            f"power_kw {command.power_kw} is outside the nameplate"
            f" [{-link.max_draw_kw}, {link.max_inject_kw}]; nothing was sent"
        )
    if command.valid_until <= max(now, command.valid_from):
        return f"valid_until {command.valid_until.isoformat()} is over; nothing was sent"
    return ""


def same_setpoint(reported_kw: float | None, commanded_kw: float) -> bool:
    """Tell whether the reported set-point is the commanded one, within the tolerance."""
    return reported_kw is not None and abs(reported_kw - commanded_kw) <= SETPOINT_TOLERANCE_KW
