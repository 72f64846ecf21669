"""Each device gets a plausible share of the recorded data, and history is the plant's own."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.delivery_day import bounds, day_intervals
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    Battery,
    Chp,
    EvCharger,
    Fleet,
    FlexibleLoad,
    GridConnection,
    HeatPump,
    Load,
    PvInverter,
    SimulatedConnection,
    Site,
    WindTurbine,
)
from vpp_pipeline.markets import recorded
from vpp_pipeline.simulation.history import unmanaged_history
from vpp_pipeline.simulation.plant import Plant
from vpp_pipeline.simulation.stays import vehicle_stays, windows
from vpp_pipeline.simulation.world import recorded_world

OVER = SimulatedConnection(over="mqtt")
BERLIN = ZoneInfo("Europe/Berlin")


def devices_of(k):
    return (
        Battery(
            device_id=f"battery-{k}",
            connection=OVER,
            max_charge_kw=5,
            max_discharge_kw=5,
            energy_capacity_kwh=10,
        ),
        PvInverter(device_id=f"pv-{k}", connection=OVER, rated_power_kw=8),
        WindTurbine(device_id=f"wind-{k}", connection=OVER, rated_power_kw=50),
        Load(device_id=f"load-{k}", connection=OVER, max_power_kw=10),
        EvCharger(device_id=f"ev-{k}", connection=OVER, max_charge_kw=11, vehicle_capacity_kwh=50),
        HeatPump(device_id=f"pump-{k}", connection=OVER, rated_power_kw=3),
        FlexibleLoad(device_id=f"flex-{k}", connection=OVER, rated_power_kw=3, energy_kwh=6),
        Chp(device_id=f"chp-{k}", connection=OVER, rated_power_kw=20, min_power_kw=8),
    )


FLEET = Fleet(
    sites=tuple(
        Site(
            site_id=f"site-{k}",
            latitude=39.7,
            longitude=14.8,
            grid=GridConnection(import_limit_kw=30, export_limit_kw=30),
            devices=devices_of(k),
        )
        for k in range(3)
    )
)
DEVICES = device_frame(FLEET)
WORLD = recorded_world(DEVICES, np.random.default_rng(1))
DST_DAY = datetime(2020, 10, 25, tzinfo=UTC).date()
START, END = datetime(2020, 8, 16, 22, tzinfo=UTC), datetime(2020, 8, 19, 22, tzinfo=UTC)


@pytest.fixture(scope="module")
def history():
    return unmanaged_history(DEVICES, WORLD, START, END, np.random.default_rng(1))


def of(frame, kind):
    return frame.filter(pl.col("device_id").str.starts_with(kind))


def test_the_same_devices_and_seed_live_in_the_same_world():
    again = recorded_world(DEVICES, np.random.default_rng(1))
    other = recorded_world(DEVICES, np.random.default_rng(2))
    span = (START, END)
    assert again.profiles(*span).equals(WORLD.profiles(*span))
    assert again.sessions(*span).equals(WORLD.sessions(*span))
    assert not other.profiles(*span).equals(WORLD.profiles(*span))


def test_profiles_have_every_quarter_hour_of_the_day_of_the_clock_change():
    profiles = WORLD.profiles(*bounds(DST_DAY, "Europe/Berlin"))
    assert profiles.group_by("device_id").len()["len"].unique().to_list() == [100]
    assert profiles["device_id"].n_unique() == 9
    first = profiles.filter(pl.col("device_id") == "pv-0")["interval_start"]
    assert first.to_list() == day_intervals(DST_DAY, "Europe/Berlin").to_list()


def test_loads_draw_and_sun_and_wind_inject_within_their_ratings():
    whole = WORLD.profiles(recorded.WINDOW_START, recorded.WINDOW_END)
    extremes = whole.group_by("device_id").agg(
        lowest=pl.col("available_kw").min(), highest=pl.col("available_kw").max()
    )
    load, sun, wind = (of(extremes, kind) for kind in ("load", "pv", "wind"))
    assert load["lowest"].is_between(-9, -6).all()
    assert load["highest"].max() <= 0
    assert sun["lowest"].to_list() == wind["lowest"].to_list() == [0.0] * 3
    assert sun["highest"].is_between(7, 8).all()
    assert wind["highest"].is_between(42, 50).all()


def test_a_moved_home_keeps_its_weekdays():
    """A load's profile is one recorded home, moved by whole weeks."""
    homes = recorded.household_load().pivot(on="home", index="interval_start", values="load_kw")
    monday = datetime(2020, 8, 9, 22, tzinfo=UTC)
    week = WORLD.profiles(monday, monday + timedelta(weeks=1))
    recorded_weeks = homes.drop("interval_start").to_numpy()
    for (_,), load in of(week, "load").group_by("device_id"):
        shape = load["available_kw"].to_numpy()
        found = [
            start
            for start in range(0, 12 * 672, 672)
            for home in recorded_weeks[start : start + 672].T
            if np.corrcoef(home, -shape)[0, 1] > 1 - 1e-12
        ]
        assert len(found) == 1


