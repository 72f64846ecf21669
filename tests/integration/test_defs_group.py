"""A group's target on a simulated plant over the real protocols, with what follows from orders."""

from __future__ import annotations

import asyncio
import json
from datetime import time, timedelta
from time import time as clock_s
from typing import TYPE_CHECKING

import polars as pl
import pytest
from click.testing import CliRunner
from defs_plant import TODAY, TOMORROW, copied, failure_of, market_time, open_plant, records

from vpp_pipeline.cli import main
from vpp_pipeline.collector import Collector
from vpp_pipeline.delivery_day import STEP, bounds
from vpp_pipeline.devices.protocol import CommandResult, Outcome
from vpp_pipeline.dispatch.group import (
    GroupReport,
    GroupTarget,
    cancelled,
    dispatch_group,
    preview,
)
from vpp_pipeline.dispatch.in_force import in_force
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.planning.outlook import outlook, rest_of_day
from vpp_pipeline.settings import MARKET_TZ
from vpp_pipeline.simulation.of_registry import open_fleet

if TYPE_CHECKING:
    from defs_plant import Plant

START, _ = bounds(TOMORROW, MARKET_TZ)
BATTERIES = {"alba-battery", "borgo-battery"}


@pytest.fixture(scope="module")
def running(planned_home, tmp_path_factory):
    """The planned plant after its first push, and its simulated devices."""
    home = copied(planned_home, tmp_path_factory.mktemp("group") / "plant")
    with open_plant(home, market_time(TODAY, time(12, 58))) as plant:
        assert plant.daemon.launch("collect_prices", partition_key=str(TOMORROW)).success
        plant.clock.sleep_until(START - STEP)
        fleet = open_fleet(plant.runtime)
        fleet.start(ticking=False)
        try:
            plant.clock.on_move = fleet.step
            with Collector(plant.runtime, timeout_s=5.0) as collector:
                plant.clock.sleep_until(START - timedelta(seconds=40))
                collector.collect()
                (result,) = plant.daemon.ask("due_dispatch")
                assert result.success, failure_of(result)
                plant.clock.sleep_until(START + timedelta(minutes=2))
                collector.collect()
                yield plant, fleet
        finally:
            fleet.stop()


def target_of(plant: Plant, key: str, power_kw: float, scope: str = "fleet") -> GroupTarget:
    until = plant.clock.now() + timedelta(minutes=20)
    return GroupTarget(key, scope, power_kw, until, "op", "a test")


def dispatched(plant: Plant, target: GroupTarget, spoil=lambda drivers: None) -> GroupReport:
    now = plant.clock.now()
    known = outlook(plant.runtime, rest_of_day(now, target.until), now)

    async def run() -> GroupReport:
        async with plant.runtime.dispatching("test") as dispatcher:
            spoil(dispatcher.drivers)
            return await dispatch_group(dispatcher, known, target)

    return asyncio.run(run())


def obeyed(fleet, device_ids) -> dict[str, float]:
    return {name: fleet.plant.setpoint(name).setpoint_kw for name in device_ids}


def test_invariant_17_a_target_is_shared_out_exactly_and_nothing_is_ordered_by_a_preview(running):
    plant, _ = running
    now = plant.clock.now()
    target = target_of(plant, "looked-at", 4.0)
    known = outlook(plant.runtime, rest_of_day(now, target.until), now)
    book = OrderBook(plant.runtime.settings.order_dir)
    report = preview(known, target, book.standing(known.devices, now), START)
    assert report.devices["share_kw"].sum() == pytest.approx(4.0, abs=1e-5)
    assert set(report.devices["state"]) == {"not sent"}
    assert set(report.skipped["device_id"]) >= {"alba-load", "borgo-load"}
    assert report.skipped["why"].str.len_chars().min() > 0
    assert book.read() == []


def test_invariant_17_a_group_does_what_is_asked_and_every_share_is_verified(running):
    plant, fleet = running
    report = dispatched(plant, target_of(plant, "asked", 4.0))
    assert report.shortfall_kw == 0
    assert report.accepted_kw == pytest.approx(4.0, abs=0.05)
    assert set(report.devices["state"]) == {"VERIFIED"}
    shares = dict(report.devices.select("device_id", "share_kw").iter_rows())
    assert obeyed(fleet, BATTERIES) == pytest.approx({n: shares[n] for n in BATTERIES}, abs=0.02)
    by_order = plant.rows("commands").filter(authority="override")
    assert set(by_order["device_id"]) <= set(shares)
    assert set(by_order["order_id"].str.split("-").list.first()) == {"asked"}


