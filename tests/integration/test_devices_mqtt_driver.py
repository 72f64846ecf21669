"""The MQTT driver over a real broker, with devices that obey, pretend, lie and fall silent."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from devices_mqtt_bench import (
    DEVICES,
    NOON,
    PATIENCE_S,
    SHORT_S,
    Bench,
    bench,
    command,
    liar,
    need_mosquitto,
    peer,
    wait_until,
)

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ScaledClock
from vpp_pipeline.devices.mqtt import MqttDriver
from vpp_pipeline.devices.mqtt_client import BrokerAddress
from vpp_pipeline.devices.protocol import (
    Command,
    CommandResult,
    Outcome,
    ReadBack,
    Reading,
    Unreachable,
)
from vpp_pipeline.devices.wire import AckMessage, command_message
from vpp_pipeline.simulation import broker as brokers
from vpp_pipeline.simulation.command_queue import SimulatedDevice

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

T = TypeVar("T")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Bench]:
    need_mosquitto()
    with bench(tmp_path) as made:
        yield made


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bench]:
    """A broker with nobody on it."""
    need_mosquitto()
    with bench(tmp_path, start=False) as made:
        yield made


def drive(rig: Bench, work: Callable[[MqttDriver], Awaitable[T]]) -> T:
    async def run() -> T:
        driver = rig.driver()
        try:
            return await work(driver)
        finally:
            await driver.close()

    return event_loop.run(run())


def push(rig: Bench, *commands: Command, timeout_s: float = PATIENCE_S) -> list[CommandResult]:
    pairs = [(rig.link(c.device_id), c) for c in commands]
    return drive(rig, lambda driver: driver.command(pairs, rig.plant.clock.now(), timeout_s))


def ask_back(rig: Bench, asked: Command, timeout_s: float = PATIENCE_S) -> ReadBack | Unreachable:
    pair = (rig.link(asked.device_id), asked)
    return drive(rig, lambda driver: driver.read_back([pair], timeout_s))[0]


def read_one(rig: Bench, timeout_s: float = PATIENCE_S) -> Reading | Unreachable:
    return drive(rig, lambda driver: driver.read([rig.link()], timeout_s))[0]


def payload(asked: Command) -> str:
    return command_message(asked).model_dump_json()


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_a_command_is_acknowledged_applied_and_read_back_on_either_mqtt_version(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "amqtt":
        monkeypatch.setattr(brokers, "find_mosquitto", lambda: None)
    else:
        need_mosquitto()
    with bench(tmp_path) as rig:
        asked = command(-3.5)
        [result] = push(rig, asked)
        assert (result.outcome, result.sent) == (Outcome.ACKED, payload(asked))
        seen = ask_back(rig, asked)
        assert isinstance(seen, ReadBack)
        assert (seen.matches, seen.setpoint_kw, seen.command_id) == (True, -3.5, "b-1-1-1")
        assert json.loads(seen.raw)["setpoint_kw"] == -3.5
        reading = read_one(rig)
        assert isinstance(reading, Reading)
        assert (reading.power_kw, reading.measured_at) == (-3.5, NOON)


def test_mosquittos_own_client_sees_the_command_as_the_contract_says(rig: Bench) -> None:
    with subprocess.Popen(
        ["mosquitto_sub", "-h", rig.broker.host, "-p", str(rig.broker.port), "-V", "5",
         "-t", "vpp/v1/b-1/cmd", "-t", "vpp/v1/probe", "-F", "%t %q %r %R %D %E %p"],
        stdout=subprocess.PIPE,
        text=True,
    ) as listener:  # fmt: skip
        assert listener.stdout is not None
        with peer(rig.endpoint) as probe:
            heard: list[str] = []
            while not heard:  # its subscription stands once it hears a probe
                probe.client.publish("vpp/v1/probe", "?", 1, retain=True)
                heard.append(listener.stdout.readline())
        push(rig, command(2.0))
        line = listener.stdout.readline()
        while not line.startswith("vpp/v1/b-1/cmd"):
            line = listener.stdout.readline()
        listener.terminate()
    head, _, body = line.partition("{")
    assert head.split()[:4] == ["vpp/v1/b-1/cmd", "0", "0", "vpp/v1/b-1/ack"]
    assert head.split()[4] == "b-1-1-1"
    assert json.loads("{" + body) == {
        "command_id": "b-1-1-1",
        "plan_version": 1,
        "sequence": 1,
        "power_kw": 2.0,
        "valid_from": "2026-03-01T12:00:00Z",
        "valid_until": "2026-03-01T12:20:00Z",
    }


def test_invariant_05_a_command_delivered_twice_is_applied_once(rig: Bench) -> None:
    with peer(rig.endpoint, "ack") as sender:
        for _ in range(2):
            sender.say("b-1", "cmd", payload(command()))
        acks = [sender.hear("ack").payload for _ in range(2)]
    assert acks[0] == acks[1]
    [again] = push(rig, command())
    assert again.outcome is Outcome.ACKED
    assert len(rig.plant.applied) == 1


def test_a_command_ahead_of_its_time_is_acknowledged_now_and_in_force_later(rig: Bench) -> None:
    asked = command(2.0, start_min=15, minutes=20)
    [result] = push(rig, asked)
    assert result.outcome is Outcome.ACKED
    early = ask_back(rig, asked)
    assert isinstance(early, ReadBack)
    assert (early.matches, early.setpoint_kw) == (False, None)
    rig.move(15)
    assert getattr(ask_back(rig, asked), "matches", False)


def test_invariant_02_a_device_left_alone_falls_back_by_itself(rig: Bench) -> None:
    asked = command(minutes=20)
    push(rig, asked)
    with peer(rig.endpoint, "state") as listener:
        rig.move(20)
        wait_until(
            lambda: json.loads(listener.hear("state").payload)["setpoint_kw"] is None,
            "the fall-back",
        )
    late = ask_back(rig, asked)
    assert isinstance(late, ReadBack)
    assert (late.matches, late.setpoint_kw, late.command_id) == (False, None, None)


def test_invariant_07_a_device_that_says_yes_and_does_nothing_is_found_out(rig: Bench) -> None:
    rig.plant.deaf = {"b-1"}
    [result] = push(rig, command())
    assert result.outcome is Outcome.ACKED
    seen = ask_back(rig, command())
    assert isinstance(seen, ReadBack)
    assert not seen.matches
    assert "none is in force" in seen.detail


def test_invariant_07_telemetry_that_belies_the_state_is_no_match(bare: Bench) -> None:
    asked = command(2.0)
    state = {"command_id": asked.command_id, "setpoint_kw": 2.0, "status": "ok"}
    telemetry = {"device_id": "b-1", "measured_at": NOON.isoformat(), "setpoint_kw": -1.0}
    with liar(bare.endpoint, {"get": [("state", state), ("tele", telemetry)]}):
        seen = ask_back(bare, asked)
    assert isinstance(seen, ReadBack)
    assert (seen.matches, "-1.0" in seen.detail) == (False, True)


def test_another_set_point_in_force_is_reported(rig: Bench) -> None:
    push(rig, command(2.0))
    push(rig, command(-1.0, rank=(2, 1)))
    seen = ask_back(rig, command(2.0))
    assert isinstance(seen, ReadBack)
    assert (seen.matches, seen.setpoint_kw, seen.command_id) == (False, -1.0, "b-1-2-1")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (command(math.nan), "finite"),
        (command(math.inf), "finite"),
        (command(5.01), "nameplate"),
        (command(start_min=-40), "is over"),
    ],
)
def test_invariant_01_what_must_not_be_sent_is_not(
    bare: Bench, asked: Command, reason: str
) -> None:
    [result] = push(bare, asked)
    assert (result.outcome, result.sent) == (Outcome.REJECTED, "")
    assert reason in result.detail


def test_invariant_21_a_read_only_device_is_never_written(rig: Bench) -> None:
    link = rig.link(writable=False)
    with peer(rig.endpoint, "cmd", "release") as listener:
        [commanded] = drive(
            rig, lambda driver: driver.command([(link, command())], NOON, PATIENCE_S)
        )
        [released] = drive(rig, lambda driver: driver.release([link], PATIENCE_S))
        listener.say("b-1", "cmd", "the only one")
        assert listener.heard.get(timeout=PATIENCE_S).payload == b"the only one"
    assert {commanded.outcome, released.outcome} == {Outcome.REJECTED}


def test_invariant_04_and_20_the_devices_refusal_comes_back_with_its_reason(rig: Bench) -> None:
    push(rig, command(2.0, rank=(2, 1)))
    [stale] = push(rig, command(1.0, rank=(1, 1)))
    generous = rig.link(max_inject_kw=100.0)
    [beyond] = drive(
        rig,
        lambda driver: driver.command([(generous, command(50.0, rank=(3, 1)))], NOON, PATIENCE_S),
    )
    assert (stale.outcome, "stale" in stale.detail) == (Outcome.REJECTED, True)
    assert (beyond.outcome, "out of range" in beyond.detail) == (Outcome.REJECTED, True)
    assert len(rig.plant.applied) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"power_kw": math.nan}, "power_kw"),
        ({"power_kw": "2"}, "power_kw"),
        ({"valid_until": "2026-03-01T12:00:00Z"}, "valid_until"),
        ({"valid_from": "2026-03-01T11:00:00Z", "valid_until": "2026-03-01T11:20:00Z"}, "expired"),
    ],
)
def test_invariant_20_a_device_refuses_what_is_malformed_or_expired(
    rig: Bench, changes: dict[str, Any], reason: str
) -> None:
    with peer(rig.endpoint, "ack") as sender:
        sender.say("b-1", "cmd", json.dumps(json.loads(payload(command())) | changes))
        ack = AckMessage.model_validate_json(sender.hear("ack").payload)
    assert (ack.command_id, ack.accepted) == ("b-1-1-1", False)
    assert reason in ack.reason
    assert rig.plant.applied == []


def test_noise_on_the_command_topic_harms_nobody(rig: Bench) -> None:
    with peer(rig.endpoint) as sender:
        for noise in ("", "{", "null", "\u0000", '{"command_id": 7}', "[[[]]]"):
            sender.say("b-1", "cmd", noise)
            sender.say("stranger", "cmd", noise)
            sender.say("b-1", "release", noise)
    assert push(rig, command())[0].outcome is Outcome.ACKED


def test_a_retained_old_command_is_not_obeyed(bare: Bench) -> None:
    with peer(bare.endpoint) as sender:
        sender.say("b-1", "cmd", payload(command()), retain=True)
    bare.devices.start(BrokerAddress(bare.endpoint))
    assert isinstance(read_one(bare), Reading)  # it has answered, so it has heard
    assert bare.plant.applied == []


def test_an_ack_for_an_unknown_id_or_from_another_device_is_ignored_and_counted(
    rig: Bench,
) -> None:
    rig.plant.out = {"b-1"}

    async def work(driver: MqttDriver) -> tuple[CommandResult, int]:
        await driver.read([rig.link("b-2")], PATIENCE_S)
        with peer(rig.endpoint, "cmd") as forger:
            offer = asyncio.create_task(driver.command([(rig.link(), command())], NOON, 1.0))
            await asyncio.to_thread(forger.hear, "cmd")
            yes = AckMessage(command_id=command().command_id, accepted=True).model_dump_json()
            stranger = AckMessage(command_id="nobody-asked", accepted=True).model_dump_json()
            for device_id, ack in (("b-2", yes), ("b-1", stranger), ("b-1", "garbage")):
                await asyncio.to_thread(forger.say, device_id, "ack", ack)
            counted = lambda: driver.unknown_acks == 3  # noqa: E731
            await asyncio.to_thread(wait_until, counted, "the forged acks")
            [result] = await offer
            return result, driver.unknown_acks

    result, unknown = drive(rig, work)
    assert result.outcome is Outcome.UNKNOWN
    assert unknown == 3


def test_invariant_06_nobody_listening_is_a_failure_and_not_a_doubt(bare: Bench) -> None:
    [result] = push(bare, command())
    assert result.outcome is Outcome.FAILED
    assert "No matching subscribers" in result.detail


def test_invariant_06_silence_after_publishing_is_a_doubt(rig: Bench) -> None:
    rig.plant.out = {"b-1"}
    results = push(rig, command(), command(device_id="b-2"), timeout_s=SHORT_S)
    assert [r.outcome for r in results] == [Outcome.UNKNOWN, Outcome.ACKED]


def test_a_dead_device_is_told_offline_once_and_back_when_it_lives(rig: Bench) -> None:
    with peer(rig.endpoint, "state") as listener:
        for _ in DEVICES:
            listener.hear("state")
        rig.plant.out = {"b-1"}
        rig.devices.tick()
        rig.devices.tick()
        assert listener.hear("state").payload.startswith(b'{"command_id":null')
        offline = read_one(rig)
        assert isinstance(offline, Unreachable)
        assert "offline" in offline.reason
        rig.plant.out = set()
        rig.devices.tick()
        back = json.loads(listener.hear("state").payload)
    assert back["status"] == "ok"
    assert isinstance(read_one(rig), Reading)


def test_no_broker_is_a_failure_that_names_it(tmp_path: Path) -> None:
    with bench(tmp_path, start=False) as rig:
        rig.broker.stop()
        [result] = push(rig, command())
        [reading] = drive(rig, lambda driver: driver.read([rig.link()], PATIENCE_S))
    assert (result.outcome, result.sent) == (Outcome.FAILED, "")
    assert rig.endpoint in result.detail
    assert isinstance(reading, Unreachable)


def test_a_dead_broker_and_a_hanging_one_do_not_delay_the_devices_of_a_third(rig: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        links = [
            replace(rig.link("b-2"), endpoint=f"127.0.0.1:{hanging.getsockname()[1]}"),
            rig.link(),
            replace(rig.link("b-3"), endpoint=f"127.0.0.1:{closed.getsockname()[1]}"),
        ]
        answers = drive(rig, lambda driver: driver.read(links, SHORT_S))
    assert [type(answer) for answer in answers] == [Unreachable, Reading, Unreachable]


def test_a_connection_lost_while_waiting_is_a_doubt_and_the_next_call_connects_anew(
    rig: Bench,
) -> None:
    rig.plant.out = {"b-1"}

    async def work(driver: MqttDriver) -> tuple[CommandResult, Reading | Unreachable]:
        with peer(rig.endpoint, "cmd") as listener:
            offer = asyncio.create_task(driver.command([(rig.link(), command())], NOON, PATIENCE_S))
            await asyncio.to_thread(listener.hear, "cmd")
        await asyncio.to_thread(rig.broker.stop)
        [lost] = await offer
        rig.plant.out = set()
        second = await asyncio.to_thread(brokers.start_broker, rig.directory, rig.broker.port)
        try:
            [reading] = await driver.read([rig.link()], PATIENCE_S)
        finally:
            await asyncio.to_thread(rig.devices.stop)
            await asyncio.to_thread(second.stop)
        return lost, reading

    lost, reading = drive(rig, work)
    assert lost.outcome is Outcome.UNKNOWN
    assert "connection to the broker ended" in lost.detail
    assert isinstance(reading, Reading)


def test_one_driver_serves_one_event_loop_after_another(rig: Bench) -> None:
    driver = rig.driver()
    for _ in range(2):
        [reading] = event_loop.run(driver.read([rig.link()], PATIENCE_S))
        assert isinstance(reading, Reading)
    event_loop.run(driver.close())


def test_a_reading_is_fresh_and_never_the_retained_one(bare: Bench) -> None:
    old = {"device_id": "b-1", "measured_at": "2020-01-01T00:00:00Z", "power_kw": 1.0}
    with peer(bare.endpoint) as sender:
        sender.say("b-1", "tele", json.dumps(old), retain=True)
    answer = read_one(bare, SHORT_S)
    assert isinstance(answer, Unreachable)
    assert "no telemetry" in answer.reason


def test_telemetry_that_is_none_is_told_as_it_is(bare: Bench) -> None:
    with liar(bare.endpoint, {"get": [("tele", {"device_id": "b-1", "power_kw": "much"})]}):
        answer = read_one(bare)
    assert isinstance(answer, Unreachable)
    assert "measured_at" in answer.reason
    assert "power_kw" in answer.reason


def test_invariant_11_a_release_is_seen_to_leave_no_set_point(rig: Bench) -> None:
    push(rig, command(2.0), command(2.0, rank=(1, 2), start_min=15))
    [result] = drive(rig, lambda driver: driver.release([rig.link()], PATIENCE_S))
    assert result.outcome is Outcome.ACKED
    assert rig.plant.setpoint("b-1") is None
    rig.move(15)
    assert rig.plant.setpoint("b-1") is None


def test_invariant_11_a_device_that_clings_to_its_set_point_is_not_released(rig: Bench) -> None:
    rig.plant.clinging = {"b-1"}
    push(rig, command(2.0))
    [result] = drive(rig, lambda driver: driver.release([rig.link()], PATIENCE_S))
    assert result.outcome is Outcome.UNKNOWN
    assert "2.0 kW" in result.detail


def test_the_brokers_expiry_is_the_validity_in_wall_seconds(rig: Bench) -> None:
    clock = ScaledClock(NOON, anchor_epoch_s=0.0, rate=60.0)

    async def work() -> None:
        driver = MqttDriver("tests", clock)
        await driver.command([(rig.link(), command(minutes=20))], NOON, PATIENCE_S)
        await driver.close()

    with peer(rig.endpoint, "cmd") as listener:
        event_loop.run(work())
        properties = listener.hear("cmd").properties
    assert properties is not None
    told = properties.json()  # type: ignore[no-untyped-call]
    assert told["MessageExpiryInterval"] in {19, 20}
    assert bytes.fromhex(told["CorrelationData"]) == b"b-1-1-1"
    assert told["ResponseTopic"] == "vpp/v1/b-1/ack"


def test_a_thousand_commands_at_once_are_all_acknowledged(tmp_path: Path) -> None:
    need_mosquitto()
    devices = tuple(SimulatedDevice(f"b-{n}", 5.0, 4.0, controllable=True) for n in range(1000))
    with bench(tmp_path, devices) as rig:
        results = push(rig, *(command(1.0, d.device_id) for d in devices))
    assert {r.outcome for r in results} == {Outcome.ACKED}
    assert [r.command_id for r in results] == [f"{d.device_id}-1-1" for d in devices]
    assert len(rig.plant.applied) == 1000


def test_invariant_18_a_publication_the_broker_forbids_is_refused_for_good(tmp_path: Path) -> None:
    need_mosquitto()
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    acl.chmod(0o700)
    with bench(tmp_path, start=False) as rig:
        rig.broker.stop()
        config = rig.directory / "mosquitto.conf"
        config.write_text(f"{config.read_text()}acl_file {acl}\n")
        server = subprocess.Popen([str(brokers.find_mosquitto()), "-c", str(config)])
        try:
            wait_until(lambda: is_up(rig), "the strict broker")
            [result] = push(rig, command())
        finally:
            server.terminate()
            server.wait(PATIENCE_S)
    assert result.outcome is Outcome.REJECTED
    assert "Not authorized" in result.detail


def is_up(rig: Bench) -> bool:
    try:
        socket.create_connection((rig.broker.host, rig.broker.port), 1).close()
    except OSError:
        return False
    return True
