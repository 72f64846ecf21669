"""From landed readings to flags and what plans are made of: a faulty sensor does not get through."""

from __future__ import annotations

from datetime import time, timedelta

import polars as pl
import pytest
from defs_plant import TODAY, TOMORROW

from vpp_pipeline.delivery_day import STEP, bounds
from vpp_pipeline.flexibility.states import usable_states
from vpp_pipeline.planning.records import day_records
from vpp_pipeline.planning.scoring import actuals
from vpp_pipeline.settings import MARKET_TZ
from vpp_pipeline.warehouse import landing

BATTERY, ROOF, LOAD, CHARGER = "borgo-battery", "alba-pv", "alba-load", "borgo-charger"


def land_faults(plant):
    """Land three readings of a battery that jumped, and four hours of a roof that stands still."""
    now = plant.clock.now()
    newest = plant.runtime.latest_telemetry(now)
    jump = [
        newest.filter(pl.col("device_id") == BATTERY).with_columns(
            measured_at=pl.lit(now - timedelta(minutes=minutes)),
            known_at=pl.lit(now),
            power_kw=pl.lit(0.0),
            energy_kwh=pl.lit(kwh),
        )
        for minutes, kwh in [(5, 4.0), (4, 4.0), (3, 4.0), (2, 19.0), (1, 19.0)]
    ]
    frozen = [
        newest.filter(pl.col("device_id") == ROOF).with_columns(
            measured_at=pl.lit(now - timedelta(minutes=15 * n)),
            known_at=pl.lit(now),
            power_kw=pl.lit(4.2),
            available_power_kw=pl.lit(4.2),
        )
        for n in range(18)
    ]
    rows = pl.concat([*jump, *frozen])
    landing.land(plant.runtime.settings.landing_dir, "telemetry", rows, now)


def test_a_shifted_and_a_frozen_sensor_are_flagged_and_no_state_takes_what_is_frozen(plant):
    plant.at(time(11), TODAY)
    plant.tell()
    plant.clock.sleep_until(plant.clock.now() + timedelta(hours=5))
    land_faults(plant)
    now = plant.clock.now()

    assets = ("telemetry", "telemetry_flags", "generation_forecast")
    assert plant.materialise("day_ahead", TOMORROW, *assets).success

    flags = plant.rows("telemetry_flags")
    told = set(flags.select("device_id", "signal", "rule").rows())
    assert {(BATTERY, "energy_kwh", "shifted"), (ROOF, "power_kw", "frozen")} <= told
    raw = plant.rows("telemetry").filter(
        pl.col("device_id") == BATTERY, pl.col("energy_kwh") == 19.0
    )
    assert raw.height == 2
    states = usable_states(
        plant.runtime.devices(now),
        plant.runtime.believed_telemetry(now),
        now,
        timedelta(minutes=20),
    )
    battery = states.row(by_predicate=pl.col("device_id") == BATTERY, named=True)
    assert battery["available"]
    roof = states.row(by_predicate=pl.col("device_id") == ROOF, named=True)
    assert roof["power_kw"] is None

    assert plant.materialise("day_ahead", TOMORROW, "telemetry_flags").success
    assert plant.rows("telemetry_flags").height == flags.height


def test_of_readings_known_together_the_one_that_landed_last_counts_wherever_it_is_kept(plant):
    now = plant.clock.now()
    newest = plant.runtime.latest_telemetry(now)
    tied = newest.filter(pl.col("device_id") == BATTERY).with_columns(
        measured_at=pl.lit(now - timedelta(minutes=1)), known_at=pl.lit(now)
    )
    kwh = float(tied["energy_kwh"][0])
    told = [tied.with_columns(energy_kwh=pl.lit(kwh + 0.01 * ((7 * n) % 20))) for n in range(20)]
    plant.append("telemetry", pl.concat(told[:10]).cast({"status": pl.String}))
    landing.land(plant.runtime.settings.landing_dir, "telemetry", pl.concat(told[10:]), now)

    def counted() -> list[float]:
        answers = [plant.runtime.latest_telemetry, plant.runtime.believed_telemetry]
        return [
            answer(now).filter(pl.col("device_id") == BATTERY)["energy_kwh"].item()
            for answer in answers
        ]

    last = told[-1]["energy_kwh"].to_list()
    assert counted() == last * 2
    assert plant.daemon.launch("compact").success, plant.daemon.failures
    assert counted() == last * 2


def test_forecasts_are_scored_on_the_quarter_hours_that_the_day_is_settled_on(plant):
    now, day = plant.clock.now(), TODAY - timedelta(days=1)
    start, end = bounds(day, MARKET_TZ)
    noon = start + timedelta(hours=12)
    readings = plant.rows("telemetry").filter(pl.col("measured_at") == noon)
    of_load = readings.filter(pl.col("device_id") == LOAD)
    of_charger = readings.filter(pl.col("device_id") == CHARGER)
    for corrected in (
        of_load.with_columns(known_at=pl.lit(noon + STEP), power_kw=pl.lit(-0.5)),
        of_load.with_columns(measured_at=pl.lit(noon + STEP / 3), power_kw=pl.lit(-2.0)),
        of_load.with_columns(measured_at=pl.lit(noon + STEP * 1.5), power_kw=pl.lit(-9000.0)),
        of_charger.with_columns(known_at=pl.lit(noon + STEP), plugged_in=True),
        of_charger.with_columns(known_at=pl.lit(noon + 2 * STEP), plugged_in=False),
    ):
        plant.append("telemetry", corrected)
    devices = plant.runtime.devices(now)

    came = actuals(plant.runtime, devices, start, end, now)

    told = came.filter(pl.col("target").is_in(["load", "sessions"]))
    values = {(row["subject_id"], row["interval_start"]): row["value"] for row in told.to_dicts()}
    assert values[LOAD, noon] == pytest.approx((-0.5 - 2 * 2.0) / 3)
    assert abs(values[LOAD, noon + STEP]) < 6.0
    assert values[CHARGER, noon] == 0.0
    settled = day_records(plant.runtime, devices, day, now).telemetry.select(
        "interval_start",
        subject_id="device_id",
        value=pl.coalesce("available_power_kw", "power_kw"),
    )
    scored = came.filter(pl.col("target").is_in(["load", "pv"]))
    assert scored["subject_id"].unique().sort().to_list() == [LOAD, ROOF, "borgo-load"]
    assert scored.height == 3 * 96
    assert scored.join(settled, on=scored.columns[1:], how="anti").is_empty()