def test_sites_have_nearly_the_same_weather():
    weather = WORLD.temperature(START, END)
    assert weather.group_by("site_id").len()["len"].to_list() == [3 * 96] * 3
    spread = weather.group_by("interval_start").agg(
        pl.col("temperature_c").max() - pl.col("temperature_c").min()
    )
    assert 0 < spread["temperature_c"].max() <= 1.0


@pytest.mark.parametrize("charger_kw", [2.3, 11.0])
def test_a_charger_has_one_vehicle_at_a_time_that_can_be_filled_in_time(charger_kw):
    chargers = of(DEVICES, "ev").with_columns(max_draw_kw=pl.lit(charger_kw))
    stays = vehicle_stays(chargers, recorded.ev_sessions(), np.random.default_rng(1))
    stays = stays.sort("device_id", "arrival")
    assert stays.group_by("device_id").len()["len"].min() >= 30
    earlier = pl.col("departure").shift(1).over("device_id")
    assert stays.filter(pl.col("arrival") < earlier).is_empty()
    need = pl.col("target_energy_kwh") - pl.col("arrival_energy_kwh")
    hours = (pl.col("departure") - pl.col("arrival")).dt.total_seconds() / 3600
    broken = stays.filter(
        (need > charger_kw * 0.92 * hours)
        | (need <= 0)
        | (pl.col("arrival_energy_kwh") < 0)
        | (pl.col("target_energy_kwh") > 50)
        | (pl.col("arrival").dt.second() != 0)
        | (pl.col("departure").dt.second() != 0)
    )
    assert broken.is_empty()


def test_sessions_are_those_that_touch_the_span():
    noon = datetime(2020, 8, 18, 10, tzinfo=UTC)
    touching = WORLD.sessions(noon, noon + timedelta(hours=1))
    assert (touching["departure"] > noon).all()
    assert (touching["arrival"] < noon + timedelta(hours=1)).all()
    assert len(touching) > 0


LAP = timedelta(weeks=12)


@pytest.mark.parametrize("laps", [-3, -1, 1, 2, 30])
def test_beyond_the_window_whole_weeks_repeat_at_their_weekday(laps):
    span = (START, END) if laps < 0 else (START + LAP, END + LAP)
    first = span[0] - (0 if laps < 0 else 1) * LAP
    far = (first + laps * LAP, first + (END - START) + laps * LAP)
    moved = pl.col("interval_start") - laps * LAP
    for seen in (WORLD.profiles, WORLD.temperature):
        assert seen(*far).with_columns(moved).equals(seen(first, first + (END - START)))
    back = pl.col("arrival", "departure") - laps * LAP
    assert WORLD.sessions(*far).with_columns(back).equals(WORLD.sessions(START, END))


def test_the_world_is_as_recorded_up_to_the_last_recorded_quarter_hour():
    last = recorded.WINDOW_END - timedelta(minutes=15)
    steps = [WORLD.step_of(recorded.WINDOW_START), WORLD.step_of(last)]
    assert steps == [0, len(recorded.pv()) - 1]
    assert WORLD.step_of(recorded.WINDOW_END) == len(recorded.pv()) - 12 * 7 * 96
    assert WORLD.step_of(recorded.WINDOW_START - timedelta(minutes=15)) == 12 * 7 * 96 - 1


def test_no_two_vehicles_are_at_a_charger_where_the_laps_meet():
    seam = recorded.WINDOW_END
    stays = WORLD.sessions(seam - timedelta(weeks=1), seam + timedelta(weeks=1))
    earlier = pl.col("departure").shift().over("device_id")
    assert stays.filter(pl.col("arrival") < earlier).is_empty()
    assert stays.filter(pl.col("arrival") >= seam).height > 0


def test_flexible_loads_keep_to_the_local_clock_in_every_lap():
    found = WORLD.load_windows(datetime(2021, 1, 11, tzinfo=UTC), datetime(2021, 7, 12, tzinfo=UTC))
    hours = found["arrival"].dt.convert_time_zone("Europe/Berlin").dt.hour().unique()
    assert len(hours) == 1
    assert found.group_by("device_id").len()["len"].unique().to_list() == [182]


