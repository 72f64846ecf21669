"""Sensors ask for what is due, once, and say why where nothing is."""

from __future__ import annotations

import shutil
from datetime import time, timedelta

import dagster as dg
import dispatch_fakes
import polars as pl
import pytest
from dagster._core.utils import make_new_run_id
from defs_plant import TODAY, TOMORROW, failure_of, market_time, open_plant

from vpp_pipeline.delivery_day import STEP, bounds
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.settings import DEMO_FLEET, MARKET_TZ, Settings
from vpp_pipeline.warehouse import landing

START, END = bounds(TOMORROW, MARKET_TZ)


def requests_of(plant, sensor):
    return plant.tick(sensor).run_requests


def run_keys(plant, sensor):
    return [request.run_key for request in requests_of(plant, sensor)]


def release_another(plant):
    """Store and release a newer copy of tomorrow's plan, as a re-plan would."""
    first = plant.rows("plans").head(1)
    newer = first.with_columns(
        plan_id=pl.lit("newer"),
        plan_version=pl.lit(2, pl.Int64),
        revision=pl.lit(1, pl.Int64),
        as_of=pl.lit(plant.clock.now()),
    )
    plant.append("plans", newer)
    plant.append("schedules", plant.rows("schedules").with_columns(plan_id=pl.lit("newer")))
    plant.append("plan_releases", newer.select("plan_id", released_at=pl.lit(plant.clock.now())))


def test_nothing_is_dispatched_before_its_time(planned_plant):
    planned_plant.clock.sleep_until(START - planned_plant.runtime.dispatch_lead - STEP)
    asked = planned_plant.tick("due_dispatch")
    assert asked.run_requests == []
    assert "no released plan covers" in asked.skip_message


def test_a_push_is_asked_for_by_plan_revision_and_quarter_hour(planned_plant):
    (plan_id,) = planned_plant.rows("plans")["plan_id"]
    planned_plant.clock.sleep_until(START - timedelta(seconds=30))
    (request,) = requests_of(planned_plant, "due_dispatch")
    assert request.run_key.startswith(f"dispatch:{plan_id}:r0:{START:%Y%m%dT%H%MZ}@")
    assert request.partition_key == str(TOMORROW)
    assert request.run_config["ops"]["dispatch_ledger"]["config"] == {
        "plan_id": plan_id,
        "interval_start": START.isoformat(),
    }


def test_the_same_push_keeps_its_key_and_the_next_quarter_hour_has_another(planned_plant):
    planned_plant.clock.sleep_until(START - timedelta(seconds=30))
    (first,) = run_keys(planned_plant, "due_dispatch")
    planned_plant.clock.sleep_until(START + timedelta(minutes=2))
    assert run_keys(planned_plant, "due_dispatch") == [first]
    planned_plant.clock.sleep_until(START + STEP - timedelta(seconds=30))
    requests = requests_of(planned_plant, "due_dispatch")
    running, coming = (request.run_key for request in requests)
    less, more = (int(request.tags["dagster/priority"]) for request in requests)
    assert less < more  # a queue takes the newest first
    assert running == first
    assert coming == first.replace("2200Z", "2215Z")


def test_a_newer_plan_is_pushed_over_an_older_one(planned_plant):
    planned_plant.clock.sleep_until(START + timedelta(minutes=2))
    (older,) = run_keys(planned_plant, "due_dispatch")
    release_another(planned_plant)
    (newer,) = run_keys(planned_plant, "due_dispatch")
    assert older.split(":")[2] == "r0"
    assert newer.startswith(f"dispatch:newer:r1:{START:%Y%m%dT%H%MZ}@")


def test_a_plan_of_a_day_that_is_over_is_never_dispatched(planned_plant):
    planned_plant.clock.sleep_until(END)
    assert requests_of(planned_plant, "due_dispatch") == []


