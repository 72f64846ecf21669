"""The HTTP driver over real sockets: simulated devices, and gateways that fail as they do."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import pytest
import requests
from devices_http_scripted import Answer, Script, scripted_server
from devices_mqtt_bench import (
    DEVICES,
    NOON,
    PATIENCE_S,
    SHORT_S,
    ObedientPlant,
    command,
    link,
    wait_until,
)

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.devices.http import HttpDriver
from vpp_pipeline.devices.protocol import (
    Command,
    CommandResult,
    DeviceLink,
    Outcome,
    ReadBack,
    Reading,
    Unreachable,
)
from vpp_pipeline.devices.web_server import PortTaken
from vpp_pipeline.devices.wire import command_message
from vpp_pipeline.simulation.command_queue import SimulatedDevice
from vpp_pipeline.simulation.http_devices import HttpDevices

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")
APPLIED = {"command_id": "b-1-1-1", "state": "applied", "setpoint_kw": 2.0}
ACCEPTED = {"command_id": "b-1-1-1", "state": "accepted"}
METER = SimulatedDevice("m-1", 0.0, 9.0, controllable=False)


@dataclass
class Gateway:
    url: str
    plant: ObedientPlant
    devices: HttpDevices

    def move(self, minutes: float) -> None:
        self.plant.clock.sleep_until(NOON + timedelta(minutes=minutes))
        self.devices.tick()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    plant = ObedientPlant()
    devices = HttpDevices([*DEVICES, METER], plant)
    url = devices.start()
    yield Gateway(url, plant, devices)
    devices.stop()


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted_server() as scripted:
        yield scripted


def drive(work: Callable[[HttpDriver], Awaitable[T]], clock: ManualClock | None = None) -> T:
    async def run() -> T:
        driver = HttpDriver(clock or ManualClock(NOON))
        try:
            return await work(driver)
        finally:
            await driver.close()

    return event_loop.run(run())


def push(url: str, *commands: Command, timeout_s: float = PATIENCE_S) -> list[CommandResult]:
    pairs = [(link(url, c.device_id), c) for c in commands]
    return drive(lambda driver: driver.command(pairs, NOON, timeout_s))


def ask_back(url: str, asked: Command) -> ReadBack | Unreachable:
    pair = (link(url, asked.device_id), asked)
    return drive(lambda driver: driver.read_back([pair], PATIENCE_S))[0]


def read_one(url: str, timeout_s: float = PATIENCE_S) -> Reading | Unreachable:
    return drive(lambda driver: driver.read([link(url)], timeout_s))[0]


def test_a_command_is_applied_and_read_back(gateway: Gateway) -> None:
    asked = command(-3.5)
    [result] = push(gateway.url, asked)
    assert result.outcome is Outcome.ACKED
    assert json.loads(result.sent)["power_kw"] == -3.5
    seen = ask_back(gateway.url, asked)
    assert isinstance(seen, ReadBack)
    assert (seen.matches, seen.setpoint_kw, seen.command_id) == (True, -3.5, "b-1-1-1")
    reading = read_one(gateway.url)
    assert isinstance(reading, Reading)
    assert (reading.power_kw, reading.measured_at) == (-3.5, NOON)


def test_invariant_05_one_id_posted_twice_is_applied_once_with_the_same_answer(
    gateway: Gateway,
) -> None:
    url = f"{gateway.url}/devices/b-1/commands"
    payload = command_message(command()).model_dump_json()
    answers = [requests.post(url, payload, timeout=PATIENCE_S) for _ in range(2)]
    assert [a.status_code for a in answers] == [202, 202]
    assert answers[0].json() == answers[1].json() == APPLIED | {"reason": ""}
    assert len(gateway.plant.applied) == 1


def test_a_command_ahead_of_its_time_is_taken_now_and_in_force_later(gateway: Gateway) -> None:
    asked = command(2.0, start_min=15)
    [result] = push(gateway.url, asked)
    assert (result.outcome, result.detail) == (Outcome.ACKED, "accepted, not yet applied")
    early = ask_back(gateway.url, asked)
    assert isinstance(early, ReadBack)
    assert (early.matches, early.setpoint_kw) == (False, None)
    gateway.move(15)
    assert getattr(ask_back(gateway.url, asked), "matches", False)
    gateway.move(35)
    late = ask_back(gateway.url, asked)
    assert isinstance(late, ReadBack)
    assert (late.matches, late.setpoint_kw, "expired" in late.detail) == (False, None, True)


def test_invariant_07_a_device_that_says_yes_and_does_nothing_is_found_out(
    gateway: Gateway,
) -> None:
    gateway.plant.deaf = {"b-1"}
    assert push(gateway.url, command())[0].outcome is Outcome.ACKED
    seen = ask_back(gateway.url, command())
    assert isinstance(seen, ReadBack)
    assert (seen.matches, seen.setpoint_kw) == (False, None)


def test_invariant_07_a_report_that_the_reading_belies_is_no_match(script: Script) -> None:
    reading = {"device_id": "b-1", "measured_at": NOON.isoformat(), "setpoint_kw": -1.0}
    script.will("GET", Answer(200, APPLIED), Answer(200, reading))
    seen = ask_back(script.url, command(2.0))
    assert isinstance(seen, ReadBack)
    assert (seen.matches, seen.setpoint_kw, seen.command_id) == (False, -1.0, None)


def test_a_command_the_device_never_heard_of_is_no_match(gateway: Gateway) -> None:
    seen = ask_back(gateway.url, command())
    assert isinstance(seen, ReadBack)
    assert (seen.matches, "does not know" in seen.detail) == (False, True)


def test_invariant_04_and_20_the_devices_refusal_comes_back_with_its_reason(
    gateway: Gateway,
) -> None:
    push(gateway.url, command(rank=(2, 1)))
    [stale] = push(gateway.url, command(rank=(1, 1)))
    generous = link(gateway.url, max_inject_kw=100.0)
    meter = link(gateway.url, "m-1")
    beyond, read_only = drive(
        lambda driver: driver.command(
            [(generous, command(50.0, rank=(3, 1))), (meter, command(1.0, "m-1"))],
            NOON,
            PATIENCE_S,
        )
    )
    assert {stale.outcome, beyond.outcome, read_only.outcome} == {Outcome.REJECTED}
    assert "stale" in stale.detail
    assert "out of range" in beyond.detail
    assert "read-only" in read_only.detail
    assert len(gateway.plant.applied) == 1


def test_invariant_21_a_read_only_device_is_never_written(script: Script) -> None:
    target = link(script.url, writable=False)
    [commanded] = drive(lambda driver: driver.command([(target, command())], NOON, PATIENCE_S))
    [released] = drive(lambda driver: driver.release([target], PATIENCE_S))
    assert {commanded.outcome, released.outcome} == {Outcome.REJECTED}
    assert script.requests == []


def test_a_busy_device_is_asked_again_when_it_said_and_takes_the_command(script: Script) -> None:
    busy = Answer(429, {"reason": "busy"}, {"Retry-After": "1"})
    script.will("POST", busy, Answer(503, b""), Answer(202, ACCEPTED))
    script.will("GET", Answer(200, ACCEPTED), Answer(200, APPLIED))
    [result] = push(script.url, command())
    assert result.outcome is Outcome.ACKED
    assert script.count("POST") == 3
    assert len({body for method, _, body in script.requests if method == "POST"}) == 1


@pytest.mark.parametrize("header", ["120", "Fri, 31 Dec 2100 00:00:00 GMT"])
def test_a_retry_after_beyond_the_time_allowed_is_not_waited_for(
    script: Script, header: str
) -> None:
    script.will("POST", Answer(429, {"reason": "quota"}, {"Retry-After": header}))
    [result] = push(script.url, command(), timeout_s=5.0)
    assert result.outcome is Outcome.FAILED
    assert "quota" in result.detail
    assert "asks to come back in" in result.detail
    assert script.count("POST") == 1


def test_a_gateway_that_stays_busy_is_a_failure(script: Script) -> None:
    script.will("POST", Answer(503, b"try later"))
    [result] = push(script.url, command())
    assert (result.outcome, result.sent) == (Outcome.FAILED, "")
    assert "HTTP 503" in result.detail


def test_a_dead_device_behind_its_gateway_is_a_doubt_and_unreachable(gateway: Gateway) -> None:
    gateway.plant.out = {"b-1"}
    results = push(gateway.url, command(), command(device_id="b-2"))
    assert [r.outcome for r in results] == [Outcome.UNKNOWN, Outcome.ACKED]
    answer = read_one(gateway.url)
    assert isinstance(answer, Unreachable)
    assert "504" in answer.reason
    gateway.plant.out = set()
    assert push(gateway.url, command())[0].outcome is Outcome.ACKED


def test_invariant_06_a_post_that_gets_no_answer_is_a_doubt_and_not_repeated(
    script: Script,
) -> None:
    script.will("POST", Answer(202, hangs=True))
    [result] = push(script.url, command(), timeout_s=SHORT_S)
    assert result.outcome is Outcome.UNKNOWN
    assert result.sent
    assert script.count("POST") == 1


def test_an_error_that_may_come_after_applying_is_a_doubt_and_not_repeated(script: Script) -> None:
    script.will("POST", Answer(500, {"reason": "database is gone"}))
    [result] = push(script.url, command())
    assert result.outcome is Outcome.UNKNOWN
    assert "database is gone" in result.detail
    assert script.count("POST") == 1


def test_invariant_18_a_4xx_is_final_and_its_reason_kept(script: Script) -> None:
    script.will("POST", Answer(422, {"reason": "no such mode"}))
    [result] = push(script.url, command())
    assert (result.outcome, result.detail) == (Outcome.REJECTED, "no such mode")
    assert script.count("POST") == 1


def test_a_redirect_is_refused_and_named(script: Script) -> None:
    with scripted_server() as elsewhere:
        aim = f"{elsewhere.url}/latest/meta-data"
        script.will("POST", Answer(307, headers={"Location": aim}))
        script.will("GET", Answer(302, headers={"Location": aim}))
        [result] = push(script.url, command())
        answer = read_one(script.url)
        assert elsewhere.requests == []
    assert (result.outcome, aim in result.detail) == (Outcome.REJECTED, True)
    assert isinstance(answer, Unreachable)
    assert aim in answer.reason


def test_a_202_that_never_completes_is_a_yes_without_effect(script: Script) -> None:
    script.will("POST", Answer(202, ACCEPTED))
    script.will("GET", Answer(200, ACCEPTED))
    [result] = push(script.url, command(), timeout_s=SHORT_S)
    assert (result.outcome, result.detail) == (Outcome.ACKED, "accepted, not yet applied")
    assert script.count("GET") >= 1


@pytest.mark.parametrize("state", ["rejected", "expired"])
def test_a_202_that_ends_badly_is_a_no(script: Script, state: str) -> None:
    script.will("POST", Answer(202, ACCEPTED))
    script.will("GET", Answer(200, ACCEPTED | {"state": state, "reason": "too hot"}))
    [result] = push(script.url, command())
    assert (result.outcome, result.detail) == (Outcome.REJECTED, f"{state}: too hot")


def test_a_202_whose_progress_can_not_be_read_is_a_yes_that_says_so(script: Script) -> None:
    script.will("POST", Answer(202, b"OK"))
    script.will("GET", Answer(404, b""))
    [result] = push(script.url, command())
    assert result.outcome is Outcome.ACKED
    assert "can't be read" in result.detail


def test_a_refused_connection_is_a_failure(gateway: Gateway) -> None:
    gateway.devices.stop()
    [result] = push(gateway.url, command())
    assert (result.outcome, result.sent) == (Outcome.FAILED, "")
    assert "refused the connection" in result.detail
    assert isinstance(read_one(gateway.url), Unreachable)


@pytest.mark.parametrize("address", ["http://", "http://[", "ftp://127.0.0.1", "nonsense"])
def test_an_address_that_is_none_is_a_failure_that_says_so(address: str) -> None:
    [result] = push(address, command())
    assert result.outcome is Outcome.FAILED


def test_a_hanging_gateway_full_of_devices_does_not_take_the_others_turn(script: Script) -> None:
    script.will("GET", Answer(200, hangs=True))

    async def read(driver: HttpDriver, links: list[DeviceLink]) -> list[Reading | Unreachable]:
        reading = asyncio.create_task(driver.read(links, 2 * PATIENCE_S))
        asked = lambda: sound.count("GET") == 1  # noqa: E731
        await asyncio.to_thread(wait_until, asked, "the other gateway's turn")
        script.over.set()
        return await reading

    reading = {"device_id": "b-1", "measured_at": NOON.isoformat(), "power_kw": 1.0}
    with scripted_server() as sound:
        sound.will("GET", Answer(200, reading))
        links = [link(script.url, f"h-{n}") for n in range(60)] + [link(sound.url)]
        answers = drive(lambda driver: read(driver, links))
    assert {type(answer) for answer in answers[:-1]} == {Unreachable}
    assert isinstance(answers[-1], Reading)


def test_a_black_hole_is_a_doubt_within_the_time_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        [result] = push(
            f"http://127.0.0.1:{black_hole.getsockname()[1]}", command(), timeout_s=SHORT_S
        )
    assert result.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"device_id": "b-1"}', b'{"device_id": "b-2"}', b"\xff"]
)
def test_a_reading_that_is_none_is_told_as_it_is(script: Script, body: bytes) -> None:
    script.will("GET", Answer(200, body))
    answer = read_one(script.url)
    assert isinstance(answer, Unreachable)
    assert "TelemetryMessage" in answer.reason


def test_commands_to_one_device_arrive_in_the_order_given(gateway: Gateway) -> None:
    commands = [command(0.1 * n, rank=(1, n)) for n in range(1, 21)]
    results = push(gateway.url, *commands)
    assert [r.command_id for r in results] == [c.command_id for c in commands]
    assert {r.outcome for r in results} == {Outcome.ACKED}
    assert [a.command_id for _, a in gateway.plant.applied] == [c.command_id for c in commands]


def test_the_environments_proxy_is_not_asked(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "")
        assert isinstance(read_one(gateway.url), Reading)


def test_invariant_11_a_release_is_seen_to_leave_no_set_point(gateway: Gateway) -> None:
    push(gateway.url, command(), command(rank=(1, 2), start_min=15))
    [result] = drive(lambda driver: driver.release([link(gateway.url)], PATIENCE_S))
    assert result.outcome is Outcome.ACKED
    assert gateway.plant.setpoint("b-1") is None
    gateway.move(15)
    assert gateway.plant.setpoint("b-1") is None


def test_invariant_11_a_device_that_clings_to_its_set_point_is_not_released(
    gateway: Gateway,
) -> None:
    gateway.plant.clinging = {"b-1"}
    push(gateway.url, command())
    [result] = drive(lambda driver: driver.release([link(gateway.url)], PATIENCE_S))
    assert result.outcome is Outcome.UNKNOWN
    assert "2.0 kW" in result.detail


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/devices/stranger", 404),
        ("POST", "/devices/stranger/commands", 404),
        ("POST", "/devices/b-1/commands", 400),
        ("GET", "/devices/b-1/commands/unknown", 404),
        ("DELETE", "/devices/stranger/setpoint", 404),
        ("PUT", "/devices/b-1", 405),
    ],
)
def test_a_gateway_answers_what_it_can_not_do_with_the_right_status(
    gateway: Gateway, method: str, path: str, status: int
) -> None:
    answer = requests.request(method, gateway.url + path, data=b"{", timeout=PATIENCE_S)
    assert answer.status_code == status


def test_a_taken_port_is_told_with_the_remedy_and_stop_frees_it(gateway: Gateway) -> None:
    port = int(gateway.url.rpartition(":")[2])
    second = HttpDevices(DEVICES, gateway.plant)
    with pytest.raises(PortTaken, match=rf"{port}.*free port"):
        second.start(port)
    gateway.devices.stop()
    gateway.devices.stop()
    assert second.start(port) == gateway.url
    second.stop()


def test_a_thousand_devices_are_read_in_one_call() -> None:
    devices = [SimulatedDevice(f"b-{n}", 5.0, 4.0, controllable=True) for n in range(1000)]
    many = HttpDevices(devices, ObedientPlant())
    url = many.start()
    try:
        links = [link(url, device.device_id) for device in devices]
        answers = drive(lambda driver: driver.read(links, PATIENCE_S))
    finally:
        many.stop()
    assert [answer.device_id for answer in answers] == [device.device_id for device in devices]
    assert {type(answer) for answer in answers} == {Reading}
