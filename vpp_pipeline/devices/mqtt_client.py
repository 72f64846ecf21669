"""A connected MQTT client, whatever version the broker speaks, and the names of our topics.

Belongs here: connecting, subscribing, falling back from MQTT 5 to 3.1.1. Does not: what comes
in (`mqtt_session`), what messages mean (`mqtt`).

    vpp/v1/<device>/cmd       set-points, QoS 1, never retained
    vpp/v1/<device>/release   back to the default, QoS 1, never retained
    vpp/v1/<device>/get       asks for state and telemetry at once
    vpp/v1/<device>/ack       the device's yes or no to a command or release
    vpp/v1/<device>/state     the set-point it obeys, retained; its last will says offline
    vpp/v1/<device>/tele      what it measures
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_KEEPALIVE_S = 30
_numbers = itertools.count(1)
_VERSION_REFUSED = "Unsupported protocol version"


class BrokerUnreachable(ConnectionError):  # noqa: N818 - reads as what happened
    """No session with the broker; the text names the broker, the cause and the remedy."""


class _VersionRefused(Exception):  # noqa: N818 - an answer, handled here
    pass


@dataclass(frozen=True)
class Handlers:
    """What a client's thread calls. None of them may raise or block."""

    on_message: Callable[[Client, MQTTMessage], None]
    on_connected: Callable[[Client], None] = lambda _client: None
    """Subscriptions stand, for the first time or again."""
    on_published: Callable[[int, int, str], None] = lambda _mid, _code, _name: None
    """Packet id, reason code and its name (MQTT 3.1.1 knows only 0, Success)."""
    on_lost: Callable[[str], None] = lambda _reason: None


def topic(device_id: str, kind: str) -> str:
    """Return the topic of one kind of message; device `+` stands for all of them."""
    return f"vpp/v1/{device_id}/{kind}"


def split_topic(name: str) -> tuple[str, str]:
    """Return device and kind of one of our topics."""
    _, _, device_id, kind = name.split("/")
    return device_id, kind


def unique_client_id(owner: str) -> str:
    """Return a client id that names its owner; a broker throws out the older of two alike."""
    return f"vpp-{owner}-{os.getpid()}-{next(_numbers)}"


def open_client(
    endpoint: str,
    client_id: str,
    topics: Sequence[str],
    handlers: Handlers,
    timeout_s: float,
    *,
    reconnects: bool,
) -> Client:
    """Connect to `endpoint` (host:port), subscribe to `topics` at QoS 1 and return the client.

    MQTT 5 first, 3.1.1 where the broker refuses it. With `reconnects` the client comes back by
    itself, and its subscriptions with it. Blocks for up to `timeout_s`; raises
    `BrokerUnreachable`.
    """
    deadline = time.monotonic() + timeout_s
    attempt = partial(
        _open,
        endpoint=endpoint,
        client_id=client_id,
        topics=topics,
        handlers=handlers,
        deadline=deadline,
        reconnects=reconnects,
    )
    try:
        try:
            return attempt(MQTTProtocolVersion.MQTTv5)
        except _VersionRefused:
            return attempt(MQTTProtocolVersion.MQTTv311)
    except (OSError, ValueError, _VersionRefused) as error:
        raise BrokerUnreachable(
            f"no connection to the MQTT broker {endpoint}: {error};"
            " check that it runs there and lets this client in"
        ) from error


def speaks_v5(client: Client) -> bool:
    """Tell whether the client settled on MQTT 5 and so may use its properties."""
    return client.protocol == MQTTProtocolVersion.MQTTv5


def close_client(client: Client) -> None:
    """Say good-bye to the broker and end the client's thread."""
    client.disconnect()
    client.loop_stop()


class _Connecting:
    """What happens between a TCP connection and a granted subscription, and after a loss."""

    def __init__(self, topics: Sequence[str], handlers: Handlers) -> None:
        self.ready = threading.Event()
        self.failure = ""
        self._topics = topics
        self._handlers = handlers

    def on_connect(
        self, client: Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._fail(str(reason))
        elif self._topics:
            client.subscribe([(name, 1) for name in self._topics])
        else:
            self._stand(client)

    def on_subscribe(self, client: Client, *_: Any) -> None:
        self._stand(client)

    def on_disconnect(
        self, _client: Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if self.ready.is_set() and not self.failure:
            self._handlers.on_lost(str(reason))
        else:
            self._fail(f"the connection ended: {reason}")

    def _stand(self, client: Client) -> None:
        self.ready.set()
        self._handlers.on_connected(client)

    def _fail(self, reason: str) -> None:
        if not self.ready.is_set():
            self.failure = reason
            self.ready.set()


def _open(
    version: MQTTProtocolVersion,
    *,
    endpoint: str,
    client_id: str,
    topics: Sequence[str],
    handlers: Handlers,
    deadline: float,
    reconnects: bool,
) -> Client:
    connecting = _Connecting(topics, handlers)
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=version,
        reconnect_on_failure=reconnects,
    )
    client.on_socket_open = _send_at_once
    client.on_connect = connecting.on_connect
    client.on_subscribe = connecting.on_subscribe
    client.on_disconnect = connecting.on_disconnect
    client.on_message = lambda client, _userdata, message: handlers.on_message(client, message)
    client.on_publish = lambda _client, _userdata, mid, reason, _properties: handlers.on_published(
        mid, reason.value, str(reason)
    )
    client.connect_timeout = max(deadline - time.monotonic(), 0.01)
    client.reconnect_delay_set(min_delay=1, max_delay=10)
    host, _, port = endpoint.rpartition(":")
    client.connect(host, int(port), _KEEPALIVE_S)
    client.loop_start()
    answered = connecting.ready.wait(max(deadline - time.monotonic(), 0))
    failure = connecting.failure if answered else "it did not answer in time"
    if not failure:
        return client
    close_client(client)
    if failure == _VERSION_REFUSED:
        raise _VersionRefused(failure)
    raise ConnectionError(failure)


def _send_at_once(_client: Client, _userdata: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
