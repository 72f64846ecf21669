"""The simulated fleet answers over every real protocol, and survives a restart."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import paho.mqtt.client as mqtt
import polars as pl
import pytest

from vpp_pipeline.clock import ManualClock, ScaledClock
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.http import HttpDriver
from vpp_pipeline.devices.modbus import ModbusDriver
from vpp_pipeline.devices.mqtt import MqttDriver
from vpp_pipeline.devices.protocol import Command, Outcome, Reading
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.fleet.frame import device_frame, with_endpoints
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
from vpp_pipeline.simulation.fleet import SimulatedFleet
from vpp_pipeline.simulation.world import recorded_world

NOON = datetime(2020, 8, 12, 10, tzinfo=UTC)
QUARTER = timedelta(minutes=15)


def over(protocol):
    return SimulatedConnection(over=protocol)


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
                    connection=over("modbus"),
                    max_charge_kw=5,
                    max_discharge_kw=5,
                    energy_capacity_kwh=10,
                ),
                PvInverter(device_id="pv", connection=over("modbus"), rated_power_kw=8),
                Load(device_id="load", connection=over("mqtt"), max_power_kw=10),
                EvCharger(device_id="ev", connection=over("mqtt"), max_charge_kw=11),
                HeatPump(device_id="pump", connection=over("http"), rated_power_kw=3),
            ),
        ),
    )
)
DEVICES = device_frame(FLEET)
WORLD = recorded_world(DEVICES, np.random.default_rng(1))


def new_fleet(directory, clock=None, seed=2):
    return SimulatedFleet(
        DEVICES, WORLD, clock or ManualClock(NOON), np.random.default_rng(seed), directory
    )


@pytest.fixture
def running(tmp_path):
    fleet = new_fleet(tmp_path)
    fleet.start(ticking=False)
    yield fleet
    fleet.stop()


def links(directory, protocol):
    told = json.loads((directory / "endpoints.json").read_text())
    rows = with_endpoints(DEVICES, told).filter(pl.col("protocol").cast(pl.String) == protocol)
    return [replace(link, writable=True) for link in device_links(rows)]


def driver(protocol, directory, clock):
    if protocol == "modbus":
        return ModbusDriver(directory / "leases", "test", clock)
    known = Credentials.read({}, generated=directory / "credentials.toml")
    return (
        MqttDriver("dispatcher", clock, lambda: known) if protocol == "mqtt" else HttpDriver(clock)
    )


def ask(protocol, directory, clock, question):
    async def session():
        asked = driver(protocol, directory, clock)
        try:
            return await question(asked, links(directory, protocol))
        finally:
            await asked.close()

    return asyncio.run(session())


@pytest.mark.parametrize("protocol", ["modbus", "mqtt", "http"])
def test_a_driver_reads_what_the_plant_says(running, tmp_path, protocol):
    clock = running.plant.clock
    clock.sleep_until(NOON + 3 * QUARTER)
    running.step()
    readings = ask(protocol, tmp_path, clock, lambda d, found: d.read(found, 5.0))
    assert len(readings) == {"modbus": 2, "mqtt": 2, "http": 1}[protocol]
    for reading in readings:
        assert isinstance(reading, Reading), reading
        truth = running.plant.reading(reading.device_id)
        assert reading.power_kw == pytest.approx(truth.power_kw, abs=0.01)
        assert reading.measured_at == NOON + 3 * QUARTER


@pytest.mark.parametrize(
    ("protocol", "device_id", "power_kw"),
    [("modbus", "battery", -2.0), ("mqtt", "ev", -4.0), ("http", "pump", -1.0)],
)
def test_a_driver_commands_the_plant_and_the_timer_ends_it(
    running, tmp_path, protocol, device_id, power_kw
):
    clock = running.plant.clock
    command = Command("c1", device_id, "p", 1, 1, power_kw, NOON, NOON + QUARTER)

    async def send(asked, found):
        link = next(link for link in found if link.device_id == device_id)
        sent = await asked.command([(link, command)], clock.now(), 5.0)
        return sent, await asked.read_back([(link, command)], 5.0)

    (sent,), (standing,) = ask(protocol, tmp_path, clock, send)
    assert sent.outcome == Outcome.ACKED
    assert standing.matches
    assert running.plant.setpoint(device_id).setpoint_kw == pytest.approx(power_kw)
    clock.sleep_until(NOON + QUARTER)
    running.step()
    assert running.plant.setpoint(device_id) is None


def test_a_command_sent_ahead_begins_when_its_time_has_come(running, tmp_path):
    clock = running.plant.clock
    command = Command("c1", "ev", "p", 1, 1, -4.0, NOON + QUARTER, NOON + 2 * QUARTER)

    async def send(asked, found):
        link = next(link for link in found if link.device_id == "ev")
        return await asked.command([(link, command)], clock.now(), 5.0)

    (sent,) = ask("mqtt", tmp_path, clock, send)
    assert sent.outcome == Outcome.ACKED
    assert running.plant.setpoint("ev") is None
    clock.sleep_until(NOON + QUARTER)
    running.step()
    assert running.plant.setpoint("ev").setpoint_kw == -4.0


def test_a_restarted_fleet_has_its_old_addresses_and_goes_on_where_it_was(tmp_path):
    clock = ManualClock(NOON)
    first = new_fleet(tmp_path, clock)
    addresses = first.start(ticking=False)
    first.plant.apply("battery", 2.0, NOON + 4 * QUARTER, "c1")
    clock.sleep_until(NOON + QUARTER)
    first.step()
    first.stop()
    first.stop()
    second = new_fleet(tmp_path, clock, seed=77)
    try:
        assert second.start(ticking=False) == addresses
        for device_id in DEVICES["device_id"]:
            assert second.plant.reading(device_id) == first.plant.reading(device_id)
        assert second.plant.setpoint("battery") == first.plant.setpoint("battery")
    finally:
        second.stop()


def test_a_restarted_fleet_obeys_the_commands_that_waited(tmp_path):
    clock = ManualClock(NOON)
    first = new_fleet(tmp_path, clock)
    first.start(ticking=False)
    waiting = {
        protocol: Command(f"c-{name}", name, "p", 1, 1, -1.4, NOON + QUARTER, NOON + 2 * QUARTER)
        for protocol, name in (("mqtt", "ev"), ("http", "pump"))
    }

    async def send(asked, found):
        link = next(link for link in found if link.device_id in ("ev", "pump"))
        command = waiting[link.protocol]
        return await asked.command([(link, command)], clock.now(), 5.0)

    for protocol in waiting:
        (sent,) = ask(protocol, tmp_path, clock, send)
        assert sent.outcome == Outcome.ACKED
    first.stop()
    second = new_fleet(tmp_path, clock)
    second.start(ticking=False)
    try:
        clock.sleep_until(NOON + QUARTER)
        second.step()
        for command in waiting.values():
            assert second.plant.setpoint(command.device_id).command_id == command.command_id
    finally:
        second.stop()


def test_a_fleet_waits_for_the_port_of_a_broker_that_is_about_to_end(tmp_path, monkeypatch):
    fleet = new_fleet(tmp_path)
    before = fleet.start(ticking=False)
    fleet.stop()
    port = int(before["ev"]["endpoint"].rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", port))
    monkeypatch.setattr(time, "sleep", lambda _seconds: listener.close())
    again = new_fleet(tmp_path)
    assert again.start(ticking=False) == before
    again.stop()


def test_an_address_taken_meanwhile_is_replaced(tmp_path):
    fleet = new_fleet(tmp_path)
    before = fleet.start(ticking=False)
    fleet.stop()
    port = int(before["battery"]["endpoint"].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        again = new_fleet(tmp_path)
        after = again.start(ticking=False)
        again.stop()
    assert after["battery"]["endpoint"] != before["battery"]["endpoint"]
    assert after["ev"] == before["ev"]
    assert json.loads((tmp_path / "endpoints.json").read_text()) == after


def test_a_second_fleet_in_the_same_directory_is_refused(running, tmp_path):
    with pytest.raises(RuntimeError, match="already; stop it first"):
        new_fleet(tmp_path).start(ticking=False)


@pytest.mark.parametrize("content", ["{half", '{"plant": {"at": "2020-08-12T10:00:00+00:00"}}'])
def test_a_broken_state_names_its_file_and_the_remedy(tmp_path, content):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(ValueError, match=r"state\.json .*delete it to begin afresh"):
        new_fleet(tmp_path).start(ticking=False)


def test_a_dead_device_is_silent_to_its_driver_and_the_others_are_not(running, tmp_path):
    running.plant.set_outage("battery", True)
    battery, pv = ask("modbus", tmp_path, running.plant.clock, lambda d, found: d.read(found, 5.0))
    assert not isinstance(battery, Reading)
    assert isinstance(pv, Reading)


def test_a_ticking_fleet_moves_and_tells_by_itself(tmp_path):
    fleet = new_fleet(tmp_path, ScaledClock(NOON, time.time(), 300.0))
    broker = fleet.start(ticking=True)["load"]["endpoint"]
    heard: queue.Queue[dict[str, object]] = queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    viewer = Credentials.read({}, generated=tmp_path / "credentials.toml").named(
        "simulated-broker", "viewer"
    )
    assert viewer.password is not None
    client.username_pw_set(viewer.user, viewer.password.get_secret_value())
    client.on_connect = lambda c, *_: c.subscribe("vpp/v1/load/tele")
    client.on_message = lambda _c, _u, message: heard.put(json.loads(message.payload))
    host, _, port = broker.rpartition(":")
    client.connect(host, int(port))
    client.loop_start()
    try:
        first, second = heard.get(timeout=30), heard.get(timeout=30)
    finally:
        client.disconnect()
        client.loop_stop()
        fleet.stop()
    assert NOON.isoformat() < str(first["measured_at"]) < str(second["measured_at"])
    saved = json.loads((tmp_path / "state.json").read_text())
    assert datetime.fromisoformat(saved["plant"]["at"]) > NOON
