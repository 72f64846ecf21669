"""The HTTP driver towards hosts that must not be called, not be trusted, or not be waited for."""

from __future__ import annotations

import json
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from devices_http_scripted import Answer, Script, scripted_server
from devices_mqtt_bench import NOON, PATIENCE_S, SHORT_S, command, link, wait_until

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices import http_connection
from vpp_pipeline.devices.endpoint_health import EndpointHealth, NotAdmitted
from vpp_pipeline.devices.http import HttpDriver
from vpp_pipeline.devices.protocol import CommandResult, DeviceLink, Outcome, Reading, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

OLD, NEW = "old-token-1111", "new-token-2222"
APPLIED = {"command_id": "b-1-1-1", "state": "applied", "setpoint_kw": 2.0}
READING = {"device_id": "b-1", "measured_at": NOON.isoformat(), "power_kw": 1.0}


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted_server() as scripted:
        yield scripted


class Wallet:
    """A credentials file that somebody rotates; `reads` counts who looked."""

    def __init__(self, **fields: str) -> None:
        self.fields = {"token": OLD} | fields
        self.reads = 0

    def __call__(self) -> Credentials:
        self.reads += 1
        return Credentials.read(
            {f"VPP_CREDENTIAL_GATEWAY_{name.upper()}": text for name, text in self.fields.items()}
        )


def driver(wallet: Wallet | None = None, health: EndpointHealth | None = None) -> HttpDriver:
    return HttpDriver(ManualClock(NOON), health, wallet or Wallet())


def run(driving: HttpDriver, work: Callable[[HttpDriver], Awaitable[Any]]) -> Any:
    async def do() -> Any:
        try:
            return await work(driving)
        finally:
            await driving.close()

    return event_loop.run(do())


def push(
    driving: HttpDriver,
    *links: DeviceLink,
    timeout_s: float = PATIENCE_S,
    **changes: Any,
) -> list[CommandResult]:
    pairs = [(to, command(device_id=to.device_id, **changes)) for to in links]
    results: list[CommandResult] = run(driving, lambda to: to.command(pairs, NOON, timeout_s))
    return results


def locked(url: str, device_id: str = "b-1") -> DeviceLink:
    return link(url, device_id, credentials="gateway")


def read(driving: HttpDriver, *links: DeviceLink, timeout_s: float = PATIENCE_S) -> list[Any]:
    return list(run(driving, lambda to: to.read(links, timeout_s)))


def shown(script: Script) -> list[str]:
    return [headers.get("Authorization", "") for headers in script.headers]


def test_a_token_that_expires_in_mid_batch_is_read_again_and_nothing_is_lost(
    script: Script,
) -> None:
    wallet = Wallet()

    script.will("GET", Answer(200, READING), Answer(401), Answer(200, READING))

    async def twice(driving: HttpDriver) -> list[Any]:
        first = await driving.read([locked(script.url)], PATIENCE_S)
        wallet.fields["token"] = NEW
        return [*first, *await driving.read([locked(script.url)], PATIENCE_S)]

    answers = run(driver(wallet), twice)
    assert [type(answer) for answer in answers] == [Reading, Reading]
    assert shown(script) == [f"Bearer {OLD}", f"Bearer {OLD}", f"Bearer {NEW}"]
    assert wallet.reads == 2


def test_a_token_that_is_still_refused_once_renewed_is_a_no(script: Script) -> None:
    wallet = Wallet()
    script.will("POST", Answer(401, {"reason": "who are you?"}))
    driving = driver(wallet)
    driving._hosts.named("gateway")
    wallet.fields["token"] = NEW
    [result] = push(driving, locked(script.url))
    assert (result.outcome, result.detail) == (Outcome.REJECTED, "who are you?")
    assert shown(script) == [f"Bearer {OLD}", f"Bearer {NEW}"]


def test_invariant_18_a_401_is_not_repeated_with_the_same_token(script: Script) -> None:
    wallet = Wallet()
    script.will("POST", Answer(401, {"reason": "who are you?"}))
    [result] = push(driver(wallet), locked(script.url))
    assert result.outcome is Outcome.REJECTED
    assert (script.count("POST"), wallet.reads) == (1, 2)


def test_a_gateway_that_repeats_our_token_does_not_get_it_written_down(script: Script) -> None:
    told = {"reason": f"{OLD} is not welcome"}
    script.will("POST", Answer(403, told), Answer(202, APPLIED | {"state": "rejected"} | told))
    script.will("GET", Answer(200, APPLIED | told), Answer(200, {"device_id": OLD}))
    script.will("DELETE", Answer(302, headers={"Location": f"http://elsewhere/{OLD}"}))
    results: list[Any] = []
    for _ in range(2):
        results += push(driver(), locked(script.url))
    pair = (locked(script.url), command())
    results += run(driver(), lambda to: to.read_back([pair], PATIENCE_S))
    results += run(driver(), lambda to: to.release([locked(script.url)], PATIENCE_S))
    assert len(results) == 4
    assert OLD not in repr(results)
    assert "is not welcome" in repr(results)


