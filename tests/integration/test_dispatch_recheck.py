"""What becomes of set-points within their interval, after the push."""

import shutil
from datetime import timedelta

import polars as pl
import pytest
from dispatch_fakes import START, Bench, answering

from vpp_pipeline.devices.protocol import Outcome, Unreachable
from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import (
    EvCharger,
    Fleet,
    GridConnection,
    MqttConnection,
    PvInverter,
    Site,
)
from vpp_pipeline.warehouse.store import Warehouse

SIX_MINUTES = timedelta(minutes=6)
TEN_MINUTES = timedelta(minutes=10)


@pytest.fixture(scope="module")
def new_warehouse(tmp_path_factory):
    directory = tmp_path_factory.mktemp("new")
    with Warehouse(directory).read():
        return directory / "vpp.duckdb"


@pytest.fixture(scope="module")
def verified(tmp_path_factory, new_warehouse):
    """A plant whose six commands of 3 kW are verified, to copy."""
    directory = tmp_path_factory.mktemp("verified")
    (directory / "warehouse").mkdir()
    shutil.copy(new_warehouse, directory / "warehouse")
    assert Bench(directory).push().counts == {State.VERIFIED: 6}
    return directory


@pytest.fixture
def bench(tmp_path, verified) -> Bench:
    """A plant of the test's own whose six commands are verified."""
    shutil.copytree(verified, tmp_path, dirs_exist_ok=True)
    return Bench(tmp_path, now=START + timedelta(seconds=2))


def in_force(bench: Bench, device_id: str) -> object:
    return bench.drivers[device_id.split("-", maxsplit=1)[0]].applications(device_id)[-1]["kw"]


def test_invariant_07_what_stands_is_verified_once_more_and_not_sent_again(bench):
    report = bench.recheck(SIX_MINUTES)
    assert report.looked_at == 6
    assert report.pushed is None
    assert bench.events("modbus-0") == ["PLANNED", "SENT", "ACKED", "VERIFIED", "VERIFIED"]
    assert set(bench.applications().values()) == {1}


def test_what_was_looked_at_just_now_is_left_alone(bench):
    assert bench.recheck(timedelta(minutes=2)).looked_at == 0
    assert bench.events("mqtt-0") == ["PLANNED", "SENT", "ACKED", "VERIFIED"]


@pytest.mark.parametrize("device_id", ["modbus-0", "mqtt-0", "http-0"])
def test_invariant_07_a_device_that_fell_back_to_its_default_is_told_again(bench, device_id):
    bench.drivers[device_id.split("-")[0]].forget(device_id)
    report = bench.recheck(SIX_MINUTES)
    assert report.gone["device_id"].to_list() == [device_id]
    assert report.pushed.counts == {State.VERIFIED: 1}
    assert report.overridden.is_empty()
    assert in_force(bench, device_id) == 3.0
    ended, begun = bench.ledger.states(START).filter(device_id=device_id).rows(named=True)
    assert (ended["state"], begun["state"]) == ("OVERRIDDEN", "VERIFIED")
    assert "no longer stands" in ended["detail"]
    assert begun["plan_version"] > ended["plan_version"]


def test_invariant_02_a_timer_that_was_cut_short_is_armed_again(bench):
    bench.drivers["modbus"].stand("modbus-0", 3.0, "", START + timedelta(minutes=8))
    report = bench.recheck(SIX_MINUTES)
    assert report.gone["device_id"].to_list() == ["modbus-0"]
    assert report.pushed.counts == {State.VERIFIED: 1}
    told = bench.drivers["modbus"].commanded[-1]
    assert told.valid_until == START + timedelta(minutes=20)


def test_invariant_14_anothers_value_found_later_is_an_alarm_and_no_fight(bench):
    bench.drivers["modbus"].stand("modbus-1", -7.0, "", START + timedelta(minutes=20))
    report = bench.recheck(SIX_MINUTES)
    assert report.overridden["device_id"].to_list() == ["modbus-1"]
    assert "reports -7.0 kW" in report.overridden["why"][0]
    assert report.pushed is None
    assert in_force(bench, "modbus-1") == -7.0
    assert bench.recheck(TEN_MINUTES + timedelta(minutes=2)).overridden.is_empty()


