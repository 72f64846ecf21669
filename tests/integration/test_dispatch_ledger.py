from datetime import timedelta

import dataframely as dy
import duckdb
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


def test_invariant_05_intents_and_their_claims_are_stored_together(ledger):
    claims = event(State.SENT, COMMANDS.tail(2), fence=7)
    assert ledger.record_claimed_intents(COMMANDS, claims, BEFORE, "run").is_empty()
    assert ledger.states(START)["state"].to_list() == ["PLANNED", "SENT", "SENT"]
    assert ledger.history("mqtt-0", START)["state"].to_list() == ["PLANNED", "SENT"]


def test_invariant_05_of_a_failed_claim_no_intent_is_left_behind(ledger):
    twice = pl.concat([event(State.SENT), event(State.REJECTED)])
    with pytest.raises(dy.exc.ValidationError):
        ledger.record_claimed_intents(COMMANDS, twice, BEFORE, "run")
    assert ledger.states(START).is_empty()


def test_a_known_command_is_not_claimed_with_its_intent_again(ledger):
    ledger.record_intents(COMMANDS.head(1), BEFORE, "first")
    refused = ledger.record_claimed_intents(COMMANDS, event(State.SENT), BEFORE, "second")
    assert refused.select("command_id", "refusal").rows() == [
        (COMMANDS["command_id"][0], "the ledger had the command already")
    ]
    assert ledger.states(START)["state"].to_list() == ["PLANNED", "SENT", "SENT"]


def test_invariant_04_an_older_plans_intent_is_not_claimed_as_it_is_stored(ledger):
    newer = due(DEVICES, plan=PlanRef("plan-2", 2)).commands
    ledger.record_intents(newer.head(1), BEFORE, "run-2")
    refused = ledger.record_claimed_intents(COMMANDS, event(State.SENT), BEFORE, "run-1")
    assert refused["command_id"].to_list() == [COMMANDS["command_id"][0]]
    states = ledger.states(START).filter(pl.col("plan_version") == 1)
    assert states["state"].to_list() == ["REJECTED", "SENT", "SENT"]


def test_invariant_04_an_older_plans_intent_is_rejected_as_it_is_stored(ledger):
    newer = due(DEVICES, plan=PlanRef("plan-2", 2)).commands
    ledger.record_intents(newer.head(1), BEFORE, "run-2")
    ledger.record_intents(COMMANDS, BEFORE, "run-1")
    states = ledger.states(START).filter(pl.col("plan_version") == 1)
    assert dict(states.select("device_id", "state").rows()) == {
        "http-0": "REJECTED",
        "modbus-0": "PLANNED",
        "mqtt-0": "PLANNED",
    }
    history = ledger.history("http-0", START).filter(pl.col("plan_version") == 1)
    assert history["state"].to_list() == ["PLANNED", "REJECTED"]
    assert history["detail"][1] == "superseded by plan version 2"


