"""Devices that do other than they say, survived end to end."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta

import pytest
from faults_plant import always
from faults_proxy import on_modbus_writes, reset_at_request
from faults_story import QUARTER, START

each = pytest.mark.parametrize("protocol", ["modbus", "http", "mqtt"])
three = pytest.mark.plant(["modbus", "http", "mqtt"])
modbus = pytest.mark.plant(["modbus"])


def fault(name, *invariants):
    return pytest.mark.fault(family="Device", fault=name, invariants=invariants)


@pytest.mark.core
@three
@fault("acknowledges without effect", 7)
@each
def test_a_device_that_says_yes_and_does_nothing_is_never_verified(story, protocol):
    name = f"{protocol}-1"
    story.plant.deaf.add(name)
    report = story.push()
    assert report.counts["VERIFIED"] == 5
    assert "VERIFIED" not in story.path(name)
    assert report.not_verified["device_id"].to_list() == [name]
    assert story.applications(name) == []


@pytest.mark.core
@three
@fault("reverts after some minutes", 2, 7)
@each
def test_a_set_point_that_a_device_dropped_is_found_and_given_again(story, protocol):
    name = f"{protocol}-1"
    assert story.push().counts == {"VERIFIED": 6}
    story.plant.release(name)
    report = story.recheck()
    assert report.gone["device_id"].to_list() == [name]
    assert story.plant.obeyed_kw(name) == 3.0
    assert story.path(name).count("VERIFIED") == 2
    assert story.applications(name) == [3.0, 3.0]


@three
@fault("reports the previous target", 7)
@each
def test_a_device_that_reports_its_last_target_is_not_verified(story, protocol):
    name = f"{protocol}-1"
    story.push()
    story.plant.frozen.add(name)
    report = story.next_interval()
    assert report.counts["VERIFIED"] == 5
    assert "VERIFIED" not in story.path(name, 1)


@pytest.mark.core
@modbus
@fault("frozen heartbeat", 15)
def test_a_device_behind_a_frozen_heartbeat_is_not_commanded(story):
    still = story.plant.reading("modbus-1").heartbeat
    story.plant.twists["modbus-1"] = lambda reading: replace(reading, heartbeat=still)
    for minutes in range(0, 15, 3):
        story.true_clock.sleep_until(START - timedelta(minutes=15 - minutes))
        story.collect()
    story.push(collect=False)
    story.collect()
    report = story.next_interval()
    assert "heartbeat frozen" in story.words("modbus-1", 1)
    assert report.counts == {"VERIFIED": 1, "REJECTED": 1}


@modbus
@fault("scale factor changed by a firmware update", 1, 7)
def test_a_set_point_that_a_changed_scale_factor_makes_another_is_found_out(story):
    assert story.push().counts == {"VERIFIED": 2}
    story.site.update_firmware("modbus-1", 1)
    report = story.recheck()
    assert report.overridden["device_id"].to_list() == ["modbus-1"]
    assert "30" in report.overridden["why"][0]
    assert story.path("modbus-1")[-1] == "OVERRIDDEN"
    story.site.update_firmware("modbus-1", 0)
    assert story.next_interval().counts == {"VERIFIED": 2}


@modbus
@fault("scale factor lost: a sentinel in its place", 1)
def test_without_a_scale_factor_nothing_is_sent(story):
    story.site.update_firmware("modbus-1", -0x8000)
    report = story.push()
    assert report.counts == {"VERIFIED": 1, "REJECTED": 1}
    assert "scale" in story.words("modbus-1")
    assert story.applications("modbus-1") == []


@pytest.mark.core
@modbus
@fault("sentinels in place of values", 1, 15)
def test_a_sentinel_is_never_taken_for_a_state_of_charge(story):
    story.plant.twists["modbus-1"] = always(energy_kwh=None)
    report = story.push()
    assert report.counts == {"VERIFIED": 1, "REJECTED": 1}
    assert story.applications("modbus-1") == []
    story.plant.twists.clear()
    assert story.next_interval().counts == {"VERIFIED": 2}


@pytest.mark.core
@three
@fault("state of charge jumps", 1, 15)
@each
@pytest.mark.parametrize(("told_kwh", "kw"), [(0.0, 3.0), (100.0, -3.0)])
def test_after_a_jump_of_its_content_no_more_is_asked_than_the_store_has(
    story, protocol, told_kwh, kw
):
    name = f"{protocol}-1"
    story.plant.twists[name] = always(energy_kwh=told_kwh)
    story.push(kw=kw)
    assert story.applications(name) in ([], [0.0])
    assert story.path(f"{protocol}-2")[-1] == "VERIFIED"


@pytest.mark.core
@modbus
@fault("LOCAL: somebody is on site", 8)
def test_under_local_control_nothing_is_written_and_after_it_the_plan_counts(story):
    story.collect()
    story.plant.twists["modbus-1"] = always(status="local")
    report = story.push(collect=False)
    assert report.counts == {"VERIFIED": 1, "REJECTED": 1}
    assert story.applications("modbus-1") == []
    story.plant.twists.clear()
    assert story.next_interval().counts == {"VERIFIED": 2}


@three
@fault("silent clamping", 7, 17)
@each
def test_a_value_clamped_in_silence_is_not_verified_and_is_told(story, protocol):
    name = f"{protocol}-1"
    story.plant.most_kw[name] = 1.0
    report = story.push()
    assert report.counts["VERIFIED"] == 5
    assert "VERIFIED" not in story.path(name)
    assert "1" in report.not_verified["why"][0]


@modbus
@fault("a reboot forgets a volatile set-point", 7)
def test_a_device_that_rebooted_is_given_its_set_point_again(story):
    story.push()
    story.plant.set_outage("modbus-1", True)
    story.plant.set_outage("modbus-1", False)
    assert story.plant.obeyed_kw("modbus-1") is None
    report = story.recheck()
    assert report.gone["device_id"].to_list() == ["modbus-1"]
    assert story.plant.obeyed_kw("modbus-1") == 3.0


@modbus
@fault("a left-over reversion timer", 2, 12)
def test_an_equal_value_over_a_timer_that_soon_ends_does_not_pass_for_ours(story):
    story.push()
    story.proxies["modbus"].fault = on_modbus_writes(reset_at_request, times=1)
    story.next_interval(kw=3.0)
    assert story.steps("modbus-1", 1)[2:] == ["UNKNOWN", "FAILED", "SENT", "VERIFIED"]
    assert story.plant.setpoint("modbus-1").until > START + 2 * QUARTER


@modbus
@fault("no timer is armed: it was left at 0 by others", 2, 14)
def test_a_value_without_a_timer_is_anothers_and_never_verified(story):
    story.plant.seize("modbus-1", 3.0, START + timedelta(hours=9))
    story.proxies["modbus"].fault = on_modbus_writes(reset_at_request, times=1)
    story.push()
    assert story.steps("modbus-1") == ["PLANNED", "SENT", "UNKNOWN", "OVERRIDDEN"]
    assert "no reversion timer" in story.words("modbus-1")


@pytest.mark.core
@three
@fault("another client writes a value of its own", 14)
@each
def test_another_clients_value_is_told_and_not_fought(story, protocol):
    name = f"{protocol}-1"
    story.push()
    story.plant.seize(name, -7.0, START + timedelta(hours=1))
    report = story.recheck()
    assert report.overridden["device_id"].to_list() == [name]
    assert story.path(name)[-1] == "OVERRIDDEN"
    assert story.plant.obeyed_kw(name) == -7.0
    assert story.applications(name) == [3.0]


@pytest.mark.plant(["http", "mqtt"])
@fault("poisoned telemetry: far beyond the device, or NaN", 1, 15)
@pytest.mark.parametrize("power_kw", [1e6, -1e6, math.nan])
def test_a_power_no_device_has_is_never_built_upon(story, power_kw):
    story.collect()
    story.true_clock.sleep_until(START - timedelta(minutes=1))
    story.land(
        *(replace(story.plant.reading(f"{p}-1"), power_kw=power_kw) for p in story.protocols)
    )
    report = story.push(collect=False)
    refused = 0 if math.isnan(power_kw) else 2  # a row with a NaN is quarantined as it lands
    assert report.counts.get("REJECTED", 0) == refused
    assert report.counts["VERIFIED"] == 4 - refused
