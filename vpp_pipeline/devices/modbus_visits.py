"""Visits to Modbus endpoints: side by side, each under its lease, its units one after another.

Belongs here: who is visited when, and that a dead endpoint costs the others nothing. Does not:
what is asked there (`modbus`), the wire (`modbus_session`), leases (`leases`), what is remembered
of an endpoint (`endpoint_health`).

A visit takes the endpoint's lease, opens one connection and gives both back: a device that serves
a single client is free for the next process at once. An endpoint and each unit behind it have a
health of their own, so that a gateway is not given up for one silent device, nor waited for
because of it. An endpoint that keeps us waiting stands aside, so that its place is another's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from vpp_pipeline.credentials import CredentialError, Credentials
from vpp_pipeline.devices.endpoint_health import EndpointHealth, NotAdmitted
from vpp_pipeline.devices.leases import (
    Lease,
    LeaseFileDamaged,
    LeaseHeld,
    LeaseLost,
    LeaseNotWritten,
    Leases,
)
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

    from vpp_pipeline.devices.discoveries import Discoveries, Units
    from vpp_pipeline.devices.protocol import DeviceLink, Tell

_REQUEST_TIMEOUT_S = 1.0
_LEASE_SHARE = 0.8  # of a call's time, so that the holder can still be named
_REQUEST_SHARE = 0.5  # of a call's time, so that a silence is noted before the call is over
_MOST_AT_ONCE = 200  # endpoints, of two descriptors each; paho waits with select(), up to 1023
_MOST_ASIDE = 200
_STANDS_ASIDE_AFTER_S = 0.25
_NOT_VISITED = (
    LeaseHeld,
    LeaseLost,
    LeaseFileDamaged,
    LeaseNotWritten,
    EndpointLost,
    NotAdmitted,
    CredentialError,
)

T = TypeVar("T")


class _Room:
    """Places for so many visits at once, and for some more that wait for a slow endpoint."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(_MOST_AT_ONCE)
        self.aside = 0


class _Place:
    """One of a room's places; whoever takes long leaves it to the next, if there is room aside."""

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._stands_aside = False

    async def __aenter__(self) -> None:
        await self._room.places.acquire()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_STANDS_ASIDE_AFTER_S, self._stand_aside)

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._stands_aside:
            self._room.aside -= 1
        else:
            self._room.places.release()

    def _stand_aside(self) -> None:
        if self._room.aside < _MOST_ASIDE:
            self._stands_aside = True
            self._room.aside += 1
            self._room.places.release()


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
        tell: Tell[T],
        *,
        release: bool = False,
    ) -> dict[int, T]:
        """Ask every device, by its index; `lost` tells of those that could not be asked.

        `tell` is told each answer as it comes. A `release` goes on where no lease can be written.
        """
        take_lease = self._leases.acquire_or_go_without if release else self._leases.acquire
        answers: dict[int, T] = {}
        room = _Room()
        discovered = self._discoveries.of_today()

        def settle(index: int, answer: T) -> None:
            answers[index] = answer
            tell(index, answer)

        async def visit(endpoint: str, there: Mapping[int, DeviceLink]) -> None:
            try:
                async with (
                    _Place(room),
                    await take_lease(endpoint, timeout_s * _LEASE_SHARE) as lease,
                ):
                    units = discovered.setdefault(endpoint, {})
                    await self._visit(there, units, lease, timeout_s, ask, lost, settle)
            except _NOT_VISITED as error:
                for index in there:
                    if index not in answers:
                        settle(index, lost(index, str(error)))

        endpoints: dict[str, dict[int, DeviceLink]] = {}
        for index, link in links.items():
            endpoints.setdefault(link.endpoint, {})[index] = link
        visits = [asyncio.create_task(visit(*entry)) for entry in endpoints.items()]
        if visits:
            await _within(visits, timeout_s)
        self._discoveries.keep()
        for index in links:
            if index not in answers:
                settle(index, lost(index, f"no answer within the call's {timeout_s} s"))
        return answers

    async def _visit(  # noqa: PLR0917 - what `ask` was asked, for one endpoint
        self,
        there: Mapping[int, DeviceLink],
        units: Units,
        lease: Lease,
        timeout_s: float,
        ask: Callable[[Session, Lease, int], Awaitable[T]],
        lost: Callable[[int, str], T],
        settle: Callable[[int, T], None],
    ) -> None:
        """Ask the devices behind one endpoint; raises one of `_NOT_VISITED` where it is lost."""
        session = await self._open(next(iter(there.values())), units, timeout_s)
        try:
            for index, link in there.items():
                try:
                    await self._admit(link, timeout_s)
                    settle(index, await self._told(link, ask(session, lease, index)))
                except EndpointLost:
                    raise
                except (LinkError, NotAdmitted) as error:
                    settle(index, lost(index, str(error)))
        finally:
            session.close()
            self._tell(lease.endpoint, session)

    async def _open(self, link: DeviceLink, units: Units, timeout_s: float) -> Session:
        """Connect to the device's endpoint. Raises `EndpointLost`, `NotAdmitted`, `CredentialError`."""
        context = self._context(link) if link.tls else None
        await _pause(self._health.admit(link.endpoint, timeout_s))
        try:
            return await open_session(
                link.endpoint,
                units,
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
