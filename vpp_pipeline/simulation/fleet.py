"""The simulated fleet as one thing: a plant, and every device behind its real protocol.

Belongs here: starting, stepping and stopping all of it, its addresses and its state on disk.
Does not: physics (`plant`), wire formats (`sunspec_server`, `mqtt_devices`, `http_devices`).

A directory holds `endpoints.json` (`{device_id: {"endpoint", "unit_id", "credentials"}}`),
`credentials.toml` (for those who come to its broker), `ports.json` and `state.json`, so that a fleet that starts again has the same addresses and goes on where it was,
with the commands that its devices hold. Killed, it loses a second of them at most.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from vpp_pipeline.claim import Claimed, claimed
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.mqtt_client import BrokerAddress
from vpp_pipeline.simulation.broker import Broker, BrokerError, start_broker
from vpp_pipeline.simulation.broker_access import SIMULATED_BROKER, generated_access
from vpp_pipeline.simulation.command_queue import SimulatedDevice
from vpp_pipeline.simulation.http_devices import HttpDevices
from vpp_pipeline.simulation.mqtt_devices import MqttDevices
from vpp_pipeline.simulation.ocpp_charge_point import CONNECTOR_ID, SimulatedCharger
from vpp_pipeline.simulation.ocpp_devices import OcppDevices
from vpp_pipeline.simulation.plant import Plant
from vpp_pipeline.simulation.sunspec_registers import SunspecUnit
from vpp_pipeline.simulation.sunspec_server import SunspecGateways

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.simulation.world import World

_LOG = logging.getLogger(__name__)
_TICK_S = 0.05
_TELEMETRY_EVERY = timedelta(minutes=1)
_TELEMETRY_TICKS = 20
_SAVE_TICKS = 20
_HOST = "127.0.0.1"
CREDENTIALS_FILE = "credentials.toml"
_LAST_BROKER_ENDS_S = 3.0


class SimulatedFleet:
    """The simulated devices of a DeviceFrame, from 5 to some thousands in one process.

    `plant` takes outages, `charge_points` defects. Real devices in the frame are left alone.
    Charge points call the central system whose address stands in the file `central_system`.
    """

    def __init__(
        self,
        devices: pl.DataFrame,
        world: World,
        clock: Clock,
        rng: np.random.Generator,
        directory: Path,
        *,
        central_system: Path | None = None,
    ) -> None:
        self._devices = devices.filter("simulated")
        self._directory = directory
        self._credentials_file = directory / CREDENTIALS_FILE
        self.plant = Plant(self._devices, world, clock, rng)
        self._mqtt = MqttDevices(self._nameplates("mqtt"), self.plant)
        self._http = HttpDevices(self._nameplates("http"), self.plant)
        self.charge_points = OcppDevices(self._chargers(), self.plant, central_system)
        self._broker: Broker | None = None
        self._running = ExitStack()
        self._stopping = threading.Event()

    def start(self, ticking: bool) -> dict[str, dict[str, Any]]:
        """Go on from the saved state, listen, and return the addresses written for the drivers.

        With `ticking` a thread keeps the fleet moving with its clock, publishes telemetry once a
        minute of the clock (at most once a second) and saves the state; without, `step` does the
        moving. Raises RuntimeError where another fleet runs in the directory.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as starting:
            self._claim_directory(starting)
            self._restore()
            endpoints = self._listen(starting)
            _write(self._directory / "endpoints.json", endpoints)
            starting.callback(self.save)
            if ticking:
                self._stopping.clear()
                ticker = threading.Thread(target=self._tick, name="simulated-fleet", daemon=True)
                ticker.start()
                starting.callback(ticker.join)
                starting.callback(self._stopping.set)
            self._running = starting.pop_all()
        return endpoints

    def step(self) -> None:
        """Move every device to the clock's now, and let those with waiting commands begin."""
        self.plant.advance()
        self._mqtt.tick()
        self._http.tick()
        self.charge_points.tick()

    def publish_telemetry(self) -> None:
        """Let every MQTT device and charge point tell its measurements."""
        self._mqtt.publish_telemetry()
        self.charge_points.publish_telemetry()

    def save(self) -> None:
        """Write the state from which a later start goes on."""
        # Commands first: one that arrives in between is obeyed, never taken for obeyed.
        held = {
            "mqtt": self._mqtt.state(),
            "http": self._http.state(),
            "ocpp": self.charge_points.state(),
        }
        _write(self._directory / "state.json", {"plant": self.plant.state(), "commands": held})

    def stop(self) -> None:
        """Save, say farewell and close every port. May be called twice."""
        self._running.close()

    def _listen(self, running: ExitStack) -> dict[str, dict[str, Any]]:
        before = _read(self._directory / "ports.json") or {}
        ports: dict[str, Any] = {"modbus": {}}
        by_protocol: dict[str, str] = {}
        endpoints: dict[str, dict[str, Any]] = {}
        if self._of("mqtt").height:  # first: its client can't use file descriptors above 1,023
            broker = self._start_broker(_kept(before.get("broker"), _LAST_BROKER_ENDS_S))
            running.callback(self._stop_broker)
            self._mqtt.start(self._address(broker))
            running.callback(self._mqtt.stop)
            by_protocol["mqtt"], ports["broker"] = broker.endpoint, broker.port
        if self._of("modbus").height:
            kept = {s: p for s, p in before.get("modbus", {}).items() if _is_free(p)}
            links = running.enter_context(_GatewayThread(self._gateways())).start(kept)
            endpoints |= {d: {"endpoint": e, "unit_id": unit} for d, (e, unit) in links.items()}
            sites = dict(self._devices.select("device_id", "site_id").iter_rows())
            ports["modbus"] = {sites[d]: _port(e) for d, (e, _) in links.items()}
        if self._of("http").height:
            by_protocol["http"] = self._http.start(_kept(before.get("http")) or 0)
            running.callback(self._http.stop)
            ports["http"] = _port(by_protocol["http"])
        if self._of("ocpp").height:
            self.charge_points.start()
            running.callback(self.charge_points.stop)
            for device_id in self._of("ocpp")["device_id"]:
                endpoints[device_id] = {"endpoint": device_id, "unit_id": CONNECTOR_ID}
        for protocol, endpoint in by_protocol.items():
            for device_id in self._of(protocol)["device_id"]:
                endpoints[device_id] = {"endpoint": endpoint, "unit_id": None}
        if self._broker is not None and self._broker.asks_who:
            for device_id in self._of("mqtt")["device_id"]:
                endpoints[device_id]["credentials"] = SIMULATED_BROKER
        _write(self._directory / "ports.json", ports)
        return endpoints

    def _start_broker(self, port: int | None) -> Broker:
        """Start without what the last one retained: every device tells its state anew."""
        directory = self._directory / "broker"
        (directory / "mosquitto.db").unlink(missing_ok=True)
        access = generated_access(self._credentials_file)
        self._broker = start_broker(directory, port, access)
        return self._broker

    def _address(self, broker: Broker) -> BrokerAddress:
        if not broker.asks_who:
            return BrokerAddress(broker.endpoint)
        known = Credentials.read({}, generated=self._credentials_file)
        credential = known.named(SIMULATED_BROKER, "devices")
        return BrokerAddress(broker.endpoint, credential=credential)

    def _stop_broker(self) -> None:
        if self._broker is not None:
            self._broker.stop()

    def _keep_broker(self) -> None:
        """Start the broker again at its port if it was killed; the devices find it there."""
        if self._broker is None or self._broker.process.poll() is None:
            return
        _LOG.warning("the broker ended with %s; starting it again", self._broker.process.returncode)
        try:
            self._start_broker(self._broker.port)
        except BrokerError:
            _LOG.exception("the broker did not start again; it will be tried again")

    def _of(self, protocol: str) -> pl.DataFrame:
        return self._devices.filter(pl.col("protocol").cast(pl.String) == protocol)

    def _nameplates(self, protocol: str) -> list[SimulatedDevice]:
        columns = ("device_id", "max_inject_kw", "max_draw_kw", "controllable")
        return [SimulatedDevice(*row) for row in self._of(protocol).select(columns).iter_rows()]

    def _chargers(self) -> list[SimulatedCharger]:
        columns = ("device_id", "max_draw_kw", "energy_capacity_kwh")
        return [SimulatedCharger(*row) for row in self._of("ocpp").select(columns).iter_rows()]

    def _gateways(self) -> SunspecGateways:
        is_battery = pl.col("device_type").cast(pl.String) == "battery"
        units = self._of("modbus").select(
            "site_id",
            "device_id",
            pl.col("device_type").cast(pl.String),
            "max_inject_kw",
            "max_draw_kw",
            pl.when(is_battery).then("energy_capacity_kwh"),
        )
        sites: dict[str, list[SunspecUnit]] = {}
        for site_id, *nameplate in units.iter_rows():
            sites.setdefault(site_id, []).append(SunspecUnit(*nameplate))
        return SunspecGateways(sites, self.plant)

    def _claim_directory(self, running: ExitStack) -> None:
        """Two fleets in one directory would overwrite each other's addresses and state."""
        try:
            running.enter_context(claimed(self._directory / "running.lock", "a simulated fleet"))
        except Claimed as error:
            raise RuntimeError(
                f"a simulated fleet runs in {self._directory} already; stop it first"
            ) from error

    def _restore(self) -> None:
        path = self._directory / "state.json"
        saved = _read(path)
        if saved is None:
            return
        try:
            self.plant.restore(saved["plant"])
            self._mqtt.restore(saved["commands"]["mqtt"])
            self._http.restore(saved["commands"]["http"])
            self.charge_points.restore(saved["commands"]["ocpp"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} can't be gone on from ({error}); delete it to begin afresh"
            ) from error

    def _tick(self) -> None:
        """Step until told to stop."""
        ticks, told_at = 0, self.plant.clock.now()
        while not self._stopping.wait(_TICK_S):
            ticks += 1
            self.step()
            now = self.plant.clock.now()
            if ticks % _TELEMETRY_TICKS == 0 and now - told_at >= _TELEMETRY_EVERY:
                told_at = now
                self.publish_telemetry()
            if ticks % _SAVE_TICKS == 0:
                self._keep_broker()
                self._try_to_save()

    def _try_to_save(self) -> None:
        try:
            self.save()
        except OSError:
            _LOG.exception("the simulated fleet's state was not saved; it will be tried again")


class _GatewayThread:
    """Modbus gateways in an event loop and thread of their own; a context that stops them."""

    def __init__(self, gateways: SunspecGateways) -> None:
        self._gateways = gateways
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="sunspec-gateways", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def start(self, ports: Mapping[str, int]) -> dict[str, tuple[str, int]]:
        """Listen; see `SunspecGateways.start`."""
        return asyncio.run_coroutine_threadsafe(self._gateways.start(ports), self._loop).result()

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._gateways.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def _kept(port: int | None, patience_s: float = 0.0) -> int | None:
    """Return the port if it is free, or soon: what a killed fleet leaves takes a moment to end."""
    deadline = time.monotonic() + patience_s
    while port is not None and not _is_free(port):
        if time.monotonic() >= deadline:
            return None
        time.sleep(_TICK_S)
    return port


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it to begin afresh") from error
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)
