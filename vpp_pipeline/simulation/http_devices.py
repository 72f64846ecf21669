"""Simulated devices behind a REST interface: one gateway on the loopback for all of them.

Belongs here: URLs, status codes, the server's thread. Does not: judging commands
(`command_queue`), the physics (`plant`).

    POST   /devices/<device>/commands               202 accepted, 409 refused, 400 malformed,
                                                    503 busy
    GET    /devices/<device>/commands/<command_id>  what became of it
    GET    /devices/<device>                        telemetry
    DELETE /devices/<device>/setpoint               204, the device runs its default

A dead device answers nothing, so that its gateway says 504; an unknown one is 404. Refusals
are `{"reason": ...}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vpp_pipeline.devices.web_server import WebServer
from vpp_pipeline.devices.webhook import Acceptance, Completion
from vpp_pipeline.devices.wire import CommandMessage, MalformedMessage, parse, telemetry_message
from vpp_pipeline.simulation.command_queue import CommandQueue, SimulatedDevice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from vpp_pipeline.devices.wire import Message
    from vpp_pipeline.simulation.http_completions import CompletionSender
    from vpp_pipeline.simulation.plant_protocol import Plant

_BUSY_S = 1


class _Gone(Exception):  # noqa: N818 - an answer, not a failure
    """Nobody to answer: the response to give instead."""

    def __init__(self, status: int, reason: str) -> None:
        self.response = JSONResponse({"reason": reason}, status)


class HttpDevices:
    """The wire side of many devices; call `tick` after each step of the plant.

    With a `sender` the gateway acknowledges a command before it knows how that ends, and posts
    the end as a signed completion.
    """

    def __init__(
        self,
        devices: Sequence[SimulatedDevice],
        plant: Plant,
        sender: CompletionSender | None = None,
    ) -> None:
        self._known = frozenset(device.device_id for device in devices)
        self._plant = plant
        self._queue = CommandQueue(devices, plant)
        self._server = WebServer(self._application(), "the HTTP devices")
        self._sender = sender
        self._promised: dict[str, set[str]] = {}

    def start(self, port: int = 0) -> str:
        """Serve in a thread and return the base URL; port 0 takes a free one.

        Raises `PortTaken`.
        """
        return self._server.start(port)

    def tick(self) -> None:
        """Begin and end what is due by the plant's clock, and post what was promised."""
        for device_id in self._queue.tick():
            for command_id in tuple(self._promised.get(device_id, ())):
                self._complete(device_id, command_id)

    def stop(self) -> None:
        """Close the port and end the threads. May be called twice."""
        self._server.stop()
        if self._sender:
            self._sender.stop()

    def state(self) -> dict[str, Any]:
        """Return the devices' memory of commands, as JSON values."""
        return self._queue.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved memory of commands; call it before `start`."""
        self._queue.restore(state)

    def _application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/devices/{device}", self._telemetry, methods=["GET"]),
                Route("/devices/{device}/commands", self._command, methods=["POST"]),
                Route("/devices/{device}/commands/{command}", self._report, methods=["GET"]),
                Route("/devices/{device}/setpoint", self._release, methods=["DELETE"]),
            ],
            exception_handlers={_Gone: _say_gone},
        )

    async def _command(self, request: Request) -> Response:
        device_id = self._present(request)
        try:
            message = parse(CommandMessage, await request.body())
        except MalformedMessage as error:
            return JSONResponse({"reason": str(error)}, 400)
        if self._queue.is_full(device_id):
            reason = f"busy: device {device_id} has commands enough to go through"
            return JSONResponse({"reason": reason}, 503, {"Retry-After": str(_BUSY_S)})
        ack = self._queue.offer(device_id, message)
        if not ack.accepted:
            return JSONResponse({"command_id": ack.command_id, "reason": ack.reason}, 409)
        if self._sender is None:
            return self._reported(device_id, message.command_id, 202)
        self._promised.setdefault(device_id, set()).add(message.command_id)
        self._complete(device_id, message.command_id)
        return _json(
            Acceptance(command_id=message.command_id, state="accepted", notifies=True), 202
        )

    def _complete(self, device_id: str, command_id: str) -> None:
        """Post how a command ended, once it has."""
        report = self._queue.report(device_id, command_id)
        if self._sender is None or report is None or report.state == "accepted":
            return
        self._promised[device_id].discard(command_id)
        self._sender.send(Completion(device_id=device_id, **report.model_dump()))

    async def _report(self, request: Request) -> Response:
        return self._reported(self._present(request), request.path_params["command"], 200)

    async def _telemetry(self, request: Request) -> Response:
        return _json(telemetry_message(self._plant.reading(self._present(request))))

    async def _release(self, request: Request) -> Response:
        self._queue.release(self._present(request))
        return Response(status_code=204)

    def _reported(self, device_id: str, command_id: str, status: int) -> Response:
        report = self._queue.report(device_id, command_id)
        if report is None:
            raise _Gone(404, "no such command, or it is long over")
        return _json(report, status)

    def _present(self, request: Request) -> str:
        device_id: str = request.path_params["device"]
        if device_id not in self._known:
            raise _Gone(404, f"no device {device_id}")
        if self._plant.is_out(device_id):
            raise _Gone(504, f"device {device_id} does not answer its gateway")
        return device_id


def _json(message: Message, status: int = 200) -> Response:
    return Response(message.model_dump_json(), status, media_type="application/json")


async def _say_gone(_request: Request, gone: Exception) -> Response:
    assert isinstance(gone, _Gone)
    return gone.response
