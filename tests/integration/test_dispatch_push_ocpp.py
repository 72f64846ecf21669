"""A push brings charge points their commands, from the ledger's intent to the verified limit."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import numpy as np
import polars as pl
from devices_ocpp_bench import DEVICES, START, WORLD, bench, link

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.collector import telemetry_rows
from vpp_pipeline.devices.leases import Leases
from vpp_pipeline.dispatch.commands import PlanRef, due_commands
from vpp_pipeline.dispatch.dispatcher import Dispatcher, PushSettings
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.ledger import Ledger
from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.fleet.frame import with_endpoints
from vpp_pipeline.simulation.fleet import SimulatedFleet
from vpp_pipeline.warehouse.store import Warehouse

PLAN = PlanRef("p", 1)
ENDPOINTS = {name: {"endpoint": name, "unit_id": 1} for name in ("ev-1", "ev-2")}


def test_charge_points_get_their_commands_at_the_boundary_and_are_verified(tmp_path):
    clock = ManualClock(START - timedelta(minutes=1))
    wishes = {"ev-1": -4.2, "ev-2": 0.0}
    schedules = pl.DataFrame(
        [(name, START, kw, None, None) for name, kw in wishes.items()],
        schema={
            "device_id": pl.String,
            "interval_start": pl.Datetime("us", "UTC"),
            "power_kw": pl.Float64,
            "limit_kw": pl.Float64,
            "energy_kwh": pl.Float64,
        },
        orient="row",
    )

    async def scenario():
        async with bench(tmp_path / "c", clock) as made:
            fleet = SimulatedFleet(
                DEVICES,
                WORLD,
                clock,
                np.random.default_rng(2),
                tmp_path / "simulation",
                central_system=tmp_path / "c" / "url",
            )
            clock.on_move = fleet.step
            fleet.start(ticking=False)
            await made.connected(*wishes)
            await made.read(*map(link, wishes))  # by then each has begun its transaction

            def states():
                readings = [fleet.plant.reading(name) for name in wishes]
                return telemetry_rows(readings, clock.now())

            dispatcher = Dispatcher(
                Ledger(Warehouse(tmp_path / "warehouse")),
                {"ocpp": made.driver},
                clock,
                states,
                OrderBook(tmp_path / "orders"),
                Holds(tmp_path / "holds"),
                Leases(tmp_path / "leases", "test"),
                "test",
                PushSettings(settle_s=0.01),
            )
            devices = with_endpoints(DEVICES, ENDPOINTS)
            due = due_commands(PLAN, schedules, devices, START)
            try:
                report = await push(dispatcher, PLAN, due, devices, START)
            finally:
                await asyncio.to_thread(fleet.stop)
            return report, [fleet.plant.setpoint(name).setpoint_kw for name in wishes]

    report, setpoints = asyncio.run(scenario())
    assert report.counts == {State.VERIFIED: 2}, report.not_verified
    assert setpoints == list(wishes.values())
