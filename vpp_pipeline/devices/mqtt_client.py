"""A connected MQTT client, whatever version the broker speaks, and the names of our topics.

Belongs here: connecting as whom, encrypted or not, subscribing, falling back from MQTT 5 to
3.1.1. Does not: what comes in (`mqtt_session`), what messages mean (`mqtt`).

    vpp/v1/<device>/cmd       set-points, QoS 1, never retained
    vpp/v1/<device>/release   back to the default, QoS 1, never retained
    vpp/v1/<device>/get       asks for state and telemetry at once
    vpp/v1/<device>/ack       the device's yes or no to a command or release
    vpp/v1/<device>/state     the set-point it obeys, retained; its last will says offline
    vpp/v1/<device>/tele      what it measures
"""

from __future__ import annotations

import secrets
import select
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties, VariableByteIntegers

from vpp_pipeline.credentials import CredentialError
from vpp_pipeline.devices import tls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vpp_pipeline.credentials import Credential

_KEEPALIVE_S = 30
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1, 60
_STANDS_FIRM_S = 30.0
"""A connection that ends earlier makes the pause before the next one longer."""

_VERSION_REFUSED = "Unsupported protocol version"
_TAKEN_OVER = "Session taken over"
_ACCESS_REFUSED = frozenset(
    {"Bad user name or password", "Not authorized", "Banned", "Client identifier not valid"}
)


class BrokerUnreachable(ConnectionError):  # noqa: N818 - reads as what happened
    """No session with the broker; the text names the broker, the cause and the remedy."""


class BrokerRefused(BrokerUnreachable):
    """The broker does not let us in, or we don't trust it: trying again won't help."""


class _VersionRefused(Exception):  # noqa: N818 - an answer, handled here
    pass


class _Refused(Exception):  # noqa: N818 - an answer, handled here
    pass


@dataclass(frozen=True)
class BrokerAddress:
    """Where a broker is, and as whom we come; `credential` is None where it lets in anybody."""

    endpoint: str  # host:port
    tls: bool = False
    credential: Credential | None = None


@dataclass(frozen=True)
class Handlers:
    """What a client calls, on its thread if it has one. None of them may raise or block."""

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
    return f"vpp-{owner}-{secrets.token_hex(6)}"


def open_client(
    broker: BrokerAddress,
    client_id: str,
    topics: Sequence[str],
    handlers: Handlers,
    timeout_s: float,
    *,
    reconnects: bool,
    threaded: bool = True,
) -> Client:
    """Connect to `broker`, subscribe to `topics` at QoS 1 and return the client.

    MQTT 5 first, 3.1.1 where the broker refuses it. With `reconnects` the client comes back by
    itself, after ever longer pauses where it does not last, and its subscriptions with it. It has
    a thread of its own unless it is not `threaded`: then the caller drives it. Blocks for up to `timeout_s`; raises `BrokerRefused` where another attempt won't help, else
    `BrokerUnreachable`.
    """
    connecting = _Connecting(
        broker, client_id, topics, handlers, reconnects=reconnects, threaded=threaded
    )
    prefix = f"no connection to the MQTT broker {broker.endpoint}:"
    try:
        return connecting.client(time.monotonic() + timeout_s)
    except (CredentialError, _Refused) as error:
        raise BrokerRefused(f"{prefix} {error}") from error
    except (OSError, ValueError, _VersionRefused) as error:
        raise BrokerUnreachable(
            f"{prefix} {error}; check that it runs there and lets this client in"
        ) from error


def speaks_v5(client: Client) -> bool:
    """Tell whether the client settled on MQTT 5 and so may use its properties."""
    return client.protocol == MQTTProtocolVersion.MQTTv5


def has_pending(sock: Any) -> bool:
    """Tell whether a socket has decrypted what no poll will show."""
    return bool(sock.pending()) if isinstance(sock, ssl.SSLSocket) else False


def close_client(client: Client) -> None:
    """Say good-bye to the broker and end the client's thread."""
    client.disconnect()
    client.loop_stop()


class PublishProperties(Properties):
    """The properties of an order or question, packed at once.

    The library's own are slow to make and to pack, and took most of the time of a publication;
    of them all it asks a publication's only for `pack`.
    """

    def __init__(self, expiry_s: int, answer: tuple[str, str] | None) -> None:
        packed = struct.pack("!BI", 2, max(expiry_s, 1))  # MessageExpiryInterval
        if answer:
            response_topic, correlation = answer[0].encode(), answer[1].encode()
            packed += struct.pack("!BH", 8, len(response_topic)) + response_topic
            packed += struct.pack("!BH", 9, len(correlation)) + correlation
        length: bytes = VariableByteIntegers.encode(len(packed))  # type: ignore[no-untyped-call]
        object.__setattr__(self, "_packed", length + packed)  # the library takes only known names

    def pack(self) -> bytes:
        """Return the properties with their length before them (MQTT 5, 2.2.2)."""
        packed: bytes = object.__getattribute__(self, "_packed")
        return packed


