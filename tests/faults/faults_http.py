"""An HTTP gateway's faults, for a `FaultProxy` that frames `http_messages`.

Belongs here: answers given in a gateway's place. Does not: connections (`faults_proxy`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults_proxy import Fault, Line, Way


def http_answer(status: int, body: Any = None, **headers: str) -> bytes:
    content = json.dumps(body).encode()
    told = {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + content


def first_line(message: bytes) -> tuple[str, str]:
    """Return a request's method and path."""
    method, path, _ = message.split(b"\r\n", 1)[0].decode().split(" ", 2)
    return method, path


def instead(status: int, body: Any = None, *, times: int = 1000, **headers: str) -> Fault:
    """The first `times` commands are answered so, and the device never hears of them."""
    left = [times]

    async def fault(line: Line, way: Way, message: bytes) -> None:
        if way == "request" and first_line(message)[0] == "POST" and left[0] > 0:
            left[0] -= 1
            line.answer(http_answer(status, body, **headers))
        else:
            line.pass_on(way, message)

    return fault


def after_applying(status: int, times: int = 1) -> Fault:
    """The device applies the first `times` commands, and the gateway says something else."""
    waiting, left = [0], [times]

    async def fault(line: Line, way: Way, message: bytes) -> None:
        if way == "request":
            if first_line(message)[0] == "POST" and left[0] > 0:
                left[0] -= 1
                waiting[0] += 1
            line.pass_on(way, message)
        elif waiting[0]:
            waiting[0] -= 1
            line.answer(http_answer(status, {"reason": "the gateway fell over"}))
        else:
            line.pass_on(way, message)

    return fault


def never_completes(line_body: Callable[[str], Any]) -> Fault:
    """Commands are accepted with a 202 and stay so; the device never hears of them."""

    async def fault(line: Line, way: Way, message: bytes) -> None:
        if way == "answer":
            line.pass_on(way, message)
            return
        method, path = first_line(message)
        if method == "POST":
            command_id = json.loads(message.partition(b"\r\n\r\n")[2])["command_id"]
            line.answer(http_answer(202, line_body(command_id)))
        elif "/commands/" in path:
            line.answer(http_answer(200, line_body(path.rpartition("/")[2])))
        else:
            line.pass_on(way, message)

    return fault


def wants_token(valid: Callable[[], str], on_refusal: Callable[[], None]) -> Fault:
    """Only requests that show the token valid now pass; the others get a 401."""

    async def fault(line: Line, way: Way, message: bytes) -> None:
        shown = f"\r\nauthorization: bearer {valid()}\r\n".encode().lower()
        if way == "answer" or shown in message.lower():
            line.pass_on(way, message)
        else:
            on_refusal()
            line.answer(http_answer(401, {"reason": "token expired"}))

    return fault
