"""Modbus over TLS: a real server that asks for our certificate, and what goes wrong in words."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from devices_modbus_certificates import issue, make_authority
from devices_modbus_fake_plant import BATTERY, NOON, command_of
from devices_modbus_scripted import BATTERY_MODELS, ScriptedDevice, sunspec_map

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.modbus import ModbusDriver
from vpp_pipeline.devices.protocol import DeviceLink, Outcome, ReadBack, Reading, Unreachable

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder)
    make_authority(folder, "stranger")
    for name in ("server", "client"):
        issue(folder, name)
    issue(folder, "late-server", expired=True)
    issue(folder, "late-client", expired=True)
    issue(folder, "strange-server", "stranger")
    return folder


def server_context(certificates: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def credentials(certificates: Path, client: str | None) -> Credentials:
    told = {"VPP_CREDENTIAL_SITE_CA_FILE": str(certificates / "ca.pem")}
    if client is not None:
        told["VPP_CREDENTIAL_SITE_CERT_FILE"] = str(certificates / f"{client}.pem")
        told["VPP_CREDENTIAL_SITE_KEY_FILE"] = str(certificates / f"{client}.key")
    return Credentials.read(told)


def link_to(endpoint: str, *, tls: bool = True, name: str | None = "site") -> DeviceLink:
    return DeviceLink(
        "d", "battery", "modbus", endpoint, 1, 5.0, 4.0, writable=True, tls=tls, credentials=name
    )


def test_a_device_is_read_commanded_and_verified_under_mutual_tls(
    tmp_path: Path, certificates: Path
) -> None:
    async def run() -> None:
        tls = server_context(certificates, "server")
        async with ScriptedDevice(sunspec_map(BATTERY_MODELS), tls) as device:
            shown = credentials(certificates, "client")
            driver = ModbusDriver(tmp_path, "tests", ManualClock(NOON), shown)
            link = link_to(device.endpoint)
            (reading,) = await driver.read([link], PATIENCE_S)
            assert isinstance(reading, Reading), reading
            assert reading.power_kw == 1.2
            order = (link, command_of(BATTERY, -2.5))
            (result,) = await driver.command([order], NOON, PATIENCE_S)
            assert result.outcome is Outcome.ACKED, result
            (back,) = await driver.read_back([order], PATIENCE_S)
            assert isinstance(back, ReadBack)
            assert back.matches

    event_loop.run(run())


def test_an_answer_in_pieces_is_put_together(tmp_path: Path, certificates: Path) -> None:
    async def run() -> None:
        tls = server_context(certificates, "server")
        async with ScriptedDevice(sunspec_map({1: {}, 701: {"W": 7, "W_SF": 2}}), tls) as device:
            device.in_pieces = True
            shown = credentials(certificates, "client")
            driver = ModbusDriver(tmp_path, "tests", ManualClock(NOON), shown)
            (reading,) = await driver.read([link_to(device.endpoint)], PATIENCE_S)
            assert isinstance(reading, Reading), reading
            assert reading.power_kw == 0.7

    event_loop.run(run())


@pytest.mark.parametrize(
    ("server", "client", "words"),
    [
        ("late-server", "client", "its certificate has expired"),
        ("strange-server", "client", "signed by nobody we trust"),
        ("server", None, "ask for our certificate"),
        ("server", "late-client", "ask for our certificate"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_told_and_nothing_is_sent(
    tmp_path: Path, certificates: Path, server: str, client: str | None, words: str
) -> None:
    async def run() -> None:
        tls = server_context(certificates, server)
        async with ScriptedDevice(sunspec_map(BATTERY_MODELS), tls) as device:
            shown = credentials(certificates, client)
            driver = ModbusDriver(tmp_path, "tests", ManualClock(NOON), shown)
            link = link_to(device.endpoint)
            (answer,) = await driver.read([link], PATIENCE_S)
            assert isinstance(answer, Unreachable)
            assert words in answer.reason
            order = (link, command_of(BATTERY, -2.5))
            (result,) = await driver.command([order], NOON, PATIENCE_S)
            assert (result.outcome, result.sent) == (Outcome.FAILED, "")
            assert device.asked == []

    event_loop.run(run())


def test_a_device_that_speaks_no_tls_and_credentials_nobody_knows_are_named(
    tmp_path: Path, certificates: Path
) -> None:
    async def run() -> None:
        async with ScriptedDevice(sunspec_map(BATTERY_MODELS)) as device:
            shown = credentials(certificates, "client")
            driver = ModbusDriver(tmp_path, "tests", ManualClock(NOON), shown)
            (unknown,) = await driver.read([link_to(device.endpoint, name="else")], PATIENCE_S)
            assert isinstance(unknown, Unreachable)
            assert "no credentials are known as 'else'" in unknown.reason
            (plain,) = await driver.read([link_to(device.endpoint)], 2.0)
            assert isinstance(plain, Unreachable)
            assert device.writes == []

    event_loop.run(run())
