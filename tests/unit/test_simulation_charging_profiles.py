"""A simulated charge point's profiles come to what OCPP says, and it refuses what it can't keep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.simulation.charging_profiles import ProfileStack

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def profile(
    limit=4000.0, purpose="TxDefaultProfile", *, level=0, id_=1, start=0, seconds=900, **more
):
    begin = NOON + timedelta(seconds=start)
    return {
        "charging_profile_id": id_,
        "stack_level": level,
        "charging_profile_purpose": purpose,
        "charging_profile_kind": "Absolute",
        "valid_from": begin.isoformat(),
        "valid_to": (begin + timedelta(seconds=seconds)).isoformat(),
        "charging_schedule": {
            "start_schedule": begin.isoformat(),
            "charging_rate_unit": "W",
            "charging_schedule_period": [{"start_period": 0, "limit": limit}],
        },
        **more,
    }


def holding(*profiles, transaction_id=None):
    stack = ProfileStack(11.0)
    for one in profiles:
        assert stack.install(one, NOON, transaction_id) == "Accepted"
    return stack


def limits(stack, *, hours=1.0):
    found = stack.composite(NOON, NOON + timedelta(hours=hours))
    return [((begin - NOON).total_seconds(), limit_w) for begin, limit_w in found]


def test_a_profile_ends_by_itself():
    assert limits(holding(profile())) == [(0, 4000), (900, None)]
    assert limits(holding(profile(start=300))) == [(0, None), (300, 4000), (1200, None)]


def test_the_transactions_own_profile_overrules_the_default_one():
    stack = holding(
        profile(4000.0, level=3),
        profile(6000.0, "TxProfile", id_=2, seconds=300),
        transaction_id=7,
    )
    assert limits(stack) == [(0, 6000), (300, 4000), (900, None)]
    stack.end_transaction()
    assert limits(stack) == [(0, 4000), (900, None)]


def test_the_highest_valid_stack_level_leads():
    stack = holding(
        profile(4000.0, level=1), profile(6000.0, level=2, id_=2, start=300, seconds=60)
    )
    assert limits(stack) == [(0, 4000), (300, 6000), (360, 4000), (900, None)]


@pytest.mark.parametrize("later", [{"id_": 1, "level": 4}, {"id_": 9, "level": 0}])
def test_a_profile_replaces_the_one_of_its_id_or_of_its_purpose_and_level(later):
    stack = holding(profile(), profile(6000.0, start=600, **later))
    assert limits(stack) == [(0, None), (600, 6000), (1500, None)]


@pytest.mark.parametrize(
    "refused",
    [
        profile(11100.0),
        profile(-1.0),
        profile(float("nan")),
        profile(level=6),
        profile(seconds=-60),
        profile(purpose="TxProfile"),
        profile(purpose="ChargePointMaxProfile"),
        profile(charging_profile_kind="Recurring"),
        profile(valid_to="soon"),
        profile(valid_to=None, valid_from=None, charging_schedule={}),
    ],
)
def test_invariant_20_what_a_charger_can_not_keep_to_is_refused_and_changes_nothing(refused):
    stack = holding(profile())
    assert stack.install(refused, NOON, None) == "Rejected"
    assert limits(stack) == [(0, 4000), (900, None)]


def test_a_profile_of_another_transaction_is_refused():
    stack = ProfileStack(11.0)
    other = profile(purpose="TxProfile", transaction_id=8)
    assert stack.install(other, NOON, 7) == "Rejected"
    assert stack.install(other, NOON, 8) == "Accepted"


def test_amperes_count_by_their_phases():
    def in_amperes(**period):
        schedule = {
            "start_schedule": NOON.isoformat(),
            "charging_rate_unit": "A",
            "charging_schedule_period": [{"start_period": 0, "limit": 10.0} | period],
        }
        return profile(charging_schedule=schedule)

    assert limits(holding(in_amperes()))[0] == (0, 6900)
    assert limits(holding(in_amperes(number_phases=1)))[0] == (0, 2300)


def test_clearing_takes_the_one_named_or_those_that_fit():
    stack = holding(profile(), profile(6000.0, level=1, id_=2))
    assert stack.clear(9, None, None) == "Unknown"
    assert stack.clear(2, "TxProfile", None) == "Accepted"
    assert limits(stack)[0] == (0, 4000)
    assert stack.clear(None, "TxDefaultProfile", 0) == "Accepted"
    assert limits(stack) == [(0, None)]


def test_profiles_outlast_a_loss_of_power():
    stack, again = holding(profile(), profile(6000.0, level=1, id_=2)), ProfileStack(11.0)
    again.restore(stack.state())
    assert limits(again) == limits(stack)


PROFILES = st.lists(
    st.builds(
        profile,
        limit=st.sampled_from([0.0, 1000.0, 4000.0, 11000.0]),
        purpose=st.sampled_from(["TxProfile", "TxDefaultProfile"]),
        level=st.integers(0, 3),
        id_=st.integers(1, 6),
        start=st.integers(0, 3600),
        seconds=st.integers(1, 3600),
    ),
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(profiles=PROFILES, second=st.integers(0, 7200))
def test_the_composite_schedule_is_at_every_moment_what_would_be_kept_to_then(profiles, second):
    stack = holding(*profiles, transaction_id=1)
    then = NOON + timedelta(seconds=second)
    told = stack.composite(NOON, NOON + DAY)
    assert [begin for begin, _ in told] == sorted({begin for begin, _ in told})
    until_then = [limit_w for begin, limit_w in told if begin <= then]
    assert until_then[-1] == stack.composite(then, then + DAY)[0].limit_w
    assert told[-1].limit_w is None