def test_invariant_17_what_a_device_does_not_take_others_make_good(running):
    plant, fleet = running

    def refuse(drivers):
        async def refused(commands, now, timeout_s, tell):
            return [CommandResult(c.command_id, Outcome.REJECTED, "", "no") for _, c in commands]

        drivers["modbus"].command = refused

    report = dispatched(plant, target_of(plant, "spoilt", 3.0), refuse)
    rows = {row["device_id"]: row for row in report.devices.iter_rows(named=True)}
    assert rows["borgo-battery"]["state"] == "REJECTED"
    assert rows["borgo-battery"]["accepted_kw"] == 0
    assert report.accepted_kw == pytest.approx(3.0, abs=0.05)
    assert report.shortfall_kw == 0
    orders = OrderBook(plant.runtime.settings.order_dir)
    standing = orders.standing(plant.runtime.devices(plant.clock.now()), plant.clock.now())
    overridden = standing.filter(pl.col("override_kw").is_not_null())["device_id"]
    assert "alba-battery" in overridden
    assert obeyed(fleet, ["alba-battery"])["alba-battery"] == pytest.approx(
        rows["alba-battery"]["accepted_kw"], abs=0.02
    )


def test_invariant_17_a_target_out_of_reach_is_told_as_a_shortfall(running):
    plant, _ = running
    report = dispatched(plant, target_of(plant, "too-much", 500.0))
    assert report.shortfall_kw > 450
    assert report.reachable_kw < 50
    assert report.accepted_kw <= report.reachable_kw + 0.05


def test_a_group_that_is_not_there_is_told_with_those_that_are(running):
    plant, _ = running
    with pytest.raises(LookupError, match=r"group:nobody has no device: name one of group:every"):
        dispatched(plant, target_of(plant, "nobody", 1.0, "group:nobody"))


def test_invariant_08_the_sensor_brings_the_devices_back_to_the_plan_after_a_cancellation(running):
    plant, _ = running
    settings = plant.runtime.settings
    book = OrderBook(settings.order_dir)
    devices = plant.runtime.devices(plant.clock.now())["device_id"].to_list()
    for key in {order.target for order in book.read()} - {None}:
        target = target_of(plant, key, 0.0)
        book.give(*cancelled(book.read(), devices, target, plant.clock.now()))
    (result,) = plant.daemon.ask("due_recheck")
    assert result.success, failure_of(result)
    newest = plant.rows("commands").sort("plan_version").group_by("device_id").last()
    assert set(newest["authority"]) == {"plan"}


def test_a_group_is_dispatched_from_the_ui_and_shown_with_its_result_per_device(running):
    plant, _ = running
    config = {"group": "everything", "kw": 1.5, "minutes": 20}
    result = plant._run(
        "dispatch_group", run_config={"ops": {"group_dispatch": {"config": config}}}
    )
    assert result.success, failure_of(result)
    (told,) = result.asset_materializations_for_node("group_dispatch")
    assert told.metadata["accepted_kw"].value == pytest.approx(1.5, abs=0.05)
    rows = records(told.metadata["devices"])
    assert {row["device_id"] for row in rows} <= {"alba-battery", "alba-pv", "alba-heat-pump"}
    assert {row["state"] for row in rows} == {"VERIFIED"}


def test_a_target_is_ended_from_the_ui_by_its_name_and_what_is_none_is_told(running):
    plant, _ = running
    dispatched(plant, target_of(plant, "ended", 1.0))
    config = {"order": "ended", "why": "over"}
    run_config = {"ops": {"end_order": {"config": config}}}
    assert plant._run("cancel_order", run_config=run_config).success
    again = plant._run("cancel_order", run_config=run_config)
    assert "no order ended is in force" in failure_of(again)
    book = OrderBook(plant.runtime.settings.order_dir).read()
    assert "ended" not in {order.target for order in in_force(book, plant.clock.now())}
    assert {order.why for order in book if order.kind == "cancel"} >= {"over"}


@pytest.mark.parametrize(("group", "power_kw"), [("everything", "2"), ("tag:all", "-1")])
def test_the_command_line_shows_what_each_device_would_do(running, monkeypatch, group, power_kw):
    plant, _ = running
    settings = plant.runtime.settings
    monkeypatch.setenv("VPP_FLEET", str(settings.fleet_file))
    now = plant.clock.now()
    clock = {"start": now.isoformat(), "anchor_epoch_s": clock_s(), "rate": 1.0}
    settings.clock_file.write_text(json.dumps(clock))
    try:
        asked = f"dispatch {group} {power_kw} --for 20m --dry-run --why look --home {settings.home}"
        shown = CliRunner().invoke(main, asked.split())
    finally:
        settings.clock_file.unlink()
    assert shown.exit_code == 0, shown.output
    assert f"target {float(power_kw):+.3f} kW" in shown.output
    assert "alba-battery  share" in shown.output
    assert "alba-load  takes no part: not controllable" in shown.output
    assert "borgo" not in shown.output
