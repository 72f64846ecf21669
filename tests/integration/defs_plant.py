"""A small plant of two sites for the tests of the Dagster face.

Belongs here: its registry, measured history, readings and daemon. Does not: any promise.

`today` is the eve of 2020-10-25, so that the day that is planned has 100 quarter-hours.
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import numpy as np
import polars as pl

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.defs.build import build_defs
from vpp_pipeline.defs.stepped import SteppedDaemon
from vpp_pipeline.delivery_day import delivery_day_of
from vpp_pipeline.fleet import registry
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET_TZ, Settings
from vpp_pipeline.simulation.history import unmanaged_history
from vpp_pipeline.simulation.world import recorded_world
from vpp_pipeline.warehouse import landing
from vpp_pipeline.warehouse.store import Warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dagster._core.definitions.sensor_definition import SensorExecutionData

SEED = 7
TODAY, TOMORROW = date(2020, 10, 24), date(2020, 10, 25)
HISTORY = timedelta(days=14)
DEVICES = 7
CONTROLLABLE = 5

FLEET = """\
groups:
  - {group_id: everything, tags: [all]}
sites:
  - site_id: alba
    latitude: 39.74
    longitude: 14.82
    timezone: Europe/Rome
    grid: {import_limit_kw: 17, export_limit_kw: 12}
    tags: [all]
    devices:
      - type: battery
        device_id: alba-battery
        connection: {protocol: simulated, over: http}
        max_charge_kw: 5
        max_discharge_kw: 5
        energy_capacity_kwh: 10
        wear_cost_eur_per_kwh: 0.002
      - type: pv
        device_id: alba-pv
        connection: {protocol: simulated, over: modbus}
        rated_power_kw: 8
      - type: heat_pump
        device_id: alba-heat-pump
        connection: {protocol: simulated, over: http}
        rated_power_kw: 3
        thermal_resistance_k_per_kw: 6
        thermal_capacity_kwh_per_k: 4
      - type: load
        device_id: alba-load
        connection: {protocol: simulated, over: http}
        max_power_kw: 6
  - site_id: borgo
    latitude: 39.73
    longitude: 14.83
    timezone: Europe/Rome
    grid: {import_limit_kw: 30, export_limit_kw: 20}
    devices:
      - type: battery
        device_id: borgo-battery
        connection: {protocol: simulated, over: modbus}
        max_charge_kw: 10
        max_discharge_kw: 10
        energy_capacity_kwh: 20
        wear_cost_eur_per_kwh: 0.002
      - type: ev_charger
        device_id: borgo-charger
        connection: {protocol: simulated, over: mqtt}
        max_charge_kw: 11
        vehicle_capacity_kwh: 50
      - type: load
        device_id: borgo-load
        connection: {protocol: simulated, over: http}
        max_power_kw: 8
