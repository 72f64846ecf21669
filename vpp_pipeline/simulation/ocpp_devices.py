"""Simulated OCPP 1.6 charge points: each calls the central system over a connection of its own.

Belongs here: connecting, coming back, and silence when one is dead. Does not: what they say and
keep to (`ocpp_charge_point`), the physics (`plant`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from ocpp.exceptions import OCPPError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from vpp_pipeline.simulation.ocpp_charge_point import ChargePoint, Charger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from vpp_pipeline.simulation.ocpp_charge_point import SimulatedCharger
    from vpp_pipeline.simulation.plant_protocol import Plant

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_FAREWELL_S = 1.0
_TROUBLE = (OSError, ConnectionClosed, InvalidHandshake, OCPPError, TimeoutError)


class OcppDevices:
    """The wire side of many charge points; call `tick` after each step of the plant.

    `url_file` is where the central system tells its address. Until it does, and whenever it is
    gone, they try again. Raises ValueError where there are chargers and no such file.
    """

    def __init__(
        self, chargers: Sequence[SimulatedCharger], plant: Plant, url_file: Path | None
    ) -> None:
        if chargers and url_file is None:
            raise ValueError(
                f"{len(chargers)} charge points, {chargers[0].device_id} among them, have nobody to"
                " call: name the file in which a central system tells its address"
            )
        self._chargers = {charger.device_id: Charger(charger, plant) for charger in chargers}
        self._plant = plant
        self._url_file = url_file
        self._connected: dict[str, ChargePoint] = {}
        self._told: dict[str, str] = {}
        self._saying: set[asyncio.Task[None]] = set()
        self._runner = asyncio.Runner()
        self._stopping = asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to call the central system, in a thread."""
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._runner.get_loop()  # made here, so that nobody waits for the thread
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="charge-points", daemon=True)
        self._thread.start()

    def tick(self) -> None:
        """Begin and end what is due by the plant's clock; tell what has changed."""
        for device_id, charger in self._chargers.items():
            if self._plant.is_out(device_id):
                self._from_outside(self._drop, device_id)
                continue
            charger.settle()
            status = charger.status(self._plant.reading(device_id))
            if self._told.get(device_id) != status:
                self._told[device_id] = status
                self._from_outside(self._say, device_id, ChargePoint.tell)

    def set_out_of_order(
        self, device_id: str, status: Literal["Faulted", "Unavailable"] | None
    ) -> None:
        """Let a charger be at fault, or taken out of service on site; None puts it right."""
        self._chargers[device_id].out_of_order = status
        self.tick()

    def publish_telemetry(self, device_ids: Iterable[str] | None = None) -> None:
        """Let these charge points, or all, send meter values; dead ones keep silent."""
        for device_id in self._chargers if device_ids is None else device_ids:
            self._from_outside(self._say, device_id, _sample)

    def stop(self) -> None:
        """Hang up and end the thread. May be called twice."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._runner.get_loop().call_soon_threadsafe(self._stopping.set)
            thread.join()

    def state(self) -> dict[str, Any]:
        """Return what the charge points remember without power, as JSON values."""
        return {device_id: charger.state() for device_id, charger in self._chargers.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved memory; call it before `start`."""
        for device_id in self._chargers.keys() & state.keys():
            self._chargers[device_id].restore(state[device_id])

    def _run(self) -> None:
        with self._runner:
            self._runner.run(self._call_all())

    async def _call_all(self) -> None:
        calls = [
            asyncio.create_task(self._stay_connected(charger))
            for charger in self._chargers.values()
        ]
        await self._stopping.wait()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _from_outside(self, act: Callable[..., None], *arguments: object) -> None:
        if self._thread is not None:
            self._runner.get_loop().call_soon_threadsafe(act, *arguments)

    def _drop(self, device_id: str) -> None:
        if peer := self._connected.get(device_id):
            peer.cut()

    def _say(self, device_id: str, what: Callable[[ChargePoint], Awaitable[None]]) -> None:
        peer = self._connected.get(device_id)
        if peer is None or self._plant.is_out(device_id):
            return
        saying = asyncio.create_task(_try(peer, what))
        self._saying.add(saying)
        saying.add_done_callback(self._saying.discard)

    async def _stay_connected(self, charger: Charger) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            if not self._plant.is_out(charger.known.device_id) and (url := self._url()):
                try:
                    await self._connect(f"{url}/{quote(charger.known.device_id)}", charger)
                    pause_s = _FIRST_PAUSE_S
                except _TROUBLE as error:
                    _LOG.debug("%s: %s", charger.known.device_id, error)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _connect(self, url: str, charger: Charger) -> None:
        """Stay connected until the connection breaks."""
        device_id = charger.known.device_id
        async with connect(
            url,
            subprotocols=[Subprotocol("ocpp1.6")],
            proxy=None,
            close_timeout=_FAREWELL_S,
        ) as connection:
            peer = self._connected[device_id] = ChargePoint(charger, connection)
            halves = {asyncio.create_task(peer.start()), asyncio.create_task(self._live(peer))}
            try:
                await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
            finally:
                del self._connected[device_id]
                for half in halves:
                    half.cancel()
                await asyncio.gather(*halves, return_exceptions=True)

    async def _live(self, peer: ChargePoint) -> None:
        """Boot, and send heartbeats from then on."""
        pause_s = await peer.boot() / self._plant.clock.rate
        while True:
            await asyncio.sleep(pause_s)
            await peer.beat()

    def _url(self) -> str:
        if self._url_file is None or not self._url_file.exists():
            return ""
        return self._url_file.read_text()


async def _sample(peer: ChargePoint) -> None:
    await peer.meter("Sample.Periodic")


async def _try(peer: ChargePoint, what: Callable[[ChargePoint], Awaitable[None]]) -> None:
    try:
        await what(peer)
    except _TROUBLE as error:
        _LOG.debug("%s: %s", peer.id, error)
