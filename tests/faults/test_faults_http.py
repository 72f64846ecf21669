"""What HTTP gateways and webhooks make possible, survived end to end."""

from __future__ import annotations

import os

import faults_http as front
import faults_proxy as net
import pytest
import requests
from pydantic import SecretStr

from vpp_pipeline.devices.webhook import Completion, signed_headers
from vpp_pipeline.simulation.http_completions import CompletionSender

http = pytest.mark.plant(["http"])


def fault(name, *invariants):
    return pytest.mark.fault(family="HTTP", fault=name, invariants=invariants)


@pytest.mark.core
@http
@fault("429 with Retry-After", 18)
def test_a_gateway_that_asks_for_patience_gets_it_and_then_the_command(story):
    story.proxies["http"].fault = front.instead(
        429, {"reason": "slow down"}, times=1, Retry_After="1"
    )
    assert story.push().counts == {"VERIFIED": 2}
    assert story.applications("http-1") == [3.0]


@http
@fault("429 for longer than there is time", 18)
def test_a_gateway_that_asks_for_more_than_there_is_gets_it_the_next_time(story):
    story.proxies["http"].fault = front.instead(429, {"reason": "later"}, Retry_After="3600")
    story.hurry()
    story.push()
    assert set(story.path("http-1")) == {"PLANNED", "SENT", "FAILED"}
    story.mend()
    assert story.next_interval().counts == {"VERIFIED": 2}


@http
@fault("500, 502, 503 and 504 in place of the device", 6, 18)
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_gateway_that_falls_over_once_is_asked_again_and_nothing_is_doubled(story, status):
    story.proxies["http"].fault = front.instead(status, {"reason": "sorry"}, times=1)
    assert story.push().counts == {"VERIFIED": 2}
    assert story.applications("http-1") == [3.0]


@pytest.mark.core
@http
@fault("500 after applying", 5, 6)
def test_a_500_after_the_device_obeyed_is_a_doubt_and_the_read_back_finds_it(story):
    story.collect()
    story.proxies["http"].fault = front.after_applying(500)
    assert story.push(collect=False).counts == {"VERIFIED": 2}
    assert story.steps("http-1") == ["PLANNED", "SENT", "UNKNOWN", "VERIFIED"]
    assert story.applications("http-1") == [3.0]


@http
@fault("502 after applying: the retry finds it done", 5, 18)
def test_a_retry_of_what_was_applied_is_not_applied_again(story):
    story.collect()
    story.proxies["http"].fault = front.after_applying(502)
    assert story.push(collect=False).counts == {"VERIFIED": 2}
    assert story.applications("http-1") == [3.0]


@http
@fault("a 4xx is final", 18)
@pytest.mark.parametrize("status", [400, 403, 404, 409])
def test_what_a_gateway_refuses_is_not_tried_again(story, status):
    story.proxies["http"].fault = front.instead(status, {"reason": "never here"})
    story.push()
    assert story.steps("http-1") == ["PLANNED", "SENT", "REJECTED"]
    assert "never here" in story.words("http-1")
    story.mend()
    assert story.next_interval().counts == {"VERIFIED": 2}


@http
@fault("202 that never completes", 2, 7)
def test_an_acceptance_that_never_completes_ends_with_its_interval(story):
    story.proxies["http"].fault = front.never_completes(
        lambda command_id: {
            "command_id": command_id,
            "state": "accepted",
            "reason": "",
            "setpoint_kw": None,
        }
    )
    story.hurry()
    story.push()
    assert "VERIFIED" not in story.path("http-1")
    assert story.path("http-2")[-1] == "VERIFIED"
    story.mend()
    assert story.next_interval().counts == {"VERIFIED": 2}
    assert story.path("http-1")[-1] == "EXPIRED"


@http
@fault("redirect to a private address", 18)
@pytest.mark.parametrize(
    "aim", ["http://169.254.169.254/latest/meta-data", "http://127.0.0.1:1/steal"]
)
def test_a_redirect_is_refused_and_its_aim_named(story, aim):
    story.proxies["http"].fault = front.instead(307, {}, Location=aim)
    story.push()
    assert story.path("http-1")[-1] == "REJECTED"
    assert aim in story.words("http-1")
    assert story.applications("http-1") == []


