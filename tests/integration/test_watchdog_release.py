"""The watchdog brings to rest what must rest, whoever has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta

import pytest
from devices_mqtt_bench import need_mosquitto
from watchdog_controller import SENT_KW
from watchdog_plant import PATIENCE_S, RATE, WITHOUT_ROOM, running_plant, wait_until

from vpp_pipeline.dispatch.heartbeat import Heartbeat
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.release_log import ReleaseLog
from vpp_pipeline.watchdog import Watchdog

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    need_mosquitto()
    with running_plant(tmp_path_factory.mktemp("watched") / "home") as running:
        yield running


@pytest.fixture
def rested(plant):
    """The plant with every device at rest, no order in force and no hold."""
    plant.order("stop")
    with Watchdog(plant.runtime, PATIENCE_S) as watchdog:
        assert watchdog.cycle() == []
    plant.order("resume")
    assert plant.obeying == {}
    return plant


@contextmanager
def watchdog_process(plant, where=()):
    """Run `vpp watchdog`; it is dead after that."""
    with subprocess.Popen(
        [*where, sys.executable, "-m", "vpp_pipeline.cli", "watchdog"],
        env={**os.environ, **plant.environment},
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def complaints(plant):
    return Heartbeat(plant.runtime.settings.order_dir).complaints(
        plant.runtime.clock.now(), plant.runtime.clock.rate
    )


def test_invariant_10_within_one_cycle_of_a_stop_its_devices_are_released(rested):
    rested.send()
    assert rested.obeying.keys() == SENT_KW.keys()
    with Watchdog(rested.runtime, PATIENCE_S) as watchdog:
        assert watchdog.cycle() == []
        assert rested.obeying.keys() == SENT_KW.keys()
        rested.order("stop", "site:alba")
        assert watchdog.cycle() == []
        assert rested.obeying.keys() == {"borgo-battery", "borgo-charger"}
    rested.order("resume", "site:alba")


def test_invariant_10_what_was_under_way_when_the_stop_was_given_is_released_too(rested):
    rested.order("stop")
    with Watchdog(rested.runtime, PATIENCE_S) as watchdog:
        assert watchdog.cycle() == []
        rested.send()
        assert watchdog.cycle() == []
        assert rested.obeying == {}
    rested.order("resume")


def test_a_device_at_rest_is_looked_at_and_not_written_again(rested):
    rested.order("stop")
    log = ReleaseLog(rested.runtime.settings.order_dir)
    with Watchdog(rested.runtime, PATIENCE_S) as watchdog:
        watchdog.cycle()
        before = log.read()
        watchdog.cycle()
    assert log.read().equals(before)
    rested.order("resume")


def test_invariant_10_while_the_order_book_is_damaged_every_device_is_released(rested):
    rested.send()
    book = rested.runtime.settings.order_dir / "orders.jsonl"
    whole = book.read_bytes()
    try:
        book.write_bytes(b'{"order_id": 7}\n' + whole)
        with Watchdog(rested.runtime, PATIENCE_S) as watchdog:
            watchdog.cycle()
        assert rested.obeying == {}
    finally:
        book.write_bytes(whole)


def test_invariant_10_a_disk_without_room_keeps_no_device_from_its_release(rested):
    rested.send()
    rested.order("stop")
    with watchdog_process(rested, WITHOUT_ROOM):
        wait_until(lambda: rested.obeying == {}, "the release of all devices")
    rested.order("resume")


def test_a_release_that_could_not_be_noted_is_noted_when_it_can(rested):
    rested.send(only=["borgo-battery"])
    rested.order("stop")
    file = rested.runtime.settings.order_dir / "releases.jsonl"
    before = file.read_bytes()
    file.unlink()
    file.mkdir()
    with Watchdog(rested.runtime, PATIENCE_S) as watchdog:
        (problem,) = watchdog.cycle()
        assert "can't be noted" in problem
        assert rested.obeying == {}
        file.rmdir()
        assert watchdog.cycle() == []
    released = ReleaseLog(rested.runtime.settings.order_dir).read()
    assert "borgo-battery" in released.filter(outcome="ACKED")["device_id"]
    file.write_bytes(before + file.read_bytes())
    rested.order("resume")


def test_invariant_03_a_device_without_a_timer_is_released_when_its_validity_is_over(rested):
    now = rested.runtime.clock.now()
    holds = Holds(rested.runtime.settings.order_dir)
    rested.send(validity=HOUR)
    over, valid = now - timedelta(seconds=1), now + HOUR
    holds.hold({"borgo-battery": over, "alba-battery": valid})
    with Watchdog(rested.runtime, PATIENCE_S) as watchdog:
        assert watchdog.cycle() == []
    assert "borgo-battery" not in rested.obeying
    assert "alba-battery" in rested.obeying
    assert holds.read() == {"alba-battery": valid}
    holds.let_go({"alba-battery": valid})


def test_a_device_that_can_not_be_released_is_named_until_it_is(rested):
    rested.send()
    rested.fleet.plant.set_outage("alba-battery", out=True)
    rested.order("stop")
    try:
        with Watchdog(rested.runtime, 4.0) as watchdog:
            (problem,) = watchdog.cycle()
            assert problem.startswith("alba-battery is not at rest: ")
            rested.fleet.plant.set_outage("alba-battery", out=False)
            wait_until(lambda: watchdog.cycle() == [], "the release of a device that came back")
    finally:
        rested.fleet.plant.set_outage("alba-battery", out=False)
        rested.order("resume")
    outcomes = ReleaseLog(rested.runtime.settings.order_dir).read().filter(device_id="alba-battery")
    assert outcomes["outcome"][-1] == "ACKED"


def test_a_registry_that_breaks_leaves_the_watchdog_with_the_fleet_it_knew(rested):
    file = rested.runtime.settings.fleet_file
    sound = file.read_text()
    rested.send()
    with Watchdog(rested.runtime, PATIENCE_S) as watchdog:
        assert watchdog.cycle() == []
        try:
            file.write_text("sites: 7")
            rested.order("stop")
            (problem,) = watchdog.cycle()
        finally:
            file.write_text(sound)
    assert "registry can't be read" in problem
    assert rested.obeying == {}
    rested.order("resume")


def test_invariant_03_a_watchdog_killed_and_restarted_goes_on_where_it_was(rested):
    order_dir = rested.runtime.settings.order_dir
    assert complaints(rested) == ["no watchdog runs: start `vpp watchdog`"]
    with watchdog_process(rested) as watchdog:
        wait_until(lambda: complaints(rested) == [], "the watchdog's sign of life")
        watchdog.send_signal(signal.SIGKILL)
        watchdog.wait()
    assert complaints(rested) == ["no watchdog runs: start `vpp watchdog`"]
    rested.send(validity=24 * HOUR)
    until = rested.runtime.clock.now() + timedelta(seconds=2 * RATE)
    Holds(order_dir).hold({"borgo-battery": until})
    with watchdog_process(rested) as watchdog:
        wait_until(lambda: "borgo-battery" not in rested.obeying, "the release of a held device")
        assert rested.runtime.clock.now() >= until
        assert "alba-battery" in rested.obeying
        wait_until(lambda: Holds(order_dir).read() == {}, "the end of the hold")
        watchdog.terminate()
        assert watchdog.wait(PATIENCE_S) == 0
