"""A past day planned again: as it was, to the last bit; as it was not, apart; and never sent."""

from __future__ import annotations

from dataclasses import replace
from datetime import time, timedelta

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from defs_plant import (
    DEVICES,
    SEED,
    TODAY,
    TOMORROW,
    copied,
    failure_of,
    market_time,
    open_plant,
)

from vpp_pipeline.cli import main
from vpp_pipeline.delivery_day import STEP, bounds
from vpp_pipeline.fleet import registry
from vpp_pipeline.planning.as_of import as_of
from vpp_pipeline.planning.replay import replay_day
from vpp_pipeline.planning.replay_store import keep
from vpp_pipeline.planning.replays import FailedDay, ReplayedDay, compared, replayed
from vpp_pipeline.planning.variants import Variant, VariantError
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET_TZ
from vpp_pipeline.simulation.history import unmanaged_history
from vpp_pipeline.simulation.world import recorded_world

START, END = bounds(TOMORROW, MARKET_TZ)
PLANNED_AT = market_time(TODAY, time(11))
AT_ELEVEN = PLANNED_AT.isoformat()
BIGGER = Variant(
    name="bigger-battery",
    devices={
        "borgo-battery": {
            "energy_capacity_kwh": 60.0,
            "max_charge_kw": 20.0,
            "max_discharge_kw": 20.0,
        }
    },
)


@pytest.fixture(scope="module")
def lived_plant(planned_home, tmp_path_factory):
    """The plant after tomorrow has gone by with nobody steering: its readings, prices, weather."""
    home = copied(planned_home, tmp_path_factory.mktemp("lived") / "plant")
    with open_plant(home, PLANNED_AT) as plant:
        plant.at(time(13))
        assert plant.daemon.launch("collect_prices", partition_key=str(TOMORROW)).success
        devices = registry.read_devices(plant.runtime.settings.fleet_file)
        world = recorded_world(devices, np.random.default_rng(SEED))
        lived = unmanaged_history(devices, world, PLANNED_AT, END, np.random.default_rng(SEED))
        plant.append("telemetry", lived.cast({"status": pl.String}))
        seen = world.temperature(PLANNED_AT, END).with_columns(
            kind=pl.lit("observed"), source=pl.lit("test"), known_at=pl.col("interval_start") + STEP
        )
        plant.append("weather", seen)
        plant.clock.sleep_until(END + timedelta(hours=1))
        yield plant


def replay_in_dagster(plant, **config):
    return plant._run(
        "replay_days",
        partition_key=str(TOMORROW),
        run_config={"ops": {"replayed_plan": {"config": config}}},
    )


@pytest.fixture(scope="module")
def repeated(lived_plant):
    """Tomorrow planned again on what was known when it was planned, twice."""
    return [replay_day(lived_plant.runtime, TOMORROW, PLANNED_AT) for _ in range(2)]


def test_a_replay_repeats_the_plan_that_was_made_to_the_last_bit(lived_plant, repeated):
    (plan,) = lived_plant.rows("plans").to_dicts()
    for earlier, replay in enumerate(repeated):
        kept = keep(lived_plant.runtime, replay)
        assert replay.input_hash == plan["input_hash"]
        assert (kept.repeats_plan, kept.repeats_it_exactly) == (plan["plan_id"], True)
        assert (kept.earlier, kept.identical) == (earlier, True)
        assert replay.unhurried
    stored = lived_plant.rows("replay_schedules").filter(pl.col("replay_id") == kept.replay_id)
    assert stored.height == DEVICES * 100  # once, though replayed twice


def test_a_replay_is_judged_as_what_was_in_force_is_and_its_losses_add_up(repeated):
    verdict = repeated[0].judged
    cost = verdict.regret.row(0, named=True)
    assert verdict.moved_kwh == 0.0
    assert cost["as_planned_eur"] == pytest.approx(verdict.real_plan_eur, abs=1e-9)
    assert cost["perfect_foresight_eur"] <= cost["as_planned_eur"]
    parts = cost["perfect_foresight_eur"] + cost["solver_eur"] + cost["forecast_eur"]
    assert abs(parts - cost["as_planned_eur"]) <= 1e-6


