from datetime import timedelta

import polars as pl
import pytest
from dispatch_fakes import BEFORE, PLAN, START, due, plant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vpp_pipeline.dispatch.commands import PlanRef
from vpp_pipeline.dispatch.ledger import Ledger, events
from vpp_pipeline.dispatch.lifecycle import State, is_legal
from vpp_pipeline.warehouse.store import Warehouse

DEVICES = plant(1)
COMMANDS = due(DEVICES).commands


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(Warehouse(tmp_path))


def event(state: State, commands: pl.DataFrame = COMMANDS, **told: object) -> pl.DataFrame:
    return events(commands, state, BEFORE, "test", **told)


def test_invariant_05_an_intent_is_stored_once_and_left_as_it_is(ledger):
    assert ledger.record_intents(COMMANDS, BEFORE, "first").is_empty()
    told = ledger.record_intents(COMMANDS.with_columns(setpoint_kw=9.0), BEFORE, "second")
    assert told["command_id"].to_list() == COMMANDS["command_id"].to_list()
    states = ledger.states(START)
    assert states["setpoint_kw"].unique().to_list() == [3.0]
    assert ledger.history("mqtt-0", START)["actor"].to_list() == ["first"]


def test_new_intents_are_stored_beside_known_ones(ledger):
    ledger.record_intents(COMMANDS.head(1), BEFORE, "first")
    assert ledger.record_intents(COMMANDS, BEFORE, "second").height == 1
    assert ledger.states(START).height == COMMANDS.height


def test_invariant_06_a_state_that_may_not_follow_is_refused_and_told(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run")
    ledger.record_events(event(State.SENT, COMMANDS.head(1)))
    refused = ledger.record_events(event(State.ACKED))
    assert set(refused["before"]) == {"PLANNED"}
    assert refused.height == COMMANDS.height - 1
    assert ledger.states(START)["state"].to_list().count("ACKED") == 1


def test_a_send_is_claimed_by_one_run_only(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run")
    assert ledger.record_events(event(State.SENT)).is_empty()
    assert ledger.record_events(event(State.SENT)).height == COMMANDS.height


def test_an_event_of_an_unknown_command_is_refused_even_as_planned(ledger):
    assert ledger.record_events(event(State.ACKED)).height == COMMANDS.height
    assert ledger.record_events(event(State.PLANNED)).height == COMMANDS.height
    assert ledger.states(START).is_empty()


def test_invariant_19_the_history_tells_who_why_old_requested_sent_acknowledged_read_back(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run")
    ledger.record_events(
        event(
            State.SENT,
            requested_kw=2.5,
            old_kw=1.0,
            authority="override",
            order_id="o-1",
            fence=7,
            detail="the override's bound",
        )
    )
    ledger.record_events(event(State.ACKED, sent="0x0A", acknowledged="0x10", detail="in time"))
    ledger.record_events(event(State.VERIFIED, read_back="0x0A"))
    history = ledger.history("modbus-0", START + timedelta(minutes=7))
    assert history["state"].to_list() == ["PLANNED", "SENT", "ACKED", "VERIFIED"]
    assert set(history["actor"]) == {"run", "test"}
    assert history["authority"].to_list() == ["plan", "override", "plan", "plan"]
    assert history["order_id"].to_list() == [None, "o-1", None, None]
    assert history["old_kw"].to_list() == [None, 1.0, None, None]
    assert history["requested_kw"].to_list() == [None, 2.5, None, None]
    assert history["sent"].to_list() == ["", "", "0x0A", ""]
    assert history["acknowledged"].to_list() == ["", "", "0x10", ""]
    assert history["read_back"].to_list() == ["", "", "", "0x0A"]
    assert history["fence"].to_list() == [None, 7, None, None]
    assert history["detail"][2] == "in time"
    assert set(history["at"]) == {BEFORE}
    assert ledger.states(START)["offered_kw"].to_list() == [2.5] * COMMANDS.height
    assert ledger.history("modbus-0", START + timedelta(minutes=20)).is_empty()


def test_open_commands_are_those_without_an_end(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run")
    ledger.record_events(event(State.REJECTED, COMMANDS.head(1)))
    assert ledger.open_commands(START)["device_id"].to_list() == ["modbus-0", "mqtt-0"]


def test_overdue_are_open_commands_of_intervals_that_are_over(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run")
    ledger.record_events(event(State.REJECTED, COMMANDS.head(1)))
    assert ledger.overdue(START + timedelta(minutes=14)).is_empty()
    overdue = ledger.overdue(START + timedelta(minutes=15))
    assert overdue["state"].to_list() == ["PLANNED", "PLANNED"]


def test_standing_is_what_another_plan_last_sent(ledger):
    newer = due(DEVICES, kw=5.0, plan=PlanRef("plan-2", 2)).commands
    for commands in (COMMANDS, newer):
        ledger.record_intents(commands, BEFORE, "run")
    ledger.record_events(event(State.SENT, newer.head(1)))
    standing = ledger.standing(START, PLAN.plan_version)
    assert standing.select("device_id", "plan_version", "setpoint_kw").rows() == [
        ("http-0", 2, 5.0)
    ]
    assert ledger.standing(START, 2).is_empty()
    assert ledger.standing(START - timedelta(minutes=15), 1).is_empty()


def test_an_empty_batch_is_recorded_as_nothing(ledger):
    assert ledger.record_intents(COMMANDS.clear(), BEFORE, "run").is_empty()
    assert ledger.record_events(event(State.SENT, COMMANDS.clear())).is_empty()


def test_two_events_of_one_command_in_one_batch_are_an_error(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run")
    with pytest.raises(Exception, match="primary_key"):
        ledger.record_events(pl.concat([event(State.SENT), event(State.EXPIRED)]))
    assert set(ledger.states(START)["state"]) == {"PLANNED"}


@given(attempts=st.lists(st.sampled_from(list(State)), max_size=6))
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_invariant_19_the_ledger_holds_a_legal_history_whatever_is_tried(
    tmp_path_factory, attempts
):
    ledger = Ledger(Warehouse(tmp_path_factory.mktemp("ledger")))
    one = COMMANDS.head(1)
    ledger.record_intents(one, BEFORE, "run")
    expected = [State.PLANNED]
    for attempt in attempts:
        refused = ledger.record_events(event(attempt, one, read_back="0x0A"))
        assert refused.is_empty() == is_legal(expected[-1], attempt)
        if refused.is_empty():
            expected.append(attempt)
    assert ledger.history(one["device_id"][0], START)["state"].to_list() == expected