def test_a_user_and_password_are_shown_where_there_is_no_token(script: Script) -> None:
    def both() -> Credentials:
        return Credentials.read(
            {
                "VPP_CREDENTIAL_GATEWAY_USER": "vpp",
                "VPP_CREDENTIAL_GATEWAY_PASSWORD": "open sesame",
            }
        )

    script.will("GET", Answer(200, READING))
    read(HttpDriver(ManualClock(NOON), None, both), locked(script.url))
    assert shown(script) == ["Basic dnBwOm9wZW4gc2VzYW1l"]


@pytest.mark.parametrize(
    ("address", "changes", "words"),
    [
        ("{url}", {"credentials": "nobody"}, "no credentials are known as 'nobody'"),
        ("http://gateway.example", {"credentials": "gateway"}, "in the clear: use https"),
        ("http://8.8.8.8", {"credentials": "gateway"}, "in the clear: use https"),
        ("http://vpp:hunter2@127.0.0.1:1", {}, "name `credentials` in the registry"),
        ("http://localhost:{port}", {}, "write the address itself in the registry"),
        ("http://2130706433:{port}", {}, "write the address itself in the registry"),
    ],
)
def test_what_must_not_be_called_is_not_called(
    script: Script, address: str, changes: dict[str, str], words: str
) -> None:
    url = address.format(url=script.url, port=script.url.rpartition(":")[2])
    [result] = push(driver(), link(url, **changes))
    assert (result.outcome, result.sent) == (Outcome.FAILED, "")
    assert words in result.detail
    assert "hunter2" not in result.detail
    assert script.requests == []


def test_a_name_is_resolved_once_and_the_checked_address_is_the_one_that_is_called(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    monkeypatch.setattr(http_connection, "addresses_to_call", resolve)
    script.will("GET", Answer(200, READING))
    url = script.url.replace("127.0.0.1", "gateway.invalid")
    assert [type(answer) for answer in read(driver(), link(url))] == [Reading]
    assert asked == ["gateway.invalid"]
    assert script.headers[0]["Host"] == url.removeprefix("http://")


def test_a_body_that_drips_is_cut_off_and_holds_no_thread(script: Script) -> None:
    script.will("GET", Answer(200, drips=True))
    [answer] = read(driver(), link(script.url), timeout_s=SHORT_S)
    assert isinstance(answer, Unreachable)
    assert "did not answer in time" in answer.reason
    assert script.hung_up.wait(PATIENCE_S)


def test_an_answer_without_end_is_not_taken(script: Script) -> None:
    script.will("GET", Answer(200, b" " * (2 << 20)), Answer(200, READING))
    endless, sound = read(driver(), link(script.url), link(script.url))
    assert isinstance(endless, Unreachable)
    assert "more than 1,048,576 bytes" in endless.reason
    assert isinstance(sound, Reading)


def test_a_dead_gateway_is_left_alone_at_once_and_probed_when_its_pause_is_over(
    script: Script,
) -> None:
    now_s = 0.0
    health = EndpointHealth(monotonic_s=lambda: now_s)
    with scripted_server() as gone:
        dead = gone.url
    script.will("POST", Answer(202, APPLIED))

    failed = push(driver(health=health), *[link(dead, f"d-{n}") for n in range(20)])
    assert {result.outcome for result in failed} == {Outcome.FAILED}
    [left] = push(driver(health=health), link(dead))
    assert left.outcome is Outcome.FAILED
    assert dead.removeprefix("http://") in left.detail
    assert "failures in a row" in left.detail
    assert "tried again in" in left.detail
    assert push(driver(health=health), link(script.url))[0].outcome is Outcome.ACKED

    now_s = 1.5
    [probed] = push(driver(health=health), link(dead))
    assert "refused the connection" in probed.detail


def is_left_alone(health: EndpointHealth, script: Script) -> bool:
    try:
        health.admit(script.url.removeprefix("http://"), PATIENCE_S)
    except NotAdmitted:
        return True
    return False


def test_a_silent_gateway_is_left_alone(script: Script) -> None:
    script.will("GET", Answer(200, hangs=True))
    health = EndpointHealth()
    links = [link(script.url, f"b-{n}") for n in range(3)]
    read(driver(health=health), *links, timeout_s=3.0)
    wait_until(lambda: is_left_alone(health, script), "the circuit to open")


def test_a_gateway_that_had_no_time_to_answer_is_not_left_alone(script: Script) -> None:
    script.will("GET", Answer(200, hangs=True))
    health = EndpointHealth()
    for _ in range(4):
        read(driver(health=health), link(script.url), timeout_s=0.1)
    script.over.set()
    assert not is_left_alone(health, script)


def test_who_asks_for_quiet_gets_it_from_the_whole_batch(script: Script) -> None:
    script.will("POST", Answer(429, {"reason": "quota"}, {"Retry-After": "120"}))
    links = [link(script.url, f"b-{n}") for n in range(30)]
    results = push(driver(), *links, timeout_s=5.0)
    assert {result.outcome for result in results} == {Outcome.FAILED}
    assert script.count("POST") <= 8
    assert any("by its own wish" in result.detail for result in results)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 408, 409, 410, 422, 451])
