"""One connection to one broker, as an event loop sees it: what was sent, what came back.

Belongs here: matching acks, broker receipts, states and telemetry with those who wait for them,
and not sending faster than answers come. Does not: connecting (`mqtt_client`), deciding what an
answer means (`mqtt`).
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING

from paho.mqtt.enums import MQTTErrorCode

from vpp_pipeline.devices.mqtt_answers import Batch, Key, NotTaken, Order, Payload, Silence
from vpp_pipeline.devices.mqtt_client import (
    BrokerAddress,
    BrokerUnreachable,
    Handlers,
    PublishProperties,
    close_client,
    open_client,
    speaks_v5,
    split_topic,
    topic,
)
from vpp_pipeline.devices.mqtt_loop import DrivenClient
from vpp_pipeline.devices.wire import AckMessage, MalformedMessage, StateMessage, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from paho.mqtt.client import Client, MQTTMessage

_LISTENS_TO = ("ack", "state", "tele")
_CHUNK = 100
"""Messages published before the loop may do something else."""
_UNANSWERED_AT_MOST = 500
"""A broker drops what it can't queue for a gateway with many devices, and tells nobody: the least
queue in use holds 1,000 messages."""
_SILENT_S, _ANSWER_IS_DUE_S = 0.5, 2.0
"""Others are no longer held up by those asked before when none of them answers for so long, nor by
one that does not answer for so long."""
_LOOK_AGAIN_S = 0.005
_ASK_AGAIN_S = 1.0
"""First pause before a device is asked again: it may just be coming back."""
_FINAL_OBJECTIONS = frozenset({0x87, 0x90, 0x99})
"""Not authorized, topic name invalid, payload format invalid (MQTT 5, 3.4.2.1)."""


_Orders = Batch[tuple[str, str], AckMessage | NotTaken | Silence]
_Asks = Batch[str, Payload | Silence]


class Session:
    """A connection that opens at once and is of no use once `lost` tells why it ended.

    Everything here runs on the loop it was made on.
    """

    def __init__(self, broker: BrokerAddress, client_id: str, timeout_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost = ""
        self.heard = False
        """Whether the broker has passed on anything yet."""
        self.unknown_acks = 0
        self._client: Client | None = None
        self._orders: dict[tuple[str, str], list[_Orders]] = {}
        self._receipts: dict[int, tuple[_Orders, Order]] = {}
        self._asks: dict[str, list[_Asks]] = {}
        self._states: dict[str, Payload] = {}
        self._offline: set[str] = set()
        self._driven: DrivenClient | None = None
        self._opening = self.loop.create_task(
            asyncio.to_thread(
                open_client,
                broker,
                client_id,
                [topic("+", kind) for kind in _LISTENS_TO],
                Handlers(self._receive, on_published=self._receive_receipt, on_lost=self._end),
                timeout_s,
                reconnects=False,
                threaded=False,
            )
        )

    async def connected(self) -> None:
        """Wait until the connection stands. Raises `BrokerUnreachable`."""
        try:
            self._client = await asyncio.shield(self._opening)
        except BrokerUnreachable as error:
            self.lost = str(error)
            raise
        if self._driven is None:
            self._driven = DrivenClient(self._client)
        self._driven.read()
        if self.lost:
            raise BrokerUnreachable(self.lost)

    async def offer(
        self,
        orders: Sequence[Order],
        deadline: float,
        tell: Callable[[tuple[str, str], AckMessage | NotTaken | Silence], None],
    ) -> None:
        """Publish each order and tell what became of it by `deadline` (of the loop's clock)."""
        batch = _Orders((order.key for order in orders), tell)
        for order in orders:
            self._orders.setdefault(order.key, []).append(batch)
        recent: list[tuple[float, tuple[str, str]]] = []
        try:
            for first in range(0, len(orders), _CHUNK):
                for order in orders[first : first + _CHUNK]:
                    self._publish_order(order, batch, deadline)
                    recent.append((self.loop.time(), order.key))
                recent = await self._let_answers_come(recent, batch.open, deadline)
            await batch.wait(deadline - self.loop.time())
        finally:
            for key in batch.open:
                self._forget(key, batch)
        why = self.lost or "published, but the device did not acknowledge in time"
        for key in batch.open:
            tell(key, Silence(why))

    async def ask(
        self,
        device_ids: Iterable[str],
        deadline: float,
        tell: Callable[[str, Payload | Silence], None],
    ) -> None:
        """Ask each device for telemetry and tell the first that comes after that.

        A device publishes its state before it answers, so that `state` is as new.
        """
        batch = _Asks(device_ids, tell)
        for device_id in batch.open:
            self._asks.setdefault(device_id, []).append(batch)
        patience_s = _ASK_AGAIN_S
        try:
            while batch.open and not self.lost and self.loop.time() < deadline:
                await self._ask_once(sorted(batch.open), batch, deadline)
                await batch.wait(min(patience_s, deadline - self.loop.time()))
                patience_s *= 2
        finally:
            for device_id in batch.open:
                if batch in self._asks.get(device_id, ()):
                    self._asks[device_id].remove(batch)
        why = self.lost or "no telemetry came in time; see its power and network"
        for device_id in batch.open:
            tell(device_id, Silence(why))

    def state(self, device_id: str) -> Payload | None:
        """Return the device's last state as it came; None if it never published one."""
        return self._states.get(device_id)

    async def close(self) -> None:
        """Disconnect, also while connecting."""
        with suppress(BrokerUnreachable):
            await self.connected()
        self.abandon()

    def abandon(self) -> None:
        """Disconnect, also after the loop has ended or the connection was lost."""
        if self._driven is not None:
            self._driven.stop()
        if self._client is not None:
            close_client(self._client)

    def _publish_order(self, order: Order, batch: _Orders, deadline: float) -> None:
        """With MQTT 5 the broker drops it after `expiry_s`, and tells its objection."""
        if self.lost or self.loop.time() >= deadline:
            self._settle(batch, order, NotTaken(self.lost or "there was no time to send it"))
            return
        mid = self._publish(order.device_id, order.kind, order.payload, order.expiry_s, order)
        if mid is None:
            self._settle(batch, order, NotTaken("the connection to the broker is down"))
        else:
            self._receipts[mid] = batch, order

    async def _ask_once(self, device_ids: Sequence[str], batch: _Asks, deadline: float) -> None:
        recent: list[tuple[float, str]] = []
        for first in range(0, len(device_ids), _CHUNK):
            for device_id in device_ids[first : first + _CHUNK]:
                if device_id in self._offline:
                    self._receive_offline(device_id)
                else:
                    expiry_s = math.ceil(deadline - self.loop.time())
                    self._publish(device_id, "get", "{}", expiry_s, None)
                    recent.append((self.loop.time(), device_id))
            recent = await self._let_answers_come(recent, batch.open, deadline)

    def _publish(
        self, device_id: str, kind: str, payload: str, expiry_s: int, order: Order | None
    ) -> int | None:
        """Publish at QoS 1, never retained; return the packet's id, None if it can't be sent."""
        assert self._client is not None
        properties = None
        if speaks_v5(self._client):
            answer = (topic(device_id, "ack"), order.order_id) if order else None
            properties = PublishProperties(expiry_s, answer)
        sent = self._client.publish(topic(device_id, kind), payload, 1, properties=properties)
        return sent.mid if sent.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    async def _let_answers_come(
        self, recent: list[tuple[float, Key]], unanswered: set[Key], deadline: float
    ) -> list[tuple[float, Key]]:
        """Return who was asked just now and has not answered, once they are few enough."""
        await asyncio.sleep(0)
        heard_at = self.loop.time()
        while True:
            now = self.loop.time()
            left = [
                (at, key) for at, key in recent if key in unanswered and at > now - _ANSWER_IS_DUE_S
            ]
            if len(left) < len(recent):
                heard_at = now
            if len(left) <= _UNANSWERED_AT_MOST or self.lost or now >= deadline:
                return left
            if now >= heard_at + _SILENT_S:
                return []
            recent = left
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _receive(self, _client: Client, message: MQTTMessage) -> None:
        self.heard = True
        device_id, kind = split_topic(message.topic)
        if kind == "ack":
            self._receive_ack(device_id, message.payload)
        elif kind == "state":
            self._receive_state(device_id, message.payload)
        elif not message.retain:
            for batch in self._asks.pop(device_id, ()):
                batch.settle(device_id, message.payload)

    def _receive_ack(self, device_id: str, payload: Payload) -> None:
        try:
            ack = parse(AckMessage, payload)
        except MalformedMessage:
            self.unknown_acks += 1
            return
        batches = self._orders.pop((device_id, ack.command_id), None)
        if batches is None:
            self.unknown_acks += 1
            return
        for batch in batches:
            batch.settle((device_id, ack.command_id), ack)

    def _receive_state(self, device_id: str, payload: Payload) -> None:
        self._states[device_id] = payload
        self._offline.discard(device_id)
        with suppress(MalformedMessage):
            if parse(StateMessage, payload).status == "offline":
                self._offline.add(device_id)
                self._receive_offline(device_id)

    def _receive_offline(self, device_id: str) -> None:
        for batch in self._asks.pop(device_id, ()):
            batch.settle(device_id, Silence("it is offline by its own last will; see its power"))

    def _receive_receipt(self, mid: int, code: int, name: str) -> None:
        self.heard = True
        waiting = self._receipts.pop(mid, None)
        if waiting is None:
            return
        batch, order = waiting
        if code:
            final = code in _FINAL_OBJECTIONS
            remedy = "see what our credentials may do" if final else "see the device's connection"
            self._settle(batch, order, NotTaken(f"{name}; {remedy}", sent=True, final=final))
        elif order.device_id in self._offline:
            why = "published, but the device's last will says it is offline"
            self._settle(batch, order, Silence(why))

    def _settle(self, batch: _Orders, order: Order, answer: NotTaken | Silence) -> None:
        if batch.settle(order.key, answer):
            self._forget(order.key, batch)

    def _forget(self, key: tuple[str, str], batch: _Orders) -> None:
        """An ack that comes now is an unknown one, unless another call waits for it."""
        left = [other for other in self._orders.pop(key, ()) if other is not batch]
        if left:
            self._orders[key] = left

    def _end(self, reason: str) -> None:
        self.lost = self.lost or f"the connection to the broker ended: {reason}"
        for orders in self._orders.values():
            for batch in orders:
                batch.end()
        for asks in self._asks.values():
            for asked in asks:
                asked.end()
