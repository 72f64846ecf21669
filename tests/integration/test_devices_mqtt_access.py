"""Who may do what on the broker, judged by what is delivered, with mosquitto's own clients."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from itertools import product
from typing import TYPE_CHECKING

import pytest
from devices_mqtt_bench import NOON, PATIENCE_S, SHORT_S, link, need_mosquitto

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.credentials import Credentials, write_credentials
from vpp_pipeline.devices.mqtt import MqttDriver
from vpp_pipeline.devices.mqtt_client import BrokerAddress, BrokerRefused, Handlers, open_client
from vpp_pipeline.devices.protocol import Unreachable
from vpp_pipeline.simulation import broker as brokers
from vpp_pipeline.simulation.broker import Broker, start_broker
from vpp_pipeline.simulation.broker_access import ROLES, BrokerAccess, generated_access

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ("cmd", "release", "get", "ack", "state", "tele")
ACCOUNTS = {name: f"secret-of-{name}" for name in (*ROLES, "dev-1", "dev-2")}
MAY_WRITE = {
    "viewer": set(),
    "operator": {"release", "get"},
    "dispatcher": {"cmd", "release", "get"},
    "collector": {"get"},
    "devices": {"ack", "state", "tele"},
    "dev-1": {"ack", "state", "tele"},
    "dev-2": set(),
}
MAY_READ = {
    "viewer": set(product(("dev-1", "dev-2"), KINDS)),
    "operator": set(product(("dev-1", "dev-2"), KINDS)),
    "dispatcher": set(product(("dev-1", "dev-2"), KINDS)),
    "collector": set(product(("dev-1", "dev-2"), ("state", "tele"))),
    "devices": set(product(("dev-1", "dev-2"), ("cmd", "release", "get"))),
    "dev-1": set(product(("dev-1",), ("cmd", "release", "get"))),
    "dev-2": set(product(("dev-2",), ("cmd", "release", "get"))),
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    need_mosquitto()
    directory = tmp_path_factory.mktemp("guarded")
    running = start_broker(directory, access=BrokerAccess(ACCOUNTS))
    yield running
    running.stop()


def client(broker: Broker, program: str, who: str, password: str, *options: str) -> list[str]:
    address = ["-h", broker.host, "-p", str(broker.port), "-V", "5", "-q", "1"]
    return [program, *address, "-u", who, "-P", password, *options]


def say(broker: Broker, who: str, device: str, kind: str, words: str) -> None:
    options = ("-t", f"vpp/v1/{device}/{kind}", "-m", words)
    subprocess.run(
        client(broker, "mosquitto_pub", who, ACCOUNTS[who], *options),
        check=False,
        timeout=PATIENCE_S,
        capture_output=True,
    )


def listening(broker: Broker, who: str, running: ExitStack) -> subprocess.Popen[str]:
    """Subscribe to everything; a broker grants that and delivers only what it may."""
    options = ("-d", "-t", "vpp/v1/#", "-F", "%t %p")
    listener = running.enter_context(
        subprocess.Popen(
            ["stdbuf", "-oL", *client(broker, "mosquitto_sub", who, ACCOUNTS[who], *options)],
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    running.callback(listener.terminate)
    assert listener.stdout is not None
    while not listener.stdout.readline().startswith("Subscribed"):
        assert listener.poll() is None
    return listener


def until(listener: subprocess.Popen[str], last: str) -> list[tuple[str, str, str]]:
    """Return device, kind and words of what was delivered before `last` was."""
    assert listener.stdout is not None
    heard = []
    for line in listener.stdout:
        if line.startswith("vpp/v1/"):
            name, _, words = line.rstrip("\n").partition(" ")
            if words == last:
                return heard
            _, _, device, kind = name.split("/")
            heard.append((device, kind, words))
    pytest.fail(f"it ended before {last}")


def test_only_what_a_role_may_publish_is_delivered(broker: Broker) -> None:
    with ExitStack() as running:
        listener = listening(broker, "viewer", running)
        for who, kind in product(ACCOUNTS, KINDS):
            say(broker, who, "dev-1", kind, who)
        for role in ROLES:
            say(broker, role, role, "tele", role)  # no role is a device of its own name
        say(broker, "dispatcher", "dev-1", "get", "end")
        heard = until(listener, "end")
    delivered = {who: {kind for _, kind, by in heard if by == who} for who in ACCOUNTS}
    assert delivered == MAY_WRITE
    assert {device for device, _, _ in heard} == {"dev-1"}


def test_only_what_a_role_may_read_is_delivered_to_it(broker: Broker) -> None:
    with ExitStack() as running:
        listeners = {who: listening(broker, who, running) for who in ACCOUNTS}
        for device, kind in product(("dev-1", "dev-2"), KINDS):
            who = "dispatcher" if kind in {"cmd", "release", "get"} else "devices"
            say(broker, who, device, kind, "x")
        for who, device, kind in (
            ("dispatcher", "dev-1", "get"),
            ("dispatcher", "dev-2", "get"),
            ("devices", "dev-1", "tele"),
        ):
            say(broker, who, device, kind, "end")
        heard = {who: until(listener, "end") for who, listener in listeners.items()}
    assert {who: {(d, k) for d, k, _ in h} for who, h in heard.items()} == MAY_READ


@pytest.mark.parametrize(("who", "password"), [("viewer", "wrong"), ("nobody", "x"), ("", "")])
def test_who_has_no_account_is_not_let_in(broker: Broker, who: str, password: str) -> None:
    environment = {"VPP_CREDENTIAL_B_USER": who, "VPP_CREDENTIAL_B_PASSWORD": f"{password}-long"}
    known = Credentials.read(environment if who else {"VPP_CREDENTIAL_B_CA_FILE": "unused"})
    address = BrokerAddress(broker.endpoint, credential=known.named("b"))
    with pytest.raises(BrokerRefused, match=r"Not authorized.*'b'") as caught:
        open_client(address, "c", ["x"], Handlers(print), PATIENCE_S, reconnects=False)
    assert f"{password}-long" not in str(caught.value)


def test_no_password_stands_readable_in_the_brokers_files(broker: Broker, tmp_path: Path) -> None:
    access = BrokerAccess(ACCOUNTS)
    access.write(tmp_path)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert not any(password in path.read_text() for password in ACCOUNTS.values())
    assert not any(password in repr(access) for password in ACCOUNTS.values())


def test_generated_accounts_stay_the_same_from_start_to_start(tmp_path: Path) -> None:
    file = tmp_path / "credentials.toml"
    first = generated_access(file)
    assert generated_access(file) == first
    assert set(first.accounts) == set(ROLES)
    assert len(set(first.accounts.values())) == len(ROLES)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_broker_without_roles_is_loudly_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(brokers, "find_mosquitto", lambda: None)
    broker = start_broker(tmp_path / "broker", access=BrokerAccess(ACCOUNTS))
    broker.stop()
    assert not broker.asks_who
    assert "LETS IN ANYBODY" in caplog.text


def test_credentials_that_come_after_the_driver_are_found(broker: Broker, tmp_path: Path) -> None:
    """A collector may start before the simulator has made its accounts."""
    file = tmp_path / "credentials.toml"
    where = link(broker.endpoint, credentials="simulated-broker")

    async def work() -> list[str]:
        driver = MqttDriver(
            "collector", ManualClock(NOON), lambda: Credentials.read({}, generated=file)
        )
        said = []
        for made in (False, True):
            if made:
                user = {"user": "collector", "password": ACCOUNTS["collector"]}
                write_credentials(file, {"simulated-broker-collector": user})
            [answer] = await driver.read([where], SHORT_S)
            assert isinstance(answer, Unreachable)
            said.append(answer.reason)
        await driver.close()
        return said

    before, after = event_loop.run(work())
    assert "no credentials are known as 'simulated-broker'" in before
    assert "no telemetry came in time" in after
