"""The whole simulated fleet, as a stranger, a collector and `vpp simulate` meet it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from devices_mqtt_bench import PATIENCE_S, account, need_mosquitto, peer, wait_until
from sunspec2.modbus.client import SunSpecModbusClientDeviceTCP

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.collector import poll
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.http import HttpDriver
from vpp_pipeline.devices.modbus import ModbusDriver
from vpp_pipeline.devices.mqtt import MqttDriver
from vpp_pipeline.devices.protocol import Command, Outcome, Reading
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.fleet import registry
from vpp_pipeline.fleet.frame import device_frame, with_endpoints
from vpp_pipeline.fleet.sample import sample_fleet
from vpp_pipeline.settings import DEMO_FLEET, Settings
from vpp_pipeline.simulation.fleet import SimulatedFleet
from vpp_pipeline.simulation.world import recorded_world

NOON = datetime(2020, 8, 12, 10, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
DEMO = device_frame(registry.load(DEMO_FLEET))


@pytest.fixture
def started(tmp_path):
    """Start a fleet of these devices on a clock moved by hand; return it with its links."""
    fleets = []

    def start(devices):
        world = recorded_world(devices, np.random.default_rng(1))
        clock = ManualClock(NOON)
        fleet = SimulatedFleet(devices, world, clock, np.random.default_rng(2), tmp_path)
        fleets.append(fleet)
        clock.on_move = fleet.step
        endpoints = fleet.start(ticking=False)
        return fleet, device_links(with_endpoints(devices, endpoints))

    yield start
    for fleet in fleets:
        fleet.stop()


def controls(link):
    """Return a battery's commanded power and its timer, as pysunspec2's own client reads them."""
    host, _, port = link.endpoint.rpartition(":")
    client = SunSpecModbusClientDeviceTCP(
        slave_id=link.unit_id, ipaddr=host, ipport=int(port), timeout=PATIENCE_S
    )
    client.connect()
    try:
        client.scan(connect=False)
        control, measured = client.models[704][0], client.models[701][0]
        return {
            "enabled": control.WSetEna.value,
            "commanded_w": control.WSet.cvalue,
            "remaining_s": control.WSetRvrtRem.value,
            "measured_w": measured.W.cvalue,
        }
    finally:
        client.disconnect()


def test_pysunspec2_reads_what_a_battery_of_the_demo_fleet_was_commanded(started, tmp_path):
    fleet, links = started(DEMO)
    clock = fleet.plant.clock
    batteries = [link for link in links if link.device_type == "battery"]
    assert len(batteries) == 12

    async def command(power_kw):
        driver = ModbusDriver(tmp_path / "leases", "test", clock)
        orders = [
            (link, Command("c", link.device_id, "p", 1, 1, power_kw, NOON, NOON + QUARTER))
            for link in batteries
        ]
        try:
            return await driver.command(orders, clock.now(), PATIENCE_S)
        finally:
            await driver.close()

    sent = asyncio.run(command(-2.5))
    assert {result.outcome for result in sent} == {Outcome.ACKED}
    clock.sleep_until(NOON + timedelta(minutes=5))
    for link in batteries[:2]:
        assert controls(link) == {
            "enabled": 1,
            "commanded_w": -2500,
            "remaining_s": 600,
            "measured_w": -2500,
        }
    clock.sleep_until(NOON + QUARTER)
    after = controls(batteries[0])
    assert (after["enabled"], after["measured_w"]) == (0, 0)


def test_every_one_of_2000_devices_answers_its_driver(started, tmp_path):
    need_mosquitto()
    fleet, links = started(device_frame(sample_fleet(2000, seed=1)))
    clock = fleet.plant.clock
    known = Credentials.read({}, generated=tmp_path / "credentials.toml")
    # Fleet and drivers share one interpreter: all at once, a busy machine would time some out.
    batched = [links[first : first + 100] for first in range(0, 2000, 100)]

    async def ask():
        mqtt = {"mqtt": MqttDriver("test", clock, lambda: known)}
        # Fleet and drivers share this process' file descriptors, of which paho can wait for the
        # first 1,024: the gateways' turn comes when MQTT has its own.
        others = {
            "modbus": ModbusDriver(tmp_path / "leases", "test", clock),
            "http": HttpDriver(clock),
        }
        try:
            return [
                answer
                for part in (mqtt, others)
                for some in batched
                for answer in await poll(part, some, 60.0)
            ]
        finally:
            for driver in (mqtt | others).values():
                await driver.close()

    answers = asyncio.run(ask())
    assert [answer for answer in answers if not isinstance(answer, Reading)] == []
    assert {answer.device_id for answer in answers} == {link.device_id for link in links}
    assert len(answers) == 2000
    assert all(answer.power_kw is not None for answer in answers)


def test_vpp_simulate_at_300_times_keeps_its_timers_and_tells_the_right_time(tmp_path):
    need_mosquitto()
    clock_file = {"start": NOON.isoformat(), "anchor_epoch_s": time.time(), "rate": 300.0}
    (tmp_path / "clock.json").write_text(json.dumps(clock_file))
    environment = {"VPP_HOME": str(tmp_path), "VPP_FLEET": str(DEMO_FLEET)}
    settings = Settings.from_environment(environment)
    clock = settings.clock()
    endpoints = settings.simulation_dir / "endpoints.json"
    with subprocess.Popen(
        [sys.executable, "-m", "vpp_pipeline.cli", "simulate"], env=environment
    ) as simulator:
        try:
            wait_until(lambda: endpoints.exists() or simulator.poll() is not None, "its addresses")
            links = device_links(with_endpoints(DEMO, json.loads(endpoints.read_text())))
            charger = next(link for link in links if link.device_id == "office-charger-1")
            dispatcher = account(settings.simulation_dir, "dispatcher")
            told_kinds = ("tele", "state", "ack")
            with peer(charger.endpoint, *told_kinds, credential=dispatcher) as listener:
                begin = clock.now() + timedelta(minutes=5)
                end = begin + 2 * QUARTER
                command = {
                    "command_id": "c-1",
                    "plan_version": 1,
                    "sequence": 1,
                    "power_kw": -6.0,
                    "valid_from": begin.isoformat(),
                    "valid_until": end.isoformat(),
                }
                listener.say(charger.device_id, "cmd", json.dumps(command))
                states, told = until_released(listener.heard, charger.device_id, clock, end)
            simulator.send_signal(signal.SIGTERM)
            assert simulator.wait(PATIENCE_S) == 0
        finally:
            simulator.kill()

    assert [state["command_id"] for state in states] == ["c-1", None]
    obeys, rests = (datetime.fromisoformat(state["measured_at"]) for state in states)
    assert begin <= obeys < end <= rests
    for reading, heard_at in told:
        measured_at = datetime.fromisoformat(reading["measured_at"])
        assert NOON < measured_at <= heard_at
        assert reading["setpoint_kw"] is None or begin <= measured_at < end
    times = [reading["measured_at"] for reading, _ in told]
    assert times == sorted(set(times))
    assert len(times) >= 2


def until_released(heard, device_id, clock, end):
    """Return a device's states from its command on, and all its readings, until both are over."""
    states, told = [], []
    while len(states) < 2 or not told or told[-1][0]["measured_at"] < end.isoformat():
        message = heard.get(timeout=PATIENCE_S)
        _, _, name, kind = message.topic.split("/")
        content = json.loads(message.payload)
        if name != device_id:
            continue
        if kind == "tele":
            told.append((content, clock.now()))
        elif kind == "state" and (states or content["command_id"]):
            states.append(content)
    return states, told
