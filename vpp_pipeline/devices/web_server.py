"""A web application served in a thread of its own, on the loopback.

Belongs here: the listening socket and the thread. Does not: any route.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.applications import Starlette

_HOST = "127.0.0.1"
_BACKLOG = 1024


class PortTaken(RuntimeError):  # noqa: N818 - names what was found
    """The fixed port is in use; the text names the remedy."""


class WebServer:
    """Serves one application from `start` to `stop`; `name` is what errors call it."""

    def __init__(self, application: Starlette, name: str) -> None:
        self._application = application
        self._name = name
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, port: int = 0) -> str:
        """Serve in a thread and return the base URL; port 0 takes a free one.

        Raises `PortTaken`.
        """
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except OSError as error:
            listener.close()
            raise PortTaken(
                f"can't listen on {_HOST}:{port}: {error.strerror}; stop what listens there or let"
                f" {self._name} have a free port"
            ) from error
        listener.listen(_BACKLOG)  # from here on a client waits instead of being refused
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._application,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name=self._name, daemon=True
        )
        self._thread.start()
        return f"http://{_HOST}:{listener.getsockname()[1]}"

    def stop(self) -> None:
        """Close the port and end the thread. May be called twice."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = self._thread = None
