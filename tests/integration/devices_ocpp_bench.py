"""A central system with a driver at it, a simulated plant that calls it, and charge points that
misbehave as real ones do."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from vpp_pipeline.central_system import CentralSystem, Listening
from vpp_pipeline.charge_point_admission import Admission
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.ocpp import OcppDriver
from vpp_pipeline.devices.protocol import Command, DeviceLink
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    EvCharger,
    Fleet,
    GridConnection,
    SimulatedConnection,
    Site,
)
from vpp_pipeline.simulation.world import recorded_world

START = datetime(2020, 8, 13, 6, 30, tzinfo=UTC)  # a vehicle stands at either charger
QUARTER = timedelta(minutes=15)
PATIENCE_S = 20.0
SOON_S = 1.5  # long for what answers, also on a busy machine, and short to wait for what won't
CHARGER_KW = 11.0


def chargers(*device_ids):
    return device_frame(
        Fleet(
            sites=(
                Site(
                    site_id="s",
                    latitude=39.7,
                    longitude=14.8,
                    grid=GridConnection(import_limit_kw=60, export_limit_kw=30),
                    devices=tuple(
                        EvCharger(
                            device_id=device_id,
                            connection=SimulatedConnection(over="ocpp"),
                            max_charge_kw=CHARGER_KW,
                        )
                        for device_id in device_ids
                    ),
                ),
            )
        )
    )


DEVICES = chargers("ev-1", "ev-2")
WORLD = recorded_world(DEVICES, np.random.default_rng(1))


def link(device_id="ev-1", **fields):
    usual = {
        "device_type": "ev_charger",
        "protocol": "ocpp",
        "endpoint": device_id,
        "unit_id": 1,
        "max_inject_kw": 0.0,
        "max_draw_kw": CHARGER_KW,
        "writable": True,
        "energy_capacity_kwh": 60.0,
    }
    return DeviceLink(device_id, **(usual | fields))


def command(power_kw, start=START, device_id="ev-1", version=1):
    sequence = int(start.timestamp()) // 900
    return Command(
        f"{device_id}.v{version}.{sequence}",
        device_id,
        "p",
        version,
        sequence,
        power_kw,
        start,
        start + QUARTER,
    )


@dataclass
class Bench:
    central: CentralSystem
    driver: OcppDriver
    clock: ManualClock

    async def connected(self, *ids):
        await until(lambda: self.central.connected() >= set(ids))

    async def read(self, *links, timeout_s=PATIENCE_S):
        return await self.driver.read(links or [link()], timeout_s)

    async def command(self, *orders, timeout_s=PATIENCE_S):
        pairs = [(link(order.device_id), order) for order in orders]
        return await self.driver.command(pairs, self.clock.now(), timeout_s)

    async def read_back(self, *orders, timeout_s=PATIENCE_S):
        pairs = [(link(order.device_id), order) for order in orders]
        return await self.driver.read_back(pairs, timeout_s)

    async def release(self, *links, timeout_s=PATIENCE_S):
        return await self.driver.release(links or [link()], timeout_s)


REGISTRY = """
sites:
  - site_id: s
    latitude: 39.7
    longitude: 14.8
    grid: {import_limit_kw: 60, export_limit_kw: 30}
    devices:
      - {type: ev_charger, device_id: ev-1, max_charge_kw: 11, connection: {protocol: simulated, over: ocpp}}
      - {type: ev_charger, device_id: ev-2, max_charge_kw: 11, connection: {protocol: simulated, over: ocpp}}
      - type: ev_charger
        device_id: real
        max_charge_kw: 11
        connection: {protocol: ocpp, charge_point_id: "CP*7", connector_id: 1}
"""


@asynccontextmanager
async def bench(directory, clock=None, environment=None):
    """Serve the registry's charge points; `environment` holds their credentials."""
    clock = clock or ManualClock(START)
    directory.mkdir(exist_ok=True)
    fleet_file = directory / "fleet.yaml"
    fleet_file.write_text(REGISTRY)
    admission = Admission(fleet_file, Credentials.read(environment or {}))
    async with CentralSystem(clock, directory, admission, Listening()) as central:
        driver = OcppDriver(directory / "commands.sock", clock)
        try:
            yield Bench(central, driver, clock)
        finally:
            await driver.close()


