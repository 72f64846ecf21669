"""Commands as charging profiles, and schedules as set-points, never let more flow than was said."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ocpp.messages import Call, _validate_payload

from vpp_pipeline.devices.ocpp_profile import (
    Dialect,
    InForce,
    charging_profile,
    dialect,
    in_force,
    profile_ids,
    timestamp,
)
from vpp_pipeline.devices.protocol import Command

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DIALECTS = st.builds(
    Dialect,
    unit=st.sampled_from(["W", "A"]),
    phases=st.sampled_from([1, 3]),
    stack_level=st.integers(0, 9),
)
POWERS = st.floats(-350, 0)


def command(power_kw, seconds=900.0):
    until = NOON + timedelta(seconds=seconds)
    return Command("c", "ev", "p", 1, 1, power_kw, NOON, until)


@settings(max_examples=500, deadline=None)
@given(power_kw=POWERS, how=DIALECTS)
def test_invariant_01_a_limit_never_lets_more_flow_than_was_commanded(power_kw, how):
    limit = how.limit(power_kw)
    assert 0 <= how.draw_kw(limit) <= -power_kw + 1e-6
    assert how.draw_kw(limit + 0.1) > -power_kw - 1e-6
    assert InForce(limit, how, math.inf).same_as(power_kw, how)


@settings(max_examples=200, deadline=None)
@given(
    power_kw=POWERS,
    how=DIALECTS,
    seconds=st.floats(1, 1e5),
    lead_s=st.floats(-2, 890),
    purpose=st.sampled_from(["TxProfile", "TxDefaultProfile"]),
)
def test_invariant_02_every_profile_is_ocpp_and_ends_no_later_than_its_command(
    power_kw, how, seconds, lead_s, purpose
):
    order = command(power_kw, max(seconds, lead_s + 1))
    now = NOON + timedelta(seconds=lead_s)
    profile = charging_profile(order, how, 2, purpose, now)
    begins, ends = (datetime.fromisoformat(profile[key]) for key in ("valid_from", "valid_to"))
    assert begins <= min(now, NOON)
    assert ends <= order.valid_until
    schedule = profile["charging_schedule"]
    start = datetime.fromisoformat(schedule["start_schedule"])
    assert start + timedelta(seconds=schedule["duration"]) <= order.valid_until
    assert profile["charging_profile_id"] == profile_ids(2)[purpose]
    payload = {"connectorId": 2, "csChargingProfiles": camel(profile)}
    _validate_payload(Call("1", "SetChargingProfile", payload), "1.6")


def camel(value):
    """Write keys as OCPP does, by a way of our own."""
    if isinstance(value, dict):
        words = {key: key.split("_") for key in value}
        return {
            first + "".join(word.title() for word in rest): camel(value[key])
            for key, (first, *rest) in words.items()
        }
    return [camel(item) for item in value] if isinstance(value, list) else value


def test_profiles_of_one_connector_and_purpose_replace_each_other_and_no_others():
    ids = [id_ for connector in range(1, 20) for id_ in profile_ids(connector).values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("configuration", "how"),
    [
        ({}, Dialect("W", 3, 0)),
        ({"ChargingScheduleAllowedChargingRateUnit": "Current,Power"}, Dialect("W", 3, 0)),
        ({"ChargingScheduleAllowedChargingRateUnit": "Current"}, Dialect("A", 3, 0)),
        ({"ChargingScheduleAllowedChargingRateUnit": ""}, Dialect("W", 3, 0)),
        ({"ConnectorPhaseRotation": "NotApplicable"}, Dialect("W", 1, 0)),
        ({"ConnectorPhaseRotation": "1.RST, 2.NotApplicable"}, Dialect("W", 1, 0)),
        ({"ConnectorPhaseRotation": "1.NotApplicable,2.RST"}, Dialect("W", 3, 0)),
        ({"ConnectorPhaseRotation": "Unknown"}, Dialect("W", 3, 0)),
        ({"ChargeProfileMaxStackLevel": "8"}, Dialect("W", 3, 8)),
        ({"ChargeProfileMaxStackLevel": "many"}, Dialect("W", 3, 0)),
    ],
)
def test_limits_are_written_as_the_charge_point_wants_them(configuration, how):
    assert dialect(configuration, 2) == how


def composite(*periods, unit="W", duration=None, status="Accepted"):
    schedule = {
        "charging_rate_unit": unit,
        "charging_schedule_period": [
            {"start_period": start, "limit": Decimal(str(limit))} for start, limit in periods
        ],
    }
    if duration is not None:
        schedule["duration"] = duration
    return {"status": status, "connector_id": 1, "charging_schedule": schedule}


@pytest.mark.parametrize(
    ("answer", "limit", "holds_s"),
    [
        (composite((0, 4000), (900, 11000)), 4000, 900),
        (composite((900, 11000), (0, 4000)), 4000, 900),
        (composite((0, 4000), (300, 4000), (900, 11000)), 4000, 900),
        (composite((0, 4000)), 4000, math.inf),
        (composite((0, 4000), duration=1000), 4000, math.inf),
        (composite((0, 4000), duration=600), 4000, 600),
        (composite((-60, 3000), (0, 4000)), 4000, math.inf),
    ],
)
def test_the_limit_in_force_is_that_of_now_and_ends_where_another_begins(answer, limit, holds_s):
    found = in_force(answer, 1000, Dialect())
    assert (found.limit, found.holds_s) == (limit, holds_s)
    json.dumps(found.limit)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "Rejected"},
        {"status": "Accepted"},
        {},
        composite((0, 4000), status="Rejected"),
        composite(),
        composite((60, 4000)),
    ],
)
def test_a_schedule_without_a_limit_for_now_is_none(answer):
    assert in_force(answer, 1000, Dialect()) is None


def test_a_limit_in_another_unit_than_asked_for_is_compared_by_power():
    answer = composite((0, "10.0"), unit="A")
    found = in_force(answer, 1000, Dialect("W", 3))
    assert found.power_kw == pytest.approx(-6.9)
    assert found.same_as(-6.9, Dialect("W", 3))
    assert not found.same_as(-7.1, Dialect("W", 3))


def test_whole_amperes_below_the_nameplate_are_no_limit_but_a_real_limit_is():
    assert InForce(15.9, Dialect("A", 3), math.inf).is_default(11.0)
    assert not InForce(15.0, Dialect("A", 3), math.inf).is_default(11.0)


def test_moments_are_written_in_utc_and_whole_seconds_cut_off():
    late = datetime.fromisoformat("2026-01-01T13:00:59.999999+01:00")
    assert timestamp(late) == "2026-01-01T12:00:59Z"
