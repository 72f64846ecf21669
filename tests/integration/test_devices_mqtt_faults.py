"""Faults between driver and devices that a broker makes possible: each is survived and named."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from devices_mqtt_bench import (
    NOON,
    PATIENCE_S,
    SHORT_S,
    Bench,
    bench,
    command,
    need_mosquitto,
    peer,
    wait_until,
)
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from vpp_pipeline import event_loop
from vpp_pipeline.devices import mqtt, mqtt_session
from vpp_pipeline.devices.mqtt_client import (
    BrokerAddress,
    Handlers,
    close_client,
    open_client,
    topic,
)
from vpp_pipeline.devices.protocol import CommandResult, Outcome, Reading
from vpp_pipeline.devices.wire import AckMessage, CommandMessage
from vpp_pipeline.simulation import broker as brokers

if TYPE_CHECKING:
    from collections.abc import Iterator

BURST = Path(__file__).parents[2] / "benchmarks" / "broker_killed.py"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Bench]:
    need_mosquitto()
    with bench(tmp_path) as made:
        yield made


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bench]:
    need_mosquitto()
    with bench(tmp_path, start=False) as made:
        yield made


def yes(message: MQTTMessage) -> str:
    command_id = CommandMessage.model_validate_json(message.payload).command_id
    return AckMessage(command_id=command_id, accepted=True).model_dump_json()


def test_invariants_05_and_06_a_broker_killed_in_a_burst_loses_and_doubles_nothing() -> None:
    need_mosquitto()
    run = subprocess.run(
        [sys.executable, str(BURST), "900"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert '"states": {"VERIFIED": 900}, "lost": 0, "doubled": 0, "unresolved": 0' in run.stdout


def test_a_device_that_speaks_only_3_1_1_gets_id_and_validity_from_the_payload(bare: Bench) -> None:
    heard: list[CommandMessage] = []

    def answer(client: Client, _userdata: Any, message: MQTTMessage) -> None:
        heard.append(CommandMessage.model_validate_json(message.payload))
        client.publish(topic("b-1", "ack"), yes(message), 1)

    device = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    granted = []
    device.on_message = answer
    device.on_subscribe = lambda *_: granted.append(1)
    device.connect(bare.broker.host, bare.broker.port)
    device.subscribe(topic("b-1", "cmd"), 1)
    device.loop_start()
    wait_until(lambda: granted, "its subscription")

    async def work() -> list[CommandResult]:
        driver = bare.driver()
        try:
            return await driver.command([(bare.link(), command())], NOON, PATIENCE_S)
        finally:
            await driver.close()

    [result] = event_loop.run(work())
    close_client(device)
    assert result.outcome is Outcome.ACKED
    assert [(m.command_id, m.valid_until) for m in heard] == [("b-1-1-1", command().valid_until)]


def test_a_command_whose_validity_ends_while_the_device_is_offline_is_never_delivered(
    bare: Bench,
) -> None:
    def connect() -> tuple[Client, list[str]]:
        """A device whose session the broker keeps while it is away."""
        device = Client(
            CallbackAPIVersion.VERSION2, client_id="b-1", protocol=MQTTProtocolVersion.MQTTv5
        )
        heard: list[str] = []
        granted: list[int] = []
        device.on_message = lambda _c, _u, message: heard.append(message.topic)
        device.on_subscribe = lambda *_: granted.append(1)
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 3600
        device.connect(bare.broker.host, bare.broker.port, clean_start=False, properties=kept)
        device.subscribe([(topic("b-1", kind), 1) for kind in ("cmd", "release")])
        device.loop_start()
        wait_until(lambda: granted, "its subscription")
        return device, heard

    device, _ = connect()
    close_client(device)

    async def work() -> list[CommandResult]:
        driver = bare.driver()
        short = command(minutes=1 / 60)
        long = command(device_id="b-1", rank=(1, 2))
        try:
            pairs = [(bare.link(), short), (bare.link(), long)]
            results = await driver.command(pairs, NOON, SHORT_S)
            await asyncio.sleep(2.5)  # a broker's expiry is up to a second late
        finally:
            await driver.close()
        return results

    results = event_loop.run(work())
    device, heard = connect()
    wait_until(lambda: heard, "what was kept for it")
    with peer(bare.endpoint) as sender:
        sender.say("b-1", "release", "last")
    wait_until(lambda: topic("b-1", "release") in heard, "the last message")
    close_client(device)
    assert [r.outcome for r in results] == [Outcome.UNKNOWN, Outcome.UNKNOWN]
    assert heard == [topic("b-1", "cmd"), topic("b-1", "release")]


def test_acks_out_of_order_and_doubled_reach_the_commands_they_are_for(bare: Bench) -> None:
    asked = [command(device_id=f"b-{n}") for n in (1, 2, 3)]

    async def work() -> tuple[list[CommandResult], int]:
        driver = bare.driver()
        with peer(bare.endpoint, "cmd") as forger:
            pairs = [(bare.link(c.device_id), c) for c in asked]
            offer = asyncio.create_task(driver.command(pairs, NOON, PATIENCE_S))
            orders = [await asyncio.to_thread(forger.hear, "cmd") for _ in asked]
            for order in reversed(orders):
                for _ in range(2):
                    device_id = order.topic.split("/")[2]
                    await asyncio.to_thread(forger.say, device_id, "ack", yes(order))
            results = await offer
        await driver.close()
        return results, driver.unknown_acks

    results, unknown = event_loop.run(work())
    assert [(r.command_id, r.outcome) for r in results] == [
        (c.command_id, Outcome.ACKED) for c in asked
    ]
    assert unknown in {2, 3}  # the last one's double may come after all is told


def test_invariant_06_an_ack_that_comes_too_late_is_ignored_and_the_device_read_back(
    rig: Bench,
) -> None:
    rig.plant.out = {"b-1"}

    async def work() -> tuple[CommandResult, int, object]:
        driver = rig.driver()
        with peer(rig.endpoint, "cmd") as forger:
            [late] = await driver.command([(rig.link(), command())], NOON, SHORT_S)
            order = await asyncio.to_thread(forger.hear, "cmd")
            await asyncio.to_thread(forger.say, "b-1", "ack", yes(order))
        rig.plant.out = set()
        [seen] = await driver.read_back([(rig.link(), command())], PATIENCE_S)
        await driver.close()
        return late, driver.unknown_acks, seen

    late, unknown, seen = event_loop.run(work())
    assert (late.outcome, unknown) == (Outcome.UNKNOWN, 1)
    assert not getattr(seen, "matches", True)  # it never had it, whatever the ack said


def test_a_connection_that_ended_while_the_loop_stood_still_is_replaced_before_the_send(
    rig: Bench,
) -> None:
    """A resident process runs its loop only while it asks."""
    driver = rig.driver()
    with event_loop.runner() as loop:
        [before] = loop.run(driver.read([rig.link()], PATIENCE_S))
        rig.broker.stop()
        second = brokers.start_broker(rig.directory, rig.broker.port)
        try:
            wait_until(lambda: answers_again(rig), "the devices' return")
            [result] = loop.run(driver.command([(rig.link(), command())], NOON, PATIENCE_S))
            loop.run(driver.close())
        finally:
            rig.devices.stop()
            second.stop()
    assert isinstance(before, Reading)
    assert result.outcome is Outcome.ACKED


def test_a_client_under_our_id_is_named_and_not_thrown_out_in_turn(
    rig: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["taken", "our-next"])
    monkeypatch.setattr(mqtt, "unique_client_id", lambda _owner: next(ids))
    rig.plant.out = {"b-1"}
    thrown_out: list[str] = []

    async def work() -> tuple[CommandResult, object, Client]:
        driver = rig.driver()
        with peer(rig.endpoint, "cmd") as listener:
            offer = asyncio.create_task(driver.command([(rig.link(), command())], NOON, PATIENCE_S))
            await asyncio.to_thread(listener.hear, "cmd")
        other = await asyncio.to_thread(
            open_client,
            BrokerAddress(rig.endpoint),
            "taken",
            [topic("+", "ack")],
            Handlers(lambda *_: None, on_lost=thrown_out.append),
            PATIENCE_S,
            reconnects=True,
        )
        [lost] = await offer
        [again] = await driver.read([rig.link("b-2")], PATIENCE_S)
        await driver.close()
        return lost, again, other

    lost, again, other = event_loop.run(work())
    still_there = other.is_connected()
    close_client(other)
    assert lost.outcome is Outcome.UNKNOWN
    assert "see the broker's log for client id taken" in lost.detail
    assert isinstance(again, Reading)
    assert (still_there, [why for why in thrown_out if "taken over" in why]) == (True, [])


def test_a_gateways_queue_at_the_broker_never_overflows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker drops what its queue can't hold and says nothing: we don't send faster."""
    need_mosquitto()
    for patience in ("_SILENT_S", "_ANSWER_IS_DUE_S"):  # a stalled machine is no dead gateway
        monkeypatch.setattr(mqtt_session, patience, PATIENCE_S)
    asked = [command(1.0, f"b-{n}") for n in range(2000)]
    with bench(tmp_path, start=False) as rig:
        rig.broker.stop()
        config = rig.directory / "mosquitto.conf"
        small = config.read_text().replace("max_queued_messages 100000", "max_queued_messages 600")
        config.write_text(small.replace("max_inflight_messages 1000", "max_inflight_messages 20"))
        server = subprocess.Popen(
            [str(brokers.find_mosquitto()), "-c", str(config)], stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: comes_up(rig), "the broker with a small queue")
            gateway = open_client(
                BrokerAddress(rig.endpoint),
                "gateway",
                [topic("+", "cmd")],
                Handlers(lambda c, m: c.publish(m.topic[:-3] + "ack", yes(m), 1) and None),
                PATIENCE_S,
                reconnects=False,
            )

            async def work() -> list[CommandResult]:
                driver = rig.driver()
                pairs = [(rig.link(c.device_id), c) for c in asked]
                try:
                    return await driver.command(pairs, NOON, PATIENCE_S)
                finally:
                    await driver.close()

            results = event_loop.run(work())
            close_client(gateway)
        finally:
            server.terminate()
            server.wait(PATIENCE_S)
    assert {r.outcome for r in results} == {Outcome.ACKED}


