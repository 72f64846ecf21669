"""A day from its first command to its report, over the real protocols."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from datetime import time, timedelta
from itertools import product
from typing import TYPE_CHECKING

import polars as pl
import pytest
from defs_plant import (
    CONTROLLABLE,
    DEVICES,
    FLEET,
    NOBODY_LISTENS,
    TODAY,
    TOMORROW,
    Plant,
    check_of,
    copied,
    failure_of,
    market_time,
    open_plant,
)
from polars.testing import assert_frame_equal

from vpp_pipeline.collector import Collector
from vpp_pipeline.delivery_day import STEP, bounds
from vpp_pipeline.forecasting import session_values
from vpp_pipeline.forecasting.rows import QUANTILES
from vpp_pipeline.planning.candidates import CANDIDATES
from vpp_pipeline.planning.scoring import day_skill
from vpp_pipeline.settings import MARKET_TZ
from vpp_pipeline.simulation.of_registry import open_fleet

if TYPE_CHECKING:
    from vpp_pipeline.simulation.fleet import SimulatedFleet

START, END = bounds(TOMORROW, MARKET_TZ)
PARTS = ["energy_eur", "wear_eur", "fuel_eur", "unmet_eur", "inventory_eur"]


@dataclass(frozen=True)
class Running:
    """A plant whose simulated devices listen, and how many set-points each has applied."""

    plant: Plant
    fleet: SimulatedFleet
    collector: Collector
    applied: Counter


@pytest.fixture(scope="module")
def running(planned_home, tmp_path_factory):
    """The planned plant a minute before its day begins, its devices on their protocols."""
    home = copied(planned_home, tmp_path_factory.mktemp("running") / "plant")
    with open_plant(home, market_time(TODAY, time(12, 58))) as plant:
        assert plant.daemon.launch("collect_prices", partition_key=str(TOMORROW)).success
        plant.clock.sleep_until(START - STEP)
        fleet = open_fleet(plant.runtime)
        applied = Counter()
        apply = fleet.plant.apply

        def counted(device_id, *setpoint):
            apply(device_id, *setpoint)
            applied[device_id] += 1

        fleet.plant.apply = counted
        fleet.start(ticking=False)
        try:
            plant.clock.on_move = fleet.step
            with Collector(plant.runtime, timeout_s=5.0) as collector:
                plant.clock.sleep_until(START - timedelta(minutes=1))
                collector.collect()
                yield Running(plant, fleet, collector, applied)
        finally:
            fleet.stop()


@pytest.fixture(scope="module")
def pushed(running):
    """The plant after the sensor had the first quarter-hour pushed."""
    plant = running.plant
    plant.clock.sleep_until(START - timedelta(seconds=30))
    (result,) = plant.daemon.ask("due_dispatch")
    assert result.success, failure_of(result)
    return running


@pytest.fixture(scope="module")
def settled(pushed):
    """The plant after its day was over and settled."""
    plant, collector = pushed.plant, pushed.collector
    for start in range(1, 100, 4):
        plant.clock.sleep_until(START + start * STEP)
        collector.collect()
    plant.clock.sleep_until(END + timedelta(minutes=31))
    (result,) = plant.daemon.ask("finished_day")
    assert result.success, failure_of(result)
    return pushed, result


def last_states(plant):
    last = plant.rows("command_events").sort("event_id").group_by("command_id").last()
    return dict(last.select("command_id", "state").iter_rows())


def test_every_steered_device_is_told_its_set_point_before_it_counts(pushed):
    plant = pushed.plant
    assert plant.clock.now() < START + timedelta(seconds=30)
    commands = plant.rows("commands")
    assert commands.height == CONTROLLABLE
    assert set(last_states(plant).values()) == {"VERIFIED"}
    for device_id, setpoint_kw in commands.select("device_id", "setpoint_kw").iter_rows():
        in_force = pushed.fleet.plant.setpoint(device_id)
        assert in_force.setpoint_kw == pytest.approx(setpoint_kw, abs=0.02)


def test_a_push_that_runs_twice_applies_no_command_twice(pushed):
    plant = pushed.plant
    (plan_id,) = plant.rows("plans")["plan_id"]
    commands, events = plant.rows("commands"), plant.rows("command_events")
    applied = pushed.applied.copy()
    assert len(applied) == CONTROLLABLE
    assert set(applied.values()) == {1}
    again = plant.push(plan_id, START)
    assert again.success, failure_of(again)
    assert plant.rows("commands").equals(commands)
    assert plant.rows("command_events").equals(events)
    assert pushed.applied == applied


def test_the_daemon_is_never_asked_twice_for_one_push(pushed):
    assert pushed.plant.daemon.ask("due_dispatch") == []


def test_what_was_known_when_a_command_was_made_can_be_traced(pushed):
    plant = pushed.plant
    command = plant.rows("commands").row(0, named=True)
    (plan,) = plant.rows("plans").filter(pl.col("plan_id") == command["plan_id"]).to_dicts()
    assert plan["as_of"] < command["created_at"] <= command["interval_start"]
    events = plant.rows("command_events").filter(pl.col("command_id") == command["command_id"])
    told = events.sort("event_id")["state"].to_list()
    assert told[0] == "PLANNED"
    assert told.index("SENT") < told.index("VERIFIED")
    runs = {run.run_id for run in plant.instance.get_runs()}
    assert set(events["actor"]) <= runs


def test_the_cost_of_the_day_is_the_sum_of_its_parts(settled):
    (running, _) = settled
    costs = running.plant.frame("defs_settlement", delivery_day=TOMORROW)
    assert costs["basis"].to_list() == ["unmanaged", "managed", "as_planned", "perfect_foresight"]
    summed = costs.select(pl.sum_horizontal(PARTS)).to_series()
    assert summed.to_list() == pytest.approx(costs["total_eur"].to_list())


def test_no_day_is_cheaper_than_with_perfect_foresight(settled):
    (running, _) = settled
    costs = running.plant.frame("defs_settlement", delivery_day=TOMORROW)
    totals = dict(costs.select("basis", "total_eur").iter_rows())
    assert totals["perfect_foresight"] <= totals["managed"] + 0.01
    assert totals["perfect_foresight"] <= totals["unmanaged"] + 0.01


def test_every_quarter_hour_of_the_day_is_settled_once_a_device(settled):
    (running, _) = settled
    delivery = running.plant.frame("defs_delivery", delivery_day=TOMORROW)
    assert delivery.select("device_id", "interval_start").is_unique().all()
    assert delivery["interval_start"].n_unique() == 100
    first = delivery.filter(pl.col("interval_start") == START, pl.col("commanded_kw").is_not_null())
    assert first.height == CONTROLLABLE
    assert set(first["command_state"]) == {"VERIFIED"}


def test_a_settled_day_is_not_settled_again(settled):
    (running, _) = settled
    settlements = running.plant.count("settlements")
    running.plant.clock.sleep_until(END + timedelta(hours=1))
    assert running.plant.daemon.ask("finished_day") == []
    assert "yesterday is settled" in running.plant.tick("finished_day").skip_message
    assert running.plant.count("settlements") == settlements


def test_the_days_report_stands_alone_and_shows_what_was_settled(settled):
    (running, result) = settled
    path = running.plant.runtime.settings.report_dir / f"{TOMORROW}.html"
    told = result.asset_materializations_for_node("plan_report")[0].metadata
    assert told["report"].value == str(path)
    page = path.read_text()
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!#)[^"']*""", page) == []
    assert page.count("<svg") == 5
    costs = running.plant.frame("defs_settlement", delivery_day=TOMORROW)
    for total in costs["total_eur"]:
        assert f"{total:.2f} EUR" in page