def test_a_replay_that_came_out_differently_is_told(lived_plant, repeated):
    moment = PLANNED_AT + timedelta(minutes=1)
    first = replace(repeated[0], as_of=moment)
    other = replace(first, schedule_hash="other")
    keep(lived_plant.runtime, first)
    for same, replay in ((False, other), (True, replace(other, unhurried=False))):
        kept = keep(lived_plant.runtime, replay)
        assert not kept.identical
        assert ReplayedDay(replay, kept).differs != same  # a solver that was cut short may differ


def test_invariant_21_a_replay_decides_nothing_releases_nothing_and_opens_no_driver(
    lived_plant, monkeypatch
):
    def refused(*_arguments, **_named):
        raise AssertionError("a replay has no business with devices")

    for name in ("drivers", "dispatching", "credentials"):
        monkeypatch.setattr(Runtime, name, refused)
    tables = set(lived_plant.frame("warehouse_tables")["table_name"])
    before = {name: lived_plant.count(name) for name in tables - {"replays", "replay_schedules"}}
    replays = lived_plant.count("replays")
    variant = BIGGER.model_dump(mode="json", exclude_defaults=True)
    result = replay_in_dagster(lived_plant, as_of=AT_ELEVEN, variant=variant)
    assert result.success, failure_of(result)
    assert lived_plant.count("replays") == replays + 1
    assert {name: lived_plant.count(name) for name in before} == before
    shows_hash_cost_and_what_differs_from_the_real_plan(lived_plant, result)


def shows_hash_cost_and_what_differs_from_the_real_plan(plant, result):
    (made,) = result.asset_materializations_for_node("replayed_plan")
    told = {name: entry.value for name, entry in made.metadata.items()}
    (row,) = plant.rows("replays").filter(pl.col("replay_id") == told["replay_id"]).to_dicts()
    assert told["variant"] == row["variant"] == "bigger-battery"
    assert told["plan_hash"] == row["schedule_hash"]
    assert told["cost_eur"] == pytest.approx(row["as_planned_eur"], rel=1e-5)
    assert told["difference_from_real_plan_eur"] == pytest.approx(
        row["as_planned_eur"] - row["real_plan_eur"], rel=1e-5
    )
    assert row["moved_kwh"] > 0
    assert told["moved_from_real_plan_kwh"] == pytest.approx(row["moved_kwh"], rel=1e-5)
    assert "replay_is_identical" in {e.check_name for e in result.get_asset_check_evaluations()}


def test_a_variant_is_judged_on_the_same_measured_values_and_kept_apart(lived_plant):
    (day,) = compared(lived_plant.runtime, [TOMORROW], as_of(AT_ELEVEN), BIGGER)
    before, after = day.as_it_was.replay, day.variant.replay
    assert day.difference_eur == day.variant.cost_eur - day.as_it_was.cost_eur
    assert before.judged.regret["unmanaged_eur"][0] == after.judged.regret["unmanaged_eur"][0]
    assert (
        after.judged.regret["perfect_foresight_eur"][0]
        < before.judged.regret["perfect_foresight_eur"][0]
    )
    assert day.variant.kept.repeats_plan is None
    assert day.variant.kept.replay_id != day.as_it_was.kept.replay_id
    borgo = after.plan.schedules.filter(pl.col("device_id") == "borgo-battery")
    assert borgo["power_kw"].abs().max() > 10.0


