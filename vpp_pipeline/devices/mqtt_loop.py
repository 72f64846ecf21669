"""A connected MQTT client that an event loop drives, in place of a thread of its own.

Belongs here: waking the client for what its socket is ready for, and for keeping alive. Does not:
connecting (`mqtt_client`), anything of what is sent or received.

Two threads that hand each other every message took twice as long for it as one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from vpp_pipeline.devices.mqtt_client import has_pending

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_EVERY_S = 1.0


class DrivenClient:
    """Drives `client` on the running loop from now on, until `stop` or the loss of its socket."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop = loop = asyncio.get_running_loop()
        client.on_socket_close = lambda _client, _userdata, sock: _forget(loop, sock.fileno())
        client.on_socket_register_write = lambda _client, _userdata, sock: loop.add_writer(
            sock.fileno(), client.loop_write
        )
        client.on_socket_unregister_write = self._stop_writing
        self._keeping_alive = loop.call_soon(self._keep_alive)
        if sock := client.socket():
            loop.add_reader(sock.fileno(), self.read)
            if client.want_write():
                loop.add_writer(sock.fileno(), client.loop_write)

    def read(self) -> None:
        """Take in what has come, also the end of the connection while the loop stood still."""
        self._client.loop_read()
        while has_pending(self._client.socket()):
            self._client.loop_read()

    def stop(self) -> None:
        """Leave the client to be closed, on this loop or after its end."""
        self._keeping_alive.cancel()
        self._client.on_socket_close = None
        self._client.on_socket_register_write = None
        self._client.on_socket_unregister_write = None
        if sock := self._client.socket():
            _forget(self._loop, sock.fileno())

    def _stop_writing(self, _client: Client, _userdata: Any, sock: Any) -> None:
        self._loop.remove_writer(sock.fileno())

    def _keep_alive(self) -> None:
        self._client.loop_misc()
        if self._client.socket():
            self._keeping_alive = self._loop.call_later(_EVERY_S, self._keep_alive)


def _forget(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    loop.remove_reader(descriptor)
    loop.remove_writer(descriptor)
