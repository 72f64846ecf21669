import math
from datetime import datetime, timedelta

import polars as pl
import pytest
from dispatch_cases import START, devices, fleet_telemetry, telemetry

from vpp_pipeline.dispatch.guard import GuardSettings, guard
from vpp_pipeline.dispatch.orders import standing
from vpp_pipeline.dispatch.schemas import Commands

RULES = GuardSettings(max_age=timedelta(minutes=5), max_clock_lead=timedelta(minutes=1))


PLANT = devices().with_columns(live=True)


def wish(**kw_by_device: float | None) -> pl.DataFrame:
    names = {"heat_pump": "heat-pump"}
    return pl.DataFrame(
        [
            {
                "command_id": f"{name}.v1.1",
                "device_id": names.get(name, name),
                "plan_id": "plan",
                "plan_version": 1,
                "sequence": 1,
                "interval_start": START,
                "valid_from": START,
                "valid_until": START + timedelta(minutes=20),
                "planned_kw": kw,
                "setpoint_kw": kw,
                "guard_reason": "",
            }
            for name, kw in kw_by_device.items()
        ],
        schema=Commands.create_empty().schema,
    )


def guarded(wished: pl.DataFrame, states: pl.DataFrame, now: datetime = START) -> dict[str, object]:
    orders = standing([], PLANT, now)
    return guard(wished, PLANT, states, orders, now, RULES).row(0, named=True)


def test_what_is_within_bounds_passes_untouched():
    row = guarded(wish(battery=3.5), telemetry("battery"))
    assert (row["setpoint_kw"], row["guard_reason"], row["refused"]) == (3.5, "", False)


@pytest.mark.parametrize(
    ("name", "kw", "expected"), [("chp", 99.0, 30.0), ("chp", -5.0, 0.0), ("heat_pump", -9.0, -3.0)]
)
def test_invariant_01_a_set_point_is_clamped_to_the_nameplate(name, kw, expected):
    row = guarded(wish(**{name: kw}), fleet_telemetry())
    assert row["setpoint_kw"] == expected
    assert row["guard_reason"] == "beyond the nameplate"


def test_invariant_01_a_cap_is_never_negative_nor_above_the_rated_power():
    assert guarded(wish(pv=-1.0), telemetry("pv"))["setpoint_kw"] == 0.0
    assert guarded(wish(pv=50.0), telemetry("pv"))["setpoint_kw"] == 12.0


def test_invariant_01_a_battery_at_its_minimum_cant_discharge():
    row = guarded(wish(battery=4.0), telemetry("battery", energy_kwh=2.0))
    assert row["setpoint_kw"] == 0.0
    assert "holds 2.0 kWh" in row["guard_reason"]


def test_invariant_01_a_battery_at_its_maximum_cant_charge():
    row = guarded(wish(battery=-4.0), telemetry("battery", energy_kwh=18.0))
    assert row["setpoint_kw"] == 0.0


def test_invariant_01_a_battery_gives_over_the_interval_only_what_it_holds():
    # 0.5 kWh above the minimum at an efficiency of 0.5 is 0.25 kWh out: 1 kW for a quarter-hour.
    row = guarded(wish(battery=4.0), telemetry("battery", energy_kwh=2.5))
    assert row["setpoint_kw"] == pytest.approx(1.0)


def test_invariant_01_a_battery_takes_over_the_interval_only_what_fits():
    # 0.4 kWh below the maximum at an efficiency of 0.8 is 0.5 kWh in: 2 kW for a quarter-hour.
    row = guarded(wish(battery=-4.0), telemetry("battery", energy_kwh=17.6))
    assert row["setpoint_kw"] == pytest.approx(-2.0)


def test_the_rest_of_a_running_interval_is_what_counts():
    now = START + timedelta(minutes=10)
    states = telemetry("battery", energy_kwh=2.5, measured_at=now)
    assert guarded(wish(battery=4.0), states, now)["setpoint_kw"] == pytest.approx(3.0)


