import asyncio
import shutil
from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest
from dispatch_fakes import BEFORE, PLAN, SETTINGS, START, Bench, answering, due, healthy, plant

from vpp_pipeline import event_loop
from vpp_pipeline.devices.protocol import CommandResult, Outcome, Unreachable
from vpp_pipeline.dispatch.commands import DueCommands, PlanRef
from vpp_pipeline.dispatch.dispatcher import PushSettings
from vpp_pipeline.dispatch.lifecycle import FINAL, State
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.dispatch.spread import SpreadSettings
from vpp_pipeline.warehouse.store import Warehouse

ALL_SIX = {f"{protocol}-{n}" for protocol in ("modbus", "mqtt", "http") for n in (0, 1)}


@pytest.fixture(scope="module")
def new_warehouse(tmp_path_factory):
    """A migrated warehouse to copy: making one anew takes longer than a push."""
    directory = tmp_path_factory.mktemp("new")
    with Warehouse(directory).read():
        return directory / "vpp.duckdb"


@pytest.fixture
def bench(tmp_path, new_warehouse) -> Bench:
    (tmp_path / "warehouse").mkdir()
    shutil.copy(new_warehouse, tmp_path / "warehouse")
    return Bench(tmp_path)


def test_every_device_is_verified(bench):
    report = bench.push()
    assert report.counts == {State.VERIFIED: 6}
    assert report.not_verified.is_empty()
    assert bench.applications() == dict.fromkeys(ALL_SIX, 1)
    assert bench.events("modbus-0") == ["PLANNED", "SENT", "ACKED", "VERIFIED"]


def test_invariant_05_the_intent_and_the_send_are_stored_before_the_send(bench):
    seen = []
    for driver in bench.drivers.values():
        driver.after_send = lambda driver=driver: seen.append(
            {bench.states()[c.device_id] for c in driver.commanded}
        )
    bench.push()
    assert seen == [{"SENT"}, {"SENT"}, {"SENT"}]


def test_mqtt_and_http_are_told_ahead_and_modbus_at_the_boundary(bench):
    told_at = {}
    for protocol, driver in bench.drivers.items():
        driver.after_send = lambda protocol=protocol: told_at.update({protocol: bench.clock.now()})
    bench.push()
    assert told_at == {"mqtt": BEFORE, "http": BEFORE, "modbus": START}


def test_invariant_21_a_past_interval_is_never_dispatched(tmp_path):
    bench = Bench(tmp_path, now=START + timedelta(minutes=15))
    report = bench.push()
    assert report.counts == {State.EXPIRED: 6}
    assert set(bench.applications().values()) == {0}


def test_invariant_21_a_read_only_device_is_never_written(bench):
    bench.devices = plant(live=False)
    report = bench.push()
    assert report.counts == {State.REJECTED: 6}
    assert set(bench.applications().values()) == {0}
    assert "read-only" in report.not_verified["why"][0]


def test_invariant_12_a_verified_command_is_not_sent_again(bench):
    bench.push()
    report = bench.push()
    assert report.counts == {State.VERIFIED: 6}
    assert set(bench.applications().values()) == {1}


def test_invariant_12_an_equal_old_set_point_does_not_pass_for_a_lost_new_one(bench):
    until = START + timedelta(minutes=5)
    for name in sorted(ALL_SIX):
        bench.drivers[name.split("-")[0]].stand(name, 3.0, "before", until)
    for driver in bench.drivers.values():
        answering(Outcome.UNKNOWN, times=1)(driver)
    report = bench.push()
    assert report.counts == {State.VERIFIED: 6}
    assert set(bench.applications().values()) == {2}


def test_invariant_06_an_unknown_outcome_is_read_back_and_not_resent_if_it_stands(bench):
    modbus = bench.drivers["modbus"]
    deliver = modbus.command

    async def answer_lost(commands, now, timeout_s, tell):
        await deliver(commands, now, timeout_s)
        return [CommandResult(c.command_id, Outcome.UNKNOWN, "", "timed out") for _, c in commands]

    modbus.command = answer_lost
    bench.push()
    assert bench.events("modbus-0") == ["PLANNED", "SENT", "UNKNOWN", "VERIFIED"]
    assert bench.applications()["modbus-0"] == 1


def test_invariant_06_without_a_read_back_nothing_in_doubt_is_resent(bench):
    modbus = bench.drivers["modbus"]
    answering(Outcome.UNKNOWN)(modbus)

    async def silent(commands, timeout_s, tell):
        return [Unreachable(link.device_id, "no route: check its cable") for link, _ in commands]

    modbus.read_back = silent
    report = bench.push()
    assert len(modbus.commanded) == 2
    assert report.counts == {State.VERIFIED: 4, State.UNKNOWN: 2}
    assert "check its cable" in report.not_verified["why"][0]