def test_invariant_06_a_device_that_can_not_be_read_stays_as_it_was(bench):
    async def silent(commands, timeout_s, tell):
        return [Unreachable(link.device_id, "no route") for link, _ in commands]

    bench.drivers["modbus"].read_back = silent
    report = bench.recheck(SIX_MINUTES)
    assert report.looked_at == 6
    assert bench.states()["modbus-0"] == "VERIFIED"
    assert bench.applications()["modbus-0"] == 1


def test_invariant_18_what_failed_to_arrive_is_sent_when_it_can(tmp_path, new_warehouse):
    (tmp_path / "warehouse").mkdir()
    shutil.copy(new_warehouse, tmp_path / "warehouse")
    bench = Bench(tmp_path)
    answering(Outcome.FAILED, times=5)(bench.drivers["http"])
    assert bench.push().counts == {State.VERIFIED: 4, State.FAILED: 2}
    report = bench.recheck(SIX_MINUTES)
    assert report.pushed.counts == {State.VERIFIED: 2}
    assert set(bench.applications().values()) == {1}


def test_invariant_08_an_override_counts_from_the_next_look_on(bench):
    order = bench.give("override", "device:http-1", power_kw=-4.0)
    report = bench.recheck(timedelta(minutes=1))
    assert report.pushed.counts == {State.VERIFIED: 1}
    assert in_force(bench, "http-1") == -4.0
    assert in_force(bench, "http-0") == 3.0
    last = bench.ledger.history("http-1", START + TEN_MINUTES).row(-1, named=True)
    assert (last["authority"], last["order_id"]) == ("override", order.order_id)
    assert bench.recheck(timedelta(minutes=2)).pushed is None


def test_invariant_08_after_an_override_the_plan_counts_again(bench):
    order = bench.give("override", "device:mqtt-1", power_kw=-4.0)
    bench.recheck(timedelta(minutes=1))
    bench.give("cancel", "device:mqtt-1", cancels=order.order_id)
    bench.recheck(timedelta(minutes=2))
    assert in_force(bench, "mqtt-1") == 3.0


def test_invariant_09_a_grid_limit_in_mid_interval_binds_what_was_sent_before(bench):
    bench.give("grid_limit", "site:site", max_kw=6.0)
    report = bench.recheck(timedelta(minutes=1))
    assert report.pushed.counts == {State.VERIFIED: 6}
    total = sum(in_force(bench, name) for name in bench.devices["device_id"])
    assert total <= 6.0 + 1e-6


def test_invariant_10_a_stop_is_no_reason_to_send_and_its_end_is(bench):
    bench.give("stop", "device:modbus-0")
    bench.drivers["modbus"].forget("modbus-0")
    report = bench.recheck(SIX_MINUTES)
    assert report.pushed is None
    assert bench.applications()["modbus-0"] == 0
    bench.give("resume", "device:modbus-0")
    bench.recheck(SIX_MINUTES + timedelta(minutes=1))
    assert in_force(bench, "modbus-0") == 3.0


def test_a_device_without_a_plan_obeys_its_override_no_longer_than_that_is_valid(
    tmp_path, new_warehouse
):
    (tmp_path / "warehouse").mkdir()
    shutil.copy(new_warehouse, tmp_path / "warehouse")
    bench = Bench(tmp_path)
    bench.clock.sleep_until(START)
    until = START + timedelta(minutes=9)
    bench.give("override", "device:http-0", power_kw=2.0, valid_until=until)
    bench.recheck(timedelta(minutes=1))
    (told,) = bench.drivers["http"].commanded
    assert (told.device_id, told.power_kw, told.valid_until) == ("http-0", 2.0, until)
    assert bench.recheck(TEN_MINUTES).pushed is None


@pytest.fixture
def unplanned(tmp_path) -> Bench:
    """A charger and a PV plant that no plan commands, each with a file for its own power."""
    bench = Bench(tmp_path)
    site = Site(
        site_id="site",
        latitude=52.5,
        longitude=13.4,
        grid=GridConnection(import_limit_kw=50, export_limit_kw=50),
        devices=(
            EvCharger(device_id="mqtt-0", connection=MqttConnection(), live=True, max_charge_kw=11),
            PvInverter(
                device_id="mqtt-1", connection=MqttConnection(), live=True, rated_power_kw=8
            ),
        ),
    )
    bench.devices = device_frame(Fleet(sites=(site,)))
    bench.energy_kwh = 10.0
    return bench