def test_what_the_day_lost_adds_up_to_what_was_measured(settled):
    (running, result) = settled
    totals = dict(
        running.plant.frame("defs_settlement", delivery_day=TOMORROW)
        .select("basis", "total_eur")
        .iter_rows()
    )
    (told,) = running.plant.frame("defs_regret", delivery_day=TOMORROW).to_dicts()
    parts = told["solver_eur"] + told["forecast_eur"] + told["execution_eur"]
    assert totals["perfect_foresight"] + parts == pytest.approx(totals["managed"], abs=1e-6)
    assert told["regret_eur"] == pytest.approx(parts, abs=1e-6)
    assert told["solver_eur"] >= 0
    assert told["unproven_quarter_hours"] == 0
    check = check_of(result, "losses_add_up_and_devices_do_as_told")
    assert check.metadata["off_eur"].value <= 1e-6


def test_forecasts_of_the_day_are_scored_once(settled):
    (running, _) = settled
    scored = running.plant.rows("forecast_errors")
    assert {"load", "pv", "price", "temperature"} <= set(scored["target"])
    again = running.plant.materialise("settle", TOMORROW, "forecast_errors")
    assert again.success, failure_of(again)
    assert running.plant.count("forecast_errors") == scored.height


def test_a_day_that_is_over_keeps_its_fleet_when_the_registry_changes(settled, tmp_path):
    home = copied(settled[0].plant.runtime.settings.home, tmp_path / "plant")
    start, end = (FLEET.index(f"- type: {kind}") for kind in ("heat_pump", "ev_charger"))
    smaller = FLEET[:start] + FLEET[end:]
    with open_plant(home, END + timedelta(hours=1)) as plant:
        before = judged_again(plant)
        (home / "fleet.yaml").write_text(smaller)
        (registered,) = plant.daemon.ask("changed_registry")
        assert registered.success, failure_of(registered)
        told = NOBODY_LISTENS.items()
        still = {name: address for name, address in told if f"device_id: {name}\n" in smaller}
        plant.runtime.settings.endpoints_file.write_text(json.dumps(still))
        assert plant.runtime.devices(plant.clock.now()).height == len(still) < DEVICES
        plant.clock.sleep_until(END + timedelta(hours=2))
        for earlier, later in zip(before, judged_again(plant), strict=True):
            assert_frame_equal(later, earlier, abs_tol=1e-3)
        page = plant.runtime.settings.report_dir / f"{TOMORROW}.html"
        assert f"{DEVICES} devices" in page.read_text()