async def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.01)


class ScriptedChargePoint:
    """A charge point that answers each action as it is told to, and notes what it was asked.

    An answer is a payload, a `(code, description)` error, or None for silence. It keeps no
    profile: what it says is all it does. `before` holds what happens before its next answers to
    an action; `numbers` the ids of what it was asked.
    """

    def __init__(self, connection):
        self.connection = connection
        self.asked = []
        self.numbers = []
        self.before = {}
        self.answers = {
            "GetConfiguration": {"unknownKey": []},
            "SetChargingProfile": {"status": "Accepted"},
            "ClearChargingProfile": {"status": "Accepted"},
            "GetCompositeSchedule": {"status": "Rejected"},
            "TriggerMessage": {"status": "Rejected"},
        }
        self._number = 0
        self._replies = {}
        self._answering = []
        self._serving = asyncio.create_task(self._serve())

    def profiles(self):
        return [
            payload["csChargingProfiles"]
            for action, payload in self.asked
            if action == "SetChargingProfile"
        ]

    def allows(self, limit, unit="W", duration=3600, then=None):
        periods = [{"startPeriod": 0, "limit": limit}]
        if then:
            periods.append({"startPeriod": then[0], "limit": then[1]})
        self.answers["GetCompositeSchedule"] = {
            "status": "Accepted",
            "connectorId": 1,
            "scheduleStart": "2020-08-13T06:30:00Z",
            "chargingSchedule": {
                "duration": duration,
                "chargingRateUnit": unit,
                "chargingSchedulePeriod": periods,
            },
        }

    async def say(self, action, payload):
        self._number += 1
        number = f"cp-{self._number}"
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        await self.raw(json.dumps([2, number, action, payload]))
        return await asyncio.wait_for(reply, PATIENCE_S)

    async def status(self, status, at=START):
        await self.say(
            "StatusNotification",
            {
                "connectorId": 1,
                "errorCode": "NoError",
                "status": status,
                "timestamp": at.isoformat(),
            },
        )

    async def meter(self, at=START, transaction_id=None, **values):
        """Tell a sampling; `values` maps measurands, `_` for the dot, to values and units."""
        sampled = [
            {"measurand": name.replace("_", "."), "value": value, "unit": unit}
            for name, (value, unit) in values.items()
        ]
        payload = {
            "connectorId": 1,
            "meterValue": [{"timestamp": at.isoformat(), "sampledValue": sampled}],
        }
        if transaction_id is not None:
            payload["transactionId"] = transaction_id
        return await self.say("MeterValues", payload)

    async def start_transaction(self, at=START):
        reply = await self.say(
            "StartTransaction",
            {"connectorId": 1, "idTag": "x", "meterStart": 0, "timestamp": at.isoformat()},
        )
        return reply[2]["transactionId"]

    async def raw(self, text):
        await self.connection.send(text)

    async def _serve(self):
        with suppress(ConnectionClosed):
            async for text in self.connection:
                message = json.loads(text)
                if message[0] == 2:
                    self._answering.append(asyncio.create_task(self._answer(*message[1:])))
                elif (reply := self._replies.pop(message[1], None)) is not None:
                    reply.set_result(message)

    async def _answer(self, number, action, payload):
        self.asked.append((action, payload))
        self.numbers.append(number)
        for happening in self.before.pop(action, []):
            await happening()
        match self.answers[action]:
            case None:
                return
            case (code, description):
                await self.raw(json.dumps([4, number, code, description, {}]))
            case answer:
                await self.raw(json.dumps([3, number, answer]))


@asynccontextmanager
async def scripted(made, charge_point_id="ev-1", headers=None):
    url = f"{made.central.url}/{charge_point_id}"
    async with connect(
        url, subprotocols=["ocpp1.6"], additional_headers=headers, proxy=None
    ) as connection:
        await made.connected(charge_point_id)
        yield ScriptedChargePoint(connection)
