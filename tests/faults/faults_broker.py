"""A broker that is ended, killed and started again where it was.

Belongs here: its process. Does not: its clients.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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

    def start(self) -> None:
        self._broker = start_broker(self._directory, self.port, self._access)

    def stop(self) -> None:
        """Let it end. May be called twice."""
        self._broker.stop()
