"""`vpp stop` and `vpp resume`: devices come to rest, whatever else is down."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from devices_mqtt_bench import need_mosquitto
from watchdog_controller import SENT_KW
from watchdog_plant import WITHOUT_ROOM, running_plant, wait_until

from vpp_pipeline.cli import main
from vpp_pipeline.devices.leases import Leases
from vpp_pipeline.dispatch.heartbeat import Heartbeat
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.in_force import in_force
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.release import release_until_seen
from vpp_pipeline.dispatch.release_log import ReleaseLog
from vpp_pipeline.fleet import registry
from vpp_pipeline.kill_switch import keep_releases, release_stopped
from vpp_pipeline.watchdog import Watchdog

WITHOUT_DAGSTER = """
import sys
sys.modules |= {"dagster": None, "cvxpy": None}  # to import them fails
from vpp_pipeline.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    need_mosquitto()
    with running_plant(tmp_path_factory.mktemp("stopped") / "home") as running:
        yield running


@pytest.fixture
def vpp(plant, monkeypatch):
    """Call `vpp` on the plant while a watchdog seems to run; nothing is stopped after that."""
    for name, value in plant.environment.items():
        monkeypatch.setenv(name, value)
    heartbeat = Heartbeat(plant.runtime.settings.order_dir)
    with heartbeat.held():
        heartbeat.beat(plant.runtime.clock.now(), [])
        yield lambda *words: CliRunner().invoke(main, [*words, "--who", "kim"])
    for order in in_force(book(plant), plant.runtime.clock.now()):
        plant.order("resume", order.scope)


@contextmanager
def closing_lease(lease):
    try:
        yield
    finally:
        lease.release()


def book(plant):
    return OrderBook(plant.runtime.settings.order_dir).read()


