"""What stands in the device frame."""

from datetime import time

import pytest

from vpp_pipeline.fleet.frame import device_frame, with_endpoints
from vpp_pipeline.fleet.model import Fleet

SIMULATED = {"protocol": "simulated", "over": "modbus"}


def fleet_with(*devices, groups=(), **site):
    described = {
        "site_id": "s",
        "latitude": 39.7,
        "longitude": 14.8,
        "grid": {"import_limit_kw": 20, "export_limit_kw": 10},
    }
    devices = [
        {"device_id": f"d{i}", "connection": SIMULATED} | device for i, device in enumerate(devices)
    ]
    return Fleet.model_validate(
        {"sites": [described | site | {"devices": devices}], "groups": list(groups)}
    )


def row_of(**device):
    return device_frame(fleet_with(device)).row(0, named=True)


def test_a_battery_injects_what_it_discharges_and_keeps_its_energy_window():
    row = row_of(
        type="battery",
        max_charge_kw=4,
        max_discharge_kw=5,
        energy_capacity_kwh=10,
        min_soc=0.2,
        max_soc=0.9,
        ramp_kw_per_s=2,
    )
    assert (row["max_draw_kw"], row["max_inject_kw"], row["min_active_kw"]) == (4, 5, 0)
    assert row["min_energy_kwh"] == pytest.approx(2)
    assert row["max_energy_kwh"] == pytest.approx(9)
    assert row["ramp_kw_per_min"] == 120
    assert row["unmet_cost_eur_per_kwh"] is None


@pytest.mark.parametrize("kind", ["pv", "wind", "chp"])
def test_a_generator_injects_and_stores_nothing(kind):
    row = row_of(type=kind, rated_power_kw=7)
    assert (row["max_inject_kw"], row["max_draw_kw"]) == (7, 0)
    assert row["energy_capacity_kwh"] is None
    assert row["charge_efficiency"] is None
    assert row["wear_cost_eur_per_kwh"] == 0


def test_a_charger_injects_only_if_it_is_bidirectional_and_stores_the_vehicle():
    one_way = row_of(type="ev_charger", max_charge_kw=11, vehicle_capacity_kwh=50)
    two_way = row_of(type="ev_charger", max_charge_kw=11, max_discharge_kw=9)
    assert (one_way["max_inject_kw"], one_way["max_draw_kw"]) == (0, 11)
    assert (one_way["min_active_kw"], one_way["energy_capacity_kwh"]) == (1.4, 50)
    assert (one_way["min_energy_kwh"], one_way["max_energy_kwh"]) == (0, 50)
    assert two_way["max_inject_kw"] == 9


def test_a_heat_pump_stores_what_its_building_holds_between_its_comfort_bounds():
    row = row_of(
        type="heat_pump",
        rated_power_kw=3,
        cop=3.5,
        thermal_capacity_kwh_per_k=4,
        comfort_min_c=20,
        comfort_max_c=22.5,
        discomfort_cost_eur_per_kwh=0.7,
    )
    assert (row["max_draw_kw"], row["max_inject_kw"]) == (3, 0)
    assert (row["min_energy_kwh"], row["max_energy_kwh"]) == (0, 10)
    assert row["energy_capacity_kwh"] == 10
    assert row["charge_efficiency"] == 3.5
    assert row["discharge_efficiency"] == 1
    assert row["unmet_cost_eur_per_kwh"] == 0.7


def test_a_flexible_load_stores_what_it_needs_without_loss():
    row = row_of(type="flexible_load", rated_power_kw=3, energy_kwh=8, latest="21:30")
    assert (row["max_draw_kw"], row["energy_capacity_kwh"], row["max_energy_kwh"]) == (3, 8, 8)
    assert (row["charge_efficiency"], row["discharge_efficiency"]) == (1, 1)
    assert (row["required_energy_kwh"], row["window_end"]) == (8, time(21, 30))


def test_a_load_draws_and_nobody_steers_it():
    row = row_of(type="load", max_power_kw=6)
    assert (row["max_draw_kw"], row["max_inject_kw"], row["controllable"]) == (6, 0, False)


def test_a_group_holds_what_it_lists_and_what_carries_its_tags_or_stands_on_a_tagged_site():
    fleet = fleet_with(
        {"type": "pv", "rated_power_kw": 1, "tags": ["roof"]},
        {"type": "pv", "rated_power_kw": 1},
        groups=[
            {"group_id": "listed", "devices": ["d1"]},
            {"group_id": "roofs", "tags": ["roof"]},
            {"group_id": "village", "tags": ["home"], "devices": ["d0"]},
        ],
        tags=["home"],
    )
    groups = dict(device_frame(fleet).select("device_id", "groups").rows())
    assert groups == {"d0": ["roofs", "village"], "d1": ["listed", "village"]}


def test_tags_are_the_devices_own_and_its_sites():
    fleet = fleet_with({"type": "pv", "rated_power_kw": 1, "tags": ["roof"]}, tags=["home"])
    assert device_frame(fleet)["tags"].to_list() == [["home", "roof"]]


def test_a_fleet_without_devices_is_an_empty_frame():
    assert device_frame(Fleet(sites=())).height == 0


def test_real_devices_have_their_address_and_simulated_ones_none_yet():
    fleet = fleet_with(
        {
            "type": "pv",
            "rated_power_kw": 1,
            "connection": {"protocol": "modbus", "host": "10.0.0.7"},
        },
        {"type": "load", "max_power_kw": 1, "connection": {"protocol": "mqtt"}},
        {
            "type": "load",
            "max_power_kw": 1,
            "connection": {"protocol": "http", "url": "http://h/x"},
        },
        {"type": "pv", "rated_power_kw": 1},
    )
    devices = device_frame(fleet)
    assert devices["endpoint"].to_list() == ["10.0.0.7:502", "127.0.0.1:1883", "http://h/x", None]
    assert devices["unit_id"].to_list() == [1, None, None, None]
    assert devices["protocol"].to_list() == ["modbus", "mqtt", "http", "modbus"]
    assert devices["simulated"].to_list() == [False, False, False, True]


def test_a_simulator_gives_simulated_devices_their_address_and_leaves_real_ones_alone():
    fleet = fleet_with(
        {
            "type": "pv",
            "rated_power_kw": 1,
            "connection": {"protocol": "modbus", "host": "10.0.0.7"},
        },
        {"type": "pv", "rated_power_kw": 1},
    )
    told = {
        "d0": {"endpoint": "127.0.0.1:9", "unit_id": 9},
        "d1": {"endpoint": "127.0.0.1:15020", "unit_id": 4},
    }
    devices = with_endpoints(device_frame(fleet), told)
    assert devices["endpoint"].to_list() == ["10.0.0.7:502", "127.0.0.1:15020"]
    assert devices["unit_id"].to_list() == [1, 4]


def test_devices_left_without_an_address_are_named():
    fleet = fleet_with(*({"type": "pv", "rated_power_kw": 1} for _ in range(12)))
    with pytest.raises(ValueError, match=r"11 devices have no endpoint: d1, d2.* …; start"):
        with_endpoints(device_frame(fleet), {"d0": {"endpoint": "127.0.0.1:1"}})
