"""What a broker makes possible, survived end to end."""

from __future__ import annotations

import json
import signal
from datetime import timedelta

import pytest
from devices_mqtt_bench import account, peer, wait_until
from faults_proxy import no_answer, swallow
from faults_story import START

from vpp_pipeline.devices import mqtt
from vpp_pipeline.simulation.broker_access import SIMULATED_BROKER, generated_access

mqtt_only = pytest.mark.plant(["mqtt"])
with_modbus = pytest.mark.plant(["mqtt", "modbus"])


def fault(name, *invariants):
    return pytest.mark.fault(family="MQTT", fault=name, invariants=invariants)


@with_modbus
@fault("broker ended (TERM) or killed (-9) before the send", 6, 18)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_broker_that_is_gone_costs_its_devices_alone_until_it_is_back(story, how):
    story.collect()
    story.site.broker.end(how)
    story.hurry()
    report = story.push(collect=False)
    assert report.counts == {"FAILED": 2, "VERIFIED": 2}
    story.site.broker.start()
    story.mend()
    wait_until(story.site.are_mqtt_devices_connected, "the devices")
    assert story.next_interval().counts == {"VERIFIED": 4}
    assert story.applications("mqtt-1") == [2.0]


@mqtt_only
@fault("broker killed (-9) after the acknowledgement", 5, 6, 7)
def test_a_broker_killed_after_the_acks_loses_and_doubles_nothing(story):
    def killed():
        story.site.broker.end(signal.SIGKILL)
        story.site.broker.start()

    story.after_send["mqtt"] = killed
    story.push()
    assert "REJECTED" not in story.path("mqtt-1")
    story.after_send.clear()
    wait_until(story.site.are_mqtt_devices_connected, "the devices")
    story.recheck()
    assert story.path("mqtt-1")[-1] == "VERIFIED"
    assert story.applications("mqtt-1") == [3.0]


@pytest.mark.core
@mqtt_only
@fault("broker killed (-9) while a command is on its way", 5, 6)
def test_a_command_that_a_killed_broker_may_have_passed_on_is_read_back_first(story):
    story.collect()
    broken = []

    async def kill(line, way, data):
        if way == "request" and b"/cmd" in data and not broken:
            broken.append(1)
            line.pass_on(way, data)
            line.reset()
            return
        line.pass_on(way, data)

    story.proxies["mqtt"].fault = kill
    report = story.push(collect=False)
    path = story.path("mqtt-1")
    assert report.counts == {"VERIFIED": 2}
    assert "UNKNOWN" in path
    assert story.applications("mqtt-1") == [3.0]


@pytest.mark.core
@mqtt_only
@fault("no subscriber", 6, 18)
def test_a_command_nobody_listens_to_has_failed_and_is_sent_when_somebody_does(story):
    story.collect()
    story.site.mqtt.stop()
    back = []

    def again():
        if not back:
            back.append(1)
            story.site.connect_mqtt_devices()

    story.after_send["mqtt"] = again
    report = story.push(collect=False)
    assert story.steps("mqtt-1") == ["PLANNED", "SENT", "FAILED", "SENT", "VERIFIED"]
    assert report.counts == {"VERIFIED": 2}


@mqtt_only
@fault("the broker's answers are lost: half-open", 6)
@pytest.mark.parametrize("broken", [swallow, no_answer])
def test_a_silent_broker_leaves_a_doubt_and_nothing_twice(story, broken):
    story.collect()
    story.proxies["mqtt"].fault = broken
    story.hurry()
    story.after_send["mqtt"] = lambda: (story.mend(), story.proxies["mqtt"].cut())
    story.push(collect=False)
    assert story.path("mqtt-1")[-1] == "VERIFIED"
    assert story.path("mqtt-2")[-1] == "VERIFIED"
    assert story.applications("mqtt-1") == [3.0]


def access(home):
    (home / "simulation").mkdir(exist_ok=True)
    return generated_access(home / "simulation" / "credentials.toml")


