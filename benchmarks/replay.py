"""Thirty past days of a plant replayed, twice: how long, how alike, and where money was lost.

Belongs here: the plant of March 2022, its replays, their bars. Does not: planning a day again
(`vpp_pipeline.planning`).

    python -m benchmarks.replay --days 2022-03-01..2022-03-30

The plant is ten homes of five devices: CityLearn's measured loads, PV and weather (five homes,
once more a week later), each with a battery and a heat pump, and a charger with recorded sessions.
Their hours are moved by 262 weeks, so that a weekday stays one and March falls on March, and from
Californian to Central European time; the sites stand as far east, so that the sun does not move.
Prices and market forecasts are DE-LU's own of 2022, known when they were. Nobody steered: what
was measured is what the devices did by themselves.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.fleet import document
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    Battery,
    EvCharger,
    Fleet,
    GridConnection,
    HeatPump,
    Load,
    PvInverter,
    SimulatedConnection,
    Site,
)
from vpp_pipeline.planning import as_of as moments
from vpp_pipeline.planning.replays import FailedDay, ReplayedDay, replayed
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ, Settings
from vpp_pipeline.simulation.history import unmanaged_history
from vpp_pipeline.simulation.world import Drive, recorded_world

if TYPE_CHECKING:
    from datetime import date

    from vpp_pipeline.simulation.world import World

_DATA = Path(__file__).parent / "data"
_WEEKS_ON = timedelta(weeks=262)
_HOMES, _MEASURED_HOMES = 10, 5
_DEVICES_A_HOME = 5
_SEED = 2022
_START = datetime(2022, 1, 29, 23, tzinfo=UTC)
_NOW = datetime(2022, 4, 2, 10, tzinfo=UTC)
_MOST_WALL_S = 300.0
_ADDS_UP_EUR = 1e-6


def main() -> int:
    """Replay the days twice and hold them to their bars; 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=moments.days, default=moments.days("2022-03-01..2022-03-30"))
    parser.add_argument("--as-of", type=moments.as_of, default=moments.as_of("gate-closure"))
    parser.add_argument("--home", type=Path, help="where the plant's files are kept, or made")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runtime = _runtime(given.home or Path(scratch) / "plant")
        print(f"{'day':10}  {'plan':16}  unmanaged    cost    best  forecast  solver   CPU s")
        first = _timed(runtime, given.days, given.as_of, shown=True)
        second = _timed(runtime, given.days, given.as_of, shown=False)
    return 0 if _holds(given.days, first, second) else 1


class _Pass:
    """One time over all days: what came out, and how long it took."""

    def __init__(self) -> None:
        self.days: list[ReplayedDay] = []
        self.failed: list[FailedDay] = []
        self.wall_s = self.cpu_s = 0.0


def _timed(runtime: Runtime, days: list[date], as_of: moments.AsOf, *, shown: bool) -> _Pass:
    done = _Pass()
    started, worked = time.monotonic(), time.process_time()
    before_s = worked
    for day in replayed(runtime, days, as_of):
        if isinstance(day, FailedDay):
            print(f"{day.day}  {day.why}")
            done.failed.append(day)
            continue
        done.days.append(day)
        if shown:
            _show(day, time.process_time() - before_s)
        before_s = time.process_time()
    done.wall_s, done.cpu_s = time.monotonic() - started, time.process_time() - worked
    return done


def _show(day: ReplayedDay, cpu_s: float) -> None:
    assert day.replay.judged is not None, day.replay.not_judged
    cost = day.replay.judged.regret.row(0, named=True)
    print(
        f"{day.replay.day}  {day.replay.schedule_hash[:16]}  {cost['unmanaged_eur']:9.2f} "
        f"{cost['as_planned_eur']:7.2f} {cost['perfect_foresight_eur']:7.2f} "
        f"{cost['forecast_eur']:9.2f} {cost['solver_eur']:7.2f} {cpu_s:7.2f}",
        flush=True,
    )


