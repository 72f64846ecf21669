"""HTTP exchanges with devices within a deadline: was it sent, was it answered?

Belongs here: threads, time-outs, tokens, waiting out a busy or absent gateway. Does not: sockets
and addresses (`http_connection`), the devices' URLs and what their answers mean (`http`).
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import requests
from urllib3.exceptions import HTTPError

from vpp_pipeline.credentials import Credential, CredentialError, Credentials
from vpp_pipeline.devices.endpoint_health import EndpointHealth, NotAdmitted
from vpp_pipeline.devices.http_answers import (
    ABSENT,
    BUSY,
    MOST_BYTES,
    Answer,
    NoAnswer,
    NotSent,
    SaidNo,
    body_of,
    reason_of,
    retry_after_s,
)
from vpp_pipeline.devices.http_connection import (
    Line,
    NotConnected,
    is_public,
    new_session,
    on_line,
)
from vpp_pipeline.devices.tls import in_words

if TYPE_CHECKING:
    from collections.abc import Callable

A = TypeVar("A")
T = TypeVar("T")

_THREADS = 32
_THREADS_PER_HOST = 8  # so that a hanging gateway leaves threads for the others
_CONNECT_TIMEOUT_S = 1.0
_FAIR_TIME_S = 0.9  # who had less, and used it up, did not fail
_PAUSES_S = (0.1, 0.3, 0.9)
_BAD_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)


@dataclass(frozen=True)
class _Request:
    method: str
    url: str
    host: str  # with its port: what its health is kept by
    payload: str | None
    credential: Credential | None


class Hosts:
    """What outlives a call: sessions, threads, the endpoints' health, the credentials read."""

    def __init__(self, health: EndpointHealth, read_credentials: Callable[[], Credentials]) -> None:
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="http-driver")
        self.health = health
        self._read_credentials = read_credentials
        self._credentials: Credentials | None = None
        self._sessions: dict[tuple[Any, ...], requests.Session] = {}

    def named(self, name: str, role: str = "") -> Credential:
        """Return a credential as last read. Raises `CredentialError`."""
        if self._credentials is None:
            self._credentials = self._read_credentials()
        return self._credentials.named(name, role)

    def renewed(self, refused: Credential) -> Credential | None:
        """Return what `refused` was replaced by meanwhile; None where it still stands.

        Raises `CredentialError`.
        """
        if self.named(refused.name) == refused:
            self._credentials = None
        current = self.named(refused.name)
        return None if current == refused else current

    def session(self, host: str, credential: Credential | None) -> requests.Session:
        """Return the session for a host and our certificate."""
        files = credential and (credential.ca_file, credential.cert_file, credential.key_file)
        if (host, files) not in self._sessions:
            self._sessions[host, files] = new_session(credential, _THREADS_PER_HOST)
        return self._sessions[host, files]

    def redact(self, text: str) -> str:
        """Return `text` without the secrets that an answer may repeat."""
        return self._credentials.redact(text) if self._credentials else text

    def close(self) -> None:
        """Close every connection; requests under way end on their own time-outs."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()


class Exchange:
    """All requests of one driver call, which must end by one deadline."""

    def __init__(self, hosts: Hosts, timeout_s: float) -> None:
        self._hosts = hosts
        self._deadline = time.monotonic() + timeout_s
        self._turns: dict[str, asyncio.Semaphore] = {}
        self.shortened = False

    def within(self, seconds: float) -> Exchange:
        """Return this exchange, `shortened` to an end of its own where that is earlier."""
        shorter = Exchange(self._hosts, min(seconds, self.left_s))
        shorter.shortened = seconds < self.left_s
        shorter._turns = self._turns
        return shorter

    @property
    def left_s(self) -> float:
        """The seconds left."""
        return self._deadline - time.monotonic()

    def redact(self, text: str) -> str:
        """Return `text` without the secrets that an answer may repeat."""
        return self._hosts.redact(text)

    async def pause(self, seconds: float, until: asyncio.Future[Any] | None = None) -> bool:
        """Wait, at most `until` it is done, and return True.

        Return False at once if no time would be left after it.
        """
        if seconds >= self.left_s:
            return False
        if until is None:
            await asyncio.sleep(seconds)
        else:
            await asyncio.wait({until}, timeout=seconds)
        return True

    async def request(
        self, method: str, url: str, payload: str | None = None, credentials: str | None = None
    ) -> bytes:
        """Return the body of a 2xx answer.

        Waits out 429 and 502-504 a few times, as long as Retry-After says and the deadline
        allows; after a 401 the named `credentials` are read again, and sent once more if they
        changed. Raises `NotSent`, `NoAnswer` or `SaidNo`; a redirect is a no that names its aim,
        and a no to what may have arrived before, as after a 502, is no answer.
        """
        request = self._prepared(method, url, payload, credentials)
        may_have_arrived = renewed = False
        pauses_s = iter(_PAUSES_S)
        while True:
            try:
                answer = await self._once(request)
            except NotSent as error:
                if may_have_arrived:
                    raise NoAnswer(str(error)) from error
                raise
            if answer.status == HTTPStatus.UNAUTHORIZED and request.credential and not renewed:
                renewed = True
                if newer := _or_not_sent(self._hosts.renewed, request.credential):
                    request = _Request(method, url, request.host, payload, newer)
                    continue
            if answer.status not in BUSY | ABSENT:
                return _body_of(answer, in_doubt=may_have_arrived and method != "GET")
            may_have_arrived |= answer.status in ABSENT
            asked_s = retry_after_s(answer.headers)
            if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
                self._hosts.health.hold(request.host, asked_s)
            pause_s = next(pauses_s, None)
            if pause_s is None or not await self.pause(max(pause_s, asked_s)):
                break
        reason = f"HTTP {answer.status} from {request.host}"
        if asked_s:
            reason += f", which asks to come back in {asked_s:g} s"
        reason += f": {reason_of(answer)}"
        raise NoAnswer(reason) if may_have_arrived else NotSent(reason)

    def _prepared(
        self, method: str, url: str, payload: str | None, credentials: str | None
    ) -> _Request:
        parts = _split(url)
        if parts.username is not None or parts.password is not None:
            raise NotSent(
                f"the URL of {parts.hostname} holds a user or password: name `credentials` in the"
                " registry instead"
            )
        credential = None
        if credentials is not None:
            credential = _or_not_sent(self._hosts.named, credentials)
            if parts.scheme != "https" and not _is_own_network(parts.hostname or ""):
                raise NotSent(
                    f"{parts.netloc} would be sent {credentials!r} in the clear: use https"
                )
        return _Request(method, url, parts.netloc, payload, credential)

    async def _once(self, request: _Request) -> Answer:
        host = request.host
        turn = self._turns.setdefault(host, asyncio.Semaphore(_THREADS_PER_HOST))
        try:
            async with asyncio.timeout(self.left_s):
                await turn.acquire()
        except TimeoutError:
            raise NotSent(f"{host} kept earlier requests waiting") from None
        try:
            wait_s = self._hosts.health.admit(host, max(self.left_s, 0.0))
            await asyncio.sleep(wait_s)
            return await self._in_thread(request)
        except NotAdmitted as error:
            raise NotSent(str(error)) from error
        finally:
            turn.release()

    async def _in_thread(self, request: _Request) -> Answer:
        session = self._hosts.session(request.host, request.credential)
        line = Line()
        work = self._hosts.threads.submit(self._blocking, session, request, line)
        answer = asyncio.wrap_future(work)
        await asyncio.wait({answer}, timeout=max(self.left_s, 0.0))
        if answer.done():
            return answer.result()
        answer.add_done_callback(_look_away)
        if work.cancel():
            raise NotSent("no thread became free in time")
        line.cut()
        raise NoAnswer(f"{request.host} did not answer in time")

    def _blocking(self, session: requests.Session, request: _Request, line: Line) -> Answer:
        left_s = self.left_s
        if left_s <= 0:
            raise NotSent("no time was left to send it")
        try:
            with on_line(line):
                answer = _sent(session, request, left_s)
        except _BAD_ADDRESS as error:
            raise NotSent(f"{request.host} is no address to call; mend the registry") from error
        except NotConnected as error:
            self._failed(request, str(error), time_given_s=left_s)
            raise NotSent(f"{request.host} {error}") from error
        except (requests.RequestException, HTTPError) as error:
            unshaken = in_words(str(error))  # TLS 1.3 tells it only after the request
            reason = f"gave no answer ({unshaken or type(error).__name__})"
            self._failed(request, reason, time_given_s=left_s)
            fault = NotSent if unshaken or not line.connected else NoAnswer
            raise fault(f"{request.host} {reason}") from error
        except OSError as error:  # a certificate's file, before anything was sent
            raise NotSent(f"{request.host} was not called: {error}") from error
        self._hosts.health.succeeded(request.host)
        return answer

    def _failed(self, request: _Request, reason: str, time_given_s: float) -> None:
        """Count a failure of the endpoint's, not of our own haste."""
        if time_given_s >= _FAIR_TIME_S or self.left_s > 0:
            self._hosts.health.failed(request.host, reason)


