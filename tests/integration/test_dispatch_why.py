"""The answer to "why": the whole chain behind a set-point, as it was known then."""

from __future__ import annotations

import json
from datetime import time, timedelta

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner
from defs_plant import TODAY, TOMORROW, copied, market_time, open_plant

from vpp_pipeline.cli import main
from vpp_pipeline.defs.why import WhyConfig
from vpp_pipeline.defs.why import why as why_asset
from vpp_pipeline.delivery_day import STEP, bounds
from vpp_pipeline.devices.protocol import CommandResult, Outcome
from vpp_pipeline.dispatch.commands import PlanRef, due_commands
from vpp_pipeline.dispatch.ledger import Ledger, events
from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.orders import Order
from vpp_pipeline.dispatch.release_log import Cause, Release, ReleaseLog
from vpp_pipeline.dispatch.releases import record_releases
from vpp_pipeline.dispatch.why import explain
from vpp_pipeline.dispatch.why_words import markdown, summary
from vpp_pipeline.settings import MARKET, MARKET_TZ

START, _ = bounds(TOMORROW, MARKET_TZ)
MOMENT = START + timedelta(minutes=7)
BATTERY = "borgo-battery"


@pytest.fixture(scope="module")
def told(planned_home, tmp_path_factory):
    """The planned plant after the battery's first set-point was verified, a PV's refused."""
    home = copied(planned_home, tmp_path_factory.mktemp("told") / "plant")
    with open_plant(home, market_time(TODAY, time(11))) as plant:
        runtime = plant.runtime
        plan = plant.rows("plans").row(0, named=True)
        schedule = plant.frame("warehouse_schedule", plan_id=plan["plan_id"])
        devices = runtime.devices(plant.clock.now())
        due = due_commands(PlanRef(plan["plan_id"], plan["plan_version"]), schedule, devices, START)
        plant.clock.sleep_until(START - timedelta(minutes=1))
        plant.tell()
        ledger = Ledger(runtime.warehouse)
        ledger.record_intents(due.commands, plant.clock.now(), "run-1")
        of = {
            row["device_id"]: due.commands[i : i + 1]
            for i, row in enumerate(due.commands.to_dicts())
        }
        plant.clock.sleep_until(START)
        now = plant.clock.now()
        for event in (
            events(of["alba-pv"], State.REJECTED, now, "run-1", detail="stale telemetry"),
            events(
                of[BATTERY],
                State.SENT,
                now,
                "run-1",
                requested_kw=2.5,
                old_kw=0.0,
                authority="override",
                order_id="o-1",
                detail="override o-1",
                fence=7,
            ),
            events(of[BATTERY], State.ACKED, now, "run-1", sent="0x0A", acknowledged="0x10"),
            events(of[BATTERY], State.VERIFIED, now, "run-1", read_back="0x0A"),
        ):
            assert ledger.record_events(event).is_empty()
        OrderBook(runtime.settings.order_dir).give(
            Order(
                order_id="o-1",
                kind="override",
                scope=f"device:{BATTERY}",
                power_kw=2.5,
                who="anna",
                why="a test of the meter",
                given_at=START - timedelta(hours=1),
                valid_until=START + timedelta(hours=1),
            )
        )
        yield plant


def ask(plant, device_id, moment=MOMENT):
    return explain(plant.runtime.warehouse, plant.runtime.settings, device_id, moment)


def test_invariant_19_a_set_point_is_followed_back_to_what_the_plan_knew(told):
    answer = ask(told, BATTERY)
    plan = told.rows("plans").row(0, named=True)
    assert answer.command["plan_id"] == answer.plan["plan_id"] == plan["plan_id"]
    assert [event["state"] for event in answer.events] == ["PLANNED", "SENT", "ACKED", "VERIFIED"]
    assert answer.schedule["interval_start"] == START
    assert answer.command["planned_kw"] == pytest.approx(answer.schedule["power_kw"], abs=1e-6)
    assert answer.plan["input_hash"] == plan["input_hash"]
    assert answer.fleet["fleet_version"] == plan["fleet_version"]
    assert answer.envelope["interval_start"] == START
    assert answer.envelope["known_at"] <= plan["as_of"]
    assert answer.envelope["min_power_kw"] <= answer.schedule["power_kw"]
    (price,) = answer.prices
    assert price["interval_start"] == START
    assert price["known_at"] <= plan["as_of"]
    assert [order["who"] for order in answer.orders] == ["anna"]
    assert "o-1" in answer.standing["override_words"]
    uses = [reading["used_for"] for reading in answer.readings]
    assert uses == ["the envelope", "the guard, at the send"]
    assert answer.readings[0]["known_at"] <= plan["as_of"] < answer.readings[1]["known_at"]