@http
@fault("duplicate delivery: the POST arrives twice", 5)
def test_a_command_that_arrives_twice_is_applied_once(story):
    seen = []

    async def twice(line, way, message):
        if way == "request" and front.first_line(message)[0] == "POST":
            seen.append(message)
            line.pass_on(way, message)
        elif way == "answer" and seen:
            seen.clear()
        line.pass_on(way, message)

    story.collect()
    story.proxies["http"].fault = twice
    story.after_send["http"] = lambda: (story.mend(), story.proxies["http"].cut())
    story.push(collect=False)
    assert story.path("http-1")[-1] == "VERIFIED"
    assert story.applications("http-1") == [3.0]


@http
@fault("truncated, dripped and lost answers", 6)
@pytest.mark.parametrize("broken", [net.truncated, net.reset_at_answer])
def test_an_answer_that_breaks_off_is_a_doubt_that_the_read_back_ends(story, broken):
    story.collect()
    story.proxies["http"].fault = broken
    story.after_send["http"] = story.mend
    story.push(collect=False)
    assert story.steps("http-1") == ["PLANNED", "SENT", "UNKNOWN", "VERIFIED"]
    assert story.applications("http-1") == [3.0]


@pytest.fixture
def expiring(monkeypatch):
    monkeypatch.setenv("VPP_CREDENTIAL_GATEWAY_TOKEN", "old-token-1234567")
    return {"sender": lambda _clock: None}


@pytest.mark.core
@pytest.mark.plant(["http"], prepared_by="expiring")
@fault("the token expires in mid-batch", 18, 19)
@pytest.mark.parametrize("renewed", [True, False])
def test_an_expired_token_is_read_again_once_and_never_shown(story, monkeypatch, renewed):
    story.collect()
    tokens = {"valid": "new-token-7654321"}

    def renew():
        if renewed:
            monkeypatch.setenv("VPP_CREDENTIAL_GATEWAY_TOKEN", tokens["valid"])

    story.proxies["http"].fault = front.wants_token(lambda: tokens["valid"], renew)
    story.push(collect=False)
    assert story.path("http-1")[-1] == ("VERIFIED" if renewed else "REJECTED")
    assert story.path("http-2")[-1] == "VERIFIED"
    commands, events = story.ledger()
    for table in (commands, events):
        assert "token-" not in table.write_json()


SECRET = "a-signing-secret-of-the-gateway"


class Doubling(CompletionSender):
    """Posts each completion twice, and before them one of a stranger that says otherwise."""

    def send(self, completion):
        self._thread.submit(self._forge, completion)
        super().send(completion)
        super().send(completion)

    def _forge(self, completion):
        lie = completion.model_copy(update={"state": "rejected", "reason": "forged"})
        body = Completion.model_dump_json(lie).encode()
        place = f"{self._url}/completions/{completion.device_id}/{completion.command_id}"
        headers = signed_headers(SecretStr("guessed"), self._clock.now(), body)
        for claimed in (headers, {}):
            answer = self._session.post(place, data=body, headers=claimed, timeout=5)
            assert answer.status_code >= requests.codes.bad_request


@pytest.fixture
def notifying(monkeypatch, free_port):
    monkeypatch.setenv("VPP_CREDENTIAL_GATEWAY_TOKEN", "a-token-of-ours-123")
    monkeypatch.setenv("VPP_CREDENTIAL_GATEWAY_WEBHOOK_TOKEN", SECRET)
    assert "VPP_WEBHOOK_PORT" not in os.environ
    return {
        "webhook_port": free_port,
        "sender": lambda clock: Doubling(f"http://127.0.0.1:{free_port}", SecretStr(SECRET), clock),
    }


@pytest.mark.core
@pytest.mark.plant(["http"], prepared_by="notifying")
@fault("duplicate and forged webhooks", 5, 7)
def test_a_forged_completion_is_refused_and_a_doubled_one_counts_once(story):
    assert story.push().counts == {"VERIFIED": 2}
    assert "forged" not in story.words("http-1")
    assert story.applications("http-1") == [3.0]


@pytest.mark.plant(["http"], prepared_by="notifying")
@fault("a completion promised and never posted", 6, 7)
def test_a_completion_that_never_comes_is_asked_for(story):
    story.site.http._sender.send = lambda _completion: None
    assert story.push().counts == {"VERIFIED": 2}
    assert story.applications("http-1") == [3.0]
