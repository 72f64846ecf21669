"""HTTP exchanges with devices within a deadline: was it sent, was it answered?

Belongs here: sessions, threads, time-outs, waiting out a busy or absent gateway. Does not: the
devices' URLs and what their answers mean (`http`).
"""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError, NewConnectionError

if TYPE_CHECKING:
    from collections.abc import Mapping

_THREADS = 32
_THREADS_PER_HOST = 8  # so that a hanging gateway leaves threads for the others
_CONNECT_TIMEOUT_S = 1.0
_BUSY = frozenset({429, 503})
_ABSENT = frozenset({502, 504})
_PAUSES_S = (0.1, 0.3, 0.9)
_BAD_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)


class NotSent(ConnectionError):  # noqa: N818 - names what is known
    """The request certainly did not reach the device."""


class NoAnswer(ConnectionError):  # noqa: N818 - names what is known
    """The request may have reached the device; no usable answer came."""


class SaidNo(Exception):  # noqa: N818 - an answer, not a failure
    """What stands at the address refused for good; the text is its reason."""


class Hosts:
    """Connections that outlive a call: one session a host, threads for all of them."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="http-driver")
        self._sessions: dict[str, requests.Session] = {}

    def session(self, host: str) -> requests.Session:
        """Return the host's session: no proxy or credentials out of the environment."""
        if host not in self._sessions:
            session = self._sessions[host] = requests.Session()
            session.trust_env = False
            adapter = HTTPAdapter(pool_connections=1, pool_maxsize=_THREADS_PER_HOST)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
        return self._sessions[host]

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

    async def pause(self, seconds: float) -> bool:
        """Wait, and return True; at once, and False, if no time would be left after it."""
        if time.monotonic() + seconds >= self._deadline:
            return False
        await asyncio.sleep(seconds)
        return True

    async def request(self, method: str, url: str, payload: str | None = None) -> bytes:
        """Return the body of a 2xx answer.

        Waits out 429 and 502-504 a few times, as long as Retry-After says and the deadline
        allows. Raises `NotSent`, `NoAnswer` or `SaidNo`; a redirect is a no that names its aim.
        """
        may_have_arrived = False
        for pause_s in (*_PAUSES_S, None):
            try:
                response = await self._once(method, url, payload)
            except NotSent as error:
                if may_have_arrived:
                    raise NoAnswer(str(error)) from error
                raise
            if response.status_code not in _BUSY | _ABSENT:
                return _body(response)
            may_have_arrived |= response.status_code in _ABSENT
            asked_s = _retry_after_s(response.headers)
            if pause_s is None or not await self.pause(max(pause_s, asked_s)):
                break
        reason = f"HTTP {response.status_code} from {_host(url)}"
        if asked_s:
            reason += f", which asks to come back in {asked_s:g} s"
        reason += f": {_reason(response)}"
        raise NoAnswer(reason) if may_have_arrived else NotSent(reason)

    async def _once(self, method: str, url: str, payload: str | None) -> requests.Response:
        host = _host(url)
        turn = self._turns.setdefault(host, asyncio.Semaphore(_THREADS_PER_HOST))
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                await turn.acquire()
        except TimeoutError:
            raise NotSent(f"{host} kept earlier requests waiting") from None
        try:
            return await self._in_thread(method, url, payload)
        finally:
            turn.release()

    async def _in_thread(self, method: str, url: str, payload: str | None) -> requests.Response:
        session = self._hosts.session(_host(url))
        work = self._hosts.threads.submit(self._blocking, session, method, url, payload)
        answer = asyncio.wrap_future(work)
        await asyncio.wait({answer}, timeout=self._deadline - time.monotonic())
        if answer.done():
            return answer.result()
        answer.add_done_callback(_look_away)
        if work.cancel():
            raise NotSent("no thread became free in time")
        raise NoAnswer(f"{_host(url)} did not answer in time")

    def _blocking(
        self, session: requests.Session, method: str, url: str, payload: str | None
    ) -> requests.Response:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise NotSent("no time was left to send it")
        try:
            return session.request(
                method,
                url,
                data=None if payload is None else payload.encode(),
                headers={"Content-Type": "application/json"} if payload is not None else None,
                timeout=(min(left_s, _CONNECT_TIMEOUT_S), left_s),
                allow_redirects=False,
            )
        except requests.ConnectTimeout as error:
            raise NotSent(f"{_host(url)} took no connection; see its power and network") from error
        except _BAD_ADDRESS as error:
            raise NotSent(f"{url} is no address to call; mend it in the registry") from error
        except requests.RequestException as error:
            cause = error.args[0] if error.args else None
            if isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError):
                raise NotSent(f"{_host(url)} refused the connection; see that it runs") from error
            raise NoAnswer(f"{_host(url)} gave no answer ({type(error).__name__})") from error


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError as error:
        raise NotSent(f"{url} is no address to call; mend it in the registry") from error


def _body(response: requests.Response) -> bytes:
    match response.status_code // 100:
        case 2:
            return response.content
        case 3:
            aim = response.headers.get("Location", "nowhere")
            raise SaidNo(f"it redirects to {aim}, which is not followed; mend the registry's URL")
        case 4:
            raise SaidNo(_reason(response))
        case _:
            raise NoAnswer(f"HTTP {response.status_code}: {_reason(response)}")


def _reason(response: requests.Response) -> str:
    """Return the answer's `reason`, else the beginning of what it says."""
    try:
        document = json.loads(response.content)
    except ValueError:
        document = None
    if isinstance(document, dict) and document.get("reason"):
        return str(document["reason"])
    return f"HTTP {response.status_code} {response.text[:200]}".strip()


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds a Retry-After asks for (RFC 9110, 10.2.3); 0 where it says nothing.

    A date is measured from the answer's own Date, so that clocks need not agree.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        then, now = (parsedate_to_datetime(text) for text in (value, headers.get("Date", "")))
        return max((then - now).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def _look_away(answer: asyncio.Future[Any]) -> None:
    """Take note of a late end, so that nobody is told of an error that nobody awaits."""
    if not answer.cancelled():
        answer.exception()