def test_before_the_boundary_a_battery_may_still_get_what_it_will_need():
    now = START - timedelta(minutes=2)
    states = telemetry("battery", energy_kwh=2.0, measured_at=now)
    # 10 kW for two minutes at 0.8 is 0.27 kWh: 0.13 kWh out, 0.53 kW for a quarter-hour.
    assert guarded(wish(battery=4.0), states, now)["setpoint_kw"] == pytest.approx(0.5333, abs=1e-3)


def test_without_a_vehicle_a_charger_is_told_zero():
    row = guarded(wish(ev=-7.0), telemetry("ev", plugged_in=False))
    assert (row["setpoint_kw"], row["refused"]) == (0.0, False)
    assert row["guard_reason"] == "no vehicle is plugged in"


@pytest.mark.parametrize(("name", "kw"), [("ev", -1.0), ("chp", 8.9)])
def test_below_the_smallest_active_power_a_device_is_off(name, kw):
    row = guarded(wish(**{name: kw}), fleet_telemetry())
    assert row["setpoint_kw"] == 0.0
    assert "smallest active power" in row["guard_reason"]


@pytest.mark.parametrize(("name", "kw"), [("ev", -1.4), ("chp", 9.0)])
def test_at_the_smallest_active_power_a_device_runs(name, kw):
    assert guarded(wish(**{name: kw}), fleet_telemetry())["setpoint_kw"] == kw


def test_a_vehicle_without_a_state_of_charge_may_charge_but_not_give():
    assert guarded(wish(ev=-7.0), telemetry("ev"))["setpoint_kw"] == -7.0
    assert guarded(wish(ev=4.0), telemetry("ev"))["refused"]
    assert guarded(wish(ev=4.0), telemetry("ev", energy_kwh=30.0))["setpoint_kw"] == 4.0


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"measured_at": START - timedelta(minutes=6)}, "stale telemetry"),
        ({"measured_at": START + timedelta(minutes=2)}, "from the future"),
        ({"status": "offline"}, "offline"),
        ({"status": "local"}, "local"),
        ({"status": "fault"}, "fault"),
        ({"energy_kwh": None}, "state of charge is missing"),
        ({"energy_kwh": math.nan}, "state of charge is missing"),
        ({"energy_kwh": math.inf}, "state of charge is missing"),
        ({"energy_kwh": -1.0}, "impossible"),
        ({"energy_kwh": 65535.0}, "impossible"),
    ],
)
def test_invariant_15_telemetry_that_cant_be_trusted_refuses_the_command(fields, why):
    row = guarded(wish(battery=1.0), telemetry("battery", **fields))
    assert row["refused"]
    assert row["setpoint_kw"] == 0.0
    assert why in row["guard_reason"]


def test_invariant_15_a_frozen_heartbeat_refuses_the_command():
    minutes_ago = [9, 6, 3, 0]
    frozen = pl.concat(
        [
            telemetry("battery", heartbeat=41, measured_at=START - timedelta(minutes=m))
            for m in minutes_ago
        ]
    )
    moving = frozen.with_columns(heartbeat=pl.int_range(pl.len()))
    assert "heartbeat frozen" in guarded(wish(battery=1.0), frozen)["guard_reason"]
    assert not guarded(wish(battery=1.0), moving)["refused"]


def test_invariant_15_no_telemetry_at_all_refuses_the_command():
    assert "no telemetry" in guarded(wish(battery=1.0), telemetry("pv"))["guard_reason"]


def test_of_several_readings_the_latest_counts():
    both = pl.concat(
        [
            telemetry("battery"),
            telemetry("battery", status="fault", measured_at=START - timedelta(minutes=1)),
        ]
    )
    assert not guarded(wish(battery=1.0), both)["refused"]


def test_a_charger_that_tells_nothing_of_a_vehicle_is_refused():
    assert guarded(wish(ev=-7.0), telemetry("ev", plugged_in=None))["refused"]


def test_an_unknown_or_uncontrollable_device_is_refused():
    assert "registry" in guarded(wish(ghost=1.0), telemetry("pv"))["guard_reason"]
    assert "can't be controlled" in guarded(wish(load=-1.0), telemetry("load"))["guard_reason"]


def test_an_empty_batch_stays_empty():
    orders = standing([], PLANT, START)
    assert guard(wish(), PLANT, fleet_telemetry(), orders, START, RULES).is_empty()