def answers_again(rig: Bench) -> bool:
    with peer(rig.endpoint, "tele") as asker:
        asker.say("b-1", "get", "{}")
        try:
            return asker.heard.get(timeout=0.2).topic.endswith("/tele")
        except queue.Empty:
            return False


def comes_up(rig: Bench) -> bool:
    try:
        with peer(rig.endpoint):
            return True
    except ConnectionError:
        return False


def test_many_dead_devices_hold_up_nobody_for_the_whole_timeout(
    rig: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_session, "_UNANSWERED_AT_MOST", 0)  # as if hundreds were dead
    monkeypatch.setattr(mqtt_session, "_CHUNK", 1)
    rig.plant.out = {"b-1", "b-2"}

    told: list[tuple[int, Outcome]] = []

    def tell(place: int, result: CommandResult) -> None:
        told.append((place, result.outcome))

    async def work() -> list[CommandResult]:
        driver = rig.driver()
        pairs = [(rig.link(n), command(device_id=n)) for n in ("b-1", "b-2", "b-3")]
        try:
            return await driver.command(pairs, NOON, 4 * SHORT_S, tell)
        finally:
            await driver.close()

    outcomes = [result.outcome for result in event_loop.run(work())]
    assert outcomes == [Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.ACKED]
    assert told[0] == (2, Outcome.ACKED)
