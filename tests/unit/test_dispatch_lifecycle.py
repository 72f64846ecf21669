from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices.protocol import Outcome
from vpp_pipeline.dispatch.lifecycle import (
    FINAL,
    PROVEN_BY_READ_BACK,
    SENDABLE,
    TRANSITIONS,
    State,
    is_legal,
)

STATES = st.sampled_from(list(State))


@given(st.lists(STATES, max_size=12))
@settings(max_examples=100, deadline=None)
def test_invariant_06_whatever_is_tried_a_send_is_preceded_by_an_intent_and_never_follows_an_end(
    attempts,
):
    state, kept = None, []
    for attempt in attempts:
        if is_legal(state, attempt):
            kept.append(attempt)
            state = attempt
    if kept:
        assert kept[0] is State.PLANNED
    for before, after in pairwise(kept):
        if after is State.SENT:
            assert before in SENDABLE
        if before in FINAL:
            assert before is State.VERIFIED
            assert after in {State.VERIFIED, State.OVERRIDDEN}


def test_invariant_06_no_path_leads_from_a_final_state_back_to_a_send():
    reached = set(FINAL)
    while more := {after for state in reached for after in TRANSITIONS[state]} - reached:
        reached |= more
    assert reached == FINAL


def test_invariant_06_every_state_can_be_reached_and_can_end():
    reached = {State.PLANNED}
    while more := {after for state in reached for after in TRANSITIONS[state]} - reached:
        reached |= more
    assert reached == set(State)
    for state in set(State) - FINAL:
        assert State.EXPIRED in TRANSITIONS[state]


def test_invariant_06_only_a_sent_command_can_be_in_doubt_or_acknowledged():
    for outcome in (State.ACKED, State.UNKNOWN, State.FAILED):
        assert not is_legal(State.PLANNED, outcome)
        assert is_legal(State.SENT, outcome)


def test_whatever_a_driver_answers_may_follow_a_send():
    assert all(is_legal(State.SENT, State(outcome.value)) for outcome in Outcome)


def test_a_send_can_be_claimed_only_once():
    assert not is_legal(State.SENT, State.SENT)
    assert not is_legal(State.ACKED, State.SENT)


def test_invariant_06_only_a_read_back_ends_a_doubt_or_verifies():
    needed = {
        (before, State.VERIFIED)
        for before, afters in TRANSITIONS.items()
        if State.VERIFIED in afters
    }
    assert needed | {(State.UNKNOWN, State.FAILED)} == PROVEN_BY_READ_BACK
    assert not is_legal(State.UNKNOWN, State.SENT)
