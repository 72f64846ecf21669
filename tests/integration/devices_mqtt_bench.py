"""A plant that obeys at once, links and commands, and a bench with a broker for MQTT tests."""

from __future__ import annotations

import json
import os
import queue
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.credentials import Credential, Credentials
from vpp_pipeline.devices.mqtt import MqttDriver
from vpp_pipeline.devices.mqtt_client import (
    BrokerAddress,
    Handlers,
    close_client,
    open_client,
    topic,
)
from vpp_pipeline.devices.protocol import Command, DeviceLink, Reading
from vpp_pipeline.simulation import broker as brokers
from vpp_pipeline.simulation.command_queue import SimulatedDevice
from vpp_pipeline.simulation.mqtt_devices import MqttDevices
from vpp_pipeline.simulation.plant_protocol import AppliedSetpoint, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from paho.mqtt.client import Client, MQTTMessage

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATIENCE_S = 60.0  # for a process to start on a busy machine
SHORT_S = 1.5  # long for what answers, also on a busy machine, and short to wait for what won't
DEVICES = tuple(SimulatedDevice(f"b-{n}", 5.0, 4.0, controllable=True) for n in (1, 2, 3))


class ObedientPlant:
    """Power follows the set-point without delay; `out` devices are dead, `deaf` ones pretend."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOON)
        self.out: set[str] = set()
        self.deaf: set[str] = set()
        self.clinging: set[str] = set()  # they don't let go of a set-point
        self.applied: list[tuple[str, AppliedSetpoint]] = []
        self._setpoints: dict[str, AppliedSetpoint] = {}

    def reading(self, device_id: str) -> Reading:
        setpoint = self.setpoint(device_id)
        setpoint_kw = setpoint.setpoint_kw if setpoint else None
        return Reading(
            device_id, self.clock.now(), power_kw=setpoint_kw or 0.0, setpoint_kw=setpoint_kw
        )

    def apply(
        self, device_id: str, setpoint_kw: float, until: datetime, command_id: str | None = None
    ) -> None:
        if device_id in self.out:
            raise Refused("out of service")
        setpoint = AppliedSetpoint(setpoint_kw, until, command_id)
        self.applied.append((device_id, setpoint))
        if device_id not in self.deaf:
            self._setpoints[device_id] = setpoint

    def release(self, device_id: str) -> None:
        if device_id not in self.clinging:
            self._setpoints.pop(device_id, None)

    def setpoint(self, device_id: str) -> AppliedSetpoint | None:
        setpoint = self._setpoints.get(device_id)
        return setpoint if setpoint and self.clock.now() < setpoint.until else None

    def is_out(self, device_id: str) -> bool:
        return device_id in self.out


def link(endpoint: str, device_id: str = "b-1", **changes: Any) -> DeviceLink:
    fields: dict[str, Any] = {
        "device_type": "battery",
        "protocol": "http" if endpoint.startswith("http") else "mqtt",
        "unit_id": None,
        "max_inject_kw": 5.0,
        "max_draw_kw": 4.0,
        "writable": True,
    }
    return DeviceLink(device_id=device_id, endpoint=endpoint, **(fields | changes))


def command(
    power_kw: float = 2.0,
    device_id: str = "b-1",
    *,
    start_min: float = 0,
    minutes: float = 20,
    rank: tuple[int, int] = (1, 1),
) -> Command:
    valid_from = NOON + timedelta(minutes=start_min)
    return Command(
        command_id=f"{device_id}-{rank[0]}-{rank[1]}",
        device_id=device_id,
        plan_id="plan",
        plan_version=rank[0],
        sequence=rank[1],
        power_kw=power_kw,
        valid_from=valid_from,
        valid_until=valid_from + timedelta(minutes=minutes),
    )


def need_mosquitto() -> None:
    """Skip, loudly, where no mosquitto is installed; on CI that is a failure."""
    if brokers.find_mosquitto() is None:
        why = "MOSQUITTO IS NOT INSTALLED: no MQTT 5 promise was tested; install it and run again"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


def wait_until(holds: Callable[[], Any], what: str) -> None:
    """Return once `holds`; fail with `what` after the tests' patience."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE_S:g} s for: {what}")
        time.sleep(0.01)


@dataclass
class Peer:
    """A plain client beside driver and devices: it hears everything on our topics."""

    client: Client
    heard: queue.Queue[MQTTMessage] = field(default_factory=queue.Queue)

    def say(self, device_id: str, kind: str, payload: str, *, retain: bool = False) -> None:
        sent = self.client.publish(topic(device_id, kind), payload, 1, retain=retain)
        sent.wait_for_publish(PATIENCE_S)

    def hear(self, kind: str) -> MQTTMessage:
        """Return the next message of one kind; other ones before it are dropped."""
        while True:
            message = self.heard.get(timeout=PATIENCE_S)
            if message.topic.endswith(f"/{kind}"):
                return message


def account(directory: Path, role: str) -> Credential:
    """What a simulated fleet in `directory` has given to one role."""
    known = Credentials.read({}, generated=directory / "credentials.toml")
    return known.named("simulated-broker", role)


@contextmanager
def peer(endpoint: str, *kinds: str, credential: Credential | None = None) -> Iterator[Peer]:
    heard: queue.Queue[MQTTMessage] = queue.Queue()
    client = open_client(
        BrokerAddress(endpoint, credential=credential),
        "peer",
        [topic("+", kind) for kind in kinds],
        Handlers(lambda _client, message: heard.put(message)),
        PATIENCE_S,
        reconnects=False,
    )
    try:
        yield Peer(client, heard)
    finally:
        close_client(client)


@contextmanager
def liar(endpoint: str, answers: dict[str, list[tuple[str, dict[str, Any]]]]) -> Iterator[None]:
    """Device b-1 that answers each kind of message with these messages, whatever is true."""

    def answer(client: Client, message: MQTTMessage) -> None:
        for kind, content in answers[message.topic.rpartition("/")[2]]:
            client.publish(topic("b-1", kind), json.dumps(content), 1, retain=kind == "state")

    topics = [topic("b-1", kind) for kind in answers]
    address = BrokerAddress(endpoint)
    client = open_client(address, "liar", topics, Handlers(answer), PATIENCE_S, reconnects=False)
    try:
        yield
    finally:
        close_client(client)


@dataclass
class Bench:
    directory: Path
    broker: brokers.Broker
    plant: ObedientPlant
    devices: MqttDevices

    @property
    def endpoint(self) -> str:
        return self.broker.endpoint

    def link(self, device_id: str = "b-1", **changes: Any) -> DeviceLink:
        return link(self.endpoint, device_id, **changes)

    def driver(self) -> MqttDriver:
        return MqttDriver("tests", self.plant.clock)

    def move(self, minutes: float) -> None:
        self.plant.clock.sleep_until(NOON + timedelta(minutes=minutes))
        self.devices.tick()


@contextmanager
def bench(
    directory: Path, devices: tuple[SimulatedDevice, ...] = DEVICES, *, start: bool = True
) -> Iterator[Bench]:
    """A running broker and, with `start`, simulated devices on it."""
    directory /= "broker"
    broker = brokers.start_broker(directory)
    plant = ObedientPlant()
    mqtt_devices = MqttDevices(devices, plant)
    try:
        if start:
            mqtt_devices.start(BrokerAddress(broker.endpoint))
            told = mqtt_devices._published  # once they have, what a test makes of them comes after
            wait_until(lambda: len(told) == len(devices), "the devices' first states")
        yield Bench(directory, broker, plant, mqtt_devices)
    finally:
        mqtt_devices.stop()
        broker.stop()
