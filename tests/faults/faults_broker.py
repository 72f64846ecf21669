"""A broker that is ended, killed and started again where it was.

Belongs here: its process. Does not: its clients.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from devices_mqtt_bench import wait_until

from vpp_pipeline.simulation.broker import Broker, start_broker

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from vpp_pipeline.simulation.broker_access import BrokerAccess


class BrokerControl:
    """A real broker in a directory, always at the same port."""

    def __init__(self, directory: Path, access: BrokerAccess | None = None) -> None:
        self._directory, self._access = directory, access
        self._broker: Broker = start_broker(directory, access=access)
        self.port = self._broker.port

    @property
    def endpoint(self) -> str:
        return self._broker.endpoint

    def end(self, how: signal.Signals) -> None:
        """End it and all it runs in by a signal, and wait."""
        os.killpg(self._broker.process.pid, how)
        self._broker.process.wait()
        self.stop()
        wait_until(self._is_gone, "the end of the broker")

    def start(self) -> None:
        self._broker = start_broker(self._directory, self.port, self._access)

    def _is_gone(self) -> bool:
        """Its own process may outlive for a moment the one that we started."""
        with socket.socket() as probe:
            return probe.connect_ex((self._broker.host, self.port)) != 0

    def stop(self) -> None:
        """Let it end. May be called twice."""
        self._broker.stop()