def judged_again(plant):
    """What a person who settles the day once more is told of its cost, delivery and skill."""
    assets = ["settlement", "regret", "plan_churn", "forecast_errors", "plan_report"]
    result = plant.materialise("settle", TOMORROW, *assets)
    assert result.success, failure_of(result)
    return (
        plant.frame("defs_settlement", delivery_day=TOMORROW),
        plant.frame("defs_delivery", delivery_day=TOMORROW).drop("settled_at"),
        plant.frame("defs_regret", delivery_day=TOMORROW).drop("settled_at"),
        day_skill(plant.runtime, TOMORROW, plant.clock.now()).drop("known_at"),
    )


@pytest.fixture(scope="module")
def judged(settled):
    """The plant after the forecasts of its day were judged."""
    (running, _) = settled
    before = running.plant.count("forecasts")
    (result,) = running.plant.daemon.ask("settled_day")
    assert result.success, failure_of(result)
    assert running.plant.count("forecasts") == before
    assert running.plant.daemon.ask("settled_day") == []
    return running, result


def test_every_candidate_is_scored_in_euros_and_rivals_stay_out_of_what_plans_read(judged):
    (running, _) = judged
    scored = running.plant.rows("forecast_skill")
    of_price = scored.filter(pl.col("target") == "price")
    planned_on = {"load", "generation", "temperature", "price", "sessions"}
    assert set(scored["target"]) == planned_on | {"site_load", "group_load"}
    assert scored.filter("champion")["target"].is_unique().all()
    assert set(of_price["forecaster"]) == {"lear", "similar-day"}
    in_euros = scored.filter(pl.col("euros_lost").is_finite())
    assert set(in_euros["target"]) == planned_on
    assert in_euros.height == scored.filter(pl.col("target").is_in(planned_on)).height
    alone = ["load", "site_load"]  # one load a site
    of_loads = scored.filter(pl.col("target").is_in(alone)).select(
        "forecaster", pl.col("mae").round(6)
    )
    assert of_loads.unique().height == 2
    assert scored["euros_lost"].min() > -0.05
    assert (scored["forecast_known_at"] < START).all()
    rivals = running.plant.rows("challenger_forecasts")
    made = running.plant.rows("forecasts").select("target", "known_at").unique()
    assert rivals.join(made, on=["target", "known_at"], how="anti").is_empty()