def test_an_operator_reads_it_from_what_was_done_down_to_what_it_stood_on(told):
    text = markdown(ask(told, BATTERY))
    order = [
        "was told 2.5 kW for",
        "by authority of override: VERIFIED, read back, and equal",
        "## Command",
        "old kW",
        "0x10",
        "## Orders",
        "a test of the meter",
        "## Schedule row",
        "## Plan ",
        "input_hash",
        "## Fleet",
        "## Envelope",
        "## Price the plan knew",
        "## Readings",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("device_id", "target", "subject"),
    [
        ("alba-pv", "pv", "alba-pv"),
        ("alba-load", "load", "alba-load"),
        ("alba-heat-pump", "temperature", "alba"),
    ],
)
def test_the_forecasts_behind_an_envelope_are_those_of_its_kind(told, device_id, target, subject):
    (forecast,) = ask(told, device_id).forecasts
    assert (forecast["target"], forecast["subject_id"]) == (target, subject)


def test_a_charger_is_followed_back_to_the_vehicles_expected(told):
    noon = START + timedelta(hours=18)
    sessions = told.rows("session_forecasts").filter(
        pl.col("probability") > 0,
        pl.col("arrival_p10") < noon + STEP,
        pl.col("departure_p90") > noon,
    )
    answer = ask(told, "borgo-charger", noon)
    assert len(answer.sessions) == sessions.height


def test_what_was_known_only_after_the_plan_is_not_told_as_its_ground(told, tmp_path):
    home = copied(told.runtime.settings.home, tmp_path / "plant")
    with open_plant(home, told.clock.now()) as plant:
        before = ask(plant, "alba-pv")
        late = {"known_at": plant.clock.now()}
        of_start = pl.col("interval_start") == START
        for table, changed in (
            ("envelopes", {"max_power_kw": 77.0}),
            ("prices", {"price_eur_per_mwh": 777.0}),
            ("forecasts", {"p90": 77.0}),
        ):
            rows = plant.rows(table).filter(of_start)
            if table == "prices":
                rows = pl.DataFrame(
                    {
                        "market": MARKET,
                        "interval_start": [START],
                        "resolution_minutes": 15,
                        "source": "late",
                    }
                )
            plant.append(
                table,
                rows.with_columns(pl.lit(value).alias(n) for n, value in (changed | late).items()),
            )
        after = ask(plant, "alba-pv")
    assert after == before


def test_a_refused_command_says_why_and_that_nothing_was_told(told):
    words = summary(ask(told, "alba-pv"))
    assert "was to be told" in words
    assert "REJECTED, it was refused; stale telemetry" in words


def test_a_moment_without_a_command_says_what_the_device_did_by_itself(told):
    later = ask(told, BATTERY, START + timedelta(hours=3))
    assert later.command is None
    assert later.plan is not None
    assert "had no command" in summary(later)
    assert "no push of the quarter-hour stored an intent" in summary(later)
    assert "it rests at 0 kW. It measured" in summary(later)
    assert "it can't be controlled" in summary(ask(told, "alba-load"))
    assert "no released plan covers" in summary(ask(told, BATTERY, START - timedelta(hours=5)))


def test_a_stopped_device_is_told_as_stopped(told, tmp_path):
    home = copied(told.runtime.settings.home, tmp_path / "plant")
    moment = START + timedelta(hours=3)
    with open_plant(home, moment) as plant:
        book = OrderBook(plant.runtime.settings.order_dir)
        book.give(
            Order(
                order_id="s-1",
                kind="stop",
                scope="fleet",
                who="anna",
                why="smoke",
                given_at=moment - timedelta(minutes=1),
            )
        )
        assert "kill switch s-1 by anna (smoke)" in summary(ask(plant, BATTERY, moment))
        (plant.runtime.settings.order_dir / "orders.jsonl").write_text("{}\n")
        assert "the order book can't be read" in summary(ask(plant, BATTERY, moment))