def test_invariant_18_what_failed_is_tried_again_and_within_a_bound(bench):
    answering(Outcome.FAILED, times=2)(bench.drivers["modbus"])
    answering(Outcome.FAILED)(bench.drivers["http"])
    report = bench.push()
    assert bench.events("modbus-0")[-3:] == ["SENT", "ACKED", "VERIFIED"]
    assert report.counts == {State.VERIFIED: 4, State.FAILED: 2}
    assert len(bench.drivers["http"].commanded) == 2 * (1 + 4)


def test_invariant_18_what_a_device_refused_is_not_tried_again(bench):
    answering(Outcome.REJECTED)(bench.drivers["mqtt"])
    report = bench.push()
    assert len(bench.drivers["mqtt"].commanded) == 2
    assert report.not_verified.rows() == [
        ("mqtt-0", "REJECTED", "as told"),
        ("mqtt-1", "REJECTED", "as told"),
    ]


def test_invariant_07_an_acknowledgement_without_effect_is_not_verified(bench):
    answering(Outcome.ACKED)(bench.drivers["modbus"])
    report = bench.push()
    assert report.counts == {State.VERIFIED: 4, State.ACKED: 2}
    assert "no set-point is in force" in report.not_verified["why"][0]


def test_invariant_07_a_late_effect_is_waited_for(bench):
    modbus = bench.drivers["modbus"]
    answering(Outcome.ACKED)(modbus)
    look, looks = modbus.read_back, []

    async def read_back(commands, timeout_s, tell):
        looks.append(bench.clock.now())
        if len(looks) == 4:
            for _, c in commands:
                modbus.stand(c.device_id, c.power_kw, c.command_id, c.valid_until)
        return await look(commands, timeout_s, tell)

    modbus.read_back = read_back
    assert bench.push().counts == {State.VERIFIED: 6}
    assert [round((at - START).total_seconds()) for at in looks] == [0, 1, 3, 7]


def test_invariant_14_a_strangers_value_is_overridden_and_not_fought(bench):
    modbus = bench.drivers["modbus"]
    until = START + timedelta(minutes=20)
    modbus.after_send = lambda: [
        modbus.stand(d, -8.0, "x", until) for d in ("modbus-0", "modbus-1")
    ]
    report = bench.push()
    assert report.counts == {State.VERIFIED: 4, State.OVERRIDDEN: 2}
    assert len(modbus.commanded) == 2


def test_invariant_17_the_report_tells_what_was_planned_and_what_is_verified(bench):
    answering(Outcome.REJECTED)(bench.drivers["mqtt"])
    report = bench.push()
    assert (report.planned_kw, report.verified_kw) == (18.0, 12.0)


def test_invariant_01_the_guard_looks_again_at_the_boundary(bench):
    http = bench.drivers["http"]

    def emptied():
        bench.energy_kwh = 10.0

    http.after_send = emptied
    bench.push()
    assert {c.power_kw for c in http.commanded} == {3.0}
    assert {c.power_kw for c in bench.drivers["modbus"].commanded} == {0.0}
    assert "holds 10.0 kWh" in bench.ledger.history("modbus-0", START)["detail"][1]


def test_invariant_01_what_goes_ahead_counts_on_nothing_that_goes_later(bench):
    is_modbus = pl.col("device_id").str.starts_with("modbus")
    devices = bench.devices.with_columns(site_export_limit_kw=pl.lit(20.0))
    dispatcher = replace(
        bench.dispatcher(SETTINGS),
        read_states=lambda: healthy(devices, bench.clock.now()).with_columns(
            power_kw=pl.when(is_modbus).then(8.0).otherwise(0.0)
        ),
    )
    wished = pl.when(is_modbus).then(0.0).otherwise("setpoint_kw")
    asked = due(devices)
    commands = asked.commands.with_columns(setpoint_kw=wished, planned_kw=wished)
    event_loop.run(push(dispatcher, PLAN, replace(asked, commands=commands), devices, START))
    told = [c.power_kw for name in ("mqtt", "http") for c in bench.drivers[name].commanded]
    assert told == pytest.approx([1.0] * 4)  # of 20 kW, 16 are there until the boundary


def test_invariant_15_a_missing_state_of_charge_refuses_the_command(bench):
    bench.energy_kwh = None
    report = bench.push()
    assert report.counts == {State.REJECTED: 6}
    assert "state of charge is missing" in report.not_verified["why"][0]
    assert set(bench.applications().values()) == {0}