def _holds(days: list[date], first: _Pass, second: _Pass) -> bool:
    """Print what is promised of the replays; True where all of it is kept."""
    regret = pl.concat([day.replay.judged.regret for day in first.days if day.replay.judged])
    parts = regret.select(
        off=pl.col("perfect_foresight_eur")
        + pl.col("solver_eur")
        + pl.col("forecast_eur")
        - pl.col("as_planned_eur"),
        all_off=pl.col("solver_eur") + pl.col("forecast_eur") - pl.col("regret_eur"),
    )
    off_eur = float(parts.select(pl.max_horizontal(pl.all().abs().max())).item())
    sums = regret.select(pl.col(pl.Float64).sum()).row(0, named=True)
    possible = sums["unmanaged_eur"] - sums["perfect_foresight_eur"]
    alike = [(a.replay.schedule_hash, a.replay.input_hash) for a in first.days] == [
        (b.replay.schedule_hash, b.replay.input_hash) for b in second.days
    ]
    promises = {
        f"all {len(days)} days replayed, none failed": not first.failed and not second.failed,
        "every day judged on what was measured": regret.height == len(days),
        "the second replay is bit-identical": alike
        and all(day.kept.identical for day in second.days),
        "no limit of time can have cut a solver short": all(
            day.replay.unhurried for day in (*first.days, *second.days)
        ),
        f"the parts of regret add up (off by {off_eur:.1e} EUR at most)": off_eur <= _ADDS_UP_EUR,
        f"{first.wall_s:.0f} s of wall time, {_MOST_WALL_S:.0f} at most": first.wall_s
        <= _MOST_WALL_S,
    }
    print(
        f"in all: unmanaged {sums['unmanaged_eur']:.2f}, planned {sums['as_planned_eur']:.2f}, "
        f"best {sums['perfect_foresight_eur']:.2f} EUR; "
        f"{sums['saved_eur'] / possible:.0%} of what was possible is saved, "
        f"{sums['forecast_eur']:.2f} EUR lost to forecasts, {sums['solver_eur']:.2f} to the solver"
    )
    for name, run in (("first", first), ("second", second)):
        print(f"{name} replay: {run.wall_s:.1f} s of wall time, {run.cpu_s:.1f} s of CPU")
    print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GB")
    for promise, kept in promises.items():
        print(f"{'ok  ' if kept else 'NOT '} {promise}")
    return all(promises.values())


def _runtime(home: Path) -> Runtime:
    settings = replace(
        Settings.from_environment({"VPP_HOME": str(home), "VPP_PRICES": "recorded"}),
        fleet_file=home / "none.yaml",
    )
    runtime = replace(Runtime.of(settings), clock=ManualClock(_NOW))
    if not settings.warehouse_dir.exists():
        started = time.monotonic()
        seed_plant(runtime)
        print(f"seeded {_HOMES * _DEVICES_A_HOME} devices in {time.monotonic() - started:.0f} s")
    return runtime


def seed_plant(runtime: Runtime) -> None:
    """Write fleet, prices, market forecasts, weather and readings, each known when it was."""
    fleet = _fleet()
    devices = device_frame(fleet)
    world = _world(devices)
    nobody = {"endpoint": "127.0.0.1:9", "unit_id": 1}
    runtime.settings.simulation_dir.mkdir(parents=True)
    runtime.settings.endpoints_file.write_text(
        json.dumps(dict.fromkeys(devices["device_id"], nobody))
    )
    readings = unmanaged_history(devices, world, _START, _NOW, np.random.default_rng(_SEED))
    seen = world.temperature(_START, _NOW).with_columns(
        kind=pl.lit("observed"),
        source=pl.lit("CityLearn"),
        known_at=pl.col("interval_start") + STEP,
    )
    with runtime.warehouse.write("seeding") as connection:
        connection.append(
            "fleet_versions",
            pl.DataFrame(
                {
                    "fleet_version": 1,
                    "content_hash": document.content_hash(fleet),
                    "source": "benchmarks/replay.py",
                    "document": document.to_document(fleet),
                    "known_at": _START,
                }
            ),
        )
        connection.append("telemetry", readings.cast({"status": pl.String}))
        connection.append("weather", seen)
        for table, rows in _market().items():
            connection.append(table, rows)