def test_a_plan_is_asked_for_again_when_prices_are_published_and_only_then(planned_plant):
    assert planned_plant.tick("changed_picture").skip_message == "the picture is as planned"
    planned_plant.at(time(12, 58))
    planned_plant.tell()
    (collected,) = planned_plant.daemon.ask("published_prices")
    assert collected.success, failure_of(collected)
    (request,) = requests_of(planned_plant, "changed_picture")
    assert request.partition_key == str(TOMORROW)
    assert request.run_key.startswith("prices:")
    assert request.tags["vpp/cause"] == "100 quarter-hours ahead have new prices"
    assert run_keys(planned_plant, "changed_picture") == [request.run_key]
    (re_planned,) = planned_plant.daemon.ask("changed_picture")
    assert re_planned.success, failure_of(re_planned)
    newest = planned_plant.rows("plans").sort("plan_version").row(-1, named=True)
    assert (newest["kind"], newest["revision"]) == ("intraday", 1)
    assert newest["cause"] == request.tags["vpp/cause"]
    assert newest["cause_kind"] == "prices"
    assert planned_plant.count("plan_releases") == 2
    assert planned_plant.daemon.ask("changed_picture") == []
    assert planned_plant.tick("changed_picture").skip_message == "the picture is as planned"


def test_an_outage_asks_once_for_the_rest_of_the_day_to_be_planned_again(planned_plant):
    planned_plant.clock.sleep_until(START + timedelta(minutes=5))
    planned_plant.tell(status={"alba-battery": "offline"})
    (request,) = requests_of(planned_plant, "changed_picture")
    (plan_id,) = planned_plant.rows("plans")["plan_id"]
    assert f"outage:alba-battery:{plan_id}" in request.run_key.split("|")
    assert "alba-battery is out: status offline" in request.tags["vpp/cause"]
    (re_planned,) = planned_plant.daemon.ask("changed_picture")
    assert re_planned.success, failure_of(re_planned)
    newest = planned_plant.rows("plans").sort("plan_version").row(-1, named=True)
    assert newest["horizon_start"] >= planned_plant.clock.now()
    still = planned_plant.rows("schedules").filter(
        pl.col("plan_id") == newest["plan_id"], pl.col("device_id") == "alba-battery"
    )
    assert still["power_kw"].abs().max() < 1e-6
    planned_plant.clock.sleep_until(START + timedelta(minutes=20))
    planned_plant.tell(status={"alba-battery": "offline"})
    asked_again = "|".join(run_keys(planned_plant, "changed_picture"))
    assert "outage:alba-battery" not in asked_again


def test_a_re_plans_cause_is_kept_in_full_however_long_and_its_tag_says_that_it_is_cut(
    planned_plant, monkeypatch
):
    monkeypatch.setattr("vpp_pipeline.defs.sensors.plans._LONGEST_TAG", 40)
    planned_plant.clock.sleep_until(START + timedelta(minutes=5))
    out = ["alba-battery", "borgo-battery", "borgo-charger"]
    planned_plant.tell(status=dict.fromkeys(out, "offline"))
    (request,) = requests_of(planned_plant, "changed_picture")
    tag = request.tags["vpp/cause"]
    assert len(tag) == 40
    assert tag.endswith(" …")
    (re_planned,) = planned_plant.daemon.ask("changed_picture")
    assert re_planned.success, failure_of(re_planned)
    newest = planned_plant.rows("plans").sort("plan_version").row(-1, named=True)
    assert newest["cause"].startswith(tag.removesuffix(" …"))
    assert all(f"{name} is out: status offline" in newest["cause"] for name in out)


def test_no_day_is_planned_before_the_fleet_was_heard_of(tmp_path):
    home = tmp_path / "plant"
    home.mkdir()
    with open_plant(home, market_time(TODAY, time(12))) as plant:
        asked = plant.tick("unplanned_day")
        assert asked.run_requests == []
        assert "is the collector running?" in asked.skip_message
        assert "VPP_FLEET" in plant.tick("changed_registry").skip_message
        assert "no fleet" in plant.tick("landed_telemetry").skip_message


