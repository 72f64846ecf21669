"""The bare libraries, as a program of one's own would use them at their best.

Belongs here: pymodbus and paho without ledger, guard, leases or doubts. Does not: the devices
(`dispatch_devices`), our side (`dispatch`).
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pymodbus.client import AsyncModbusTcpClient

if TYPE_CHECKING:
    from collections.abc import Mapping


_TIMER_S = 1200
_UNANSWERED_AT_MOST = 1000


class BareModbus:
    """One pymodbus client a device, connected once, all asked side by side."""

    def __init__(self, links: Mapping[str, tuple[str, int]], address: int) -> None:
        """`address` is that of the first register, `WSetEna`: nothing is discovered here."""
        self._address = address
        self._units = {device_id: unit_id for device_id, (_, unit_id) in links.items()}
        self._clients: dict[str, AsyncModbusTcpClient] = {}
        for device_id, (endpoint, _) in links.items():
            host, _, port = endpoint.rpartition(":")
            self._clients[device_id] = AsyncModbusTcpClient(
                host, port=int(port), timeout=5, retries=0, reconnect_delay=0
            )

    async def connect(self) -> None:
        """Connect to all devices."""
        await asyncio.gather(*(client.connect() for client in self._clients.values()))

    async def command(
        self, setpoints_kw: Mapping[str, float], look: tuple[int, int] | None = None
    ) -> None:
        """Write each set-point with its timer as one frame and read it back.

        With a `look` (address, count) these registers are read first, as who does not trust his
        memory of scale factors and local control must.
        """
        await asyncio.gather(*(self._one(*entry, look) for entry in setpoints_kw.items()))

    async def _one(self, device_id: str, kw: float, look: tuple[int, int] | None) -> None:
        client, unit_id = self._clients[device_id], self._units[device_id]
        frame = _frame(kw)
        if look:
            address, count = look
            seen = await client.read_holding_registers(address, count=count, device_id=unit_id)
            if seen.isError():
                raise RuntimeError(f"{device_id} does not tell its registers")
        written = await client.write_registers(self._address, frame, device_id=unit_id)
        back = await client.read_holding_registers(
            self._address, count=len(frame), device_id=unit_id
        )
        if written.isError() or back.registers[:4] != frame[:4]:
            raise RuntimeError(f"{device_id} did not take {kw} kW")

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()


def _frame(kw: float) -> list[int]:
    """`WSetEna … WSetRvrtTms` of model 704, in watts."""
    words = struct.pack("!HHiihhHI", 1, 1, round(kw * 1000), 0, 0, 0, 0, _TIMER_S)
    return list(struct.unpack(f"!{len(words) // 2}H", words))


class BareMqtt:
    """One paho client with its thread; commands go out, acks are counted."""

    def __init__(self, endpoint: str) -> None:
        self._open: set[str] = set()
        self._some = threading.Condition()
        ready = threading.Event()
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id="bare", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.on_socket_open = _send_at_once
        self._client.on_message = self._receive
        self._client.on_subscribe = lambda *_: ready.set()
        host, _, port = endpoint.rpartition(":")
        self._client.connect(host, int(port))
        self._client.subscribe("vpp/v1/+/ack", 1)
        self._client.loop_start()
        if not ready.wait(10):
            raise RuntimeError(f"no subscription at {endpoint}")

    def command(self, setpoints_kw: Mapping[str, float], run: str, *, whole: bool) -> None:
        """Publish each command at QoS 1 and wait for its device's ack.

        A `whole` one has the properties that make a late or lost one harmless.
        """
        for device_id, kw in setpoints_kw.items():
            command_id = f"{device_id}.bare.{run}"
            payload = {
                "command_id": command_id,
                "plan_version": 1,
                "sequence": 1,
                "power_kw": kw,
                "valid_from": "2026-03-01T10:00:00Z",
                "valid_until": "2026-03-01T10:20:00Z",
            }
            with self._some:
                self._some.wait_for(lambda: len(self._open) < _UNANSWERED_AT_MOST, 30)
                self._open.add(command_id)
            properties = _properties(device_id, command_id) if whole else None
            self._client.publish(
                f"vpp/v1/{device_id}/cmd", json.dumps(payload), 1, properties=properties
            )
        with self._some:
            if not self._some.wait_for(lambda: not self._open, 30):
                raise RuntimeError(f"{len(self._open)} commands without an ack")

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _receive(self, _client: Client, _userdata: Any, message: Any) -> None:
        ack = json.loads(message.payload)
        with self._some:
            self._open.discard(ack["command_id"])
            self._some.notify()


def _properties(device_id: str, command_id: str) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = _TIMER_S
    properties.ResponseTopic = f"vpp/v1/{device_id}/ack"
    properties.CorrelationData = command_id.encode()
    return properties


def _send_at_once(_client: Client, _userdata: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
