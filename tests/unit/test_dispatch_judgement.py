from datetime import timedelta

import polars as pl
import pytest
from dispatch_cases import START
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices.protocol import CommandResult, Outcome, ReadBack, Unreachable
from vpp_pipeline.dispatch.judgement import answers_frame, judge, results_frame
from vpp_pipeline.dispatch.lifecycle import State, is_legal

BEFORE = pl.DataFrame({"device_id": ["d"], "command_id": ["before"], "setpoint_kw": [2.0]})


def verdict_of(state: str, answer: ReadBack | Unreachable, *, last_look: bool = True):
    asked = pl.DataFrame(
        {
            "command_id": ["ours"],
            "device_id": ["d"],
            "state": [state],
            "offered_kw": [5.0],
            "valid_until": [START + timedelta(minutes=20)],
        }
    )
    return judge(asked, answers_frame({"ours": answer}), BEFORE, START, last_look=last_look).row(
        0, named=True
    )


def said(kw: float | None, *, matches: bool = False, **fields: object) -> ReadBack:
    return ReadBack("d", matches, kw, raw="0x0", **fields)


def test_invariant_07_verified_needs_a_match():
    assert verdict_of("ACKED", said(5.0, matches=True))["verdict"] == "VERIFIED"
    assert verdict_of("ACKED", said(4.0))["verdict"] != "VERIFIED"


def test_invariant_07_an_equal_value_under_another_commands_name_is_not_ours():
    answer = said(5.0, matches=True, command_id="before")
    assert verdict_of("ACKED", answer, last_look=False)["verdict"] is None
    assert verdict_of("ACKED", answer)["verdict"] == "ACKED"


def test_invariant_12_after_a_lost_answer_an_equal_value_that_soon_runs_out_is_not_ours():
    old = verdict_of("UNKNOWN", said(5.0, matches=True, timer_remaining_s=300.0))
    ours = verdict_of("UNKNOWN", said(5.0, matches=True, timer_remaining_s=1200.0))
    assert old["verdict"] == "FAILED"
    assert ours["verdict"] == "VERIFIED"


def test_a_device_that_obeys_this_command_at_another_value_has_applied_it():
    row = verdict_of("ACKED", said(4.0, command_id="ours"), last_look=False)
    assert row["verdict"] == "APPLIED"
    assert "asked 5.0 kW, the device reports 4.0 kW" in row["words"]


@pytest.mark.parametrize("answer", [said(2.0), said(2.0001), said(9.0, command_id="before")])
def test_an_acknowledgement_without_effect_stays_acked(answer):
    assert verdict_of("ACKED", answer)["verdict"] == "ACKED"


def test_invariant_14_a_strangers_value_is_overridden_but_not_before_the_last_look():
    assert verdict_of("ACKED", said(9.0), last_look=False)["verdict"] is None
    assert verdict_of("ACKED", said(9.0))["verdict"] == "OVERRIDDEN"
    assert verdict_of("ACKED", said(9.0, command_id="stranger"))["verdict"] == "OVERRIDDEN"


def test_a_device_without_a_set_point_is_not_overridden():
    row = verdict_of("ACKED", said(None))
    assert row["verdict"] == "ACKED"
    assert "no set-point is in force" in row["words"]


def test_invariant_06_a_device_that_does_not_answer_is_not_sent_to_again():
    row = verdict_of("UNKNOWN", Unreachable("d", "no route: check its cable"))
    assert row["verdict"] == "UNKNOWN"
    assert "check its cable" in row["words"]


def test_only_a_command_in_doubt_may_be_sent_again():
    assert verdict_of("ACKED", said(None))["verdict"] == "ACKED"
    assert verdict_of("UNKNOWN", said(None), last_look=False)["verdict"] == "FAILED"


@given(
    state=st.sampled_from(["ACKED", "APPLIED", "UNKNOWN"]),
    answer=st.builds(
        ReadBack,
        device_id=st.just("d"),
        matches=st.booleans(),
        setpoint_kw=st.one_of(st.none(), st.floats()),
        raw=st.text(max_size=3),
        command_id=st.sampled_from([None, "ours", "before", "stranger"]),
        timer_remaining_s=st.one_of(st.none(), st.floats()),
        detail=st.text(max_size=3),
    ),
    last_look=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_invariant_07_no_answer_verifies_without_a_match_or_moves_to_an_illegal_state(
    state, answer, last_look
):
    row = verdict_of(state, answer, last_look=last_look)
    if row["verdict"] == "VERIFIED":
        assert answer.matches
        assert answer.command_id in {None, "ours"}
    if row["verdict"] is not None:
        assert is_legal(State(state), State(row["verdict"]))
    else:
        assert not last_look


def known_at_once(outcome: Outcome, back: ReadBack | None) -> dict:
    result = CommandResult("ours", outcome, "10", "words", "ack", 3, back)
    return results_frame({"ours": result}).row(0, named=True)


def test_invariant_07_what_is_seen_in_force_at_once_is_verified_with_what_was_read():
    known = known_at_once(Outcome.ACKED, said(5.0, matches=True))
    assert (known["state"], known["raw"], known["answer"]) == ("VERIFIED", "0x0", "ack")


@pytest.mark.parametrize("back", [None, said(4.0), said(5.0, matches=True, command_id="before")])
def test_invariant_07_nothing_else_seen_at_once_proves_anything(back: ReadBack | None):
    known = known_at_once(Outcome.ACKED, back)
    assert (known["state"], known["raw"], known["words"]) == ("ACKED", "", "words")


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.FAILED, Outcome.UNKNOWN])
def test_invariant_06_only_an_acknowledged_command_is_verified_at_once(outcome: Outcome):
    assert known_at_once(outcome, said(5.0, matches=True))["state"] == outcome.value
