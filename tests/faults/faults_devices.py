"""The devices of a small plant on their real protocols, the first of each behind a proxy.

Belongs here: gateways, a real broker, a central system, charge points, and starting and stopping
them. Does not: what they obey (`faults_plant`), the dispatcher (`faults_story`).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from devices_mqtt_bench import wait_until
from faults_broker import BrokerControl
from faults_plant import CAPACITY_KWH, POWER_KW
from faults_proxy import FaultProxy, Loop, chunks, http_messages, modbus_frames

from vpp_pipeline.central_system import in_background
from vpp_pipeline.devices.mqtt_client import BrokerAddress
from vpp_pipeline.simulation.broker_access import SIMULATED_BROKER
from vpp_pipeline.simulation.command_queue import SimulatedDevice
from vpp_pipeline.simulation.http_devices import HttpDevices
from vpp_pipeline.simulation.mqtt_devices import MqttDevices
from vpp_pipeline.simulation.ocpp_charge_point import SimulatedCharger
from vpp_pipeline.simulation.ocpp_devices import OcppDevices
from vpp_pipeline.simulation.sunspec_registers import SunspecUnit
from vpp_pipeline.simulation.sunspec_server import SunspecGateways

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from faults_plant import FaultyPlant

    from vpp_pipeline.runtime import Runtime
    from vpp_pipeline.simulation.broker_access import BrokerAccess
    from vpp_pipeline.simulation.http_completions import CompletionSender

_VEHICLE_KWH = 60.0


@dataclass(frozen=True)
class Peculiar:
    """What is unlike the usual at a plant: who may come to its broker, a gateway that posts
    completions (or at least asks for a token), a certificate before its Modbus device.
    """

    access: Callable[[Path], BrokerAccess] | None = None
    sender: Callable[[Any], CompletionSender | None] | None = None
    modbus_tls: ssl.SSLContext | None = None


class PlantDevices:
    """A context in which the devices of `protocols` listen; `endpoints` tells where."""

    def __init__(
        self,
        protocols: Sequence[str],
        plant: FaultyPlant,
        runtime: Runtime,
        peculiar: Peculiar,
    ) -> None:
        self._protocols, self._plant, self._runtime = protocols, plant, runtime
        self._peculiar = peculiar
        self._running = ExitStack()
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.proxies: dict[str, FaultProxy] = {}
        self.mqtt: MqttDevices | None = None
        self.http: HttpDevices | None = None
        self.ocpp: list[OcppDevices] = []

    def __enter__(self) -> Self:
        start = {
            "modbus": self._start_modbus,
            "mqtt": self._start_mqtt,
            "http": self._start_http,
            "ocpp": self._start_ocpp,
        }
        with ExitStack() as starting:
            self._loop = starting.enter_context(Loop())
            for protocol in self._protocols:
                start[protocol](starting)
            self._running = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def step(self) -> None:
        """Let the devices arrive where the plant's clock is."""
        self._plant.advance()
        for devices in (self.mqtt, self.http, *self.ocpp):
            if devices is not None:
                devices.tick()

    def update_firmware(self, device_id: str, scale_factor: int) -> None:
        """Let a SunSpec device tell its set-point by another scale factor from now on."""
        units = self._gateways._servers[0].context._units.values()
        registers = next(registers for name, registers in units if name == device_id)
        registers._put(704, "WSet_SF", scale_factor)

    def connect_mqtt_devices(self) -> None:
        """Bring the devices to the broker, at first or again."""
        assert self.mqtt is not None
        credential = None
        if self._peculiar.access:
            credential = self._runtime.credentials().named(SIMULATED_BROKER, "devices")
        self.mqtt.start(BrokerAddress(self.broker.endpoint, credential=credential))

    def are_mqtt_devices_connected(self) -> bool:
        assert self.mqtt is not None
        assert self.mqtt._client is not None
        return self.mqtt._client.is_connected()

    def are_charge_points_ready(self) -> bool:
        """Tell whether each has called, booted and begun its transaction: it tells its status last."""
        return all(
            any(peer._told_status for peer in tuple(devices._connected.values()))
            for devices in self.ocpp
        )

    def _ids(self, protocol: str) -> tuple[str, str]:
        return f"{protocol}-1", f"{protocol}-2"

    def _simulated(self, protocol: str) -> list[SimulatedDevice]:
        return [SimulatedDevice(name, POWER_KW, POWER_KW, True) for name in self._ids(protocol)]

    def _proxied(
        self, starting: ExitStack, protocol: str, target: str, **fields: Any
    ) -> FaultProxy:
        proxy = FaultProxy(self._loop, target, **fields)
        starting.callback(proxy.stop)
        self.proxies[protocol] = proxy
        return proxy

    def _start_modbus(self, starting: ExitStack) -> None:
        units = [
            SunspecUnit(name, "battery", POWER_KW, POWER_KW, CAPACITY_KWH)
            for name in self._ids("modbus")
        ]
        self._gateways = gateways = SunspecGateways({"site": units}, self._plant)
        links = self._loop.run(gateways.start())
        starting.callback(lambda: self._loop.run(gateways.stop()))
        first, second = self._ids("modbus")
        proxy = self._proxied(
            starting,
            "modbus",
            links[first][0],
            framing=modbus_frames,
            tls=self._peculiar.modbus_tls,
        )
        self.endpoints[first] = {"endpoint": proxy.endpoint, "unit_id": links[first][1]}
        self.endpoints[second] = {"endpoint": links[second][0], "unit_id": links[second][1]}

    def _start_mqtt(self, starting: ExitStack) -> None:
        access = (
            self._peculiar.access(self._runtime.settings.home) if self._peculiar.access else None
        )
        self.broker = BrokerControl(self._runtime.settings.home / "broker", access)
        starting.callback(self.broker.stop)
        self.mqtt = MqttDevices(self._simulated("mqtt"), self._plant)
        self.connect_mqtt_devices()
        starting.callback(lambda: self.mqtt and self.mqtt.stop())
        proxy = self._proxied(starting, "mqtt", self.broker.endpoint, framing=chunks)
        first, second = self._ids("mqtt")
        credentials = {"credentials": SIMULATED_BROKER} if access else {}
        self.endpoints[first] = {"endpoint": proxy.endpoint, "unit_id": None, **credentials}
        self.endpoints[second] = {
            "endpoint": self.broker.endpoint,
            "unit_id": None,
            **credentials,
        }

    def _start_http(self, starting: ExitStack) -> None:
        sender = self._peculiar.sender(self._plant.clock) if self._peculiar.sender else None
        self.http = HttpDevices(self._simulated("http"), self._plant, sender)
        url = self.http.start()
        starting.callback(self.http.stop)
        proxy = self._proxied(starting, "http", url.removeprefix("http://"), framing=http_messages)
        first, second = self._ids("http")
        named = {"credentials": "gateway"} if self._peculiar.sender else {}
        self.endpoints[first] = {"endpoint": f"http://{proxy.endpoint}", "unit_id": None, **named}
        self.endpoints[second] = {"endpoint": url, "unit_id": None, **named}

    def _start_ocpp(self, starting: ExitStack) -> None:
        settings = self._runtime.settings
        starting.enter_context(in_background(settings, self._plant.clock))
        url_file = settings.charge_point_dir / "url"
        wait_until(url_file.exists, "the central system")
        url = url_file.read_text()
        proxy = self._proxied(starting, "ocpp", url.removeprefix("ws://"), framing=chunks)
        proxied = self._runtime.settings.home / "proxied-url"
        proxied.write_text(f"ws://{proxy.endpoint}")
        for name, where in zip(self._ids("ocpp"), (proxied, url_file), strict=True):
            charger = SimulatedCharger(name, POWER_KW, _VEHICLE_KWH)
            devices = OcppDevices([charger], self._plant, where)
            devices.start()
            starting.callback(devices.stop)
            self.ocpp.append(devices)
            self.endpoints[name] = {"endpoint": name, "unit_id": 1}
        wait_until(self.are_charge_points_ready, "the charge points")