def _sent(session: requests.Session, request: _Request, left_s: float) -> Answer:
    """Make one request and read its answer, one byte more than is taken at most."""
    headers = {} if request.payload is None else {"Content-Type": "application/json"}
    auth = None
    if credential := request.credential:
        if credential.token:
            headers["Authorization"] = f"Bearer {credential.token.get_secret_value()}"
        elif credential.user and credential.password:
            auth = (credential.user, credential.password.get_secret_value())
    response = session.request(
        request.method,
        request.url,
        data=None if request.payload is None else request.payload.encode(),
        headers=headers,
        auth=auth,
        timeout=(min(left_s, _CONNECT_TIMEOUT_S), left_s),
        allow_redirects=False,
        stream=True,
    )
    try:
        content = response.raw.read(MOST_BYTES + 1, decode_content=True)
    except BaseException:
        response.raw.close()
        raise
    if len(content) > MOST_BYTES:
        response.raw.close()
    else:
        response.raw.release_conn()
    return Answer(response.status_code, response.headers, content)


def _body_of(answer: Answer, *, in_doubt: bool) -> bytes:
    try:
        return body_of(answer)
    except SaidNo as no:
        if in_doubt:
            raise NoAnswer(f"HTTP {answer.status} ({no}) to what may have arrived before") from no
        raise


def _or_not_sent(ask: Callable[[A], T], about: A) -> T:
    try:
        return ask(about)
    except CredentialError as error:
        raise NotSent(str(error)) from error


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise NotSent(f"{url} is no address to call; mend it in the registry") from error


def _is_own_network(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return not is_public(host)


def _look_away(answer: asyncio.Future[Any]) -> None:
    """Take note of a late end, so that nobody is told of an error that nobody awaits."""
    if not answer.cancelled():
        answer.exception()
