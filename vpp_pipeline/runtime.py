"""What a process of the pipeline holds: settings, clock, warehouse, and the plant as it is now.

Belongs here: putting parts together and the reads that need both warehouse and landing zone.
Does not: any decision (the stages), Dagster (`defs`), the simulator.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import polars as pl

from vpp_pipeline.clock import SteadyClock
from vpp_pipeline.credentials import Credentials, redact_logs
from vpp_pipeline.devices.endpoint_health import EndpointHealth
from vpp_pipeline.devices.http import HttpDriver
from vpp_pipeline.devices.leases import Leases
from vpp_pipeline.devices.modbus import ModbusDriver
from vpp_pipeline.devices.mqtt import MqttDriver
from vpp_pipeline.devices.ocpp import OcppDriver
from vpp_pipeline.dispatch.dispatcher import Dispatcher, PushSettings
from vpp_pipeline.dispatch.guard import GuardSettings
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.spread import SpreadSettings
from vpp_pipeline.durable import replace_durably
from vpp_pipeline.fleet import document, registry
from vpp_pipeline.fleet.frame import device_frame, told_endpoints, with_endpoints
from vpp_pipeline.settings import DEMO_FLEET
from vpp_pipeline.telemetry_quality.parts import in_parts
from vpp_pipeline.telemetry_quality.repair import trusted
from vpp_pipeline.telemetry_quality.settings import QualitySettings
from vpp_pipeline.warehouse import landing
from vpp_pipeline.warehouse.store import Warehouse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.protocol import Driver
    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.fleet.model import Fleet
    from vpp_pipeline.settings import Settings

TELEMETRY_MAX_AGE = timedelta(minutes=20)
_JUDGED_AGAINST = QualitySettings().temperature_frozen_after + timedelta(hours=1)
_STATES_MAX_AGE = timedelta(minutes=10)  # of telemetry that a set-point may stand on


@dataclass(frozen=True)
class Runtime:
    """One plant's parts, as one process holds them."""

    settings: Settings
    clock: Clock
    warehouse: Warehouse

    @classmethod
    def of(cls, settings: Settings) -> Runtime:
        """Return the runtime of the plant under `settings.home`."""
        return cls(settings, settings.clock(), Warehouse(settings.warehouse_dir))

    @property
    def dispatch_lead(self) -> timedelta:
        """How long before a boundary its dispatch run is asked for.

        A run needs some 10 s to start on a small machine, whatever the clock's speed.
        """
        return timedelta(seconds=max(60.0, 30.0 * self.clock.rate))

    @property
    def plan_lead(self) -> timedelta:
        """How far ahead a re-plan begins, so that its dispatch is still in time."""
        return 2 * self.dispatch_lead

    def warehouse_made_at(self) -> datetime:
        """Return when the warehouse was made: it tells it from any that stood in its place before."""
        with self.warehouse.read() as connection:
            made_at: datetime = connection.frame("warehouse_made_at")["made_at"].item()
        return made_at

    def knows_a_fleet(self) -> bool:
        """Tell whether the `fleet` asset was ever materialised."""
        with self.warehouse.read() as connection:
            return not connection.frame("warehouse_fleet_at", as_of=self.clock.now()).is_empty()

    def devices(self, as_of: datetime) -> dy.DataFrame[DeviceFrame]:
        """Return the fleet known at `as_of` as a `DeviceFrame`, with its addresses."""
        told = self.settings.endpoints_file
        return _devices(self._document(as_of), told.read_text() if told.exists() else "{}")

    def known_devices(self, as_of: datetime) -> dy.DataFrame[DeviceFrame]:
        """Return the fleet known at `as_of` as a `DeviceFrame`; a simulated device has no address.

        A device that has left the fleet since has none to be told of any more.
        """
        return _known_devices(self._document(as_of))

    def fleet(self, as_of: datetime) -> Fleet:
        """Return the fleet known at `as_of`; a simulated device has no address in it."""
        return document.from_document(self._document(as_of))

    def registered_devices(self) -> dy.DataFrame[DeviceFrame]:
        """Return the fleet of the registry's file with its addresses; needs no database.

        A simulated device whose address can't be read has none. Raises RegistryError.
        """
        return told_endpoints(registry.read_devices(self.settings.fleet_file), self._endpoints())

    def remember(self, fleet: Fleet) -> None:
        """Keep a fleet, and which registry it is of, for those who work without either."""
        settings = self.settings
        with replace_durably(settings.registered_fleet_file) as temporary:
            temporary.write_text(document.to_document(fleet))
        if settings.fleet_file == DEMO_FLEET:
            settings.registry_note.unlink(missing_ok=True)
            return
        with replace_durably(settings.registry_note) as temporary:
            temporary.write_text(str(settings.fleet_file))

    def remembered_devices(self) -> dy.DataFrame[DeviceFrame] | None:
        """Return the fleet last registered, with its addresses; none where there was none."""
        try:
            fleet = document.from_document(self.settings.registered_fleet_file.read_text())
        except (OSError, ValueError):
            return None
        return told_endpoints(device_frame(fleet), self._endpoints())

    def _endpoints(self) -> Any:
        try:
            return json.loads(self.settings.endpoints_file.read_text())
        except (OSError, ValueError):
            return {}

    def latest_telemetry(self, as_of: datetime) -> pl.DataFrame:
        """Return each device's newest reading known at `as_of`, compacted or just landed."""
        return self._readings(as_of).unique("device_id", keep="last", maintain_order=True)

    def believed_telemetry(self, as_of: datetime) -> pl.DataFrame:
        """Return `latest_telemetry` with what can't be believed of it told in `doubt`, and null.

        A value is judged against the device's other readings of the last hours, up to the newest.
        """
        readings = self._readings(as_of)  # the landing zone first, as there
        with self.warehouse.read() as connection:
            recent = connection.frame(
                "warehouse_recent_telemetry", start=as_of - _JUDGED_AGAINST, as_of=as_of
            )
        every = (
            pl.concat([recent.select(readings.columns), readings])
            .unique(keep="last", maintain_order=True)
            .sort("device_id", "measured_at", "known_at", maintain_order=True)
        )
        devices, settings = self.known_devices(as_of), QualitySettings()
        believed = in_parts(every, lambda part: trusted(part, devices, settings))
        return believed.unique("device_id", keep="last", maintain_order=True)

    def dispatch_telemetry(self, as_of: datetime) -> pl.DataFrame:
        """Return `latest_telemetry`, and before it the rows that tell of still heartbeats.

        Those have nothing but `device_id`, `measured_at` and `heartbeat`, or were just landed.
        """
        # The landing zone first, as in `_readings`: a file compacted in between is in both.
        readings = self._readings(as_of)
        with self.warehouse.read() as connection:
            still = connection.frame(
                "warehouse_still_heartbeats", as_of=as_of, since=as_of - 2 * _STATES_MAX_AGE
            )
        return pl.concat([still, readings], how="diagonal").select(readings.columns)

    def _document(self, as_of: datetime) -> str:
        with self.warehouse.read() as connection:
            versions = connection.frame("warehouse_fleet_at", as_of=as_of)
        if versions.is_empty():
            raise LookupError(
                f"no fleet was known at {as_of:%Y-%m-%d %H:%M} UTC: materialise the `fleet` asset"
            )
        return str(versions["document"][0])

    def _readings(self, as_of: datetime) -> pl.DataFrame:
        """Return all that is landed and the newest that is compacted, in time order by device.

        Of readings that were known together the one that landed last is last.
        """
        # The landing zone first: a file compacted in between is seen twice, never missed.
        landed = (
            landing.landed(self.settings.landing_dir, "telemetry")
            .filter(pl.col("known_at") <= as_of, pl.col("measured_at") <= as_of)
            .with_columns(pl.col("status").cast(pl.String))
            .collect()
        )
        with self.warehouse.read() as connection:
            stored = connection.frame("warehouse_latest_telemetry", as_of=as_of)
        return pl.concat([stored.select(landed.columns), landed]).sort(
            "device_id", "measured_at", "known_at", maintain_order=True
        )

    def credentials(self) -> Credentials:
        """Return what this process may show to devices and brokers, read anew.

        From now on it is kept out of this process's logs.
        """
        known = Credentials.read(generated=self.settings.generated_credentials_file)
        redact_logs(known)
        return known

    def drivers(self, owner: str, clock: Clock | None = None) -> dict[str, Driver]:
        """Return a fresh driver for each protocol, on the plant's clock where none is given.

        The caller closes them.
        """
        clock = clock or self.clock
        health = EndpointHealth()
        credentials = self.credentials()
        return {
            "modbus": ModbusDriver(self.settings.lease_dir, owner, clock, credentials, health),
            "mqtt": MqttDriver(owner, clock, self.credentials, health),
            "http": HttpDriver(clock, health, self.credentials, self.settings.webhook_port),
            "ocpp": OcppDriver(self.settings.charge_point_dir / "commands.sock", clock),
        }

    @asynccontextmanager
    async def dispatching(self, actor: str) -> AsyncIterator[Dispatcher]:
        """Give what dispatch works with, in the name of `actor`; its drivers are closed at exit.

        What is left of a command is counted by a steady clock: setting the machine's moves none.
        """
        orders = self.settings.order_dir
        dispatcher = Dispatcher(
            Ledger(self.warehouse),
            self.drivers("dispatcher", SteadyClock(self.clock)),
            self.clock,
            lambda: self.dispatch_telemetry(self.clock.now()),
            OrderBook(orders),
            Holds(orders),
            Leases(self.settings.lease_dir, actor),
            actor,
            PushSettings(
                guard=GuardSettings(max_age=_STATES_MAX_AGE),
                spread=SpreadSettings(self.settings.fleet_ramp_kw_per_min),
            ),
        )
        try:
            yield dispatcher
        finally:
            await asyncio.gather(*(driver.close() for driver in dispatcher.drivers.values()))


@lru_cache(maxsize=4)
def _known_devices(known: str) -> dy.DataFrame[DeviceFrame]:
    return device_frame(document.from_document(known))


@lru_cache(maxsize=4)
def _devices(known: str, endpoints: str) -> dy.DataFrame[DeviceFrame]:
    return with_endpoints(_known_devices(known), json.loads(endpoints))
