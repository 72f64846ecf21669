"""Visits to Modbus endpoints: side by side, each under its lease, its units one after another.

Belongs here: who is visited when, and that a dead endpoint costs the others nothing. Does not:
what is asked there (`modbus`), the wire (`modbus_session`), leases (`leases`), what is remembered
of an endpoint (`endpoint_health`).

A visit takes the endpoint's lease, opens one connection and gives both back: a device that serves
a single client is free for the next process at once. An endpoint and each unit behind it have a
health of their own, so that a gateway is not given up for one silent device, nor waited for
because of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from vpp_pipeline.credentials import CredentialError, Credentials
from vpp_pipeline.devices.endpoint_health import EndpointHealth, NotAdmitted
from vpp_pipeline.devices.leases import Lease, LeaseFileDamaged, LeaseHeld, LeaseLost, Leases
from vpp_pipeline.devices.modbus_session import (
    EndpointLost,
    LinkError,
    NoAnswer,
    Refusal,
    Session,
    open_session,
)
from vpp_pipeline.devices.tls import client_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from vpp_pipeline.devices.discoveries import Discoveries
    from vpp_pipeline.devices.protocol import DeviceLink

_REQUEST_TIMEOUT_S = 1.0
_LEASE_SHARE = 0.8  # of a call's time, so that the holder can still be named
_REQUEST_SHARE = 0.5  # of a call's time, so that a silence is noted before the call is over
_MOST_ENDPOINTS_AT_ONCE = 200  # two descriptors each; paho waits with select(), up to 1023

T = TypeVar("T")


class Visits:
    """The endpoints that one driver visits, and what it remembers of them."""

    def __init__(
        self,
        leases: Leases,
        health: EndpointHealth,
        credentials: Credentials,
        discoveries: Discoveries,
    ) -> None:
        self._leases = leases
        self._health = health
        self._credentials = credentials
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._discoveries = discoveries

    async def ask(
        self,
        links: Mapping[int, DeviceLink],
        timeout_s: float,
        ask: Callable[[Session, Lease, int], Awaitable[T]],
        lost: Callable[[int, str], T],
    ) -> dict[int, T]:
        """Ask every device, by its index; `lost` tells of those that could not be asked."""
        answers: dict[int, T] = {}
        room = asyncio.Semaphore(_MOST_ENDPOINTS_AT_ONCE)

        async def visit(endpoint: str, indexes: Sequence[int]) -> None:
            try:
                async with (
                    room,
                    await self._leases.acquire(endpoint, timeout_s * _LEASE_SHARE) as lease,
                ):
                    session = await self._open(links[indexes[0]], timeout_s)
                    try:
                        for index in indexes:
                            try:
                                await self._admit(links[index], timeout_s)
                                answers[index] = await self._told(
                                    links[index], ask(session, lease, index)
                                )
                            except EndpointLost:
                                raise
                            except (LinkError, NotAdmitted) as error:
                                answers[index] = lost(index, str(error))
                    finally:
                        session.close()
                        self._tell(endpoint, session)
            except (
                LeaseHeld,
                LeaseLost,
                LeaseFileDamaged,
                EndpointLost,
                NotAdmitted,
                CredentialError,
            ) as error:
                answers.update(
                    (index, lost(index, str(error))) for index in indexes if index not in answers
                )

        endpoints: dict[str, list[int]] = {}
        for index, link in links.items():
            endpoints.setdefault(link.endpoint, []).append(index)
        visits = [asyncio.create_task(visit(*entry)) for entry in endpoints.items()]
        if visits:
            await _within(visits, timeout_s)
        self._discoveries.keep()
        for index in links:
            if index not in answers:
                answers[index] = lost(index, f"no answer within the call's {timeout_s} s")
        return answers

    async def _open(self, link: DeviceLink, timeout_s: float) -> Session:
        """Connect to the device's endpoint. Raises `EndpointLost`, `NotAdmitted`, `CredentialError`."""
        context = self._context(link) if link.tls else None
        await _pause(self._health.admit(link.endpoint, timeout_s))
        try:
            return await open_session(
                link.endpoint,
                self._discoveries.of(link.endpoint),
                min(_REQUEST_TIMEOUT_S, timeout_s * _REQUEST_SHARE),
                context,
            )
        except EndpointLost as error:
            self._health.failed(link.endpoint, str(error))
            raise

    def _context(self, link: DeviceLink) -> ssl.SSLContext:
        if link.credentials not in self._contexts:
            shown = self._credentials.named(link.credentials) if link.credentials else None
            self._contexts[link.credentials] = client_context(shown)
        return self._contexts[link.credentials]

    def _tell(self, endpoint: str, session: Session) -> None:
        if session.answered:
            self._health.succeeded(endpoint)
        elif session.timeouts:
            self._health.failed(endpoint, "it took the connection and answered nothing")

    async def _admit(self, link: DeviceLink, timeout_s: float) -> None:
        await _pause(self._health.admit(_unit(link), timeout_s))

    async def _told(self, link: DeviceLink, asked: Awaitable[T]) -> T:
        """Return what a unit answers, and remember whether it did."""
        try:
            answer = await asked
        except LinkError as error:
            if isinstance(error, NoAnswer) or (isinstance(error, Refusal) and error.is_of_gateway):
                self._health.failed(_unit(link), str(error))
            elif not isinstance(error, EndpointLost):
                self._health.succeeded(_unit(link))
            raise
        self._health.succeeded(_unit(link))
        return answer


def _unit(link: DeviceLink) -> str:
    return f"unit {link.unit_id} at {link.endpoint}"


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


async def _within(visits: Sequence[asyncio.Task[None]], timeout_s: float) -> None:
    """Wait for the visits, end those that take longer, and let a defect in one be seen."""
    try:
        done, _ = await asyncio.wait(visits, timeout=timeout_s)
    finally:
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
    for visit in done:
        visit.result()
