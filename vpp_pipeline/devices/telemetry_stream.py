"""The telemetry of all devices on a broker, as it comes, for a resident collector.

Belongs here: subscribing, parsing, handing over in batches. Does not: storing or judging it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vpp_pipeline.devices.mqtt_client import (
    Handlers,
    close_client,
    open_client,
    split_topic,
    topic,
    unique_client_id,
)
from vpp_pipeline.devices.wire import MalformedMessage, parse_reading

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

    from vpp_pipeline.devices.mqtt_client import BrokerAddress
    from vpp_pipeline.devices.protocol import Reading


@dataclass(frozen=True)
class RejectedMessage:
    """A message that is no telemetry, as it came, and why it was refused."""

    device_id: str
    payload: str
    reason: str


@dataclass(frozen=True)
class TelemetryBatch:
    """What came since the last drain, in the order it came."""

    readings: list[Reading]
    rejects: list[RejectedMessage]


class TelemetryStream:
    """Listens to `vpp/v1/+/tele` from `open` to `close`, and comes back when the broker does."""

    def __init__(self, broker: BrokerAddress, owner: str) -> None:
        self._broker = broker
        self._owner = owner
        self._client: Client | None = None
        self._messages: deque[MQTTMessage] = deque()

    def open(self, timeout_s: float) -> None:
        """Connect and subscribe. Raises `BrokerUnreachable`; then it may be tried again."""
        self._client = open_client(
            self._broker,
            unique_client_id(self._owner),
            [topic("+", "tele")],
            Handlers(lambda _client, message: self._messages.append(message)),
            timeout_s,
            reconnects=True,
        )

    def is_connected(self) -> bool:
        """Tell whether the broker is there now; while it is not, nothing comes."""
        return self._client is not None and self._client.is_connected()

    def drain(self) -> TelemetryBatch:
        """Return what came since the last call, from any thread."""
        batch = TelemetryBatch([], [])
        for _ in range(len(self._messages)):
            try:
                message = self._messages.popleft()
            except IndexError:  # another thread drains too
                break
            device_id, _kind = split_topic(message.topic)
            try:
                batch.readings.append(parse_reading(device_id, message.payload))
            except MalformedMessage as error:
                raw = message.payload.decode(errors="backslashreplace")
                batch.rejects.append(RejectedMessage(device_id, raw, str(error)))
        return batch

    def close(self) -> None:
        """Disconnect; what has not been drained can still be."""
        if self._client is not None:
            close_client(self._client)
            self._client = None
