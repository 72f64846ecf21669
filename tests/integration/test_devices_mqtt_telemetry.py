"""The collector's stream of telemetry, and devices that survive their broker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from devices_mqtt_bench import (
    NOON,
    PATIENCE_S,
    Bench,
    bench,
    need_mosquitto,
    peer,
    wait_until,
)

from vpp_pipeline.devices.mqtt_client import BrokerAddress, BrokerUnreachable
from vpp_pipeline.devices.telemetry_stream import TelemetryBatch, TelemetryStream
from vpp_pipeline.simulation import broker as brokers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Bench]:
    need_mosquitto()
    with bench(tmp_path) as made:
        yield made


@pytest.fixture
def stream(rig: Bench) -> Iterator[TelemetryStream]:
    opened = TelemetryStream(BrokerAddress(rig.endpoint), "tests")
    opened.open(PATIENCE_S)
    yield opened
    opened.close()


def collect(stream: TelemetryStream, messages: int) -> TelemetryBatch:
    """Drain until this many messages have come."""
    whole = TelemetryBatch([], [])

    def enough() -> bool:
        batch = stream.drain()
        whole.readings.extend(batch.readings)
        whole.rejects.extend(batch.rejects)
        return len(whole.readings) + len(whole.rejects) >= messages

    wait_until(enough, f"{messages} messages")
    return whole


def test_every_devices_telemetry_comes_once_and_a_dead_devices_not_at_all(
    rig: Bench, stream: TelemetryStream
) -> None:
    rig.plant.out = {"b-2"}
    rig.devices.publish_telemetry()
    rig.devices.publish_telemetry(["b-1"])
    batch = collect(stream, 3)
    assert [reading.device_id for reading in batch.readings] == ["b-1", "b-3", "b-1"]
    assert {reading.measured_at for reading in batch.readings} == {NOON}
    assert stream.drain() == TelemetryBatch([], [])


def test_what_is_no_telemetry_is_handed_over_whole_with_the_reason(
    rig: Bench, stream: TelemetryStream
) -> None:
    good = {"device_id": "b-1", "measured_at": "2026-03-01T12:00:00Z", "power_kw": 1}
    wrong = [
        "not json",
        json.dumps(good | {"power_kw": "1 kW"}),
        json.dumps(good | {"device_id": "b-2"}),
        json.dumps(good | {"status": "sleepy"}),
        json.dumps(good).replace("1}", "NaN}"),
    ]
    with peer(rig.endpoint) as sender:
        for payload in (*wrong, json.dumps(good)):
            sender.say("b-1", "tele", payload)
    batch = collect(stream, 6)
    assert [reading.power_kw for reading in batch.readings] == [1.0]
    assert [reject.payload for reject in batch.rejects] == wrong
    for reject, word in zip(
        batch.rejects, ["JSON", "power_kw", "device_id", "status", "power_kw"], strict=True
    ):
        assert reject.device_id == "b-1"
        assert word in reject.reason


def test_bytes_that_are_no_text_are_handed_over_readable(
    rig: Bench, stream: TelemetryStream
) -> None:
    with peer(rig.endpoint) as sender:
        sender.client.publish("vpp/v1/b-1/tele", b"\xff\x00", 1).wait_for_publish(PATIENCE_S)
    assert collect(stream, 1).rejects[0].payload == "\\xff\x00"


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_stream_and_devices_come_back_with_their_broker(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "amqtt":
        monkeypatch.setattr(brokers, "find_mosquitto", lambda: None)
    else:
        need_mosquitto()
    with bench(tmp_path) as rig:
        stream = TelemetryStream(BrokerAddress(rig.endpoint), "tests")
        stream.open(PATIENCE_S)
        rig.broker.stop()
        wait_until(lambda: not stream.is_connected(), "the loss")
        second = brokers.start_broker(rig.directory, rig.broker.port)
        try:
            wait_until(stream.is_connected, "the stream's return")
            with peer(rig.endpoint, "state") as listener:
                states = {listener.hear("state").topic for _ in range(3)}
            assert len(states) == 3

            def heard_again() -> bool:
                rig.devices.publish_telemetry()
                return bool(stream.drain().readings)

            wait_until(heard_again, "telemetry after the return")
        finally:
            stream.close()
            rig.devices.stop()
            second.stop()


def test_devices_that_stop_say_so(rig: Bench) -> None:
    rig.devices.stop()
    with peer(rig.endpoint, "state") as listener:
        statuses = [json.loads(listener.hear("state").payload)["status"] for _ in range(3)]
    assert statuses == ["offline"] * 3


def test_a_stream_without_a_broker_says_so_and_may_be_opened_later(tmp_path: Path) -> None:
    need_mosquitto()
    with bench(tmp_path, start=False) as rig:
        rig.broker.stop()
        stream = TelemetryStream(BrokerAddress(rig.endpoint), "tests")
        with pytest.raises(BrokerUnreachable, match=rig.endpoint):
            stream.open(PATIENCE_S)
        again = brokers.start_broker(rig.directory, rig.broker.port)
        stream.open(PATIENCE_S)
        assert stream.is_connected()
        stream.close()
        again.stop()
