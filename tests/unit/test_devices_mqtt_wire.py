"""The payloads: what goes out comes back the same, and nothing else gets in."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices.protocol import Command, DeviceLink, Reading
from vpp_pipeline.devices.wire import (
    AckMessage,
    CommandMessage,
    CommandReport,
    MalformedMessage,
    StateMessage,
    TelemetryMessage,
    command_message,
    parse,
    parse_reading,
    refusal,
    same_setpoint,
    telemetry_message,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LINK = DeviceLink("b-1", "battery", "mqtt", "127.0.0.1:1", None, 5.0, 4.0, writable=True)

instants = st.datetimes(
    datetime(1990, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
readings = st.builds(
    Reading,
    device_id=st.just("b-1"),
    measured_at=instants,
    power_kw=numbers,
    setpoint_kw=numbers,
    energy_kwh=numbers,
    temperature_c=numbers,
    plugged_in=st.none() | st.booleans(),
    target_energy_kwh=numbers,
    deadline=st.none() | instants,
    available_power_kw=numbers,
    heartbeat=st.none() | st.integers(0, 2**63 - 1),
    status=st.sampled_from(["ok", "local", "fault", "offline"]),
)
commands = st.builds(
    Command,
    command_id=st.text(min_size=1, max_size=40),
    device_id=st.just("b-1"),
    plan_id=st.just("p"),
    plan_version=st.integers(0, 2**63 - 1),
    sequence=st.integers(0, 2**63 - 1),
    power_kw=st.floats(allow_nan=True, allow_infinity=True),
    valid_from=instants,
    valid_until=instants,
)


def fields(**changes: object) -> str:
    message: dict[str, object] = {
        "command_id": "c-1",
        "plan_version": 1,
        "sequence": 2,
        "power_kw": 3.0,
        "valid_from": "2026-03-01T12:00:00Z",
        "valid_until": "2026-03-01T12:15:00Z",
    }
    return json.dumps({k: v for k, v in (message | changes).items() if v is not ...})


@settings(max_examples=100, deadline=None)
@given(readings)
def test_a_reading_survives_the_wire(reading: Reading) -> None:
    assert parse_reading("b-1", telemetry_message(reading).model_dump_json()) == reading


@settings(max_examples=100, deadline=None)
@given(commands, instants)
def test_what_may_be_sent_is_sendable_valid_and_within_the_nameplate(
    command: Command, now: datetime
) -> None:
    if refusal(LINK, command, now):
        return
    message = parse(CommandMessage, command_message(command).model_dump_json())
    assert message.power_kw == command.power_kw
    assert -4.001 < message.power_kw < 5.001
    assert message.valid_until > max(now, message.valid_from)


@pytest.mark.parametrize("power_kw", [math.nan, math.inf, -math.inf, 5.1, -4.1, 32767.0])
def test_a_value_no_device_may_get_is_not_sent(power_kw: float) -> None:
    command = Command("c", "b-1", "p", 1, 1, power_kw, NOON, NOON + timedelta(minutes=15))
    assert "nothing was sent" in refusal(LINK, command, NOON)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=80)
    | st.text(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8),
        lambda inner: st.dictionaries(
            st.sampled_from([*CommandMessage.model_fields, *TelemetryMessage.model_fields]), inner
        ),
        max_leaves=12,
    ).map(json.dumps)
)
def test_whatever_comes_is_a_message_or_malformed(payload: bytes | str) -> None:
    for model in (CommandMessage, AckMessage, StateMessage, TelemetryMessage, CommandReport):
        with suppress(MalformedMessage):
            assert isinstance(parse(model, payload), model)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("power_kw", math.nan),
        ("power_kw", math.inf),
        ("power_kw", "3"),
        ("power_kw", True),
        ("power_kw", ...),
        ("sequence", -1),
        ("sequence", 1.5),
        ("plan_version", 2**70),
        ("command_id", ""),
        ("valid_from", "2026-03-01T12:00:00"),
        ("valid_from", "0001-01-01T00:00:00+14:00"),
        ("valid_until", "9999-12-31T23:59:59-14:00"),
    ],
)
def test_a_faulty_field_is_named(field: str, value: object) -> None:
    with pytest.raises(MalformedMessage, match=field):
        parse(CommandMessage, fields(**{field: value}))


def test_a_command_that_ends_before_it_begins_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="valid_until"):
        parse(CommandMessage, fields(valid_until="2026-03-01T12:00:00Z"))


def test_other_zones_are_read_as_the_same_instant_in_utc() -> None:
    message = parse(CommandMessage, fields(valid_from="2026-03-01T13:00:00+01:00"))
    assert message.valid_from == datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    assert message.valid_from.tzinfo is UTC


def test_a_newer_peers_extra_field_is_passed_over() -> None:
    assert parse(CommandMessage, fields(firmware="2.0")).command_id == "c-1"


def test_telemetry_under_another_devices_name_is_refused() -> None:
    payload = telemetry_message(Reading("b-2", NOON)).model_dump_json()
    with pytest.raises(MalformedMessage, match="b-2"):
        parse_reading("b-1", payload)


def test_set_points_are_the_same_within_a_milliwatt_and_never_when_missing() -> None:
    assert same_setpoint(2.0000005, 2.0)
    assert not same_setpoint(2.00001, 2.0)
    assert not same_setpoint(None, 0.0)
