"""The collector lands a row of every device, silent ones too."""

from __future__ import annotations

import json
import threading
from datetime import time, timedelta

import polars as pl
import pytest
from defs_plant import DEVICES, FLEET, NOBODY_LISTENS, TODAY, copied, market_time, open_plant

from vpp_pipeline import collector as collecting
from vpp_pipeline.collector import Collector, Roll, telemetry_rows
from vpp_pipeline.devices.protocol import Reading, Unreachable
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.simulation.of_registry import open_fleet
from vpp_pipeline.warehouse import landing

NOW = market_time(TODAY, time(10, 30))


@pytest.fixture(scope="module")
def polled(seeded_home, tmp_path_factory):
    """A plant whose simulated devices listen, and its collector."""
    home = copied(seeded_home, tmp_path_factory.mktemp("polled") / "plant")
    with open_plant(home, NOW) as plant:
        fleet = open_fleet(plant.runtime)
        fleet.start(ticking=False)
        try:
            plant.clock.on_move = fleet.step
            with Collector(plant.runtime, timeout_s=30.0) as collector:
                yield plant, fleet, collector
        finally:
            fleet.stop()


def test_every_device_is_read_over_its_protocol_and_lands_as_telemetry(polled):
    plant, _, collector = polled
    rows = collector.collect()
    assert rows.height == DEVICES
    assert set(rows["status"].cast(pl.String)) == {"ok"}
    assert Telemetry.is_valid(rows, cast=True)
    landed = landing.landed(plant.runtime.settings.landing_dir, "telemetry").collect()
    assert set(landed["device_id"]) == set(plant.runtime.devices(NOW)["device_id"])
    assert set(landed["known_at"]) == {plant.clock.now()}


def test_a_silent_device_is_told_as_offline_and_not_left_out(polled):
    plant, fleet, collector = polled
    plant.clock.sleep_until(plant.clock.now() + timedelta(minutes=5))
    fleet.plant.set_outage("borgo-battery", out=True)
    rows = collector.collect()
    fleet.plant.set_outage("borgo-battery", out=False)
    told = dict(rows.select("device_id", pl.col("status").cast(pl.String)).iter_rows())
    assert told.pop("borgo-battery") == "offline"
    assert set(told.values()) == {"ok"}
    latest = plant.runtime.latest_telemetry(plant.clock.now())
    silent = latest.filter(pl.col("device_id") == "borgo-battery")
    assert silent["status"].to_list() == ["offline"]
    assert silent["power_kw"].to_list() == [None]


def test_a_reading_is_known_by_runs_before_it_is_compacted_and_after(polled):
    plant, _, collector = polled
    plant.clock.sleep_until(plant.clock.now() + timedelta(minutes=5))
    collector.collect()
    now = plant.clock.now()
    landed = plant.runtime.latest_telemetry(now)
    assert set(landed["known_at"]) == {now}
    assert plant.daemon.launch("compact").success
    assert plant.runtime.latest_telemetry(now).equals(landed)


def test_what_a_device_told_later_is_not_known_earlier(polled):
    plant, _, collector = polled
    before = plant.clock.now()
    plant.clock.sleep_until(before + timedelta(minutes=5))
    collector.collect()
    assert plant.runtime.latest_telemetry(before)["known_at"].max() <= before


def words_of(caplog):
    told = list(caplog.messages)
    caplog.clear()
    return told


def test_why_a_device_is_silent_is_told_once_and_once_that_it_is_back(polled, caplog):
    plant, fleet, _ = polled
    outages = iter([True, True, False, False])
    told = []

    def five_minutes_later():
        told.append(words_of(caplog))
        plant.clock.sleep_until(plant.clock.now() + timedelta(minutes=5))
        fleet.plant.set_outage("borgo-battery", out=next(outages))

    collecting.run(plant.runtime, timedelta(minutes=5), Rounds(5, five_minutes_later))
    first, (why, count), still, back = told
    assert first == [f"{DEVICES} of {DEVICES} devices answered"]
    assert why.startswith("borgo-battery can't be read: ")
    assert "did not answer" in why
    assert count == f"{DEVICES - 1} of {DEVICES} devices answered"
    assert still == []
    assert back == ["borgo-battery is read again", *first]
    assert words_of(caplog) == []


def test_of_many_silent_devices_the_first_are_named_and_the_rest_counted(caplog):
    roll = Roll()
    told = [Unreachable(f"d-{i}", f"no answer for {i} s") for i in range(30)]
    roll.note(told)
    assert words_of(caplog) == [
        *(f"d-{i} can't be read: no answer for {i} s" for i in range(20)),
        "and 10 more can't be read",
        "0 of 30 devices answered",
    ]
    roll.note([Unreachable(each.device_id, "no answer for 99 s") for each in told])
    assert words_of(caplog) == []
    roll.note([Unreachable("d-0", "refused"), *told[1:]])
    assert words_of(caplog) == ["d-0 can't be read: refused"]


