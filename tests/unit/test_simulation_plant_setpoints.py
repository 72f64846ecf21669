"""The plant keeps set-points' promises: timers, refusals, outages, restarts, threads."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.clock import ManualClock
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
from vpp_pipeline.simulation.plant import Plant
from vpp_pipeline.simulation.plant_protocol import Refused
from vpp_pipeline.simulation.world import Drive, World

T0 = datetime(2020, 8, 10, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OVER = SimulatedConnection(over="mqtt")
FLEET = Fleet(
    sites=(
        Site(
            site_id="s",
            latitude=39.7,
            longitude=14.8,
            grid=GridConnection(import_limit_kw=30, export_limit_kw=30),
            devices=(
                Battery(
                    device_id="battery",
                    connection=OVER,
                    max_charge_kw=5,
                    max_discharge_kw=5,
                    energy_capacity_kwh=10,
                ),
                PvInverter(device_id="pv", connection=OVER, rated_power_kw=8),
                Load(device_id="load", connection=OVER, max_power_kw=10),
                EvCharger(device_id="ev", connection=OVER, max_charge_kw=11),
                HeatPump(device_id="pump", connection=OVER, rated_power_kw=3),
            ),
        ),
    )
)
DEVICES = device_frame(FLEET)


def drive(*values):
    n = len(values)
    return Drive(
        base=np.ones((1, 1)),
        column=np.zeros(n, int),
        offset=np.zeros(n, int),
        period=np.ones(n, int),
        scale=np.array(values, float),
        shift=np.zeros(n),
    )


def small_world():
    """PV could give 6 kW, the load draws 2 kW, it is 5 °C; a vehicle from 1:00 to 3:00."""
    stays = {
        "device_id": pl.Series(["ev"]),
        "arrival": [T0 + 60 * MINUTE],
        "departure": [T0 + 180 * MINUTE],
        "arrival_energy_kwh": [20.0],
        "target_energy_kwh": [25.0],
    }
    frame = pl.DataFrame(stays).with_columns(
        pl.col("arrival", "departure").cast(pl.Datetime("us", "UTC"))
    )
    return World(
        start=T0 - timedelta(days=1),
        end=T0 + timedelta(days=6),
        driven_ids=pl.Series(["pv", "load"]),
        available=drive(6.0, -2.0),
        site_ids=pl.Series(["s"]),
        outdoor=drive(5.0),
        recorded_stays=frame,
        flexible_loads=DEVICES.filter(pl.col("device_type").cast(pl.String) == "flexible_load"),
    )


def new_plant(clock=None, seed=1):
    return Plant(DEVICES, small_world(), clock or ManualClock(T0), np.random.default_rng(seed))


def move(plant, span):
    plant.clock.sleep_until(plant.clock.now() + span)
    plant.advance()


def test_a_setpoint_ends_exactly_at_until_even_inside_a_step():
    plant = new_plant()
    before = plant.reading("battery").energy_kwh
    plant.apply("battery", 3.0, T0 + timedelta(seconds=90, milliseconds=500), "c1")
    move(plant, 10 * MINUTE)
    expected = before - 3.0 * (90.5 / 3600) / 0.95
    assert plant.reading("battery").energy_kwh == pytest.approx(expected, abs=1e-9)
    assert plant.reading("battery").power_kw == 0
    assert plant.reading("battery").setpoint_kw is None
    assert plant.setpoint("battery") is None


def test_a_setpoint_in_force_is_told_whole():
    plant = new_plant()
    plant.apply("battery", -2.0, T0 + 5 * MINUTE, "c1")
    in_force = plant.setpoint("battery")
    assert (in_force.setpoint_kw, in_force.until, in_force.command_id) == (
        -2.0,
        T0 + 5 * MINUTE,
        "c1",
    )
    assert plant.reading("battery").setpoint_kw == -2.0
    assert plant.reading("battery").power_kw == pytest.approx(-2.0)
    assert plant.setpoint("pv") is None


def test_a_later_setpoint_replaces_the_earlier_one_and_its_timer():
    plant = new_plant()
    plant.apply("battery", -2.0, T0 + 5 * MINUTE, "c1")
    plant.apply("battery", 1.0, T0 + 9 * MINUTE, "c2")
    move(plant, 6 * MINUTE)
    assert plant.setpoint("battery").command_id == "c2"
    assert plant.reading("battery").power_kw == 1.0


def test_a_released_device_is_at_its_default_at_once():
    plant = new_plant()
    plant.apply("pv", 1.0, T0 + 60 * MINUTE)
    assert plant.reading("pv").power_kw == 1.0
    assert plant.reading("pv").available_power_kw == 6.0
    plant.release("pv")
    assert plant.reading("pv").power_kw == 6.0
    assert plant.setpoint("pv") is None


@pytest.mark.parametrize(
    ("device_id", "setpoint_kw", "until", "reason"),
    [
        ("battery", 5.1, T0 + MINUTE, "outside -5 to 5 kW"),
        ("battery", float("nan"), T0 + MINUTE, "not a number"),
        ("battery", float("-inf"), T0 + MINUTE, "not a number"),
        ("battery", 1.0, T0, "expired"),
        ("pv", -0.1, T0 + MINUTE, "outside 0 to 8 kW"),
        ("ev", 2.0, T0 + MINUTE, "outside -11 to 0 kW"),
        ("load", -1.0, T0 + MINUTE, "read-only"),
    ],
)
def test_what_no_device_may_obey_is_refused_and_changes_nothing(
    device_id, setpoint_kw, until, reason
):
    plant = new_plant()
    with pytest.raises(Refused, match=reason):
        plant.apply(device_id, setpoint_kw, until)
    assert plant.setpoint(device_id) is None


def test_an_unknown_device_is_named():
    with pytest.raises(KeyError, match="no device 'ghost'"):
        new_plant().reading("ghost")


def test_a_dead_device_forgets_its_setpoint_stands_still_and_comes_back():
    plant = new_plant()
    plant.apply("battery", 2.0, T0 + 60 * MINUTE)
    energy = plant.reading("battery").energy_kwh
    plant.set_outage("battery", True)
    assert plant.is_out("battery")
    assert plant.reading("battery").status == "offline"
    assert plant.reading("battery").power_kw is None
    with pytest.raises(Refused, match="out of service"):
        plant.apply("battery", 1.0, T0 + 60 * MINUTE)
    move(plant, 10 * MINUTE)
    plant.set_outage("battery", False)
    assert plant.reading("battery").energy_kwh == energy
    assert plant.setpoint("battery") is None
    assert not plant.is_out("battery")


def test_a_device_told_to_be_in_service_when_it_is_keeps_its_setpoint():
    plant = new_plant()
    plant.apply("battery", 2.0, T0 + 60 * MINUTE)
    plant.set_outage("battery", False)
    assert plant.setpoint("battery").setpoint_kw == 2.0


def test_a_vehicle_arrives_charges_and_leaves():
    plant = new_plant()
    assert plant.reading("ev").plugged_in is False
    assert plant.reading("ev").energy_kwh is None
    move(plant, 60 * MINUTE)
    here = plant.reading("ev")
    assert (here.plugged_in, here.energy_kwh, here.target_energy_kwh) == (True, 20.0, 25.0)
    assert here.deadline == T0 + 180 * MINUTE
    assert here.power_kw == -11.0
    move(plant, 60 * MINUTE)
    assert plant.reading("ev").energy_kwh == pytest.approx(25.0)
    move(plant, 60 * MINUTE)
    assert plant.reading("ev").plugged_in is False


def test_a_reading_has_the_clocks_time_and_a_heart_that_beats():
    plant = new_plant()
    first = plant.reading("load")
    move(plant, 3 * MINUTE)
    later = plant.reading("load")
    assert (first.measured_at, later.measured_at) == (T0, T0 + 3 * MINUTE)
    assert later.heartbeat > first.heartbeat
    assert later.power_kw == -2.0
    assert later.status == "ok"


@pytest.mark.parametrize("lap", [1, 2])
def test_beyond_the_recorded_window_the_plant_goes_on_and_the_vehicle_comes_again(lap):
    plant = new_plant()
    move(plant, timedelta(weeks=lap) + 60 * MINUTE)
    here = plant.reading("ev")
    assert (here.plugged_in, here.energy_kwh, here.target_energy_kwh) == (True, 20.0, 25.0)
    assert here.deadline == T0 + timedelta(weeks=lap) + 180 * MINUTE
    move(plant, 120 * MINUTE)
    assert plant.reading("ev").plugged_in is False


actions = st.lists(
    st.tuples(
        st.sampled_from(["battery", "pv", "ev", "pump"]),
        st.floats(-1, 1),
        st.integers(1, 1800),
        st.integers(1, 900),
    ),
    min_size=1,
    max_size=12,
)
NAMEPLATE = {"battery": (5, 5), "pv": (0, 8), "ev": (11, 0), "pump": (3, 0)}


def act(plant, device_id, share, valid_s, pause_s):
    draw, inject = NAMEPLATE[device_id]
    setpoint_kw = share * inject if share > 0 else share * draw
    plant.apply(device_id, setpoint_kw, plant.clock.now() + timedelta(seconds=valid_s))
    move(plant, timedelta(seconds=pause_s))


def told(plant):
    return [plant.reading(device_id) for device_id in DEVICES["device_id"]]


@settings(max_examples=30, deadline=None)
@given(actions)
def test_the_same_seed_and_commands_give_the_same_trajectory(moves):
    one, other = new_plant(seed=5), new_plant(seed=5)
    for action in moves:
        act(one, *action)
        act(other, *action)
        assert told(one) == told(other)


def test_another_seed_gives_another_start():
    assert new_plant(seed=1).reading("battery") != new_plant(seed=2).reading("battery")


@settings(max_examples=30, deadline=None)
@given(actions, actions)
def test_a_restarted_plant_goes_on_where_it_was(before, after):
    whole = new_plant(seed=5)
    for action in before:
        act(whole, *action)
    saved = json.loads(json.dumps(whole.state()))
    restarted = new_plant(ManualClock(whole.clock.now()), seed=99)
    restarted.restore(saved)
    assert told(restarted) == told(whole)
    for action in after:
        act(whole, *action)
        act(restarted, *action)
    assert told(restarted) == told(whole)


def test_a_thermostat_that_was_heating_goes_on_heating_after_a_restart():
    plant = new_plant()
    while plant.reading("pump").power_kw == 0:
        move(plant, MINUTE)
    move(plant, 5 * MINUTE)
    restarted = new_plant(ManualClock(plant.clock.now()), seed=2)
    restarted.restore(plant.state())
    assert plant.reading("pump").power_kw == restarted.reading("pump").power_kw == -3.0


def test_a_plant_restarted_late_catches_up_on_timers_and_vehicles():
    plant = new_plant()
    plant.apply("battery", 1.0, T0 + 15 * MINUTE)
    saved = plant.state()
    late = new_plant(ManualClock(T0 + 120 * MINUTE))
    late.restore(saved)
    move(plant, 120 * MINUTE)
    assert told(late) == told(plant)


def test_a_state_of_a_larger_fleet_is_taken_for_the_devices_that_are_left():
    saved = new_plant().state()
    saved["devices"]["ghost"] = {"energy_kwh": 1.0}
    saved["setpoints"]["ghost"] = {"setpoint_kw": 1.0, "until": T0.isoformat(), "command_id": None}
    saved["out"].append("ghost")
    plant = new_plant()
    plant.restore(saved)
    assert plant.reading("battery").status == "ok"


def test_threads_may_read_and_command_at_once():
    plant, wrong = new_plant(), []

    def serve(device_id, setpoint_kw):
        try:
            for k in range(100):
                plant.apply(device_id, setpoint_kw, plant.clock.now() + 60 * MINUTE, str(k))
                plant.clock.sleep_until(plant.clock.now() + timedelta(seconds=1))
                reading = plant.reading(device_id)
                if reading.setpoint_kw != setpoint_kw:
                    wrong.append(reading)
        except Exception as error:  # noqa: BLE001 - whatever a thread meets is told to the test
            wrong.append(error)

    threads = [
        threading.Thread(target=serve, args=args)
        for args in [("battery", 1.0), ("pv", 2.0), ("ev", -3.0), ("pump", -1.0)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