def test_a_window_over_midnight_ends_on_the_next_day_and_gains_an_hour_with_the_clocks():
    night = FlexibleLoad(
        device_id="night",
        connection=OVER,
        rated_power_kw=3,
        energy_kwh=6,
        earliest=time(22),
        latest=time(6),
    )
    site = FLEET.sites[0].model_copy(update={"devices": (night,)})
    found = windows(
        device_frame(Fleet(sites=(site,))),
        datetime(2020, 10, 23, tzinfo=UTC),
        datetime(2020, 10, 25, tzinfo=UTC),
    )
    local = [
        (
            row["arrival"].astimezone(BERLIN),
            row["departure"].astimezone(BERLIN),
            row["departure"] - row["arrival"],
        )
        for row in found.to_dicts()
    ]
    assert [(a.day, a.hour, d.day, d.hour) for a, d, _ in local] == [
        (23, 22, 24, 6),
        (24, 22, 25, 6),
        (25, 22, 26, 6),
    ]
    assert [span for *_, span in local] == [timedelta(hours=h) for h in (8, 9, 8)]


def test_a_window_that_begins_in_the_skipped_hour_begins_after_it():
    early = FlexibleLoad(
        device_id="early",
        connection=OVER,
        rated_power_kw=3,
        energy_kwh=6,
        earliest=time(2, 30),
        latest=time(6),
    )
    site = FLEET.sites[0].model_copy(update={"devices": (early,)})
    day = datetime(2021, 3, 28, tzinfo=UTC)
    found = windows(device_frame(Fleet(sites=(site,))), day, day)
    assert found["arrival"].item() == datetime(2021, 3, 28, 1, 30, tzinfo=UTC)


def test_history_has_one_valid_row_a_device_and_quarter_hour(history):
    Telemetry.validate(history)
    assert history.height == len(DEVICES) * 3 * 96
    assert (history["known_at"] - history["measured_at"]).unique().to_list() == [
        timedelta(minutes=15)
    ]


def test_history_follows_the_world(history):
    seen = history.join(
        WORLD.profiles(START, END),
        left_on=["device_id", "measured_at"],
        right_on=["device_id", "interval_start"],
    )
    assert seen.height == 9 * 3 * 96
    assert (seen["power_kw"] - seen["available_kw"]).abs().max() < 1e-9
    injecting = seen.filter(~pl.col("device_id").str.starts_with("load"))
    assert (injecting["available_power_kw"] - injecting["available_kw"]).abs().max() < 1e-9


def test_unmanaged_devices_do_what_they_do_by_default(history):
    assert of(history, "battery")["power_kw"].abs().max() == 0
    assert of(history, "chp")["power_kw"].abs().max() == 0
    daily = (
        of(history, "flex")
        .group_by(
            "device_id", pl.col("measured_at").dt.convert_time_zone("Europe/Berlin").dt.date()
        )
        .agg(-pl.col("power_kw").sum() / 4)
    )
    assert daily["power_kw"].to_list() == pytest.approx([6.0] * 9, abs=1e-6)
    warm = of(history, "pump")["temperature_c"]
    assert warm.is_between(19.9, 25).all()


def test_an_unmanaged_vehicle_leaves_as_full_as_it_wished(history):
    inside = WORLD.sessions(START, END).filter(
        (pl.col("arrival") >= START) & (pl.col("departure") <= END)
    )
    drawn = of(history, "ev").group_by("device_id").agg(kwh=-pl.col("power_kw").sum() / 4)
    need = inside.group_by("device_id").agg(
        kwh=(pl.col("target_energy_kwh") - pl.col("arrival_energy_kwh")).sum() / 0.92
    )
    both = drawn.join(need, on="device_id", suffix="_needed")
    assert both.height == 3
    assert both["kwh"].to_list() == pytest.approx(both["kwh_needed"].to_list(), abs=1e-6)


def test_history_is_what_the_plant_does_when_nobody_speaks(history):
    clock = ManualClock(START)
    plant = Plant(DEVICES, WORLD, clock, np.random.default_rng(1))
    for minutes in (7, 8, 30, 45, 270):
        clock.sleep_until(clock.now() + timedelta(minutes=minutes))
        plant.advance()
    at_six = history.filter(pl.col("measured_at") == clock.now())
    for row in at_six.to_dicts():
        reading = plant.reading(row["device_id"])
        for field in ("energy_kwh", "temperature_c", "target_energy_kwh"):
            assert getattr(reading, field) == (
                None if row[field] is None else pytest.approx(row[field], abs=1e-6)
            )
        assert reading.plugged_in == row["plugged_in"]
        assert reading.deadline == row["deadline"]
