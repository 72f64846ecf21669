"""What was killed goes on: the simulator and its broker, at their addresses, as they were."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import polars as pl
import simulation_child
from devices_mqtt_bench import PATIENCE_S, account, need_mosquitto, peer, wait_until
from simulation_child import DEVICES, START

from vpp_pipeline.clock import ScaledClock
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.http import HttpDriver
from vpp_pipeline.devices.mqtt import MqttDriver
from vpp_pipeline.devices.protocol import Command, Outcome, Reading
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.fleet.frame import with_endpoints

QUARTER = timedelta(minutes=15)
RATE = 5.0


@contextmanager
def simulator(directory, anchor_epoch_s):
    """Run a fleet in a child and yield it once it listens; it is dead after that."""
    child = subprocess.Popen(
        [sys.executable, simulation_child.__file__, directory, str(RATE), str(anchor_epoch_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        try:
            assert child.stdout.readline() == b"ready\n"
            yield child
        finally:
            child.kill()


def told(directory):
    return json.loads((directory / "endpoints.json").read_text())


def steerable(directory, protocol):
    links = device_links(with_endpoints(DEVICES, told(directory)))
    return next(link for link in links if link.protocol == protocol and link.writable)


def asked(directory, protocol, clock, question):
    async def session():
        known = Credentials.read({}, generated=directory / "credentials.toml")
        mqtt = MqttDriver("dispatcher", clock, lambda: known)
        driver = mqtt if protocol == "mqtt" else HttpDriver(clock)
        try:
            return await question(driver, steerable(directory, protocol))
        finally:
            await driver.close()

    return asyncio.run(session())


def accepts(endpoint):
    host, _, port = endpoint.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


def command(device_id, quarter, version=7, name="c"):
    start = START + quarter * QUARTER
    command_id = f"{name}-{device_id}-{quarter}"
    return Command(command_id, device_id, "p", version, quarter, -1.5, start, start + 20 * QUARTER)


def test_a_killed_fleet_leaves_no_broker_and_goes_on_with_the_commands_it_held(tmp_path):
    need_mosquitto()
    anchor = time.time()
    clock = ScaledClock(START, anchor, RATE)

    async def send(driver, link, commands):
        orders = [(link, each) for each in commands]
        return await driver.command(orders, clock.now(), PATIENCE_S)

    def saved():
        with suppress(FileNotFoundError):
            return (tmp_path / "state.json").read_text().count('"command_id": "c-')
        return 0

    with simulator(tmp_path, anchor):
        before = told(tmp_path)
        for protocol in ("mqtt", "http"):
            name = steerable(tmp_path, protocol).device_id
            sent = asked(
                tmp_path,
                protocol,
                clock,
                lambda d, link, name=name: send(d, link, [command(name, 0), command(name, 16)]),
            )
            assert [result.outcome for result in sent] == [Outcome.ACKED] * 2
        # in the plant those in force, in the queues all four: once as a message, once as an ack
        wait_until(lambda: saved() == 2 + 2 * 4, "the commands' names in the saved state")

    broker = before[steerable(tmp_path, "mqtt").device_id]["endpoint"]
    wait_until(lambda: not accepts(broker), "the end of the killed fleet's broker")

    with simulator(tmp_path, anchor):
        assert told(tmp_path) == before
        for protocol in ("mqtt", "http"):
            name = steerable(tmp_path, protocol).device_id

            async def look(driver, link, name=name):
                (back,) = await driver.read_back([(link, command(name, 0))], PATIENCE_S)
                older = command(name, 16, version=6, name="older")
                return back, await send(driver, link, [command(name, 16), older])

            back, (again, older) = asked(tmp_path, protocol, clock, look)
            assert (back.matches, back.command_id) == (True, command(name, 0).command_id)
            assert again.outcome == Outcome.ACKED
            assert (older.outcome, "stale" in older.detail) == (Outcome.REJECTED, True)


def test_a_killed_broker_is_started_again_and_its_devices_answer_there(tmp_path):
    need_mosquitto()
    anchor = time.time()
    clock = ScaledClock(START, anchor, RATE)

    def broker_process():
        config = str(tmp_path / "broker" / "mosquitto.conf")
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes().decode().split("\0")
                if words[0].endswith("mosquitto") and config in words:
                    return int(path.parent.name)
        return None

    def answers():
        read = asked(tmp_path, "mqtt", clock, lambda d, link: d.read([link], 1.0))
        return isinstance(read[0], Reading)

    with simulator(tmp_path, anchor):
        before = told(tmp_path)
        wait_until(answers, "the devices' first answer")
        killed = broker_process()
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: broker_process() not in {None, killed}, "another broker")
        wait_until(answers, "the devices' answer at the new broker")
        assert told(tmp_path) == before


def test_what_a_dead_fleet_retained_is_not_taken_for_a_living_device(tmp_path):
    need_mosquitto()
    anchor = time.time()
    alive = set(DEVICES.filter(pl.col("protocol").cast(pl.String) == "mqtt")["device_id"])
    with simulator(tmp_path, anchor):
        mqtt = steerable(tmp_path, "mqtt")
        with peer(mqtt.endpoint, credential=account(tmp_path, "devices")) as stranger:
            stranger.say("sold-last-year", "state", '{"status": "ok"}', retain=True)
        database = tmp_path / "broker" / "mosquitto.db"
        wait_until(
            lambda: database.exists() and b"sold-last-year" in database.read_bytes(), "the autosave"
        )

    dispatcher = account(tmp_path, "dispatcher")
    with (
        simulator(tmp_path, anchor),
        peer(mqtt.endpoint, "state", "get", credential=dispatcher) as listener,
    ):
        listener.say("x", "get", "?")
        heard = []
        while not heard or not heard[-1].endswith("/get"):
            heard.append(listener.heard.get(timeout=PATIENCE_S).topic)
        assert {name.split("/")[2] for name in heard[:-1]} <= alive