def test_invariant_04_a_claim_is_rejected_once_a_newer_plan_has_an_intent(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run-1")
    newer = due(DEVICES, plan=PlanRef("plan-2", 2)).commands
    ledger.record_intents(newer.head(1), BEFORE, "run-2")
    refused = ledger.record_events(event(State.SENT))
    assert refused.select("command_id", "refusal").rows() == [
        (COMMANDS["command_id"][0], "superseded by plan version 2")
    ]
    states = ledger.states(START).filter(pl.col("plan_version") == 1)
    assert states["state"].to_list() == ["REJECTED", "SENT", "SENT"]
    assert ledger.record_events(event(State.SENT, newer.head(1))).is_empty()


def test_invariant_04_another_quarter_hours_plan_supersedes_nothing(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run-1")
    later = COMMANDS.with_columns(
        pl.col("command_id") + "-later",
        pl.col("interval_start", "valid_from", "valid_until") + timedelta(minutes=15),
        plan_version=pl.lit(9, pl.Int64),
    )
    ledger.record_intents(later, BEFORE, "run-2")
    assert ledger.record_events(event(State.SENT)).is_empty()


def test_invariant_06_a_command_in_doubt_is_not_sent_again_before_it_was_read_back(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run")
    ledger.record_events(event(State.SENT))
    ledger.record_events(event(State.UNKNOWN))
    assert set(ledger.record_events(event(State.SENT))["refusal"]) == {
        "SENT may not follow UNKNOWN"
    }
    assert set(ledger.record_events(event(State.FAILED))["refusal"]) == {
        "FAILED needs a read-back after UNKNOWN"
    }
    assert ledger.record_events(event(State.FAILED, read_back="0x00")).is_empty()
    assert ledger.record_events(event(State.SENT)).is_empty()


def test_invariant_07_nothing_is_verified_without_a_read_back(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run")
    ledger.record_events(event(State.SENT))
    assert ledger.record_events(event(State.VERIFIED)).height == COMMANDS.height
    assert ledger.record_events(event(State.VERIFIED, read_back="0x0A")).is_empty()


def test_invariant_14_a_claim_under_an_older_lease_is_refused(ledger):
    newer = due(DEVICES, plan=PlanRef("plan-2", 2)).commands.head(1)
    ledger.record_intents(COMMANDS, BEFORE, "run-1")
    ledger.record_events(event(State.SENT, COMMANDS.head(1), fence=7))
    ledger.record_events(event(State.FAILED, COMMANDS.head(1)))
    refused = ledger.record_events(event(State.SENT, fence=6))
    assert refused.select("command_id", "before", "refusal").rows() == [
        (COMMANDS["command_id"][0], "FAILED", "lease 6 ended: 7 sent since")
    ]
    ledger.record_intents(newer, BEFORE, "run-2")
    assert ledger.record_events(event(State.SENT, newer, fence=7)).is_empty()


def test_a_release_is_a_command_that_stands_on_no_plan(ledger):
    release = COMMANDS.head(1).with_columns(
        pl.lit(None).alias(name)
        for name in ("plan_id", "plan_version", "planned_kw", "setpoint_kw")
    )
    ordered = {
        "kind": pl.lit("release"),
        "authority": pl.lit("kill switch"),
        "order_id": pl.lit("s"),
    }
    ledger.record_intents(release.with_columns(**ordered), BEFORE, "run")
    (told,) = ledger.history("http-0", START).to_dicts()
    assert (told["kind"], told["authority"], told["order_id"]) == ("release", "kill switch", "s")
    for wrong in (
        release,
        COMMANDS.head(1).with_columns(**ordered),
        COMMANDS.head(1).with_columns(authority=pl.lit("")),
    ):
        with pytest.raises(dy.exc.ValidationError):
            ledger.record_intents(wrong, BEFORE, "run")


def test_people_find_each_command_once_with_what_became_of_it(tmp_path):
    warehouse = Warehouse(tmp_path)
    ledger = Ledger(warehouse)
    ledger.record_intents(COMMANDS, BEFORE, "run")
    ledger.record_events(event(State.SENT, requested_kw=2.5, old_kw=1.0, fence=7))
    ledger.record_events(event(State.VERIFIED, COMMANDS.head(1), read_back="0x0A"))
    with duckdb.connect(tmp_path / "vpp.duckdb", read_only=True) as session:
        rows = session.sql(
            "SELECT device_id, authority, state, old_kw, requested_kw, read_back, sends, fence "
            "FROM dispatch_ledger ORDER BY device_id"
        ).fetchall()
    assert rows == [
        ("http-0", "plan", "VERIFIED", 1.0, 2.5, "0x0A", 1, 7),
        ("modbus-0", "plan", "SENT", 1.0, 2.5, None, 1, 7),
        ("mqtt-0", "plan", "SENT", 1.0, 2.5, None, 1, 7),
    ]


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


def test_overdue_are_open_commands_of_intervals_that_are_over(ledger):
    ledger.record_intents(COMMANDS, BEFORE, "run")
    ledger.record_events(event(State.REJECTED, COMMANDS.head(1)))
    assert ledger.overdue(START + timedelta(minutes=14)).is_empty()
    overdue = ledger.overdue(START + timedelta(minutes=15))
    assert overdue["state"].to_list() == ["PLANNED", "PLANNED"]


@pytest.mark.parametrize("later", [timedelta(minutes=15), timedelta(hours=25), timedelta(days=9)])
def test_invariant_06_what_is_open_is_ended_however_long_the_plant_stood_still(ledger, later):
    ledger.record_intents(COMMANDS, BEFORE, "run")
    ledger.record_events(event(State.SENT, COMMANDS.head(1)))
    ended = ledger.expire(START + later, "run-2")
    assert ended["command_id"].to_list() == sorted(COMMANDS["command_id"])
    assert set(ledger.states(START)["state"]) == {"EXPIRED"}
    assert "the interval ended while this was SENT" in ledger.states(START)["detail"].to_list()
    assert ledger.expire(START + later, "run-2").is_empty()


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
