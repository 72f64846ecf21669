"""The server that gateways post their completions to, on the loopback.

Belongs here: the route, its bounds and its status codes. Does not: what makes a completion
genuine (`webhook`). A reverse proxy with TLS stands before it where gateways are elsewhere.

    POST /completions/<device>/<command_id>   204 taken or known already, 401 not genuine or not
                                              fresh, 400 malformed, 404 unknown, 408 too slow,
                                              410 late, 413 too large
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from vpp_pipeline.devices.web_server import WebServer
from vpp_pipeline.devices.webhook import Completions, Verdict

if TYPE_CHECKING:
    from starlette.requests import Request

_MOST_BYTES = 16 * 1024
_PATIENCE_S = 5.0
_STATUS = {
    Verdict.TAKEN: 204,
    Verdict.DUPLICATE: 204,
    Verdict.LATE: 410,
    Verdict.UNKNOWN: 404,
    Verdict.FORGED: 401,
    Verdict.STALE: 401,
    Verdict.MALFORMED: 400,
}


class WebhookReceiver:
    """Hands the completions that arrive to `completions`."""

    def __init__(self, completions: Completions) -> None:
        self.url: str | None = None
        self._completions = completions
        route = Route("/completions/{device}/{command}", self._take, methods=["POST"])
        self._server = WebServer(Starlette(routes=[route]), "the webhook")

    def start(self, port: int = 0) -> str:
        """Serve in a thread and return the base URL, `url` from now on. Raises `PortTaken`."""
        self.url = self._server.start(port)
        return self.url

    def stop(self) -> None:
        """Close the port. May be called twice."""
        self._server.stop()
        self.url = None

    async def _take(self, request: Request) -> Response:
        body = b""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        return Response(status_code=413)
        except (TimeoutError, ClientDisconnect):
            return Response(status_code=408)
        verdict = self._completions.receive(
            request.path_params["device"], request.path_params["command"], request.headers, body
        )
        return Response(status_code=_STATUS[verdict])
