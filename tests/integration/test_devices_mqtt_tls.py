"""MQTT over TLS: certificates that hold, and each way in which one does not, in words."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from devices_mqtt_bench import (
    DEVICES,
    NOON,
    PATIENCE_S,
    ObedientPlant,
    command,
    link,
    need_mosquitto,
)

from vpp_pipeline import event_loop
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.mqtt import MqttDriver
from vpp_pipeline.devices.mqtt_client import (
    BrokerAddress,
    BrokerRefused,
    Handlers,
    close_client,
    open_client,
)
from vpp_pipeline.devices.protocol import CommandResult, Outcome
from vpp_pipeline.simulation.broker import Broker, start_broker
from vpp_pipeline.simulation.broker_access import BrokerAccess, ServerCertificate
from vpp_pipeline.simulation.mqtt_devices import MqttDevices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "a-long-password"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates by it: the server's, a client's, and both long expired."""
    need_mosquitto()
    if shutil.which("openssl") is None:
        why = "OPENSSL IS NOT INSTALLED: no TLS promise was tested; install it and run again"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    directory = tmp_path_factory.mktemp("certificates")
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"

    def openssl(line: str) -> None:
        subprocess.run(["openssl", *line.split()], cwd=directory, check=True, capture_output=True)

    (directory / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(f"req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority")
    for name in ("server", "client"):
        openssl(f"req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        signed = f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial"
        openssl(f"{signed} -extfile names -days 2 -out {name}.pem")
        openssl(f"{signed} -extfile names -days -1 -out {name}-expired.pem")
    return directory


def broker_with(directory: Path, server: ServerCertificate) -> Broker:
    accounts = dict.fromkeys(("dispatcher", "devices"), PASSWORD)
    return start_broker(directory, access=BrokerAccess(accounts, server))


@pytest.fixture(scope="module")
def broker(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that asks for a client's certificate."""
    ours = ServerCertificate(
        certificates / "server.pem", certificates / "server.key", certificates / "ca.pem"
    )
    running = broker_with(tmp_path_factory.mktemp("tls"), ours)
    yield running
    running.stop()


def known(user: str, **files: Path) -> Credentials:
    fields = {"user": user, "password": PASSWORD, **files}
    return Credentials.read(
        {f"VPP_CREDENTIAL_GRID_{name.upper()}": str(value) for name, value in fields.items()}
    )


def full(certificates: Path, user: str = "dispatcher") -> Credentials:
    return known(
        user,
        ca_file=certificates / "ca.pem",
        cert_file=certificates / "client.pem",
        key_file=certificates / "client.key",
    )


def ask(broker: Broker, credentials: Credentials, host: str = "127.0.0.1") -> None:
    address = BrokerAddress(f"{host}:{broker.port}", tls=True, credential=credentials.named("grid"))
    close_client(open_client(address, "c", ["x"], Handlers(print), PATIENCE_S, reconnects=False))


def refusal(broker: Broker, credentials: Credentials, host: str = "127.0.0.1") -> str:
    with pytest.raises(BrokerRefused) as caught:
        ask(broker, credentials, host)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


def test_a_command_goes_through_tls_with_a_client_certificate(
    broker: Broker, certificates: Path
) -> None:
    plant = ObedientPlant()
    devices = MqttDevices(DEVICES, plant)
    credential = full(certificates, "devices").named("grid")
    devices.start(BrokerAddress(broker.endpoint, tls=True, credential=credential))

    async def work() -> list[CommandResult]:
        driver = MqttDriver("dispatcher", plant.clock, lambda: full(certificates))
        where = link(broker.endpoint, tls=True, credentials="grid")
        try:
            return await driver.command([(where, command())], NOON, PATIENCE_S)
        finally:
            await driver.close()

    try:
        [result] = event_loop.run(work())
    finally:
        devices.stop()
    assert result.outcome is Outcome.ACKED
    assert len(plant.applied) == 1


def test_a_broker_signed_by_nobody_we_trust_is_not_spoken_to(
    broker: Broker, certificates: Path
) -> None:
    assert "give ca_file" in refusal(broker, known("dispatcher"))


def test_a_broker_under_another_name_is_not_spoken_to(broker: Broker, certificates: Path) -> None:
    assert "another name" in refusal(broker, full(certificates), "localhost")


def test_a_missing_client_certificate_is_asked_for_in_words(
    broker: Broker, certificates: Path
) -> None:
    words = refusal(broker, known("dispatcher", ca_file=certificates / "ca.pem"))
    assert "give cert_file and key_file" in words


def test_our_expired_certificate_is_named(broker: Broker, certificates: Path) -> None:
    expired = known(
        "dispatcher",
        ca_file=certificates / "ca.pem",
        cert_file=certificates / "client-expired.pem",
        key_file=certificates / "client.key",
    )
    assert "our certificate has expired" in refusal(broker, expired)


def test_the_brokers_expired_certificate_is_named_and_nothing_is_sent(
    certificates: Path, tmp_path: Path
) -> None:
    old = ServerCertificate(certificates / "server-expired.pem", certificates / "server.key")
    broker = broker_with(tmp_path, old)

    async def work() -> list[CommandResult]:
        driver = MqttDriver("dispatcher", ObedientPlant().clock, lambda: full(certificates))
        where = link(broker.endpoint, tls=True, credentials="grid")
        return await driver.command([(where, command())], NOON, PATIENCE_S)

    try:
        [result] = event_loop.run(work())
    finally:
        broker.stop()
    assert (result.outcome, result.sent) == (Outcome.REJECTED, "")
    assert "its certificate has expired; renew it there" in result.detail


@pytest.mark.parametrize("field", ["ca_file", "cert_file"])
def test_a_file_that_can_not_be_used_is_named(
    broker: Broker, certificates: Path, tmp_path: Path, field: str
) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for path in (broken, tmp_path / "absent.pem"):
        words = refusal(broker, known("dispatcher", **{field: path}))
        assert str(path) in words
        assert "'grid'" in words


def test_credentials_that_are_not_there_are_told_before_anything_is_sent(broker: Broker) -> None:
    async def work() -> list[CommandResult]:
        driver = MqttDriver("dispatcher", ObedientPlant().clock, Credentials)
        where = link(broker.endpoint, tls=True, credentials="grid")
        return await driver.command([(where, command())], NOON, PATIENCE_S)

    [result] = event_loop.run(work())
    assert (result.outcome, result.sent) == (Outcome.REJECTED, "")
    assert "VPP_CREDENTIAL_GRID_USER" in result.detail
