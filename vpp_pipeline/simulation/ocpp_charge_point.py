"""One simulated charge point with one connector: what it keeps to, and what it says.

Belongs here: its side of OCPP 1.6, on the plant. Does not: connecting (`ocpp_devices`), which
profile leads (`charging_profiles`), the vehicle (`physics`).
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from ocpp.routing import after, on
from ocpp.v16 import ChargePoint as Peer
from ocpp.v16 import call, call_result
from ocpp.v16.enums import Action
from websockets.exceptions import ConnectionClosed

from vpp_pipeline.devices.ocpp_profile import timestamp
from vpp_pipeline.simulation.charging_profiles import (
    HIGHEST_STACK_LEVEL,
    PHASES,
    VOLTS,
    ProfileStack,
)
from vpp_pipeline.simulation.plant_protocol import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from websockets.asyncio.client import ClientConnection

    from vpp_pipeline.devices.protocol import Reading
    from vpp_pipeline.simulation.plant_protocol import Plant

CONNECTOR_ID = 1
_AS_FAR_AS = timedelta(days=1)
_ANSWERS_WITHIN_S = 10.0
_CONFIGURATION = {
    "ChargingScheduleAllowedChargingRateUnit": "Current,Power",
    "ConnectorPhaseRotation": "1.RST",
    "ChargeProfileMaxStackLevel": str(HIGHEST_STACK_LEVEL),
}
_TRIGGERS = frozenset({"BootNotification", "Heartbeat", "MeterValues", "StatusNotification"})


@dataclass(frozen=True)
class SimulatedCharger:
    """What a charge point knows of itself, and of the vehicles that come."""

    device_id: str
    max_draw_kw: float
    vehicle_capacity_kwh: float


class Charger:
    """A charger's memory and its hold on the plant; safe to call from any thread.

    `out_of_order` is what somebody on site, or a defect, makes of it: it then takes no profiles.
    """

    def __init__(self, charger: SimulatedCharger, plant: Plant) -> None:
        self.known = charger
        self.plant = plant
        self.out_of_order: Literal["Faulted", "Unavailable"] | None = None
        self.transaction_id: int | None = None
        self.told_plugged_in = False
        self._stack = ProfileStack(charger.max_draw_kw)
        self._lock = threading.RLock()
        self._obeyed: tuple[float, Any] | None = None

    def install(self, profile: Mapping[str, Any]) -> Literal["Accepted", "Rejected"]:
        """Judge a profile, and keep to it."""
        with self._lock:
            if self.out_of_order:
                return "Rejected"
            answer = self._stack.install(profile, self.plant.clock.now(), self.transaction_id)
            self.settle()
            return answer

    def clear(
        self, profile_id: int | None, purpose: str | None, stack_level: int | None
    ) -> Literal["Accepted", "Unknown"]:
        """Forget profiles, and what was kept to for them."""
        with self._lock:
            answer = self._stack.clear(profile_id, purpose, stack_level)
            self.settle()
            return answer

    def end_transaction(self) -> None:
        """Forget the transaction and its profiles."""
        with self._lock:
            self.transaction_id = None
            self._stack.end_transaction()
            self.settle()

    def settle(self) -> None:
        """Let the plant keep to what the profiles come to now, for as long as they do."""
        with self._lock:
            now = self.plant.clock.now()
            stretches = self._stack.composite(now, now + _AS_FAR_AS)
            limit_w = stretches[0].limit_w
            until = stretches[1].begin if len(stretches) > 1 else now + _AS_FAR_AS
            device_id = self.known.device_id
            if limit_w is None:
                if self._obeyed is not None:
                    self.plant.release(device_id)
                self._obeyed = None
                return
            if self._obeyed == (limit_w, until) and self.plant.setpoint(device_id):
                return
            with suppress(Refused):
                self.plant.apply(device_id, 0.0 - limit_w / 1000, until)
                self._obeyed = (limit_w, until)

    def schedule(self, seconds: int, unit: str) -> dict[str, Any]:
        """Return the composite schedule as OCPP writes it."""
        with self._lock:
            now = self.plant.clock.now()
            stretches = self._stack.composite(now, now + timedelta(seconds=seconds))
        watts_a_unit = 1.0 if unit == "W" else VOLTS * PHASES
        highest_w = self.known.max_draw_kw * 1000
        return {
            "duration": seconds,
            "charging_rate_unit": unit,
            "charging_schedule_period": [
                {
                    "start_period": round((begin - now).total_seconds()),
                    "limit": round((highest_w if limit_w is None else limit_w) / watts_a_unit, 1),
                }
                for begin, limit_w in stretches
            ],
        }

    def status(self, reading: Reading) -> str:
        """Return the connector's status as OCPP names it."""
        if self.out_of_order:
            return self.out_of_order
        if not reading.plugged_in:
            return "Available"
        if reading.power_kw:
            return "Charging"
        return "SuspendedEVSE" if reading.setpoint_kw == 0 else "SuspendedEV"

    def state(self) -> dict[str, Any]:
        """Return what it remembers without power, as JSON values."""
        with self._lock:
            return {
                "profiles": self._stack.state(),
                "transaction_id": self.transaction_id,
                "told_plugged_in": self.told_plugged_in,
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        with self._lock:
            self._stack.restore(state["profiles"])
            self.transaction_id = state["transaction_id"]
            self.told_plugged_in = state["told_plugged_in"]


class ChargePoint(Peer):
    """A connection of a charger to the central system."""

    def __init__(self, charger: Charger, connection: ClientConnection) -> None:
        super().__init__(charger.known.device_id, connection, _ANSWERS_WITHIN_S)
        self._charger = charger
        self._told_status = ""
        self._speaking = asyncio.Lock()

    def cut(self) -> None:
        """Break the connection without a farewell, as a dead charge point does."""
        self._connection.transport.abort()

    async def boot(self) -> float:
        """Report after a start; return the heartbeat's interval in seconds."""
        request = call.BootNotification(
            charge_point_model="simulated", charge_point_vendor="vpp-pipeline"
        )
        async with self._speaking:
            answer = await self.call(request, suppress=False)
            await self._tell(self._charger.plant.reading(self.id))
        return float(answer.interval)

    async def beat(self) -> None:
        """Send a heartbeat."""
        await self.call(call.Heartbeat(), suppress=False)

    async def tell(self) -> None:
        """Tell what has changed: a vehicle that came or went, the status."""
        async with self._speaking:
            await self._tell(self._charger.plant.reading(self.id))

    async def meter(self, context: str) -> None:
        """Tell what has changed, then what the meter says."""
        async with self._speaking:
            reading = self._charger.plant.reading(self.id)
            await self._tell(reading)
            drawn_w = 0.0 - (reading.power_kw or 0.0) * 1000
            values = [_sampled(f"{drawn_w:.1f}", context, "Power.Active.Import", "W")]
            if reading.energy_kwh is not None:
                soc = 100 * reading.energy_kwh / self._charger.known.vehicle_capacity_kwh
                values.append(_sampled(f"{soc:.4f}", context, "SoC", "Percent"))
            request = call.MeterValues(
                connector_id=CONNECTOR_ID,
                transaction_id=self._charger.transaction_id,
                meter_value=[
                    {"timestamp": reading.measured_at.isoformat(), "sampled_value": values}
                ],
            )
            await self.call(request, suppress=False)

    async def _tell(self, reading: Reading) -> None:
        charger = self._charger
        if reading.plugged_in and not charger.told_plugged_in:
            await self._tell_status("Preparing", reading)
            request = call.StartTransaction(
                connector_id=CONNECTOR_ID,
                id_tag="vehicle",
                meter_start=0,
                timestamp=timestamp(reading.measured_at),
            )
            answer = await self.call(request, suppress=False)
            charger.transaction_id = answer.transaction_id
            charger.told_plugged_in = True
        if not reading.plugged_in and charger.told_plugged_in:
            await self._end_transaction(reading)
        await self._tell_status(charger.status(reading), reading)

    async def _end_transaction(self, reading: Reading) -> None:
        charger = self._charger
        if charger.transaction_id is not None:
            request = call.StopTransaction(
                meter_stop=0,
                timestamp=timestamp(reading.measured_at),
                transaction_id=charger.transaction_id,
                reason="EVDisconnected",
            )
            await self.call(request, suppress=False)
        charger.end_transaction()
        charger.told_plugged_in = False

    async def _tell_status(self, status: str, reading: Reading) -> None:
        if status == self._told_status:
            return
        request = call.StatusNotification(
            connector_id=CONNECTOR_ID,
            error_code="InternalError" if status == "Faulted" else "NoError",
            status=status,
            timestamp=reading.measured_at.isoformat(),
        )
        await self.call(request, suppress=False)
        self._told_status = status

    @on(Action.get_configuration)
    def _on_configuration(self, key: list[str] | None = None) -> Any:
        asked = list(_CONFIGURATION) if key is None else key
        return call_result.GetConfiguration(
            configuration_key=[
                {"key": name, "readonly": True, "value": _CONFIGURATION[name]}
                for name in asked
                if name in _CONFIGURATION
            ],
            unknown_key=[name for name in asked if name not in _CONFIGURATION],
        )

    @on(Action.set_charging_profile)
    def _on_profile(self, connector_id: int, cs_charging_profiles: dict[str, Any]) -> Any:
        status = (
            self._charger.install(cs_charging_profiles)
            if connector_id == CONNECTOR_ID
            else "Rejected"
        )
        return call_result.SetChargingProfile(status=status)

    @on(Action.clear_charging_profile)
    def _on_clear(
        self,
        id: int | None = None,  # noqa: A002 - OCPP's name
        connector_id: int | None = None,  # noqa: ARG002 - there is one
        charging_profile_purpose: str | None = None,
        stack_level: int | None = None,
    ) -> Any:
        status = self._charger.clear(id, charging_profile_purpose, stack_level)
        return call_result.ClearChargingProfile(status=status)

    @on(Action.get_composite_schedule)
    def _on_schedule(self, connector_id: int, duration: int, charging_rate_unit: str = "W") -> Any:
        if connector_id != CONNECTOR_ID:
            return call_result.GetCompositeSchedule(status="Rejected")
        return call_result.GetCompositeSchedule(
            status="Accepted",
            connector_id=connector_id,
            schedule_start=timestamp(self._charger.plant.clock.now()),
            charging_schedule=self._charger.schedule(duration, charging_rate_unit),
        )

    @on(Action.trigger_message)
    def _on_trigger(self, requested_message: str, connector_id: int = CONNECTOR_ID) -> Any:
        if requested_message not in _TRIGGERS:
            return call_result.TriggerMessage(status="NotImplemented")
        known = connector_id == CONNECTOR_ID
        return call_result.TriggerMessage(status="Accepted" if known else "Rejected")

    @after(Action.trigger_message)
    async def _after_trigger(
        self, requested_message: str, connector_id: int = CONNECTOR_ID
    ) -> None:
        if connector_id != CONNECTOR_ID:
            return
        with suppress(ConnectionClosed):
            match requested_message:
                case "MeterValues":
                    await self.meter("Trigger")
                case "StatusNotification":
                    self._told_status = ""
                    await self.tell()
                case "Heartbeat":
                    await self.beat()
                case "BootNotification":
                    await self.boot()


def _sampled(value: str, context: str, measurand: str, unit: str) -> dict[str, str]:
    return {"value": value, "context": context, "measurand": measurand, "unit": unit}