def _fleet() -> Fleet:
    ratings = json.loads((_DATA / "citylearn2022_devices.json").read_text())["buildings"]
    grid = GridConnection(import_limit_kw=25, export_limit_kw=25)
    by = {protocol: SimulatedConnection(over=protocol) for protocol in ("modbus", "mqtt", "http")}
    sites = []
    for home in range(_HOMES):
        rating = ratings[f"Building_{home % _MEASURED_HOMES + 1}"]
        name, battery = f"home-{home:02d}", rating["battery"]
        sites.append(
            Site(
                site_id=name,
                latitude=34.1,
                longitude=17.6,
                timezone=MARKET_TZ,
                grid=grid,
                devices=(
                    Load(device_id=f"{name}-load", connection=by["http"], max_power_kw=12),
                    PvInverter(
                        device_id=f"{name}-pv",
                        connection=by["modbus"],
                        rated_power_kw=rating["pv_kwp"],
                    ),
                    Battery(
                        device_id=f"{name}-battery",
                        connection=by["modbus"],
                        max_charge_kw=battery["nominal_power"],
                        max_discharge_kw=battery["nominal_power"],
                        energy_capacity_kwh=battery["capacity"],
                    ),
                    EvCharger(
                        device_id=f"{name}-charger", connection=by["mqtt"], max_charge_kw=7.4
                    ),
                    HeatPump(
                        device_id=f"{name}-heat-pump", connection=by["http"], rated_power_kw=3
                    ),
                ),
            )
        )
    return Fleet(sites=tuple(sites))


def _world(devices: pl.DataFrame) -> World:
    """Return the shipped sessions and CityLearn's loads, sun and cold, in the winter of 2022."""
    world = recorded_world(devices, np.random.default_rng(_SEED))
    context = pl.read_parquet(_DATA / "citylearn2022_context_days0-239_60min.parquet")
    local = context["ts_local_std_nominal"]
    start = local[0].replace(tzinfo=UTC) - timedelta(hours=1) + _WEEKS_ON
    end = start + timedelta(hours=len(local))
    homes = pl.read_parquet(_DATA / "citylearn2022_b1-5_days0-239_60min.parquet").sort("hour_index")
    base = np.column_stack(
        [
            homes.filter(pl.col("building") == building)[name].to_numpy() * sign
            for name, sign in (("load_kwh", -1.0), ("pv_kwh", 1.0))
            for building in range(1, _MEASURED_HOMES + 1)
        ]
    )
    driven = world.driven_ids
    home = driven.str.extract(r"home-(\d+)-").cast(pl.Int64).to_numpy()
    is_pv = driven.str.ends_with("-pv").to_numpy()
    one, sites = np.ones(len(driven)), len(world.site_ids)
    outdoor = context["outdoor_drybulb_temperature_c"].to_numpy()
    stays = world.sessions(start, end)
    return replace(
        world,
        start=start,
        end=end,
        available=Drive(
            base=np.repeat(base, 4, axis=0),
            column=home % _MEASURED_HOMES + _MEASURED_HOMES * is_pv,
            offset=-(home // _MEASURED_HOMES) * 7 * 96,
            period=np.full(len(driven), 4 * len(base)),
            scale=one,
            shift=0 * one,
        ),
        outdoor=Drive(
            base=np.repeat(outdoor, 4)[:, None],
            column=np.zeros(sites, np.int64),
            offset=np.zeros(sites, np.int64),
            period=np.full(sites, 4 * len(outdoor)),
            scale=np.ones(sites),
            shift=np.zeros(sites),
        ),
        recorded_stays=stays.filter(pl.col("arrival").is_between(start, end, closed="left")),
    )


def _market() -> dict[str, pl.DataFrame]:
    """Return DE-LU's prices and market forecasts until now, known at 12:55 and 10:00 the day before."""
    hourly = pl.read_parquet(_DATA / "da_de_lu_60min_2018-10_2022-12.parquet")
    quarters = (
        hourly.filter(pl.col("ts_utc") < _NOW + timedelta(days=2))
        .with_columns(minute=pl.lit([0, 15, 30, 45]))
        .explode("minute")
        .with_columns(
            market=pl.lit(MARKET),
            interval_start=pl.col("ts_utc") + pl.duration(minutes="minute"),
            resolution_minutes=60,
            source=pl.lit("ENTSO-E"),
        )
    )
    eve = pl.col("interval_start").dt.convert_time_zone(MARKET_TZ).dt.date().dt.offset_by("-1d")

    def known_at(hour: int, minute: int) -> pl.Expr:
        local = eve.dt.combine(pl.time(hour, minute)).dt.replace_time_zone(MARKET_TZ)
        return local.dt.convert_time_zone("UTC")

    common = ["market", "interval_start", "resolution_minutes", "source"]
    return {
        "prices": quarters.select(
            *common, price_eur_per_mwh="price_eur_mwh", known_at=known_at(12, 55)
        ),
        "market_forecasts": quarters.select(
            *common, load_mw="load_fc_mw", renewables_mw="res_fc_mw", known_at=known_at(10, 0)
        ).drop_nulls(),
    }


if __name__ == "__main__":
    sys.exit(main())
