"""Charge points and the way to them, when they fail; survived end to end."""

from __future__ import annotations

from datetime import timedelta

import pytest
from devices_mqtt_bench import wait_until
from faults_proxy import no_answer
from faults_story import QUARTER, START

ocpp = pytest.mark.plant(["ocpp"])


def fault(name, *invariants):
    return pytest.mark.fault(family="OCPP", fault=name, invariants=invariants)


@ocpp
@fault("the connection is refused, then back", 6, 18)
def test_a_charge_point_that_is_away_is_told_when_it_calls_again(story):
    story.collect()
    story.proxies["ocpp"].refuse()
    wait_until(lambda: not story.site.are_charge_points_ready(), "the broken line")
    story.hurry()
    story.push(collect=False)
    assert story.path("ocpp-2")[-1] == "VERIFIED"
    assert story.applications("ocpp-1") == []
    story.proxies["ocpp"].accept()
    story.mend()
    wait_until(story.site.are_charge_points_ready, "the charge point")
    assert story.next_interval().counts == {"VERIFIED": 2}


@pytest.mark.core
@ocpp
@fault("it obeys and its answer is lost", 5, 6)
def test_a_profile_whose_answer_is_lost_is_found_in_the_charge_point(story):
    story.collect()

    async def deaf_line(line, way, data):
        await no_answer(line, "request" if way == "answer" else "answer", data)

    async def no_reply(line, way, data):
        """What the charge point says is lost; what it is told arrives."""
        if way == "answer":
            line.pass_on(way, data)

    story.proxies["ocpp"].fault = no_reply
    story.hurry()
    story.after_send["ocpp"] = lambda: (story.mend(), story.proxies["ocpp"].cut())
    story.push(collect=False)
    wait_until(story.site.are_charge_points_ready, "the charge point")
    story.recheck()
    assert "UNKNOWN" in story.path("ocpp-1")
    assert story.path("ocpp-1")[-1] == "VERIFIED"
    assert story.plant.obeyed_kw("ocpp-1") == -3.0


@ocpp
@fault("faulted, or taken out of service on site", 8, 18)
@pytest.mark.parametrize("status", ["Faulted", "Unavailable"])
def test_a_charge_point_that_takes_no_profile_is_told_of(story, status):
    story.collect()
    story.site.ocpp[0].set_out_of_order("ocpp-1", status)
    report = story.push(collect=False)
    assert report.counts == {"VERIFIED": 1, "REJECTED": 1}
    story.site.ocpp[0].set_out_of_order("ocpp-1", None)
    assert story.next_interval().counts == {"VERIFIED": 2}


@ocpp
@fault("the dispatcher dies: nobody refreshes", 2)
def test_a_charging_profile_ends_by_itself(story):
    story.push()
    assert story.plant.obeyed_kw("ocpp-1") == -3.0
    story.true_clock.sleep_until(START + QUARTER + timedelta(minutes=6))
    assert story.plant.obeyed_kw("ocpp-1") is None