@pytest.mark.plant(["mqtt"], access=access)
@fault("not authorised", 18)
def test_a_publication_the_broker_forbids_is_refused_for_good(story, monkeypatch):
    story.collect()
    viewer = account(story.home / "simulation", "viewer")
    monkeypatch.setenv("VPP_CREDENTIAL_SIMULATED_BROKER_DISPATCHER_USER", viewer.user)
    monkeypatch.setenv(
        "VPP_CREDENTIAL_SIMULATED_BROKER_DISPATCHER_PASSWORD",
        viewer.password.get_secret_value(),
    )
    assert SIMULATED_BROKER in story.devices["credentials"].to_list()
    report = story.push(collect=False)
    assert report.counts == {"REJECTED": 2}
    assert "ot authori" in story.words("mqtt-1")
    assert story.applications("mqtt-1") == []


@pytest.mark.core
@mqtt_only
@fault("duplicate and unknown acks, and one out of order", 5, 6)
def test_acks_that_are_doubled_early_or_of_unknown_commands_change_nothing(story):
    def forged():
        with peer(story.site.broker.endpoint) as liar:
            for command_id in ("never-sent", "mqtt-2.v1.0", story.id("mqtt-1"), story.id("mqtt-1")):
                ack = {"command_id": command_id, "accepted": True, "reason": ""}
                liar.say("mqtt-1", "ack", json.dumps(ack))

    story.before_send["mqtt"] = forged
    story.after_send["mqtt"] = forged
    assert story.push().counts == {"VERIFIED": 2}
    assert story.applications("mqtt-1") == [3.0]


@mqtt_only
@fault("a late ack, and an ack without effect", 6, 7)
def test_an_ack_that_comes_after_the_time_out_is_no_proof(story):
    story.plant.set_outage("mqtt-1", True)
    story.hurry()

    def late():
        with peer(story.site.broker.endpoint) as liar:
            ack = {"command_id": story.id("mqtt-1"), "accepted": True, "reason": ""}
            liar.say("mqtt-1", "ack", json.dumps(ack))

    story.plant.set_outage("mqtt-1", False)
    story.collect()
    story.plant.set_outage("mqtt-1", True)
    story.after_send["mqtt"] = late
    story.push(collect=False)
    assert "VERIFIED" not in story.path("mqtt-1")
    assert "ACKED" not in story.path("mqtt-1")
    assert story.path("mqtt-2")[-1] == "VERIFIED"


@pytest.mark.core
@mqtt_only
@fault("a retained old command", 4, 20)
def test_a_retained_command_of_the_past_is_obeyed_by_nobody(story):
    story.site.mqtt.stop()
    old = {
        "command_id": "mqtt-1.v0.1",
        "plan_id": "old",
        "plan_version": 0,
        "sequence": 1,
        "power_kw": -9.0,
        "valid_from": (START - timedelta(hours=1)).isoformat(),
        "valid_until": (START + timedelta(hours=5)).isoformat(),
    }
    with peer(story.site.broker.endpoint) as stranger:
        stranger.say("mqtt-1", "cmd", json.dumps(old), retain=True)
    story.site.connect_mqtt_devices()
    assert story.push().counts == {"VERIFIED": 2}
    assert [a.kw for a in story.plant.record if a.device_id == "mqtt-1"] == [3.0]


@mqtt_only
@fault("the device is away from before the send until after the validity", 2, 6)
def test_a_command_that_outlived_its_device_is_not_obeyed_when_it_returns(story):
    story.collect()
    story.plant.set_outage("mqtt-1", True)
    story.hurry()
    story.push(collect=False)
    story.true_clock.sleep_until(START + timedelta(minutes=21))
    story.plant.set_outage("mqtt-1", False)
    story.site.step()
    assert story.plant.obeyed_kw("mqtt-1") is None
    assert story.applications("mqtt-1") == []


@mqtt_only
@fault("a duplicate client id", 6, 14)
def test_a_client_under_our_id_costs_a_doubt_and_no_fight(story, monkeypatch):
    ids = iter(["taken", "taken-2", "next-1", "next-2", "next-3", "next-4", "next-5"])
    story.collect()
    monkeypatch.setattr(mqtt, "unique_client_id", lambda _owner: next(ids))
    others = []

    def take():
        if not others:
            others.append(1)
            with peer(story.site.broker.endpoint) as other:
                other.client._client_id = b"taken"
                other.client.reconnect()
                wait_until(other.client.is_connected, "the stranger")

    story.after_send["mqtt"] = take
    assert story.push(collect=False).counts == {"VERIFIED": 2}
    assert story.applications("mqtt-1") == [3.0]
