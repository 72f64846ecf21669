"""A group's target keeps its sum while its devices' limits come and go."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest
from dispatch_fakes import SETTINGS, START, Bench

from vpp_pipeline import event_loop
from vpp_pipeline.dispatch.group import GroupTarget, Outlook, dispatch_group
from vpp_pipeline.dispatch.orders import standing
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import Battery, Fleet, GridConnection, MqttConnection, Site
from vpp_pipeline.flexibility.schemas import Envelopes

NOW = START + timedelta(minutes=2)
UNTIL = START + timedelta(hours=1)
BATTERIES = ("mqtt-0", "mqtt-1")


@pytest.fixture
def bench(tmp_path):
    """Two batteries of 5 kW behind MQTT, with 8 of 10 kWh in each."""
    bench = Bench(tmp_path, NOW)
    batteries = [
        Battery(
            device_id=name,
            connection=MqttConnection(),
            live=True,
            max_charge_kw=5,
            max_discharge_kw=5,
            energy_capacity_kwh=10,
        )
        for name in BATTERIES
    ]
    site = Site(
        site_id="home",
        latitude=52.5,
        longitude=13.4,
        grid=GridConnection(import_limit_kw=50, export_limit_kw=50),
        devices=batteries,
    )
    bench.devices = device_frame(Fleet(sites=(site,)))
    bench.energy_kwh = 8.0
    return bench


def dispatched(bench, power_kw):
    envelopes = Envelopes.cast(
        pl.DataFrame(
            {
                "device_id": name,
                "interval_start": START + quarter * timedelta(minutes=15),
                "min_power_kw": -5.0,
                "max_power_kw": 5.0,
                "expected_power_kw": 0.0,
                "min_energy_kwh": 0.0,
                "max_energy_kwh": 10.0,
                "initial_energy_kwh": 8.0 if quarter == 0 else None,
                "session_start": False,
                "retention": 1.0,
                "drift_kwh": 0.0,
                "required_end_kwh": None,
                "available": True,
                "derated": None,
            }
            for name in BATTERIES
            for quarter in range(4)
        )
    )
    states = bench.devices.select("device_id", available=pl.lit(value=True), why=pl.lit(""))
    target = GroupTarget("target", "fleet", power_kw, UNTIL, "op", "a test")
    outlook = Outlook(bench.devices, states, envelopes)
    return event_loop.run(dispatch_group(bench.dispatcher(SETTINGS), outlook, target))


def ordered(bench, at):
    stands = standing(bench.orders.read(), bench.devices, at)
    return dict(stands.select("device_id", "override_kw").iter_rows())


def test_invariant_17_a_device_whose_limit_ends_does_not_come_on_top_of_what_others_made_good(
    bench,
):
    lifted = NOW + timedelta(minutes=6)
    bench.give("grid_limit", "device:mqtt-0", max_kw=0.5, valid_until=lifted)
    report = dispatched(bench, 4.0)
    assert report.accepted_kw == pytest.approx(4.0)
    assert report.shortfall_kw == 0
    for minutes in (3, 9, 16, 31, 59):
        told = ordered(bench, START + timedelta(minutes=minutes))
        assert told == {"mqtt-0": pytest.approx(0.5), "mqtt-1": pytest.approx(3.5)}
    assert ordered(bench, UNTIL) == {"mqtt-0": None, "mqtt-1": None}
    names = [order.order_id for order in bench.orders.read()]
    assert len(names) == len(set(names))