def test_a_missing_plan_is_asked_for_until_it_is_released(plant):
    plant.at(time(11, 15))
    plant.tell()
    assert [r.partition_key for r in requests_of(plant, "unplanned_day")] == [
        str(TODAY),
        str(TOMORROW),
    ]
    first = run_keys(plant, "unplanned_day")
    assert run_keys(plant, "unplanned_day") == first
    plant.clock.sleep_until(plant.clock.now() + STEP)
    assert not set(run_keys(plant, "unplanned_day")) & set(first)


def test_a_released_plan_is_not_asked_for(planned_plant):
    planned_plant.at(time(11, 15))
    planned_plant.tell()
    assert [r.partition_key for r in requests_of(planned_plant, "unplanned_day")] == [str(TODAY)]


def test_telemetry_is_compacted_once_enough_files_have_landed(plant):
    for _ in range(29):
        plant.tell()
    assert "29 files have landed" in plant.tick("landed_telemetry").skip_message
    plant.tell()
    before = plant.count("telemetry")
    (compacted,) = plant.daemon.ask("landed_telemetry")
    assert compacted.success
    assert plant.count("telemetry") == before + 30 * 7
    assert landing.waiting(plant.runtime.settings.landing_dir, "telemetry") == []
    assert requests_of(plant, "landed_telemetry") == []


def test_a_fleet_file_is_registered_once_and_again_when_it_changes(plant):
    (key,) = run_keys(plant, "changed_registry")
    assert run_keys(plant, "changed_registry") == [key]
    path = plant.runtime.settings.fleet_file
    path.write_text(path.read_text().replace("max_power_kw: 8", "max_power_kw: 9"))
    (other,) = run_keys(plant, "changed_registry")
    assert other != key


def test_going_back_to_an_older_fleet_file_is_registered_too(plant):
    path = plant.runtime.settings.fleet_file
    first = path.read_text()
    plant.daemon.ask("changed_registry")
    for text in (first.replace("max_power_kw: 8", "max_power_kw: 9"), first):
        plant.clock.sleep_until(plant.clock.now() + timedelta(minutes=1))
        path.write_text(text)
        (registered,) = plant.daemon.ask("changed_registry")
        assert registered.success
    assert plant.rows("fleet_versions")["fleet_version"].sort().to_list() == [1, 2, 3]
    devices = plant.runtime.devices(plant.clock.now())
    assert devices.filter(pl.col("device_id") == "borgo-load")["max_draw_kw"].item() == 8


def test_invariant_06_what_was_left_open_is_ended_though_no_plan_follows(planned_plant):
    ledger = Ledger(planned_plant.runtime.warehouse)
    planned_plant.clock.sleep_until(END + timedelta(days=2))
    assert planned_plant.daemon.ask("due_recheck") == []
    moved = pl.col("interval_start", "valid_from", "valid_until") + (START - dispatch_fakes.START)
    commands = dispatch_fakes.due(dispatch_fakes.plant(1)).commands.with_columns(moved)
    ledger.record_intents(commands, START, "a run that died")
    (ended,) = planned_plant.daemon.ask("due_recheck")
    assert ended.success
    assert set(ledger.states(START)["state"]) == {"EXPIRED"}
    assert planned_plant.daemon.ask("due_recheck") == []


def test_a_plant_knows_its_registry_by_its_home(plant):
    settings = plant.runtime.settings
    environment = {"VPP_HOME": str(settings.home)}
    settings.registry_note.unlink()
    assert Settings.from_environment(environment).fleet_file == DEMO_FLEET
    assert plant.daemon.ask("changed_registry")[0].success
    assert Settings.from_environment(environment).fleet_file == settings.fleet_file
    other = environment | {"VPP_FLEET": str(DEMO_FLEET)}
    assert Settings.from_environment(other).fleet_file == DEMO_FLEET
    assert plant.runtime.remembered_devices().equals(plant.runtime.registered_devices())


