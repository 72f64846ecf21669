"""Signed completions over real sockets: from a gateway to a driver that waits for them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests
from devices_http_scripted import Answer, Script, scripted_server
from devices_mqtt_bench import DEVICES, NOON, PATIENCE_S, ObedientPlant, command, link, wait_until
from pydantic import SecretStr

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.http import HttpDriver
from vpp_pipeline.devices.protocol import CommandResult, Outcome
from vpp_pipeline.devices.web_server import PortTaken
from vpp_pipeline.devices.webhook import Completions, Verdict, signed_headers
from vpp_pipeline.devices.webhook_receiver import WebhookReceiver
from vpp_pipeline.simulation.http_completions import CompletionSender
from vpp_pipeline.simulation.http_devices import HttpDevices

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = SecretStr("signed-by-gateway")
ACCEPTED = {"command_id": "b-1-1-1", "state": "accepted", "notifies": True}
ENDED = {"device_id": "b-1", "command_id": "b-1-1-1", "state": "applied", "setpoint_kw": 2.0}


def credentials() -> Credentials:
    return Credentials.read(
        {
            "VPP_CREDENTIAL_GATEWAY_TOKEN": "shown-to-gateway",
            "VPP_CREDENTIAL_GATEWAY_WEBHOOK_TOKEN": SECRET.get_secret_value(),
        }
    )


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted_server() as scripted:
        scripted.will("POST", Answer(202, ACCEPTED))
        scripted.will("GET", Answer(200, ACCEPTED | {"notifies": False}))
        yield scripted


@dataclass
class Hook:
    """Where a driver takes completions."""

    url: str

    def post(self, ended: dict[str, Any], secret: SecretStr = SECRET, age_min: float = 0) -> int:
        body = json.dumps(ended).encode()
        headers = signed_headers(secret, NOON - timedelta(minutes=age_min), body)
        url = f"{self.url}/completions/b-1/b-1-1-1"
        return requests.post(url, body, headers=headers, timeout=PATIENCE_S).status_code


def push_and(
    script: Script,
    port: int,
    meanwhile: list[tuple[dict[str, Any], SecretStr, float]],
    timeout_s: float,
) -> tuple[CommandResult, list[int], HttpDriver]:
    """Command b-1 and post completions while the driver waits; also once it no longer does."""

    async def do() -> tuple[CommandResult, list[int], HttpDriver]:
        driver = HttpDriver(ManualClock(NOON), None, credentials, port)
        hook = Hook(f"http://127.0.0.1:{port}")
        statuses: list[int] = []
        pair = (link(script.url, credentials="gateway"), command())
        try:
            commanding = asyncio.create_task(driver.command([pair], NOON, timeout_s))
            await asyncio.to_thread(
                wait_until, lambda: script.count("POST") == 1, "the command at the gateway"
            )
            statuses += [await asyncio.to_thread(hook.post, *delivery) for delivery in meanwhile]
            [result] = await commanding
            statuses.append(await asyncio.to_thread(hook.post, ENDED))
        finally:
            await driver.close()
        return result, statuses, driver

    return event_loop.run(do())


def test_a_signed_completion_ends_the_wait_without_a_poll(script: Script, free_port: int) -> None:
    result, statuses, driver = push_and(script, free_port, [(ENDED, SECRET, 0)], PATIENCE_S)
    assert result.outcome is Outcome.ACKED
    assert json.loads(result.answer)["state"] == "applied"
    assert script.count("GET") == 0
    assert statuses == [204, 204]
    assert driver.completions.counts == {Verdict.TAKEN: 1, Verdict.DUPLICATE: 1}


def test_a_completion_may_tell_of_a_refusal(script: Script, free_port: int) -> None:
    refused = ENDED | {"state": "rejected", "reason": "too hot", "setpoint_kw": None}
    result, _, _ = push_and(script, free_port, [(refused, SECRET, 0)], PATIENCE_S)
    assert (result.outcome, result.detail) == (Outcome.REJECTED, "rejected: too hot")


def test_forged_replayed_and_misdirected_completions_end_no_wait_and_are_counted(
    script: Script, free_port: int
) -> None:
    deliveries = [
        (ENDED, SecretStr("somebody else"), 0),
        (ENDED, SECRET, 6),
        (ENDED, SECRET, -6),
        (ENDED | {"device_id": "b-2"}, SECRET, 0),
        (ENDED | {"state": "accepted"}, SECRET, 0),
    ]
    result, statuses, driver = push_and(script, free_port, deliveries, 3.0)
    assert (result.outcome, result.detail) == (Outcome.ACKED, "accepted, not yet applied")
    assert script.count("GET") >= 1
    assert statuses == [401, 401, 401, 400, 400, 410]
    assert driver.completions.counts == {
        Verdict.FORGED: 1,
        Verdict.STALE: 2,
        Verdict.MALFORMED: 2,
        Verdict.LATE: 1,
    }


def test_a_simulated_gateway_acknowledges_first_and_tells_the_end_itself(free_port: int) -> None:
    plant = ObedientPlant()
    sender = CompletionSender(f"http://127.0.0.1:{free_port}", SECRET, plant.clock)
    devices = HttpDevices(DEVICES, plant, sender)
    url = devices.start()
    links = [link(url, device.device_id, credentials="gateway") for device in DEVICES]

    async def do() -> tuple[list[CommandResult], HttpDriver]:
        driver = HttpDriver(plant.clock, None, credentials, free_port)
        pairs = [(to, command(device_id=to.device_id)) for to in links]
        try:
            return await driver.command(pairs, NOON, PATIENCE_S), driver
        finally:
            await driver.close()

    try:
        results, driver = event_loop.run(do())
    finally:
        devices.stop()
    assert {result.outcome for result in results} == {Outcome.ACKED}
    assert driver.completions.counts == {Verdict.TAKEN: len(DEVICES)}
    assert [json.loads(result.answer)["state"] for result in results] == ["applied"] * len(DEVICES)


def test_a_taken_port_costs_the_webhook_and_no_command(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    script.will("GET", Answer(200, ENDED))
    script.will("POST", Answer(202, ACCEPTED | {"notifies": False}))
    receiver = WebhookReceiver(Completions(ManualClock(NOON)))
    port = int(receiver.start().rpartition(":")[2])
    with pytest.raises(PortTaken, match=r"let the webhook have a free port"):
        WebhookReceiver(Completions(ManualClock(NOON))).start(port)

    async def do() -> list[CommandResult]:
        driver = HttpDriver(ManualClock(NOON), None, credentials, port)
        try:
            pair = (link(script.url, credentials="gateway"), command())
            return await driver.command([pair], NOON, PATIENCE_S)
        finally:
            await driver.close()

    try:
        [result] = event_loop.run(do())
    finally:
        receiver.stop()
    assert result.outcome is Outcome.ACKED
    assert "completions are polled for" in caplog.text


def test_a_delivery_without_end_is_not_read_to_its_end() -> None:
    completions = Completions(ManualClock(NOON))
    receiver = WebhookReceiver(completions)
    url = receiver.start()
    try:
        body = b" " * (17 * 1024)
        answer = requests.post(f"{url}/completions/b-1/c-1", body, timeout=PATIENCE_S)
        unknown = requests.post(f"{url}/completions/b-1/c-1", b"{}", timeout=PATIENCE_S)
    finally:
        receiver.stop()
    assert (answer.status_code, unknown.status_code) == (413, 404)
    assert completions.counts == {Verdict.UNKNOWN: 1}


def test_invariant_20_a_device_with_enough_to_do_says_busy_and_takes_it_later() -> None:
    plant = ObedientPlant()
    devices = HttpDevices(DEVICES, plant)
    url = devices.start()
    waiting = [command(rank=(1, n), start_min=5) for n in range(1, 18)]

    async def push(last: int, timeout_s: float) -> list[CommandResult]:
        driver = HttpDriver(plant.clock)
        try:
            pairs = [(link(url), item) for item in waiting[-last:]]
            return await driver.command(pairs, plant.clock.now(), timeout_s)
        finally:
            await driver.close()

    try:
        results = event_loop.run(push(17, 2.0))
        plant.clock.sleep_until(NOON + timedelta(minutes=5))
        devices.tick()
        [later] = event_loop.run(push(1, PATIENCE_S))
    finally:
        devices.stop()
    assert {result.outcome for result in results[:-1]} == {Outcome.ACKED}
    assert results[-1].outcome is Outcome.FAILED
    assert "busy" in results[-1].detail
    assert later.outcome is Outcome.ACKED
