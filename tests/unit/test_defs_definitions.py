"""What Dagster is told: assets, jobs, sensors, schedules and partitions, whole and described."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._utils.schedules import cron_string_iterator

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.defs.build import build_defs
from vpp_pipeline.defs.partitions import delivery_days
from vpp_pipeline.delivery_day import gate_closure
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET_TZ, Settings
from vpp_pipeline.warehouse.store import Warehouse

BERLIN = ZoneInfo(MARKET_TZ)
NOWHERE = Path("/nonexistent")
SIMULATED = datetime(2020, 9, 14, 4, tzinfo=UTC)

ASSETS = {
    "fleet",
    "telemetry",
    "telemetry_flags",
    "day_ahead_prices",
    "dropped_prices",
    "market_forecasts",
    "weather",
    "load_forecast",
    "generation_forecast",
    "temperature_forecast",
    "ev_forecast",
    "price_forecast",
    "flexibility_envelopes",
    "day_ahead_plan",
    "intraday_plan",
    "device_schedules",
    "dispatch_ledger",
    "dispatch_recheck",
    "power_verification",
    "delivery_scores",
    "group_dispatch",
    "orders",
    "why",
    "settlement",
    "challenger_forecasts",
    "forecast_errors",
    "forecast_skill",
    "regret",
    "plan_churn",
    "plan_report",
    "replayed_plan",
    "warehouse_snapshot",
}
STORES_NO_FRAME = {
    "group_dispatch",
    "dropped_prices",
    "dispatch_ledger",
    "dispatch_recheck",
    "why",
    "plan_report",
    "warehouse_snapshot",
}
BLOCKING = {"plan_inputs_are_sound", "day_ahead_plan_is_feasible", "intraday_plan_is_feasible"}
TELLING = {
    "telemetry_is_fresh",
    "telemetry_is_believed",
    "prices_are_published",
    "dropped_files_are_taken",
    "commands_are_verified",
    "plan_is_accepted",
    "power_follows_set_points",
    "nothing_is_held_back",
    "watchdog_runs",
    "management_was_worth_it",
    "replay_is_identical",
    "champions_beat_the_naive_rule",
    "losses_add_up_and_devices_do_as_told",
}


@pytest.fixture(scope="module")
def definitions():
    settings = Settings(NOWHERE, NOWHERE / "fleet.yaml", "recorded", "")
    clock = ManualClock(datetime(2020, 10, 3, 9, tzinfo=UTC))
    return build_defs(Runtime(settings, clock, Warehouse(settings.warehouse_dir)))


@pytest.fixture(scope="module")
def repository(definitions):
    dg.Definitions.validate_loadable(definitions)
    return definitions.get_repository_def()


@pytest.fixture(scope="module")
def specs(definitions):
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_these_assets_are_told_and_no_others(specs):
    assert set(specs) == ASSETS


@pytest.mark.parametrize("name", sorted(ASSETS))
def test_every_asset_is_described_owned_grouped_and_of_a_kind(specs, name):
    spec = specs[name]
    assert spec.description
    assert spec.owners == ["team:operations"]
    assert spec.group_name
    assert spec.group_name != "default"
    assert spec.kinds


@pytest.mark.parametrize("name", sorted(ASSETS - STORES_NO_FRAME))
def test_every_asset_that_stores_a_frame_tells_its_columns(specs, name):
    schema = specs[name].metadata["dagster/column_schema"]
    assert schema.columns
    assert all(column.type for column in schema.columns)


def test_these_checks_block_and_those_only_tell(definitions):
    checks = {spec.name: spec for check in definitions.asset_checks for spec in check.check_specs}
    assert {name for name, spec in checks.items() if spec.blocking} == BLOCKING
    assert {name for name, spec in checks.items() if not spec.blocking} == TELLING
    assert all(spec.description for spec in checks.values())


def test_jobs_sensors_and_schedules_are_these(repository):
    jobs = {name for name in repository.job_names if not name.startswith("__")}
    assert jobs == {
        "cancel_order",
        "register_fleet",
        "day_ahead",
        "re_plan",
        "push_interval",
        "recheck_interval",
        "verify_power",
        "dispatch_group",
        "show_orders",
        "collect_prices",
        "collect_dropped_prices",
        "compact",
        "settle",
        "judge_forecasts",
        "replay_days",
    }
    assert {sensor.name: sensor.job_name for sensor in repository.sensor_defs} == {
        "changed_registry": "register_fleet",
        "unplanned_day": "day_ahead",
        "published_prices": "collect_prices",
        "dropped_price_files": "collect_dropped_prices",
        "landed_telemetry": "compact",
        "due_dispatch": "push_interval",
        "due_recheck": "recheck_interval",
        "finished_interval": "verify_power",
        "changed_orders": "show_orders",
        "changed_picture": "re_plan",
        "finished_day": "settle",
        "settled_day": "judge_forecasts",
    }
    assert [
        (schedule.name, schedule.job_name, schedule.cron_schedule, schedule.execution_timezone)
        for schedule in repository.schedule_defs
    ] == [("before_gate_closure", "day_ahead", "0 11 * * *", "Europe/Berlin")]


def test_every_job_sensor_and_schedule_says_what_it_is_for(repository):
    told = [*repository.sensor_defs, *repository.schedule_defs, *repository.get_all_jobs()]
    assert [one.name for one in told if not one.description and one.name[:2] != "__"] == []


def test_everything_runs_without_being_switched_on(repository):
    assert all(
        sensor.default_status == dg.DefaultSensorStatus.RUNNING for sensor in repository.sensor_defs
    )
    assert all(
        schedule.default_status == dg.DefaultScheduleStatus.RUNNING
        for schedule in repository.schedule_defs
    )


@pytest.mark.parametrize("job_name", ["day_ahead", "re_plan", "push_interval", "recheck_interval"])
def test_only_one_plan_or_dispatch_runs_at_a_time(repository, job_name):
    lane = {
        "day_ahead": "plan",
        "re_plan": "plan",
        "push_interval": "dispatch",
        "recheck_interval": "dispatch",
    }[job_name]
    assert repository.get_job(job_name).tags["vpp/lane"] == lane


@pytest.mark.parametrize(
    "day", ["2020-08-20", "2020-10-24", "2020-10-25", "2021-01-15", "2021-03-27", "2021-03-28"]
)
def test_tomorrow_can_be_planned_at_eleven_today(day):
    eleven = datetime.fromisoformat(f"{day}T11:00:00").replace(tzinfo=BERLIN)
    keys = delivery_days.get_partition_keys(current_time=eleven)
    tomorrow = eleven.date() + timedelta(days=1)
    assert keys[-1] == str(tomorrow)
    assert keys[-2] == day


@pytest.mark.parametrize("day", ["2020-08-20", "2020-10-24", "2021-01-15", "2021-03-27"])
def test_the_schedule_fires_before_the_gate_closes_in_winter_and_summer(repository, day):
    (schedule,) = repository.schedule_defs
    midnight = datetime.fromisoformat(f"{day}T00:00:00").replace(tzinfo=BERLIN)
    fired = next(
        cron_string_iterator(
            midnight.timestamp(), schedule.cron_schedule, schedule.execution_timezone
        )
    )
    tomorrow = midnight.date() + timedelta(days=1)
    closes = gate_closure(tomorrow, MARKET_TZ)
    assert timedelta(minutes=30) <= closes - fired <= timedelta(hours=2)
    (request,) = tick(schedule, repository, fired, plant_at=fired).run_requests
    assert request.partition_key == str(tomorrow)
    assert request.run_key == f"day-ahead:{tomorrow}"


def test_the_schedule_leaves_a_plant_whose_clock_is_simulated_alone(repository):
    (schedule,) = repository.schedule_defs
    asked = tick(schedule, repository, datetime(2026, 11, 22, 10, tzinfo=UTC), plant_at=SIMULATED)
    assert asked.run_requests == []
    assert "2020-09-14" in asked.skip_message


def tick(schedule, repository, fired, *, plant_at):
    settings = Settings(NOWHERE, NOWHERE / "fleet.yaml", "recorded", "")
    runtime = Runtime(settings, ManualClock(plant_at), Warehouse(settings.warehouse_dir))
    with dg.build_schedule_context(
        scheduled_execution_time=fired,
        repository_def=repository,
        resources={"runtime": runtime},
    ) as context:
        return schedule.evaluate_tick(context)