class OneRound(threading.Event):
    """A stop that comes while the loop waits for its first time."""

    def wait(self, timeout=None):
        self.set()
        return True


def test_the_loop_waits_for_a_fleet_to_be_registered(tmp_path):
    (tmp_path / "plant").mkdir()
    with open_plant(tmp_path / "plant", NOW) as plant:
        collecting.run(plant.runtime, timedelta(minutes=5), OneRound())
        assert landing.waiting(plant.runtime.settings.landing_dir, "telemetry") == []


def test_the_loop_lands_a_round_of_readings_and_stops_when_it_is_told(polled):
    plant, _, _ = polled
    plant.clock.sleep_until(plant.clock.now() + timedelta(minutes=5))
    collecting.run(plant.runtime, timedelta(minutes=5), OneRound())
    latest = plant.runtime.latest_telemetry(plant.clock.now())
    assert set(latest["known_at"]) == {plant.clock.now()}


class Rounds(threading.Event):
    """A stop that comes at the end of some rounds; before each next one `between` is done."""

    def __init__(self, rounds, between):
        super().__init__()
        self._left, self._between = rounds, between
        self.waited = []

    def wait(self, timeout=None):
        self.waited.append(timeout)
        self._left -= 1
        if self._left:
            self._between()
        else:
            self.set()
        return self.is_set()


def test_a_fleet_that_is_registered_later_is_collected_within_seconds(tmp_path):
    home = tmp_path / "plant"
    (home / "simulation").mkdir(parents=True)
    (home / "fleet.yaml").write_text(FLEET)
    (home / "simulation" / "endpoints.json").write_text(json.dumps(NOBODY_LISTENS))
    with open_plant(home, NOW) as plant:
        stop = Rounds(3, lambda: plant.daemon.ask("changed_registry"))
        collecting.run(plant.runtime, timedelta(minutes=5), stop)
        assert plant.runtime.knows_a_fleet()
        assert landing.waiting(plant.runtime.settings.landing_dir, "telemetry")
    assert stop.waited == [2.0, 300.0, 300.0]


def test_a_cycle_that_can_not_be_landed_is_told_with_its_remedy_and_the_next_one_is_made(
    polled, caplog
):
    plant, _, _ = polled
    plant.clock.sleep_until(plant.clock.now() + timedelta(minutes=5))
    zone = plant.runtime.settings.landing_dir / "telemetry"
    kept = zone.rename(zone.with_name("kept"))
    zone.write_text("no folder")

    def mend():
        zone.unlink()
        kept.rename(zone)

    collecting.run(plant.runtime, timedelta(minutes=5), Rounds(2, mend))
    (told,) = [words for words in caplog.messages if "a cycle failed" in words]
    assert str(zone) in told
    assert "give the disk room" in told
    latest = plant.runtime.latest_telemetry(plant.clock.now())
    assert set(latest["known_at"]) == {plant.clock.now()}


def test_a_fleet_whose_simulator_starts_later_is_told_of_and_then_collected(polled, caplog):
    plant, _, _ = polled
    plant.clock.sleep_until(plant.clock.now() + timedelta(minutes=5))
    told = plant.runtime.settings.endpoints_file
    kept = told.rename(told.with_suffix(".kept"))
    collecting.run(plant.runtime, timedelta(minutes=5), Rounds(2, lambda: kept.rename(told)))
    (words,) = [words for words in caplog.messages if "a cycle failed" in words]
    assert f"{DEVICES} devices have no endpoint" in words
    assert "start the simulator" in words
    latest = plant.runtime.latest_telemetry(plant.clock.now())
    assert set(latest["known_at"]) == {plant.clock.now()}


def test_a_damaged_warehouse_is_told_of_and_the_next_cycle_is_made(tmp_path, caplog):
    (tmp_path / "plant").mkdir()
    with open_plant(tmp_path / "plant", NOW) as plant:
        plant.runtime.settings.warehouse_dir.mkdir()
        (plant.runtime.settings.warehouse_dir / "vpp.duckdb").write_bytes(b"damaged" * 1000)
        stop = Rounds(2, lambda: None)
        collecting.run(plant.runtime, timedelta(minutes=5), stop)
    assert len(stop.waited) == 2
    assert caplog.text.count("a cycle failed") == 2


def test_nothing_a_device_said_is_lost_on_the_way():
    told = Reading("d", NOW, power_kw=-3.5, energy_kwh=4.0, plugged_in=True, heartbeat=7)
    rows = telemetry_rows([told, Unreachable("e", "no answer")], NOW)
    first, second = rows.to_dicts()
    assert (first["power_kw"], first["energy_kwh"]) == (-3.5, 4.0)
    assert (first["plugged_in"], first["heartbeat"], first["status"]) == (True, 7, "ok")
    assert (second["device_id"], second["status"], second["measured_at"]) == ("e", "offline", NOW)