def test_a_device_that_was_released_says_by_whom_and_what_it_did_then(told, tmp_path):
    home = copied(told.runtime.settings.home, tmp_path / "plant")
    at = START + timedelta(minutes=8)
    with open_plant(home, at) as plant:
        cause = Cause("kill switch", "s-1", "kill switch s-1 by anna (smoke)")
        result = CommandResult("", Outcome.ACKED, "0x00", answer="0x01", fence=3)
        log = ReleaseLog(plant.runtime.settings.order_dir)
        log.append([Release.of(BATTERY, at, "anna", cause, result)])
        record_releases(Ledger(plant.runtime.warehouse), log.read())
        before, after = (ask(plant, BATTERY, at + timedelta(seconds=s)) for s in (-1, 1))
    assert before.command["kind"] == "set_point"
    assert after.command["kind"] == "release"
    assert "released to its own default by authority of kill switch: VERIFIED" in summary(after)
    assert "it rests at 0 kW" in summary(after)
    assert "kill switch s-1 by anna (smoke)" in markdown(after)


def test_a_set_point_that_outlives_its_quarter_hour_is_the_one_in_force(told):
    grace = ask(told, BATTERY, START + timedelta(minutes=17))
    assert grace.command["interval_start"] == START
    assert grace.schedule["interval_start"] == START
    assert ask(told, BATTERY, START + timedelta(minutes=20)).command is None


def test_vpp_why_answers_people_and_programs(told, monkeypatch):
    monkeypatch.setenv("VPP_HOME", str(told.runtime.settings.home))
    said = CliRunner().invoke(main, ["why", BATTERY, MOMENT.isoformat()])
    assert said.exit_code == 0, said.output
    assert "was told 2.5 kW" in said.output
    program = CliRunner().invoke(main, ["why", BATTERY, MOMENT.isoformat(), "--json"])
    told_json = json.loads(program.output)
    assert told_json["events"][1]["requested_kw"] == 2.5
    assert set(told_json) == set(type(ask(told, BATTERY)).model_fields)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such", MOMENT.isoformat()], "name one of alba-battery"),
        (["borgo-charge", MOMENT.isoformat()], "name one of borgo-charger, "),
        ([BATTERY, "noon"], "is no time"),
        ([BATTERY, "2020-01-01T00:00Z"], "no fleet was known"),
    ],
)
def test_vpp_why_names_what_is_wrong_and_the_remedy(told, monkeypatch, arguments, words):
    monkeypatch.setenv("VPP_HOME", str(told.runtime.settings.home))
    said = CliRunner().invoke(main, ["why", *arguments])
    assert said.exit_code != 0
    assert words in said.output


def test_vpp_why_makes_no_warehouse_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("VPP_HOME", str(tmp_path))
    said = CliRunner().invoke(main, ["why", BATTERY, MOMENT.isoformat()])
    assert "--home or VPP_HOME" in said.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["why", BATTERY, MOMENT.isoformat()],
        ["replay", str(TODAY)],
        ["dispatch", "site:alba", "1", "--for", "1h", "--why", "trial"],
    ],
)
def test_who_reads_makes_no_new_database_in_place_of_one_that_is_gone(
    told, tmp_path, monkeypatch, words
):
    home = copied(told.runtime.settings.home, tmp_path / "plant")
    (home / "warehouse" / "vpp.duckdb").unlink()
    monkeypatch.setenv("VPP_FLEET", str(home / "fleet.yaml"))
    said = CliRunner().invoke(main, [*words, "--home", str(home)])
    assert said.exit_code == 1
    assert f"bring back {home / 'warehouse' / 'vpp.duckdb'}" in said.stderr
    assert not (home / "warehouse" / "vpp.duckdb").exists()


def test_an_answer_that_goes_into_a_file_is_wrapped_nowhere(told, monkeypatch):
    monkeypatch.setenv("VPP_HOME", str(told.runtime.settings.home))
    said = CliRunner().invoke(main, ["why", BATTERY, MOMENT.isoformat()])
    assert said.stdout == markdown(ask(told, BATTERY))


def test_the_asset_shows_the_chain_in_the_ui(told):
    result = why_asset(WhyConfig(device=BATTERY, time=MOMENT.isoformat()), runtime=told.runtime)
    assert "was told 2.5 kW" in result.metadata["answer"]
    assert "## Envelope" in result.metadata["chain"].value
    assert result.metadata["for_programs"].value["device_id"] == BATTERY
    with pytest.raises(dg.Failure, match="name one of alba-battery"):
        why_asset(WhyConfig(device="no-such", time=MOMENT.isoformat()), runtime=told.runtime)
