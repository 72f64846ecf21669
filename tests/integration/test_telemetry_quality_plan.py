"""From landed readings to flags and what plans are made of: a faulty sensor does not get through."""

from __future__ import annotations

from datetime import time, timedelta

import polars as pl
from defs_plant import TODAY, TOMORROW

from vpp_pipeline.flexibility.states import usable_states
from vpp_pipeline.warehouse import landing

BATTERY, ROOF = "borgo-battery", "alba-pv"


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
