"""One connection to one broker, as an event loop sees it: what was sent, what came back.

Belongs here: matching acks, broker receipts, states and telemetry with those who wait for them.
Does not: connecting (`mqtt_client`), deciding what an answer means (`mqtt`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from vpp_pipeline.devices.mqtt_client import (
    BrokerUnreachable,
    Handlers,
    close_client,
    open_client,
    speaks_v5,
    split_topic,
    topic,
)
from vpp_pipeline.devices.wire import AckMessage, MalformedMessage, StateMessage, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from paho.mqtt.client import Client, MQTTMessage

_LISTENS_TO = ("ack", "state", "tele")


class Session:
    """A connection that opens at once and is of no use once `lost` tells why it ended.

    Everything here runs on the loop it was made on; the client's thread only posts to it.
    Futures of a lost session are cancelled.
    """

    def __init__(self, endpoint: str, client_id: str, timeout_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost = ""
        self.unknown_acks = 0
        self._client: Client | None = None
        self._acks: dict[tuple[str, str], asyncio.Future[AckMessage]] = {}
        self._receipts: dict[int, asyncio.Future[str]] = {}
        self._states: dict[str, bytes | bytearray] = {}
        self._offline: set[str] = set()
        self._telemetry: dict[str, asyncio.Future[bytes | bytearray | None]] = {}
        self._opening = self.loop.create_task(
            asyncio.to_thread(
                open_client,
                endpoint,
                client_id,
                [topic("+", kind) for kind in _LISTENS_TO],
                Handlers(self._on_message, on_published=self._on_published, on_lost=self._on_lost),
                timeout_s,
                reconnects=False,
            )
        )

    async def connected(self) -> None:
        """Wait until the connection stands. Raises `BrokerUnreachable`."""
        try:
            self._client = await asyncio.shield(self._opening)
        except BrokerUnreachable as error:
            self.lost = str(error)
            raise
        if self.lost:
            raise BrokerUnreachable(self.lost)

    def publish(
        self, device_id: str, kind: str, payload: str, expiry_s: int, correlation: str = ""
    ) -> asyncio.Future[str]:
        """Publish at QoS 1. The future is the broker's objection; empty when it had none.

        With MQTT 5 the broker drops the message after `expiry_s`, and an answer is asked for on
        the device's `ack` topic with `correlation`.
        """
        assert self._client is not None
        receipt: asyncio.Future[str] = self.loop.create_future()
        properties = None
        if speaks_v5(self._client):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = max(expiry_s, 1)
            if correlation:
                properties.ResponseTopic = topic(device_id, "ack")
                properties.CorrelationData = correlation.encode()
        sent = self._client.publish(topic(device_id, kind), payload, 1, properties=properties)
        if sent.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._receipts[sent.mid] = receipt
        else:
            receipt.set_result("the connection to the broker is down")
        return receipt

    def expect_ack(self, device_id: str, message_id: str) -> asyncio.Future[AckMessage]:
        """Return the device's answer to come; one future for all who wait for it."""
        return self._acks.setdefault((device_id, message_id), self.loop.create_future())

    def forget_ack(self, device_id: str, message_id: str) -> None:
        """Wait no longer: an ack that comes now is an unknown one."""
        self._acks.pop((device_id, message_id), None)

    def next_telemetry(self, device_id: str) -> asyncio.Future[bytes | bytearray | None]:
        """Return the device's next telemetry; None if it turns out to be offline."""
        return self._telemetry.setdefault(device_id, self.loop.create_future())

    def is_offline(self, device_id: str) -> bool:
        """Tell whether the device's state, or its last will, says that it is offline."""
        return device_id in self._offline

    def state(self, device_id: str) -> bytes | bytearray | None:
        """Return the device's last state as it came; None if it never published one."""
        return self._states.get(device_id)

    async def close(self) -> None:
        """Disconnect, also while connecting."""
        with suppress(BrokerUnreachable):
            await self.connected()
        if self._client is not None:
            await asyncio.to_thread(close_client, self._client)

    def abandon(self) -> None:
        """Disconnect from outside its loop, or after it was lost."""
        if self._client is not None:
            close_client(self._client)

    def _on_message(self, _client: Client, message: MQTTMessage) -> None:
        self._post(lambda: self._receive(message))

    def _on_published(self, mid: int, code: int, name: str) -> None:
        self._post(lambda: self._settle(mid, name if code else ""))

    def _on_lost(self, reason: str) -> None:
        self._post(lambda: self._end(f"the connection to the broker ended: {reason}"))

    def _post(self, step: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop was closed before the connection
            self.loop.call_soon_threadsafe(step)

    def _receive(self, message: MQTTMessage) -> None:
        device_id, kind = split_topic(message.topic)
        if kind == "ack":
            self._receive_ack(device_id, message.payload)
        elif kind == "state":
            self._receive_state(device_id, message.payload)
        elif not message.retain and (waiting := self._telemetry.pop(device_id, None)):
            waiting.set_result(message.payload)

    def _receive_ack(self, device_id: str, payload: bytes | bytearray) -> None:
        try:
            ack = parse(AckMessage, payload)
        except MalformedMessage:
            self.unknown_acks += 1
            return
        waiting = self._acks.get((device_id, ack.command_id))
        if waiting is None or waiting.done():
            self.unknown_acks += 1
        else:
            waiting.set_result(ack)

    def _receive_state(self, device_id: str, payload: bytes | bytearray) -> None:
        self._states[device_id] = payload
        self._offline.discard(device_id)
        with suppress(MalformedMessage):
            if parse(StateMessage, payload).status == "offline":
                self._offline.add(device_id)
                if waiting := self._telemetry.pop(device_id, None):
                    waiting.set_result(None)

    def _settle(self, mid: int, objection: str) -> None:
        if receipt := self._receipts.pop(mid, None):
            receipt.set_result(objection)

    def _end(self, reason: str) -> None:
        self.lost = reason
        waiting: list[asyncio.Future[Any]] = [
            *self._acks.values(),
            *self._receipts.values(),
            *self._telemetry.values(),
        ]
        for future in waiting:
            future.cancel()
        self._telemetry.clear()
        self._receipts.clear()