"""

_HTTP = ["alba-battery", "alba-heat-pump", "alba-load", "borgo-load"]
NOBODY_LISTENS = {
    "alba-pv": {"endpoint": "127.0.0.1:9", "unit_id": 1},
    "borgo-battery": {"endpoint": "127.0.0.1:9", "unit_id": 2},
    "borgo-charger": {"endpoint": "127.0.0.1:9", "unit_id": None},
    **{device_id: {"endpoint": "http://127.0.0.1:9", "unit_id": None} for device_id in _HTTP},
}


@dataclass(frozen=True)
class Plant:
    """A runtime whose clock the test moves, and the daemon that asks its sensors."""

    runtime: Runtime
    clock: ManualClock
    daemon: SteppedDaemon
    instance: dg.DagsterInstance

    def frame(self, query: str, **params: object) -> pl.DataFrame:
        """Run a named query."""
        with self.runtime.warehouse.read() as connection:
            return connection.frame(query, **params)

    def count(self, table: str) -> int:
        """Return how many rows a table holds."""
        return self.rows(table).height

    def rows(self, table: str) -> pl.DataFrame:
        """Return a table as it stands."""
        with duckdb.connect(
            self.runtime.settings.warehouse_dir / "vpp.duckdb", read_only=True
        ) as session:
            session.execute("SET TimeZone = 'UTC'")
            return session.sql(f"SELECT * FROM {table}").pl()

    def tell(self, **changes: object) -> None:
        """Land a reading of every device at the clock's now: its last one, with `changes`.

        A change is a value for all devices, or `{device_id: value}` for some.
        """
        now = self.clock.now()
        told = self.runtime.latest_telemetry(now).with_columns(
            measured_at=pl.lit(now), known_at=pl.lit(now)
        )
        for name, change in changes.items():
            if isinstance(change, dict):
                for device_id, value in change.items():
                    told = told.with_columns(
                        pl.when(pl.col("device_id") == device_id)
                        .then(pl.lit(value))
                        .otherwise(name)
                        .alias(name)
                    )
            else:
                told = told.with_columns(pl.lit(change).alias(name))
        landing.land(self.runtime.settings.landing_dir, "telemetry", told, now)

    def tick(self, sensor_name: str) -> SensorExecutionData:
        """Ask a sensor at the clock's now and run nothing."""
        repository = build_defs(self.runtime).get_repository_def()
        with dg.build_sensor_context(
            instance=self.instance,
            resources={"runtime": self.runtime},
            repository_def=repository,
        ) as context:
            return repository.get_sensor_def(sensor_name).evaluate_tick(context)

    def materialise(self, job: str, day: date, *assets: str) -> dg.ExecuteInProcessResult:
        """Run some assets of a job, with their checks, as the UI lets a person do."""
        return self._run(
            job, partition_key=str(day), asset_selection=[dg.AssetKey(name) for name in assets]
        )

    def push(self, plan_id: str, interval_start: datetime) -> dg.ExecuteInProcessResult:
        """Push one quarter-hour of a plan, whether a sensor would ask for it or not."""
        config = {"plan_id": plan_id, "interval_start": interval_start.isoformat()}
        return self._run(
            "push_interval",
            partition_key=str(delivery_day_of(interval_start, MARKET_TZ)),
            run_config={"ops": {"dispatch_ledger": {"config": config}}},
        )

    def _run(
        self, job: str, run_config: Mapping[str, Any] | None = None, **arguments: Any
    ) -> dg.ExecuteInProcessResult:
        repository = build_defs(self.runtime).get_repository_def()
        quiet = {"console": {"config": {"log_level": "CRITICAL"}}}
        return repository.get_job(job).execute_in_process(
            instance=self.instance,
            run_config={**(run_config or {}), "loggers": quiet},
            raise_on_error=False,
            **arguments,
        )

    def append(self, table: str, rows: pl.DataFrame) -> None:
        """Write rows past every stage, as a fault would."""
        with self.runtime.warehouse.write() as connection:
            connection.append(table, rows)

    def at(self, moment: time, day: date = TODAY) -> None:
        """Move the clock to a market time."""
        self.clock.sleep_until(market_time(day, moment))

    def plan_tomorrow(self) -> dg.ExecuteInProcessResult:
        """Fire the day-ahead schedule at 11:00 with fresh readings."""
        self.at(time(11))
        self.tell()
        (result,) = self.daemon.fire("before_gate_closure")
        return result


def market_time(day: date, moment: time) -> datetime:
    """Return a market time as a UTC instant."""
    return datetime.combine(day, moment, ZoneInfo(MARKET_TZ)).astimezone(UTC)


def seed(home: Path, now: datetime, shift: timedelta = timedelta()) -> None:
    """Write a plant with a registered fleet and its history up to `now`, made `shift` before."""
    home.mkdir(parents=True)
    (home / "fleet.yaml").write_text(FLEET)
    (home / "simulation").mkdir()
    (home / "simulation" / "endpoints.json").write_text(json.dumps(NOBODY_LISTENS))
    with open_plant(home, now) as plant:
        devices = registry.read_devices(plant.runtime.settings.fleet_file)
        world = recorded_world(devices, np.random.default_rng(SEED))
        end = now - shift
        history = unmanaged_history(devices, world, end - HISTORY, end, np.random.default_rng(SEED))
        shifted = history.with_columns(
            pl.col("measured_at", "known_at", "deadline") + pl.lit(shift)
        )
        landing.land(plant.runtime.settings.landing_dir, "telemetry", shifted, now)
        (registered,) = plant.daemon.ask("changed_registry")
        assert registered.success, plant.daemon.failures
        assert plant.daemon.launch("compact").success, plant.daemon.failures


@contextmanager
def open_plant(home: Path, now: datetime, **changes: object) -> Iterator[Plant]:
    """Open the plant under `home` with its clock at `now`; `changes` are other settings."""
    settings = replace(
        Settings(home, home / "fleet.yaml", "recorded", ""),
        **changes,
    )
    clock = ManualClock(now)
    runtime = Runtime(settings, clock, Warehouse(settings.warehouse_dir))
    with dg.DagsterInstance.ephemeral(settings={"telemetry": {"enabled": False}}) as instance:
        yield Plant(runtime, clock, SteppedDaemon(runtime, instance), instance)


def copied(template: Path, to: Path) -> Path:
    """Return a copy of a seeded plant, to be changed by one test."""
    shutil.copytree(template, to)
    return to


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """Return why a run failed, in the words of its first failed step."""
    event = next(event for event in result.all_events if event.is_step_failure)
    error = event.step_failure_data.error
    while error.cause is not None:
        error = error.cause
    return error.message


def check_of(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    """Return what one check of a run said."""
    (found,) = [e for e in result.get_asset_check_evaluations() if e.check_name == name]
    return found


def records(value: object) -> list[dict[str, object]]:
    """Return a metadata table's rows."""
    return [dict(record.data) for record in value.records]
