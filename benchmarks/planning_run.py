"""The whole day-ahead run of a large fleet in Dagster: inputs to released schedules, timed.

Belongs here: a plant of any size with four weeks of telemetry, its run, seconds an asset. Does
not: the solver alone (`optimization.py`).

    python benchmarks/planning_run.py --devices 10000 --home /tmp/plant

A plant that stands at `--home` already is planned again as it is, which saves its seeding.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.defs.planning import GAP_TOLERANCE
from vpp_pipeline.defs.stepped import stepped_daemon
from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.fleet import registry
from vpp_pipeline.fleet.sample import sample_table
from vpp_pipeline.markets import recorded
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import Settings
from vpp_pipeline.simulation.history import unmanaged_history
from vpp_pipeline.simulation.world import recorded_world
from vpp_pipeline.warehouse import landing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg

NOW = datetime(2020, 10, 7, 9, 0, tzinfo=UTC)
"""11:00 market time, when tomorrow is planned."""
TOMORROW = "2020-10-08"
PLANNED_BY = NOW + timedelta(days=1)
"""However often the run is made again, each a second later."""
HISTORY_DAYS = 28


def main() -> None:
    """Seed a plant, run its day-ahead job, print what took how long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path, default=Path("var/planning_run"))
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    settings = replace(
        Settings.from_environment({"VPP_HOME": str(home), "VPP_PRICES": "recorded"}),
        fleet_file=home / "fleet.parquet",
    )
    clock = ManualClock(NOW)
    runtime = replace(Runtime.of(settings), clock=clock)
    if not home.exists():
        started = time.perf_counter()
        seed_plant(runtime, arguments.devices, arguments.seed)
        print(f"seeded {arguments.devices} devices in {time.perf_counter() - started:.0f} s")
    with runtime.warehouse.read() as connection:
        planned = connection.frame("defs_newest_plan", delivery_day=TOMORROW, as_of=PLANNED_BY)[
            "as_of"
        ]
    clock.sleep_until(planned[0] + timedelta(seconds=1) if planned.len() else NOW)
    with stepped_daemon(runtime) as daemon:
        started, worked = time.perf_counter(), time.process_time()
        result = daemon.launch("day_ahead", partition_key=TOMORROW)
        whole_s = time.perf_counter() - started
        for step, seconds in step_seconds(result):
            print(f"{seconds:8.2f} s  {step}")
        print(f"{whole_s:8.2f} s  the whole run")
        print(f"{time.process_time() - worked:8.2f} s  of work on all cores")
        memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(f"{memory_gb:8.2f} GB at most")
        if not result.success:
            raise SystemExit("\n".join(daemon.failures))
    check_plan(runtime)


def seed_plant(runtime: Runtime, devices: int, seed: int) -> None:
    """Write registry, addresses, four weeks of readings and weather, a fresh reading of each."""
    settings = runtime.settings
    settings.simulation_dir.mkdir(parents=True)
    sample_table(devices, seed).write_parquet(settings.fleet_file)
    fleet = registry.read_devices(settings.fleet_file)
    nobody = {"endpoint": "127.0.0.1:9", "unit_id": 1}
    (settings.simulation_dir / "endpoints.json").write_text(
        json.dumps(dict.fromkeys(fleet["device_id"], nobody))
    )
    world = recorded_world(fleet, np.random.default_rng(seed))
    for day in range(HISTORY_DAYS, 0, -1):
        start = NOW - timedelta(days=day)
        readings = unmanaged_history(
            fleet, world, start, start + timedelta(days=1), np.random.default_rng(seed + day)
        )
        with runtime.warehouse.write("seeding") as connection:
            connection.append("telemetry", readings.cast({"status": pl.String}))
    seen = recorded.temperature().filter(
        pl.col("interval_start").is_between(NOW - timedelta(days=HISTORY_DAYS), NOW, closed="left")
    )
    weather = (
        fleet.select("site_id")
        .unique()
        .join(seen, how="cross")
        .select(
            "site_id",
            "interval_start",
            "temperature_c",
            kind=pl.lit("observed"),
            source=pl.lit("recorded"),
            known_at=pl.col("interval_start") + STEP,
        )
    )
    with runtime.warehouse.write("seeding") as connection:
        connection.append("weather", weather)
    fresh = readings.unique("device_id", keep="last", maintain_order=True).with_columns(
        measured_at=pl.lit(NOW), known_at=pl.lit(NOW)
    )
    landing.land(settings.landing_dir, "telemetry", fresh, NOW)


def step_seconds(result: dg.ExecuteInProcessResult) -> Iterator[tuple[str, float]]:
    """Yield each step of a run with its wall time, in the order they ran."""
    for event in result.filter_events(lambda event: event.is_step_success):
        yield event.step_key, event.step_success_data.duration_ms / 1000


def check_plan(runtime: Runtime) -> None:
    """Hold the plan to its promises: every device has a schedule, the certificate is sound."""
    with runtime.warehouse.read() as connection:
        plan = connection.frame("defs_newest_plan", delivery_day=TOMORROW, as_of=PLANNED_BY)
        schedule = connection.frame("warehouse_schedule", plan_id=plan["plan_id"][0])
    told = plan.select(
        "label", "solver", "objective_eur", "bound_eur", "gap", "worst_violation_kw",
        "worst_violation_kwh", "simultaneous_steps", "unmet_kwh", "solve_seconds",
    ).row(0, named=True)  # fmt: skip
    print(*(f"{name}: {value}" for name, value in told.items()), sep="\n")
    assert plan["released_at"][0] is not None
    assert schedule["device_id"].n_unique() == runtime.devices(NOW).height
    assert schedule["power_kw"].is_finite().all()
    assert max(told["worst_violation_kw"], told["worst_violation_kwh"]) <= 1e-6
    assert told["simultaneous_steps"] == 0
    assert told["gap"] is not None
    assert told["gap"] <= GAP_TOLERANCE


if __name__ == "__main__":
    main()