def test_invariant_09_a_limit_bounds_what_a_device_does_that_no_plan_commands(unplanned):
    limits = {
        "mqtt-0": unplanned.give("grid_limit", "device:mqtt-0", min_kw=-4.2),
        "mqtt-1": unplanned.give("grid_limit", "device:mqtt-1", max_kw=3.0),
    }
    assert unplanned.recheck(timedelta(minutes=1)).pushed is None, "a push may be on its way"
    assert unplanned.recheck(timedelta(minutes=3)).pushed.counts == {State.VERIFIED: 2}
    told = unplanned.ledger.newest(START).select("device_id", "offered_kw", "plan_id")
    assert sorted(told.rows()) == [("mqtt-0", -4.2, "operator"), ("mqtt-1", 3.0, "operator")]
    for name, limit in limits.items():
        sent = unplanned.ledger.history(name, START + timedelta(minutes=5)).filter(state="SENT")
        assert sent.select("authority", "order_id").rows() == [("grid operator", limit.order_id)]
    assert unplanned.recheck(timedelta(minutes=5)).pushed is None


def test_invariant_09_a_limit_that_leaves_room_takes_no_device_out_of_its_own_hands(unplanned):
    assert unplanned.recheck(timedelta(minutes=3)).pushed is None
    limit = unplanned.give("grid_limit", "fleet", min_kw=-40.0, max_kw=40.0)
    assert unplanned.recheck(timedelta(minutes=4)).pushed is None
    unplanned.give("cancel", "fleet", cancels=limit.order_id)
    narrow = unplanned.give("grid_limit", "device:mqtt-0", min_kw=-5.0)
    assert unplanned.recheck(timedelta(minutes=6)).pushed.counts == {State.VERIFIED: 1}
    unplanned.give("cancel", "fleet", cancels=narrow.order_id)
    unplanned.give("grid_limit", "device:mqtt-0", min_kw=-20.0)
    assert unplanned.recheck(timedelta(minutes=8)).pushed.counts == {State.VERIFIED: 1}
    assert in_force(unplanned, "mqtt-0") == -11.0


def test_a_damaged_order_book_sends_nothing(bench, tmp_path):
    bench.drivers["modbus"].forget("modbus-0")
    (tmp_path / "orders").mkdir(exist_ok=True)
    (tmp_path / "orders" / "orders.jsonl").write_text("{}\n{}\n")
    report = bench.recheck(SIX_MINUTES)
    assert report.pushed is None
    assert report.gone.height == 1


def test_no_plan_version_is_given_twice(bench):
    first = bench.ledger.next_version()
    bench.give("override", "fleet", power_kw=1.0)
    bench.recheck(timedelta(minutes=1))
    versions = bench.ledger.states(START)["plan_version"].unique().sort().to_list()
    assert versions == [1, first]
    assert bench.ledger.next_version() == first + 1
    assert bench.ledger.newest(START).select(pl.col("plan_version").unique()).item() == first


def test_invariant_08_an_override_ended_within_seconds_of_the_command_is_seen(bench):
    bench.clock.sleep_until(START + timedelta(minutes=1))
    order = bench.give("override", "device:http-1", power_kw=-4.0)
    bench.recheck(timedelta(minutes=1))
    assert in_force(bench, "http-1") == -4.0
    bench.give("cancel", "device:http-1", cancels=order.order_id)
    bench.recheck(timedelta(minutes=1, seconds=5))
    assert in_force(bench, "http-1") == 3.0


def test_invariant_05_a_recheck_that_dies_before_it_sends_is_done_again(bench, monkeypatch):
    bench.drivers["mqtt"].forget("mqtt-0")

    def die():
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(bench.ledger, "next_version", die)
        with pytest.raises(InterruptedError):
            bench.recheck(SIX_MINUTES)
    report = bench.recheck(SIX_MINUTES + timedelta(seconds=30))
    assert report.gone["device_id"].to_list() == ["mqtt-0"]
    assert in_force(bench, "mqtt-0") == 3.0
    assert bench.states()["mqtt-0"] == "VERIFIED"
