"""When an endpoint may be asked again: rate limit, back-off and circuit breaker.

Belongs here: what is remembered of an endpoint and whether the next request may go. Does not:
sending, waiting, or what counts as a failure (the drivers).

A driver asks `admit` before each request, waits as long as it says, and reports how the request
ended: `succeeded` for every answer, be it a refusal, and `failed` where the transport gave none
(not connected, reset, no answer in time). Seconds are those of a monotonic clock.

    closed     requests go, at the rate allowed
    open       after some failures in a row: every request is refused at once, and costs nobody
    half-open  the pause is over: one request goes as a probe; its success closes the circuit,
               its failure doubles the pause
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True)
class HealthLimits:
    """How patient we are with one endpoint. Raises ValueError on limits that would never end."""

    failures_until_open: int = 3
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0  # at most 5 min
    requests_per_s: float = 1000.0
    burst: int = 2000

    def __post_init__(self) -> None:
        if not 0 < self.first_pause_s <= self.longest_pause_s <= _LONGEST_PAUSE_S:
            raise ValueError(
                f"pauses of {self.first_pause_s} to {self.longest_pause_s} s: begin above 0 and"
                f" end at {_LONGEST_PAUSE_S:g} s at most"
            )
        if self.failures_until_open < 1 or self.burst < 1 or not 0 < self.requests_per_s < math.inf:
            raise ValueError(
                f"{self}: failures_until_open and burst are 1 at least, requests_per_s above 0"
            )


class Health(NamedTuple):
    """What is remembered of one endpoint; a new one has a closed circuit."""

    failures: int = 0  # of the transport, in a row
    failing_since_s: float = 0.0
    last_failure: str = ""
    pause_s: float = 0.0  # above 0: the circuit is not closed
    retry_at_s: float = 0.0
    probing: bool = False
    held_until_s: float = -math.inf  # the endpoint asked for quiet
    full_at_s: float = -math.inf  # when its allowance of requests is whole again


class NotAdmitted(ConnectionError):  # noqa: N818 - names what is known
    """The request was not sent; the text says who is left alone, since when and until when."""


def admitted(
    health: Health, limits: HealthLimits, now_s: float, patience_s: float
) -> tuple[Health, float]:
    """Return the health with this request counted, and the seconds to wait before sending it.

    Raises `NotAdmitted`, and counts nothing, where the circuit is open or the wait would be
    longer than `patience_s`, the time by which the request will have ended. The rate limit is a
    token bucket of `burst` requests, refilled at `requests_per_s` (as the generic cell rate
    algorithm, ITU-T I.371).
    """
    if health.pause_s and now_s < health.retry_at_s:
        raise NotAdmitted(_left_alone(health, now_s))
    start_s = max(now_s, health.held_until_s)
    full_at_s = max(health.full_at_s, start_s) + 1.0 / limits.requests_per_s
    wait_s = max(start_s, full_at_s - limits.burst / limits.requests_per_s) - now_s
    if wait_s > patience_s:
        why = "its own wish" if start_s > now_s else f"the limit of {limits.requests_per_s:g}/s"
        raise NotAdmitted(f"not asked for another {wait_s:.1f} s by {why}")
    counted = health._replace(full_at_s=full_at_s)
    if health.pause_s:
        # A probe of which nobody ever tells must not hold the circuit open for good.
        ends_at_s = now_s + max(patience_s, health.pause_s)
        counted = counted._replace(probing=True, retry_at_s=ends_at_s)
    return counted, wait_s


def after_success(health: Health) -> Health:
    """Return the health after any answer: the circuit is closed, the rate limit stays."""
    if not health.failures:
        return health
    return Health(held_until_s=health.held_until_s, full_at_s=health.full_at_s)


def after_failure(health: Health, limits: HealthLimits, now_s: float, why: str) -> Health:
    """Return the health after a failure of the transport.

    What was under way when the circuit opened fails without consequence; only a probe's failure
    makes the pause longer.
    """
    if health.pause_s and not health.probing:
        return health
    failed = health._replace(
        failures=health.failures + 1,
        failing_since_s=health.failing_since_s if health.failures else now_s,
        last_failure=why,
        probing=False,
    )
    if failed.failures < limits.failures_until_open:
        return failed
    pause_s = min(max(2 * health.pause_s, limits.first_pause_s), limits.longest_pause_s)
    return failed._replace(pause_s=pause_s, retry_at_s=now_s + pause_s)


def asked_for_quiet(health: Health, now_s: float, seconds: float) -> Health:
    """Return the health after a Retry-After: nothing goes for so long, at most 5 minutes."""
    until_s = now_s + min(max(seconds, 0.0), _LONGEST_PAUSE_S)
    return health._replace(held_until_s=max(health.held_until_s, until_s))


class EndpointHealth:
    """The health of every endpoint a process speaks to; drivers share one, on any thread.

    An endpoint's name is the driver's: what fails together, such as `host:port`.
    """

    def __init__(
        self,
        limits: HealthLimits | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or HealthLimits()
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._known: dict[str, Health] = {}

    def admit(self, endpoint: str, patience_s: float) -> float:
        """Return the seconds to wait before the next request to `endpoint` is sent.

        The request must end, and be told of, within `patience_s`. Raises `NotAdmitted`.
        """
        with self._lock:
            health = self._known.get(endpoint, Health())
            try:
                counted, wait_s = admitted(health, self._limits, self._monotonic_s(), patience_s)
            except NotAdmitted as error:
                raise NotAdmitted(f"{endpoint} is {error}") from None
            self._known[endpoint] = counted
        return wait_s

    def succeeded(self, endpoint: str) -> None:
        """Note that `endpoint` answered."""
        with self._lock:
            self._known[endpoint] = after_success(self._known.get(endpoint, Health()))

    def failed(self, endpoint: str, why: str) -> None:
        """Note that the transport to `endpoint` failed; `why` is told while it is left alone."""
        with self._lock:
            health = self._known.get(endpoint, Health())
            self._known[endpoint] = after_failure(health, self._limits, self._monotonic_s(), why)

    def hold(self, endpoint: str, seconds: float) -> None:
        """Note that `endpoint` asked not to be asked for so long."""
        with self._lock:
            health = self._known.get(endpoint, Health())
            self._known[endpoint] = asked_for_quiet(health, self._monotonic_s(), seconds)


def _left_alone(health: Health, now_s: float) -> str:
    again = (
        "it is being tried just now"
        if health.probing
        else f"it is tried again in {health.retry_at_s - now_s:.1f} s"
    )
    return (
        f"left alone: {health.failures} failures in a row since"
        f" {now_s - health.failing_since_s:.1f} s ago, the last: {health.last_failure}; {again}"
    )