def test_invariant_04_an_older_plan_does_not_follow_a_newer_one(bench):
    newer = PlanRef("plan-2", 2)
    bench.push(due(bench.devices, 5.0, newer), newer)
    report = bench.push()
    assert report.counts == {State.REJECTED: 6}
    assert "superseded by plan version 2" in report.not_verified["why"][0]
    assert set(bench.applications().values()) == {1}


def test_invariant_04_a_plan_that_waits_for_its_turn_is_known_before_it_comes(bench):
    async def waits():
        dispatcher = bench.dispatcher(SETTINGS)
        async with await bench.leases.acquire(f"push-{START:%H%M}", 0.0):
            waiting = asyncio.create_task(
                push(dispatcher, PLAN, due(bench.devices), bench.devices, START)
            )
            while bench.ledger.states(START).is_empty():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
            assert set(bench.ledger.states(START)["state"]) == {"PLANNED"}
        return await waiting

    assert event_loop.run(waits()).counts == {State.VERIFIED: 6}
    assert set(bench.applications().values()) == {1}


def test_invariant_04_a_newer_plan_closes_what_the_older_left_open(bench):
    answering(Outcome.ACKED, times=1)(bench.drivers["modbus"])
    bench.push()
    newer = PlanRef("plan-2", 2)
    report = bench.push(due(bench.devices, 5.0, newer), newer)
    assert report.counts == {State.VERIFIED: 6}
    older = bench.ledger.states(START).filter(pl.col("plan_version") == 1)
    assert dict(older.select("device_id", "state").rows())["modbus-0"] == "OVERRIDDEN"
    assert set(bench.ledger.states(START)["state"]) <= FINAL


@pytest.mark.parametrize("how", ["raises", "hangs", "miscounts"])
def test_a_driver_that_fails_fails_its_own_batch_only(bench, how):
    async def broken(commands, *rest):
        if how == "raises":
            raise ConnectionError("the broker went away")
        if how == "hangs":
            await asyncio.Event().wait()
        return []

    bench.drivers["mqtt"].command = broken
    bench.drivers["mqtt"].read_back = broken
    report = bench.push(settings=PushSettings(timeout_s=0, rounds=1))
    assert report.counts == {State.VERIFIED: 4, State.UNKNOWN: 2}
    assert "the mqtt driver" in report.not_verified["why"][0]


def test_what_a_device_answered_is_stored_while_others_are_silent(bench):
    modbus, seen = bench.drivers["modbus"], []
    deliver = modbus.command

    async def one_is_slow(commands, now, timeout_s, tell):
        results = await deliver(commands, now, timeout_s, tell)
        tell(0, results[0])
        while bench.events("modbus-0")[-1] != "ACKED":  # noqa: ASYNC110 - a ledger wakes nobody
            await asyncio.sleep(0.01)
        seen.append(bench.events("modbus-1"))
        return results

    modbus.command = one_is_slow
    bench.push()
    assert seen == [["PLANNED", "SENT"]]
    assert bench.events("modbus-0") == ["PLANNED", "SENT", "ACKED", "VERIFIED"]
    assert bench.states() == dict.fromkeys(bench.devices["device_id"], "VERIFIED")


def test_a_protocol_without_a_driver_is_told(bench):
    del bench.drivers["http"]
    report = bench.push()
    assert report.counts == {State.VERIFIED: 4, State.REJECTED: 2}
    assert "no driver for http" in report.not_verified["why"][0]


def test_a_device_without_an_address_is_told(bench):
    bench.devices = bench.devices.with_columns(
        endpoint=pl.when(pl.col("protocol").cast(pl.String) != "modbus").then("endpoint")
    )
    report = bench.push()
    assert report.counts == {State.VERIFIED: 4, State.REJECTED: 2}
    assert "no address" in report.not_verified["why"][0]


def test_refused_schedule_rows_are_in_the_report(bench):
    asked = due(bench.devices)
    refused = pl.DataFrame(
        [("battery-9", START, "power_kw", "NaN", "power_kw is not a finite number: plan again")],
        schema=asked.refused.schema,
        orient="row",
    )
    report = bench.push(DueCommands(asked.commands, refused))
    assert report.counts == {State.VERIFIED: 6, State.REJECTED: 1}
    assert report.not_verified["device_id"].to_list() == ["battery-9"]


def test_nothing_due_is_nothing_done(bench):
    asked = due(bench.devices)
    report = bench.push(replace(asked, commands=asked.commands.clear()))
    assert report.counts == {}
    assert report.plan_id == PLAN.plan_id