def test_the_rivals_sessions_are_kept_apart_as_of_the_moment_the_champion_spoke(judged):
    (running, result) = judged
    rivals = running.plant.rows("challenger_sessions")
    made = running.plant.rows("session_forecasts")
    (champion,) = running.plant.rows("forecast_skill").filter(
        pl.col("target") == "sessions", "champion"
    )["forecaster"]
    assert set(rivals["forecaster"]) == set(CANDIDATES["sessions"]) - {champion}
    assert rivals["known_at"].unique().to_list() == [made["known_at"].min()]
    told = result.asset_materializations_for_node("challenger_forecasts")[0].metadata
    named = {row.data["target"] for row in told["challengers"].records}
    assert "sessions" in named


@pytest.fixture(scope="module")
def asked_again(judged):
    """What the challengers said, and that with what they said when asked once more."""
    (running, _) = judged
    tables = ["challenger_forecasts", "challenger_sessions"]
    once = [running.plant.rows(table) for table in tables]
    assert running.plant.materialise("judge_forecasts", TOMORROW, "challenger_forecasts").success
    return dict(zip(tables, zip(once, map(running.plant.rows, tables), strict=True), strict=True))


@pytest.mark.parametrize("table", ["challenger_forecasts", "challenger_sessions"])
def test_what_a_challenger_says_after_the_day_it_would_have_said_before_it(asked_again, table):
    told, both = asked_again[table]
    assert told.height > 0
    assert both.height == 2 * told.height
    assert both.unique().sort(both.columns).equals(told.sort(told.columns))


def test_challengers_that_were_asked_twice_are_scored_as_though_once(judged, asked_again):
    (running, _) = judged
    measures = ["target", "forecaster", "intervals", "mae", "rmae", "pinball", "euros_lost"]
    before = running.plant.rows("forecast_skill").select(measures).sort("target", "forecaster")
    again = day_skill(running.plant.runtime, TOMORROW, running.plant.clock.now())
    assert_frame_equal(again.select(measures).sort("target", "forecaster"), before, abs_tol=1e-3)


def test_the_check_tells_whether_a_champion_is_worse_than_the_naive_rule(judged):
    (running, result) = judged
    check = check_of(result, "champions_beat_the_naive_rule")
    champions = running.plant.rows("forecast_skill").filter("champion")
    worse = set(champions.filter(pl.col("rmae") > 1)["target"])
    assert set(check.metadata["worse_than_naive"].value) == worse
    assert check.passed == (not worse)


def test_a_rival_that_knew_when_a_vehicle_would_come_and_leave_is_scored_as_closer(
    judged, asked_again
):
    plant = judged[0].plant
    now, came, left = plant.clock.now(), START + timedelta(hours=6), START + timedelta(hours=10)
    there = plant.rows("telemetry").filter(
        pl.col("device_id") == "borgo-charger",
        pl.col("measured_at").is_between(came, left, closed="left"),
    )
    told = {"plugged_in": True, "energy_kwh": 20.0, "target_energy_kwh": 28.0}
    told |= {"deadline": left, "known_at": now}
    plant.append("telemetry", there.with_columns(**{k: pl.lit(v) for k, v in told.items()}))
    expected = plant.rows("session_forecasts").head(1).with_columns(probability=pl.lit(0.9))
    plant.append("session_forecasts", expected)
    knew = {"arrival": came, "departure": left}
    plant.append(
        "challenger_sessions",
        expected.with_columns(
            pl.lit("weekday").alias("forecaster"),
            *(pl.lit(knew[event]).alias(f"{event}_{q}") for event in knew for q in QUANTILES),
            *(pl.lit(8.0).alias(f"energy_{q}_kwh") for q in QUANTILES),
        ),
    )
    scored = day_skill(plant.runtime, TOMORROW, now).filter(
        pl.col("target").is_in(session_values.TARGETS)
    )
    errors = {(row["target"], row["forecaster"]): row["mae"] for row in scored.to_dicts()}
    assert set(errors) == set(product(session_values.TARGETS, ["learned", "weekday"]))
    assert all(errors[of, "weekday"] < errors[of, "learned"] for of in session_values.TARGETS)
    assert errors["session_energy", "weekday"] == pytest.approx(0.0)