class _Connecting:
    """What happens until a subscription is granted, after a loss, and on the way back."""

    def __init__(
        self,
        broker: BrokerAddress,
        client_id: str,
        topics: Sequence[str],
        handlers: Handlers,
        *,
        reconnects: bool,
        threaded: bool,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._topics = topics
        self._handlers = handlers
        self._reconnects = reconnects
        self._threaded = threaded
        self._context: ssl.SSLContext | None = None
        self._ready = threading.Event()
        self._failure = ""
        self._stands_since_s: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    def client(self, deadline: float) -> Client:
        """Return a connected client.

        Raises OSError, `CredentialError`, `_VersionRefused`, and `_Refused` for what will not be
        better the next time.
        """
        if self._broker.tls:
            self._context = tls.client_context(self._broker.credential)
        self._check_certificates(deadline, listen=False)
        try:
            try:
                return self._attempt(MQTTProtocolVersion.MQTTv5, deadline)
            except _VersionRefused:
                return self._attempt(MQTTProtocolVersion.MQTTv311, deadline)
        except ConnectionError:
            self._check_certificates(deadline, listen=True)
            raise

    def _check_certificates(self, deadline: float, *, listen: bool) -> None:
        """The MQTT library would tell no more of a failed handshake than that the line is dead."""
        if self._context is None:
            return
        host, port = self._where()
        words = tls.objection(host, port, self._context, _left_s(deadline), listen=listen)
        if words:
            raise _Refused(words)

    def _attempt(self, version: MQTTProtocolVersion, deadline: float) -> Client:
        self._ready.clear()
        self._failure = ""
        client = self._new_client(version)
        client.connect_timeout = _left_s(deadline)
        client.connect(*self._where(), _KEEPALIVE_S)
        if self._threaded:
            client.loop_start()
            self._ready.wait(_left_s(deadline))
        else:
            self._drive(client, deadline)
        failure = self._failure if self._ready.is_set() else "it did not answer in time"
        if not failure:
            return client
        close_client(client)
        if failure == _VERSION_REFUSED:
            raise _VersionRefused(failure)
        if failure in _ACCESS_REFUSED:
            known = self._broker.credential
            whom = f"credentials {known.name!r}" if known else "nobody"
            raise _Refused(
                f"{failure} as {whom}; see the registry's `credentials`, and the password"
            )
        raise ConnectionError(failure)

    def _drive(self, client: Client, deadline: float) -> None:
        """Do what the socket is ready for until the connection stands or has failed."""
        while not self._ready.is_set() and (sock := client.socket()):
            if client.want_write():
                client.loop_write()
            if not has_pending(sock):
                answer = select.poll()
                answer.register(sock, select.POLLIN)
                if not answer.poll(1000 * _left_s(deadline)):
                    return
            client.loop_read()

    def _where(self) -> tuple[str, int]:
        host, _, port = self._broker.endpoint.rpartition(":")
        return host, int(port)

    def _new_client(self, version: MQTTProtocolVersion) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=version,
            reconnect_on_failure=self._reconnects,
        )
        if self._context:
            client.tls_set_context(self._context)
        credential = self._broker.credential
        if credential and credential.user is not None:
            password = credential.password
            client.username_pw_set(
                credential.user, password.get_secret_value() if password else None
            )
        client.reconnect_delay_set(self._pause_s, _LONGEST_PAUSE_S)
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_connect
        client.on_subscribe = lambda client, *_: self._stand(client)
        client.on_disconnect = self._on_disconnect
        on_message, on_published = self._handlers.on_message, self._handlers.on_published
        client.on_message = lambda client, _userdata, message: on_message(client, message)
        client.on_publish = lambda _client, _userdata, mid, reason, _properties: on_published(
            mid, reason.value, "" if reason.value == 0 else str(reason)
        )
        return client

    def _on_connect(
        self, client: Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._fail(str(reason))
        elif self._topics:
            client.subscribe([(name, 1) for name in self._topics])
        else:
            self._stand(client)

    def _on_disconnect(
        self, client: Client, _userdata: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if not self._ready.is_set() or self._failure:
            self._fail(f"the connection ended: {reason}")
            return
        if self._stands_since_s is None:
            return  # the library tells of a loss that the broker announced twice
        if time.monotonic() - self._stands_since_s >= _STANDS_FIRM_S:
            self._pause_s = _FIRST_PAUSE_S
        self._stands_since_s = None
        client.reconnect_delay_set(self._pause_s, _LONGEST_PAUSE_S)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        why = f"{reason}; see the broker's log for client id {self._client_id}"
        if str(reason) == _TAKEN_OVER:  # not every broker says so
            why += ", which another client took; see who else uses our credentials"
        self._handlers.on_lost(why)

    def _stand(self, client: Client) -> None:
        self._stands_since_s = time.monotonic()
        self._ready.set()
        self._handlers.on_connected(client)

    def _fail(self, reason: str) -> None:
        if not self._ready.is_set():
            self._failure = reason
            self._ready.set()


def _left_s(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.01)


def _send_at_once(_client: Client, _userdata: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
