"""The devices of the dispatch benchmark: processes that obey, count and tell.

Belongs here: SunSpec servers and an MQTT responder that cost as little as they can. Does not: the
two sides that command them (`dispatch_bare`, `dispatch`).

    python -m benchmarks.dispatch_devices modbus FIRST COUNT
    python -m benchmarks.dispatch_devices mqtt HOST:PORT

The first line told is `{"links": {device: [endpoint, unit id]}}`. For every line that comes in
then, what each device was told since the last one is told: `[times, kW, confirmed at]`, the last
on the monotonic clock, when the device was first read after it had obeyed. The process ends with
its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from vpp_pipeline.clock import SystemClock
from vpp_pipeline.devices.protocol import Reading
from vpp_pipeline.simulation.plant_protocol import AppliedSetpoint
from vpp_pipeline.simulation.sunspec_registers import SunspecUnit
from vpp_pipeline.simulation.sunspec_server import SunspecGateways

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

LIMIT_KW = 5.0
CAPACITY_KWH = 100.0
Told = tuple[int, float, float | None]


def name_of(number: int) -> str:
    """Return the device id that both sides and the devices know."""
    return f"battery-{number:05d}"


class Journal:
    """What each device was told, until somebody asks."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}

    def obeyed(self, device_id: str, kw: float) -> None:
        self._told[device_id] = (self._told.get(device_id, (0, 0.0, None))[0] + 1, kw, None)

    def read(self, device_id: str) -> None:
        told = self._told.get(device_id)
        if told and told[2] is None:
            self._told[device_id] = (*told[:2], time.monotonic())

    def take(self) -> str:
        told, self._told = self._told, {}
        return json.dumps(told)


class ObedientPlant:
    """Batteries that obey at once."""

    def __init__(self, journal: Journal) -> None:
        self.clock = SystemClock()
        self._journal = journal
        self._in_force: dict[str, AppliedSetpoint] = {}

    def apply(
        self, device_id: str, setpoint_kw: float, until: datetime, command_id: str | None = None
    ) -> None:
        self._in_force[device_id] = AppliedSetpoint(setpoint_kw, until, command_id)
        self._journal.obeyed(device_id, setpoint_kw)

    def release(self, device_id: str) -> None:
        self._in_force.pop(device_id, None)

    def setpoint(self, device_id: str) -> AppliedSetpoint | None:
        return self._in_force.get(device_id)

    def reading(self, device_id: str) -> Reading:
        self._journal.read(device_id)
        return Reading(device_id, self.clock.now(), power_kw=0.0, energy_kwh=50.0, heartbeat=1)

    def is_out(self, _device_id: str) -> bool:
        return False


async def serve_modbus(first: int, count: int) -> None:
    """Serve each battery behind a port of its own."""
    journal = Journal()
    sites = {
        name_of(n): [SunspecUnit(name_of(n), "battery", LIMIT_KW, LIMIT_KW, CAPACITY_KWH)]
        for n in range(first, first + count)
    }
    gateways = SunspecGateways(sites, ObedientPlant(journal))
    links = await gateways.start()
    _tell(json.dumps({"links": links}))
    await asyncio.to_thread(_answer, journal.take)
    await gateways.stop()


def respond_mqtt(endpoint: str) -> None:
    """Acknowledge each command; on a `get` publish state and telemetry."""
    journal = Journal()
    in_force: dict[str, tuple[str, float]] = {}

    def receive(client: Client, _userdata: Any, message: Any) -> None:
        _, _, device_id, kind = message.topic.split("/")
        if kind == "get":
            _publish_state(client, device_id, in_force.get(device_id))
            return
        command = json.loads(message.payload)
        in_force[device_id] = command["command_id"], command["power_kw"]
        journal.obeyed(device_id, command["power_kw"])
        ack = f'{{"command_id":"{command["command_id"]}","accepted":true,"reason":""}}'
        client.publish(f"vpp/v1/{device_id}/ack", ack, 1)

    client = Client(
        CallbackAPIVersion.VERSION2, client_id="responder", protocol=MQTTProtocolVersion.MQTTv5
    )
    client.on_message = receive
    client.on_subscribe = lambda *_: _tell('{"links": {}}')
    host, _, port = endpoint.rpartition(":")
    client.connect(host, int(port))
    client.subscribe([("vpp/v1/+/cmd", 1), ("vpp/v1/+/get", 1)])
    client.loop_start()
    _answer(journal.take)
    client.disconnect()
    client.loop_stop()


def _publish_state(client: Client, device_id: str, in_force: tuple[str, float] | None) -> None:
    command_id, kw = in_force or (None, None)
    state = {"command_id": command_id, "setpoint_kw": kw, "status": "ok"}
    client.publish(f"vpp/v1/{device_id}/state", json.dumps(state), 1)
    reading = {
        "device_id": device_id,
        "measured_at": SystemClock().now().isoformat(),
        "power_kw": 0.0,
        "setpoint_kw": kw,
    }
    client.publish(f"vpp/v1/{device_id}/tele", json.dumps(reading), 1)


def _answer(take: Callable[[], str]) -> None:
    for _ in sys.stdin:
        _tell(take())


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "modbus":
        asyncio.run(serve_modbus(int(sys.argv[2]), int(sys.argv[3])))
    else:
        respond_mqtt(sys.argv[2])
