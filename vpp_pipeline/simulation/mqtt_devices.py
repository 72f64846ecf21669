"""Simulated devices on an MQTT broker, all of them over one connection.

Belongs here: their topics and payloads, and their silence when they are dead. Does not: judging
commands (`command_queue`), the physics (`plant`), the broker (`broker`).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from vpp_pipeline.devices.mqtt_client import (
    Handlers,
    close_client,
    open_client,
    speaks_v5,
    split_topic,
    topic,
    unique_client_id,
)
from vpp_pipeline.devices.wire import (
    AckMessage,
    CommandMessage,
    MalformedMessage,
    Message,
    MessageId,
    ReleaseMessage,
    StateMessage,
    parse,
    telemetry_message,
)
from vpp_pipeline.simulation.command_queue import CommandQueue, SimulatedDevice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from paho.mqtt.client import Client, MQTTMessage

    from vpp_pipeline.devices.mqtt_client import BrokerAddress
    from vpp_pipeline.simulation.plant_protocol import Plant

_FAREWELL_S = 2.0
_OFFLINE = StateMessage(status="offline")


class _Named(Message):
    """What can still be answered of a message that is otherwise malformed."""

    command_id: MessageId


class MqttDevices:
    """The wire side of many devices; call `tick` after each step of the plant.

    A connection that many share has one last will at most, so that a device's `offline` is
    published for it: once when it dies, and for all at `stop`.
    """

    def __init__(self, devices: Sequence[SimulatedDevice], plant: Plant) -> None:
        self._ids = [device.device_id for device in devices]
        self._known = frozenset(self._ids)
        self._plant = plant
        self._queue = CommandQueue(devices, plant)
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._out: set[str] = set()
        self._published: dict[str, tuple[str, str | None, float | None]] = {}

    def start(self, broker: BrokerAddress, timeout_s: float = 60.0) -> None:
        """Connect to the broker and publish every state.

        Comes back by itself when the broker does. Raises `BrokerUnreachable`.
        """
        self._client = open_client(
            broker,
            unique_client_id("simulated-devices"),
            [topic("+", kind) for kind in ("cmd", "release", "get")],
            Handlers(self._on_message, on_connected=self._publish_all_states),
            timeout_s,
            reconnects=True,
        )

    def tick(self) -> None:
        """Begin and end what is due by the plant's clock, and tell of deaths and returns."""
        if self._client is None:
            return
        touched = self._queue.tick()
        out = {device_id for device_id in self._ids if self._plant.is_out(device_id)}
        touched |= out ^ self._out
        self._out = out
        for device_id in touched:
            self._publish_state(self._client, device_id)

    def publish_telemetry(self, device_ids: Iterable[str] | None = None) -> None:
        """Publish the measurements of these devices, or of all; dead ones keep silent."""
        if self._client is None:
            return
        for device_id in self._ids if device_ids is None else device_ids:
            if not self._plant.is_out(device_id):
                self._publish_reading(self._client, device_id, qos=0)

    def stop(self) -> None:
        """Say for every device that it is offline, and disconnect."""
        client, self._client = self._client, None
        if client is None:
            return
        farewells = [
            client.publish(topic(device_id, "state"), _OFFLINE.model_dump_json(), 1, retain=True)
            for device_id in self._ids
        ]
        if farewells and client.is_connected():
            farewells[-1].wait_for_publish(_FAREWELL_S)
        close_client(client)

    def state(self) -> dict[str, Any]:
        """Return the devices' memory of commands, as JSON values."""
        return self._queue.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved memory of commands; call it before `start`."""
        self._queue.restore(state)

    def _on_message(self, client: Client, message: MQTTMessage) -> None:
        device_id, kind = split_topic(message.topic)
        if message.retain or device_id not in self._known or self._plant.is_out(device_id):
            return  # a retained order has outlived its moment
        if kind == "get":
            self._publish_state(client, device_id)
            self._publish_reading(client, device_id, qos=1)
            return
        try:
            if kind == "cmd":
                ack = self._queue.offer(device_id, parse(CommandMessage, message.payload))
            else:
                ack = self._release(device_id, parse(ReleaseMessage, message.payload))
        except MalformedMessage as error:
            self._refuse_malformed(client, device_id, message.payload, str(error))
            return
        self._publish_ack(client, device_id, ack)
        self._publish_state(client, device_id)

    def _release(self, device_id: str, message: ReleaseMessage) -> AckMessage:
        self._queue.release(device_id)
        return AckMessage(command_id=message.command_id, accepted=True)

    def _refuse_malformed(
        self, client: Client, device_id: str, payload: bytes | bytearray, reason: str
    ) -> None:
        """Refuse what has at least an id; without one there is nobody to answer to."""
        with suppress(MalformedMessage):
            command_id = parse(_Named, payload).command_id
            ack = AckMessage(command_id=command_id, accepted=False, reason=reason)
            self._publish_ack(client, device_id, ack)

    def _publish_ack(self, client: Client, device_id: str, ack: AckMessage) -> None:
        properties = None
        if speaks_v5(client):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = ack.command_id.encode()
        client.publish(topic(device_id, "ack"), ack.model_dump_json(), 1, properties=properties)

    def _publish_reading(self, client: Client, device_id: str, qos: int) -> None:
        payload = telemetry_message(self._plant.reading(device_id)).model_dump_json()
        client.publish(topic(device_id, "tele"), payload, qos)

    def _publish_all_states(self, client: Client) -> None:
        self._published.clear()
        for device_id in self._ids:
            self._publish_state(client, device_id)

    def _publish_state(self, client: Client, device_id: str) -> None:
        """Publish the device's state, retained, if it differs from the one published last."""
        with self._lock:
            state = self._state(device_id)
            told = (state.status, state.command_id, state.setpoint_kw)
            if self._published.get(device_id) != told:
                client.publish(topic(device_id, "state"), state.model_dump_json(), 1, retain=True)
                self._published[device_id] = told

    def _state(self, device_id: str) -> StateMessage:
        if self._plant.is_out(device_id):
            return _OFFLINE
        in_force = self._plant.setpoint(device_id)
        return StateMessage(
            command_id=in_force.command_id if in_force else None,
            setpoint_kw=in_force.setpoint_kw if in_force else None,
            measured_at=self._plant.clock.now(),
            status="ok",
        )
