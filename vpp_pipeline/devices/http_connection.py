"""Connections to HTTP devices: only to addresses the registry stands for, and to be cut at will.

Belongs here: resolving and checking addresses, sockets, TLS, sessions. Does not: deadlines and
retries (`http_exchange`), what an answer means (`http`).

A host that is written as an address is connected to, whatever address it is: the registry names
it. A host name is resolved when it is connected to, and only public addresses are taken, so that
no name server can lead a request, or a token, into the plant's own network or to a cloud's
metadata service. The connection goes to the very address that was checked.
"""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util.connection import create_connection

from vpp_pipeline.devices.tls import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from vpp_pipeline.credentials import Credential

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits


class NotConnected(Exception):  # noqa: N818 - names what is known
    """No connection came about and nothing was sent; the text says why, after the host's name."""


class Line:
    """What one request holds of the network, so that another thread can cut it off.

    A peer that sends a byte now and then keeps every socket time-out from passing.
    """

    def __init__(self) -> None:
        self.connected = False
        self._socket: socket.socket | None = None
        self._cut = False
        self._lock = threading.Lock()

    def hold(self, sock: socket.socket) -> None:
        """Remember the socket in use; cut it at once if the line was cut before."""
        with self._lock:
            self._socket = sock
            if self._cut:
                _shut_down(sock)

    def let_go(self) -> None:
        """Forget the socket: its request is over, and it may serve the next one."""
        with self._lock:
            self._socket = None

    def cut(self) -> None:
        """End whatever the request waits for."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                _shut_down(self._socket)


_current = threading.local()


@contextmanager
def on_line(line: Line) -> Iterator[None]:
    """Let the requests that this thread makes meanwhile be held by `line`."""
    _current.line = line
    try:
        yield
    finally:
        line.let_go()
        _current.line = None


def addresses_to_call(host: str, port: int) -> list[str]:
    """Return the addresses of `host` that may be connected to. Raises `NotConnected`."""
    try:
        return [str(ip_address(host))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotConnected(f"is a name without an address ({error}); mend the registry") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = [address for address in addresses if is_public(address)]
    if not allowed:
        raise NotConnected(
            f"stands for {', '.join(addresses)}, which is not public: if that is meant, write the"
            " address itself in the registry"
        )
    return allowed


def is_public(address: str) -> bool:
    """Tell whether an address, or the IPv4 address within it, is on the public internet."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        parsed = _embedded(parsed) or parsed
    return parsed.is_global and not parsed.is_multicast


def new_session(credential: Credential | None, connections: int) -> requests.Session:
    """Return a session for one host: no proxy, credentials or CA out of the environment."""
    session = requests.Session()
    session.trust_env = False
    if credential and credential.ca_file:
        session.verify = str(credential.ca_file)
    if credential and credential.cert_file:
        cert = str(credential.cert_file)
        session.cert = (cert, str(credential.key_file)) if credential.key_file else cert
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=connections)
    adapter.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connect(self)

    def connect(self) -> None:
        super().connect()
        _current.line.connected = True

    def request(self, *args: Any, **kwargs: Any) -> None:
        _hold_again(self)
        super().request(*args, **kwargs)


class _TlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connect(self)

    def connect(self) -> None:
        try:
            super().connect()
        except (OSError, HTTPError) as error:
            raise NotConnected(
                f"gave no TLS connection: {in_words(str(error)) or error}"
            ) from error
        _current.line.connected = True

    def request(self, *args: Any, **kwargs: Any) -> None:
        _hold_again(self)
        super().request(*args, **kwargs)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _connect(connection: HTTPConnection) -> socket.socket:
    refused: OSError | None = None
    for address in addresses_to_call(connection.host, connection.port):
        try:
            sock = create_connection(
                (address, connection.port),
                connection.timeout,
                socket_options=connection.socket_options,
            )
        except OSError as error:
            refused = error
        else:
            _current.line.hold(sock)
            return sock
    if isinstance(refused, TimeoutError):
        raise NotConnected("took no connection; see its power and network") from refused
    raise NotConnected(f"refused the connection ({refused}); see that it runs") from refused


def _hold_again(connection: HTTPConnection) -> None:
    """Note a connection that an earlier request left open."""
    if connection.sock is not None:
        _current.line.hold(connection.sock)
        _current.line.connected = True


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour


def _shut_down(sock: socket.socket) -> None:
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of the TCP socket, also below TLS
    except OSError:
        return  # it is closed already