def test_invariant_18_no_4xx_is_tried_again(script: Script, status: int) -> None:
    script.will("POST", Answer(status, {"reason": "no"}))
    [result] = push(driver(), link(script.url))
    assert (result.outcome, result.detail) == (Outcome.REJECTED, "no")
    assert json.loads(result.answer) == {"reason": "no"}
    assert script.count("POST") == 1


@pytest.mark.parametrize("status", [401, 404, 409])
def test_invariant_06_a_no_to_what_may_have_arrived_before_is_no_answer(
    script: Script, status: int
) -> None:
    script.will("POST", Answer(502), Answer(status, {"reason": "there already"}))
    [result] = push(driver(), link(script.url))
    assert result.outcome is Outcome.UNKNOWN
    assert "there already" in result.detail
    assert script.count("POST") == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_invariant_18_nothing_is_tried_again_after_its_validity(
    script: Script, status: int
) -> None:
    script.will("POST", Answer(status, headers={"Retry-After": "2"}))
    [result] = push(driver(), link(script.url), minutes=1 / 60)
    assert result.outcome in {Outcome.FAILED, Outcome.UNKNOWN}
    assert script.count("POST") == 1


def test_invariant_02_a_202_that_never_completes_ends_with_its_validity(script: Script) -> None:
    accepted = {"command_id": "b-1-1-1", "state": "accepted"}
    script.will("POST", Answer(202, accepted))
    script.will("GET", Answer(200, accepted))
    [result] = push(driver(), link(script.url), minutes=0.01)
    assert result.outcome is Outcome.UNKNOWN
    assert result.detail == "accepted, not yet applied, and its validity ends"
    assert json.loads(result.answer) == accepted


def test_an_answer_about_another_command_is_not_taken_for_ours(script: Script) -> None:
    other = APPLIED | {"command_id": "b-1-9-9"}
    script.will("POST", Answer(202, other))
    script.will("GET", Answer(404))
    [result] = push(driver(), link(script.url))
    assert "its progress can't be read" in result.detail
    script.will("GET", Answer(200, other), Answer(200, READING))
    pair = (link(script.url), command())
    [seen] = run(driver(), lambda to: to.read_back([pair], PATIENCE_S))
    assert isinstance(seen, Unreachable)
    assert "b-1-9-9" in seen.reason


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA, a certificate for 127.0.0.1 and one for a client."""
    folder = tmp_path_factory.mktemp("authority")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]

    def certify(name: str, *more: str) -> None:
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"]
        subprocess.run(
            ["openssl", "req", "-x509", *key, *files, *more],
            cwd=folder,
            check=True,
            capture_output=True,
        )

    certify("ca")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
    certify("gateway", *signed, "-addext", "subjectAltName=IP:127.0.0.1")
    certify("client", *signed)
    return folder


@pytest.fixture
def guarded(authority: Path) -> Iterator[Script]:
    """A gateway that speaks TLS, and only to those with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "gateway.pem", authority / "gateway.key")
    context.load_verify_locations(authority / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with scripted_server(context) as scripted:
        scripted.will("GET", Answer(200, READING))
        scripted.will("POST", Answer(202, APPLIED))
        yield scripted


def test_over_tls_both_sides_show_who_they_are(guarded: Script, authority: Path) -> None:
    wallet = Wallet(
        ca_file=str(authority / "ca.pem"),
        cert_file=str(authority / "client.pem"),
        key_file=str(authority / "client.key"),
    )
    assert [type(answer) for answer in read(driver(wallet), locked(guarded.url))] == [Reading]
    assert shown(guarded) == [f"Bearer {OLD}"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "signed by nobody we trust"),
        ({"ca_file": "absent.pem"}, "absent.pem"),
    ],
)
def test_without_trust_nothing_is_sent(
    guarded: Script, authority: Path, files: dict[str, str], words: str
) -> None:
    wallet = Wallet(**{name: str(authority / file) for name, file in files.items()})
    [result] = push(driver(wallet), locked(guarded.url))
    assert (result.outcome, result.sent) == (Outcome.FAILED, "")
    assert words in result.detail
    assert guarded.requests == []


def test_a_gateway_that_wants_our_certificate_gets_no_command_without(
    guarded: Script, authority: Path
) -> None:
    wallet = Wallet(ca_file=str(authority / "ca.pem"))
    [result] = push(driver(wallet), locked(guarded.url))
    # It hangs up after our side of the handshake is done, at times without a word.
    assert result.outcome in {Outcome.FAILED, Outcome.UNKNOWN}
    assert guarded.requests == []