def test_a_smaller_battery_than_what_was_measured_in_it_is_full_and_in_service(lived_plant):
    held = lived_plant.runtime.believed_telemetry(PLANNED_AT).filter(
        pl.col("device_id") == "borgo-battery"
    )["energy_kwh"][0]
    half = held / 2
    small = Variant(name="small", devices={"borgo-battery": {"energy_capacity_kwh": half}})
    replay = replay_day(lived_plant.runtime, TOMORROW, PLANNED_AT, small)
    envelopes = replay.inputs.envelopes.filter(pl.col("device_id") == "borgo-battery")
    assert envelopes["available"].all()
    assert envelopes["initial_energy_kwh"].max() <= half
    borgo = replay.plan.schedules.filter(pl.col("device_id") == "borgo-battery")
    assert borgo["power_kw"].abs().max() > 0


def test_a_spread_is_in_the_bill_of_what_is_off_the_position_that_was_planned(
    lived_plant, repeated
):
    dear = Variant(name="dear-imbalance", imbalance_spread_eur_per_mwh=500.0)
    replay = replay_day(lived_plant.runtime, TOMORROW, PLANNED_AT, dear)
    assert replay.schedule_hash == repeated[0].schedule_hash  # nothing was sold when it was planned
    before, after = (one.judged.regret.row(0, named=True) for one in (repeated[0], replay))
    for way in ("unmanaged_eur", "as_planned_eur", "perfect_foresight_eur"):
        assert after[way] > before[way]
    assert after["as_planned_eur"] == pytest.approx(replay.judged.real_plan_eur, abs=1e-9)
    parts = after["perfect_foresight_eur"] + after["solver_eur"] + after["forecast_eur"]
    assert abs(parts - after["as_planned_eur"]) <= 1e-6


def test_a_forecaster_that_nobody_knows_is_refused(lived_plant):
    unknown = Variant(name="other", forecasts={"load": "crystal-ball"})
    with pytest.raises(VariantError, match="load is 'crystal-ball': one of "):
        replay_day(lived_plant.runtime, TOMORROW, PLANNED_AT, unknown)


def test_a_day_that_is_over_is_told_and_stops_no_other(lived_plant):
    told = replayed(lived_plant.runtime, [TODAY, TOMORROW], as_of(END.isoformat()))
    assert [isinstance(day, FailedDay) and "is over at" in day.why for day in told] == [True, True]


def test_a_day_whose_fleet_a_variant_does_not_fit_is_told_and_stops_no_other(lived_plant):
    unfit = Variant(name="odd", devices={"nobody": {}})
    days = [TOMORROW, TODAY]
    told = list(compared(lived_plant.runtime, days, as_of("gate-closure"), unfit))
    assert [day.day for day in told] == days
    assert "the fleet had no device 'nobody'" in told[0].why
    assert "no fleet was known yet" in told[1].why


def test_a_variant_without_a_name_of_its_own_is_refused_in_the_launchpad(lived_plant):
    before = lived_plant.count("replays")
    result = replay_in_dagster(lived_plant, as_of=AT_ELEVEN, variant={"plan": {}})
    assert not result.success
    assert "name is 'as-it-was': give the variant a name of its own" in failure_of(result)
    assert lived_plant.count("replays") == before


def test_the_commands_tell_hashes_the_days_that_lack_something_and_what_to_mend(
    lived_plant, monkeypatch, tmp_path
):
    monkeypatch.setenv("VPP_HOME", str(lived_plant.runtime.settings.home))
    monkeypatch.setenv("VPP_PRICES", "recorded")
    result = CliRunner().invoke(main, ["replay", f"{TODAY}..{TOMORROW}"])
    assert result.exit_code == 1
    assert f"{TODAY}  not planned: " in result.output
    assert "fleet_versions: no fleet was known yet" in result.output
    assert "1 days replayed, 1 could not be; in all: " in result.output
    variant = tmp_path / "v.yaml"
    variant.write_text("name: odd\ndevices: {nobody: {}}\n")
    result = CliRunner().invoke(main, ["whatif", str(TOMORROW), str(variant)])
    assert result.exit_code == 1
    assert "the fleet had no device 'nobody'" in result.output
    assert CliRunner().invoke(main, ["replay", "soon"]).exit_code == 2