def test_a_plant_begun_anew_in_place_of_another_is_registered_again(plant):
    plant.daemon.ask("changed_registry")
    assert plant.daemon.ask("changed_registry") == []
    shutil.rmtree(plant.runtime.settings.warehouse_dir)
    (registered,) = plant.daemon.ask("changed_registry")
    assert registered.success
    assert plant.runtime.knows_a_fleet()


def test_files_whose_loading_failed_are_asked_for_again(plant):
    drop = plant.runtime.settings.drop_dir
    drop.mkdir()
    (drop / "prices.csv").write_text("market,start,price_eur_per_mwh\n")
    (first,) = run_keys(plant, "dropped_price_files")
    assert run_keys(plant, "dropped_price_files") == [first]
    plant.clock.sleep_until(plant.clock.now() + STEP)
    (again,) = run_keys(plant, "dropped_price_files")
    assert again != first


def test_what_the_fleet_was_at_a_past_moment_can_be_asked(plant):
    before = plant.clock.now()
    path = plant.runtime.settings.fleet_file
    plant.at(time(10, 45))
    path.write_text(path.read_text().replace("max_power_kw: 8", "max_power_kw: 9"))
    (registered,) = plant.daemon.ask("changed_registry")
    assert registered.success
    now = plant.clock.now()

    def drawn_at_most(as_of):
        devices = plant.runtime.devices(as_of)
        return devices.filter(pl.col("device_id") == "borgo-load")["max_draw_kw"].item()

    assert drawn_at_most(before) == 8
    assert drawn_at_most(now - timedelta(seconds=1)) == 8
    assert drawn_at_most(now) == 9
    assert plant.rows("fleet_versions")["fleet_version"].sort().to_list() == [1, 2]
    with pytest.raises(LookupError, match="materialise the `fleet` asset"):
        plant.runtime.devices(before - timedelta(days=30))


def test_an_unchanged_fleet_makes_no_new_version(plant):
    path = plant.runtime.settings.fleet_file
    path.write_text("# a remark changes no device\n" + path.read_text())
    assert plant.daemon.launch("register_fleet").success
    assert plant.rows("fleet_versions")["fleet_version"].to_list() == [1]


def test_a_bad_fleet_file_leaves_the_last_good_version_in_force(plant):
    path = plant.runtime.settings.fleet_file
    path.write_text(path.read_text().replace("max_power_kw: 8", "max_power_kw: -8"))
    result = plant.daemon.launch("register_fleet")
    assert not result.success
    for part in ("fleet.yaml:", "devices[2].max_power_kw", "-8", "write a value above 0"):
        assert part in failure_of(result)
    assert plant.rows("fleet_versions")["fleet_version"].to_list() == [1]


def test_prices_of_the_market_are_the_only_ones_asked_about(planned_plant):
    planned_plant.append(
        "prices",
        pl.DataFrame(
            {
                "market": "FR",
                "interval_start": START,
                "price_eur_per_mwh": 900.0,
                "resolution_minutes": 15,
                "source": "test",
                "known_at": planned_plant.clock.now() + timedelta(minutes=1),
            }
        ),
    )
    planned_plant.at(time(11, 5))
    assert planned_plant.tick("changed_picture").run_requests == []


@pytest.mark.parametrize(
    ("job", "sensor"),
    [
        ("day_ahead", "unplanned_day"),
        ("recheck_interval", "due_recheck"),
        ("settle", "finished_day"),
        ("re_plan", "changed_picture"),
    ],
)
def test_what_waits_to_run_is_not_asked_for_again(plant, job, sensor):
    plant.at(time(11, 15))
    plant.tell()
    before = plant.tick(sensor).skip_message
    waiting = dg.DagsterRun(job, run_id=make_new_run_id(), status=dg.DagsterRunStatus.STARTING)
    plant.instance.add_run(waiting)
    asked = plant.tick(sensor)
    assert asked.run_requests == []
    assert asked.skip_message != before