def test_commands_of_an_interval_that_is_over_are_closed_by_the_next_push(bench):
    answering(Outcome.ACKED)(bench.drivers["modbus"])
    bench.push()
    bench.clock.sleep_until(START + timedelta(minutes=16))
    asked = due(bench.devices)
    bench.push(replace(asked, commands=asked.commands.clear()))
    assert bench.states()["modbus-0"] == "EXPIRED"
    assert "while this was ACKED" in bench.ledger.history("modbus-0", START)["detail"][-1]


def ramped(kw_per_min: float) -> PushSettings:
    return PushSettings(timeout_s=5, settle_s=1, spread=SpreadSettings(kw_per_min))


def test_invariant_13_under_a_ramp_devices_start_one_after_another_and_are_verified(bench):
    told_at = []
    modbus = bench.drivers["modbus"]
    modbus.after_send = lambda: told_at.append((len(modbus.commanded), bench.clock.now()))
    report = bench.push(settings=ramped(26.0))  # a step counts 13 kW: what it does is not known
    assert report.counts == {State.VERIFIED: 6}
    commands = bench.ledger.states(START).sort("valid_from")
    assert [(at - START).total_seconds() for at in commands["valid_from"]] == [
        0, 30, 60, 90, 120, 150
    ]  # fmt: skip
    starts = dict(commands.select("device_id", "valid_from").iter_rows())
    assert [at for _, at in told_at] == sorted([starts["modbus-0"], starts["modbus-1"]])
    assert {c.valid_from for c in bench.drivers["mqtt"].commanded} == {
        starts["mqtt-0"],
        starts["mqtt-1"],
    }


def test_invariant_13_what_the_ramp_has_no_room_for_is_not_sent_and_told(bench):
    report = bench.push(settings=ramped(5.0))  # 2.6 min each: two starts by 4.5 min
    assert report.counts == {State.VERIFIED: 2, State.REJECTED: 4}
    assert report.left_over_kw == 12.0
    assert report.shortfall_kw == 12.0
    assert "ramp of 5.0 kW/min" in report.not_verified["why"][0]
    assert sum(bench.applications().values()) == 2


def test_invariant_03_a_device_without_a_timer_is_noted_as_held_before_it_is_told(bench):
    held = []
    modbus = bench.drivers["modbus"]
    modbus.after_send = lambda: held.append(bench.holds.read())
    bench.devices = bench.devices.with_columns(
        register_map=pl.when(pl.col("device_id") == "modbus-1").then(pl.lit("vendor"))
    )
    bench.push()
    assert held == [{"modbus-1": START + timedelta(minutes=20)}]


@pytest.mark.parametrize("seen", ["in the visit that wrote it", "in a look of its own"])
def test_invariant_03_a_device_whose_timer_is_seen_not_to_run_is_noted_as_held(bench, seen):
    modbus = bench.drivers["modbus"]
    deliver, look = modbus.command, modbus.read_back

    async def untimed(commands, timeout_s, tell=None):
        told = await look(commands, timeout_s)
        return [replace(back, has_timer=back.device_id != "modbus-1") for back in told]

    async def looks_at_once(commands, now, timeout_s, tell):
        results, told = await deliver(commands, now, timeout_s), await untimed(commands, 0)
        return [replace(one, read_back=back) for one, back in zip(results, told, strict=True)]

    if seen == "in a look of its own":
        modbus.read_back = untimed
    else:
        modbus.command = looks_at_once
    bench.push()
    assert bench.holds.read() == {"modbus-1": START + timedelta(minutes=20)}


def test_invariant_10_a_stop_in_mid_dispatch_counts_from_the_next_send_on(bench):
    bench.drivers["http"].after_send = lambda: bench.give("stop", "fleet")
    report = bench.push()
    assert report.counts == {State.VERIFIED: 4, State.REJECTED: 2}
    assert "kill switch" in report.not_verified["why"][0]
    assert bench.applications()["modbus-0"] == 0


def test_invariant_19_the_ledger_tells_whose_order_bound_a_set_point(bench):
    order = bench.give("override", "device:modbus-0", power_kw=-2.0)
    bench.push()
    row = bench.ledger.newest(START).row(by_predicate=pl.col("device_id") == "modbus-0", named=True)
    assert (row["authority"], row["order_id"]) == ("override", order.order_id)
    assert (row["planned_kw"], row["offered_kw"]) == (3.0, -2.0)
    others = bench.ledger.newest(START).filter(pl.col("device_id") != "modbus-0")
    assert set(others["authority"]) == {"plan"}


def test_invariant_17_what_devices_accept_is_held_against_the_plan(bench):
    answering(Outcome.REJECTED)(bench.drivers["mqtt"])
    report = bench.push()
    assert (report.accepted_kw, report.shortfall_kw) == (12.0, 6.0)
