"""A real HTTP server that answers by script: each request takes the next answer."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False  # until the test is over
    drips: bool = False  # byte by byte, until somebody hangs up or the test is over


@dataclass
class Script:
    """Answers by method; the last one is repeated. `requests` and `headers` keep what came."""

    url: str = ""
    answers: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)  # on one that drips
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def will(self, method: str, *answers: Answer) -> None:
        self.answers[method] = list(answers)

    def take(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        with self.lock:
            self.requests.append((method, path, body))
            self.headers.append(headers)
            planned = self.answers[method]
            return planned.pop(0) if len(planned) > 1 else planned[0]

    def count(self, method: str) -> int:
        return sum(asked == method for asked, _, _ in self.requests)


@contextmanager
def scripted_server(tls: ssl.SSLContext | None = None) -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = script.take(self.command, self.path, body, dict(self.headers))
            if answer.hangs:
                script.over.wait()
                self.close_connection = True
                return
            if answer.drips:
                self.drip()
                return
            content = (
                answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            )
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def drip(self) -> None:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            try:
                while not script.over.wait(0.02):
                    self.wfile.write(b" ")
            except OSError:
                script.hung_up.set()

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the base class calls them so

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        script.url = script.url.replace("http", "https")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        script.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