def test_invariant_10_the_kill_switch_works_with_dagster_and_the_database_down(plant, vpp):
    plant.send()
    assert plant.obeying.keys() == SENT_KW.keys()
    warehouse = plant.runtime.settings.warehouse_dir
    warehouse.mkdir(exist_ok=True)
    (warehouse / "vpp.duckdb").write_bytes(b"no database" * 1000)
    stopped = subprocess.run(
        [sys.executable, "-c", WITHOUT_DAGSTER, "stop", "--why", "smoke"],
        env={**os.environ, **plant.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 0, stopped.stderr
    assert "5 of 5 devices were seen at their default" in stopped.stdout
    assert plant.obeying == {}
    (order,) = in_force(book(plant), plant.runtime.clock.now())
    assert (order.kind, order.scope, order.why) == ("stop", "fleet", "smoke")
    log = ReleaseLog(plant.runtime.settings.order_dir).read()
    assert set(log["device_id"]) == set(SENT_KW)
    assert set(log["outcome"]) == {"ACKED"}
    assert vpp("resume", "fleet", "--why", "aired").exit_code == 0
    assert in_force(book(plant), plant.runtime.clock.now()) == []


def test_a_scope_that_is_stopped_leaves_the_others_alone(plant, vpp):
    plant.send()
    result = vpp("stop", "alba")
    assert (result.exit_code, result.output.count("site:alba is stopped")) == (0, 1)
    assert plant.obeying.keys() == {"borgo-battery", "borgo-charger"}


def test_invariant_11_a_device_not_seen_at_rest_is_named_and_the_exit_code_says_so(plant, vpp):
    plant.send()
    plant.fleet.plant.set_outage("alba-battery", out=True)
    try:
        result = vpp("stop", "--within", "4")
    finally:
        plant.fleet.plant.set_outage("alba-battery", out=False)
    assert result.exit_code == 1
    assert result.stderr.count("NOT released") == 1
    assert "NOT released: alba-battery: " in result.stderr
    assert "the watchdog goes on trying" in result.stderr
    assert "4 of 5 devices" in result.stdout


def test_a_process_that_holds_an_endpoint_is_waited_for_again_and_again_and_named(plant, vpp):
    devices = plant.runtime.registered_devices().filter(device_id="borgo-battery")
    (link,) = device_links(devices)
    leases = Leases(plant.runtime.settings.lease_dir, "collector")
    plant.send(only=["borgo-battery"])

    async def stopped_while_another_speaks():
        driver = plant.runtime.drivers("kill switch")["modbus"]
        lease = await leases.acquire(link.endpoint, 5.0)
        asyncio.get_running_loop().call_later(1.2, lease.release)
        return await release_until_seen({"modbus": driver}, [link], timeout_s=0.5, within_s=30.0)

    async def leased():
        return await leases.acquire(link.endpoint, 5.0)

    with closing_lease(asyncio.run(leased())):
        result = vpp("stop", "borgo-battery", "--within", "1")
    assert result.exit_code == 1
    assert f"is leased by collector (pid {os.getpid()})" in result.stderr
    assert "borgo-battery" in plant.obeying
    results = asyncio.run(stopped_while_another_speaks())
    assert results["borgo-battery"].outcome == "ACKED"
    assert "borgo-battery" not in plant.obeying


def test_invariant_10_without_a_watchdog_a_send_under_way_is_caught_by_a_second_look(plant, vpp):
    plant.send()
    Holds(plant.runtime.settings.order_dir).hold({"alba-pv": plant.runtime.clock.now()})
    order = plant.order("stop")
    results = {}

    def stopping():
        devices = plant.runtime.registered_devices()
        results.update(release_stopped(plant.runtime, devices, 10.0, 5.0))

    thread = threading.Thread(target=stopping)
    thread.start()
    wait_until(lambda: plant.obeying == {}, "the first release")
    plant.send(only=["alba-battery", "borgo-battery"])
    thread.join()
    assert plant.obeying == {}
    assert {name: result.outcome for name, result in results.items()} == dict.fromkeys(
        SENT_KW, "ACKED"
    )
    keep_releases(plant.runtime, order, results)
    assert Holds(plant.runtime.settings.order_dir).read() == {}


def test_a_stop_of_what_is_not_there_is_refused_and_nothing_is_ordered(plant, vpp):
    before = book(plant)
    result = vpp("stop", "site:albania")
    assert result.exit_code == 1
    assert "'site:albania' is not in the registry: name one of" in result.stderr
    assert "site:alba" in result.stderr
    assert book(plant) == before


def test_the_fleet_can_be_stopped_with_its_registry_broken_but_its_devices_not_released(plant, vpp):
    file = plant.runtime.settings.fleet_file
    sound = file.read_text()
    try:
        file.write_text("sites: 7")
        result = vpp("stop")
    finally:
        file.write_text(sound)
    assert result.exit_code == 1
    assert "can't be read" in result.stderr
    assert [o.scope for o in in_force(book(plant), plant.runtime.clock.now())] == ["fleet"]


def test_invariant_10_devices_are_released_though_the_order_can_not_be_written(plant, monkeypatch):
    for name, value in plant.environment.items():
        monkeypatch.setenv(name, value)
    plant.send(only=["alba-battery"])
    kept = plant.runtime.settings.order_dir.rename(plant.home / "kept")
    plant.runtime.settings.order_dir.write_text("a file, not a directory")
    monkeypatch.setattr("vpp_pipeline.cli.kill_switch._UNDER_WAY_S", 0.0)
    try:
        result = CliRunner().invoke(main, ["stop"])
    finally:
        plant.runtime.settings.order_dir.unlink()
        kept.rename(plant.runtime.settings.order_dir)
    assert result.exit_code == 1
    assert "the order was NOT given" in result.stderr
    assert "End the dispatcher" in result.stderr
    assert "5 of 5 devices" in result.stdout
    assert plant.obeying == {}


def test_a_resume_of_another_scope_than_was_stopped_says_what_is(plant, vpp):
    plant.order("stop")
    result = vpp("resume", "site:alba", "--why", "x")
    assert result.exit_code == 1
    assert "site:alba is not stopped by itself: fleet" in result.stderr


def test_a_home_without_a_plant_is_refused(vpp, tmp_path):
    result = vpp("stop", "--home", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "there is no plant at" in result.stderr
    assert "--home or VPP_HOME" in result.stderr


@pytest.mark.parametrize("what", ["a full disk", "no directory for leases"])
def test_invariant_10_the_kill_switch_needs_nothing_to_be_written(plant, vpp, what):
    plant.send()
    leases = plant.runtime.settings.lease_dir
    shutil.rmtree(leases)
    if what == "no directory for leases":
        leases.touch()
    try:
        stopped = subprocess.run(
            [
                *(WITHOUT_ROOM if what == "a full disk" else []),
                *(sys.executable, "-m", "vpp_pipeline.cli"),
                *("stop", "--why", "x" * 201, "--who", ""),
            ],
            env={**os.environ, **plant.environment},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        if leases.is_file():
            leases.unlink()
    assert plant.obeying == {}
    assert "5 of 5 devices were seen at their default" in stopped.stdout, stopped.stderr
    assert "NOT released" not in stopped.stderr
    given = what != "a full disk"
    assert stopped.returncode == (0 if given else 1)
    assert ("the order was NOT given" in stopped.stderr) is not given


def test_invariant_10_a_registry_that_breaks_keeps_no_device_from_its_release(plant, vpp):
    settings = plant.runtime.settings
    file = settings.fleet_file
    sound = file.read_text()
    plant.runtime.remember(registry.load(file))
    plant.send()
    try:
        file.write_text(f"\t{sound}")
        stopped = vpp("stop", "alba")
        assert stopped.exit_code == 0
        assert "this goes by the fleet as it was last registered" in stopped.stderr
        assert plant.obeying.keys() == {"borgo-battery", "borgo-charger"}
        with Watchdog(plant.runtime, 5.0) as watchdog:
            plant.order("stop")
            (problem,) = watchdog.cycle()
            assert "watched as it last was" in problem
            assert plant.obeying == {}
        settings.registered_fleet_file.unlink()
        unknown = vpp("stop", "site:borgo")
        assert unknown.exit_code == 1
        assert "mend it or name another with VPP_FLEET" in unknown.stderr
        assert book(plant)[-1].scope == "site:borgo"
    finally:
        file.write_text(sound)


def test_an_order_of_a_user_without_a_name_bears_their_number(plant, vpp, monkeypatch):
    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert CliRunner().invoke(main, ["stop"]).exit_code == 0
    assert book(plant)[-1].who == "uid 12345"


def nameless():
    raise KeyError("getpwuid(): uid not found: 12345")
