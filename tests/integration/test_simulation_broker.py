"""The broker of our own: it comes up alone, keeps what it promised and dies with its parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from devices_mqtt_bench import PATIENCE_S, need_mosquitto, peer, wait_until

from vpp_pipeline.devices.mqtt_client import (
    BrokerAddress,
    BrokerUnreachable,
    Handlers,
    close_client,
    open_client,
    speaks_v5,
)
from vpp_pipeline.simulation import broker as brokers
from vpp_pipeline.simulation.broker import Broker, BrokerError, start_broker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Broker]:
    if request.param == "amqtt":
        monkeypatch.setattr(brokers, "find_mosquitto", lambda: None)
    else:
        need_mosquitto()
    running = start_broker(tmp_path / "broker")
    assert running.kind == request.param
    yield running
    running.stop()


def accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_a_client_settles_on_the_newest_version_the_broker_speaks(broker: Broker) -> None:
    client = open_client(
        BrokerAddress(broker.endpoint), "c", ["x"], Handlers(print), PATIENCE_S, reconnects=False
    )
    assert speaks_v5(client) == (broker.kind == "mosquitto")
    close_client(client)


def test_it_listens_on_the_loopback_only(broker: Broker) -> None:
    listening = [
        columns[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for columns in map(str.split, Path(table).read_text().splitlines()[1:])
        if columns[1].endswith(f":{broker.port:04X}") and columns[3] == "0A"
    ]
    assert listening == [f"0100007F:{broker.port:04X}"]


def test_a_port_in_use_is_told_with_the_remedy(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=rf"{broker.port}.*choose another port"):
        start_broker(tmp_path / "second", broker.port)


def test_stop_frees_the_port_and_may_be_called_twice(broker: Broker) -> None:
    broker.stop()
    broker.stop()
    assert not accepts(broker.port)


def test_it_dies_with_its_parent_even_when_that_is_killed(broker: Broker, tmp_path: Path) -> None:
    hide = "brokers.find_mosquitto = lambda: None" if broker.kind == "amqtt" else ""
    script = f"""
import pathlib, sys
from vpp_pipeline.simulation import broker as brokers
{hide}
print(brokers.start_broker(pathlib.Path({str(tmp_path / "orphan")!r})).port, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert accepts(port)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not accepts(port), "the broker's end")


def test_a_broker_that_can_not_come_up_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor = tmp_path / "impostor"
    impostor.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 7\n")
    impostor.chmod(0o755)
    monkeypatch.setattr(brokers, "find_mosquitto", lambda: str(impostor))
    with pytest.raises(BrokerError, match=r"exit code 7.*out of order"):
        start_broker(tmp_path / "broker")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_mosquitto_comes_back_with_its_retained_messages(tmp_path: Path, end: int) -> None:
    need_mosquitto()
    first = start_broker(tmp_path)
    with peer(first.endpoint) as speaker:
        speaker.say("b-1", "state", '{"status": "ok"}', retain=True)
        database = tmp_path / "mosquitto.db"
        if end == signal.SIGKILL:
            wait_until(
                lambda: database.exists() and b"b-1/state" in database.read_bytes(), "the autosave"
            )
    os.kill(child_of(first.process.pid, "mosquitto"), end)
    first.process.wait(PATIENCE_S)
    first.stop()

    second = start_broker(tmp_path, first.port)
    try:
        with peer(second.endpoint, "state") as listener:
            assert listener.hear("state").payload == b'{"status": "ok"}'
    finally:
        second.stop()


def child_of(parent: int, name: str) -> int:
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            text = status.read_text()
            if f"\nPPid:\t{parent}\n" in text and text.startswith(f"Name:\t{name}\n"):
                return int(status.parent.name)
    pytest.fail(f"process {parent} has no child {name}")


def test_a_broker_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BrokerUnreachable, match=endpoint):
            open_client(
                BrokerAddress(endpoint), "c", ["x"], Handlers(print), PATIENCE_S, reconnects=False
            )


def test_a_peer_that_accepts_and_never_answers_costs_no_more_than_the_time_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        endpoint = f"127.0.0.1:{black_hole.getsockname()[1]}"
        with pytest.raises(BrokerUnreachable, match="did not answer in time"):
            open_client(BrokerAddress(endpoint), "c", ["x"], Handlers(print), 0.3, reconnects=False)
