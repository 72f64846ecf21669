"""Who the central system lets in, and who may use its channel to the charge points."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import signal
import stat
import subprocess
import sys
from contextlib import asynccontextmanager, suppress

import pytest
from devices_ocpp_bench import (
    PATIENCE_S,
    REGISTRY,
    START,
    ScriptedChargePoint,
    bench,
    command,
    link,
    scripted,
    until,
)
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage, InvalidStatus

from vpp_pipeline.central_system import CentralSystem, CentralSystemError, Listening
from vpp_pipeline.charge_point_admission import Admission
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.credentials import Credentials
from vpp_pipeline.devices.ocpp import OcppDriver
from vpp_pipeline.devices.protocol import Outcome

PASSWORD = {"VPP_CREDENTIAL_EV_1_PASSWORD": "right-horse"}


ASK = '{"number":1,"charge_point":"ev-1","action":"Look","payload":{},"timeout_s":1}\n'


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


async def turned_away(url, headers=None, subprotocols=("ocpp1.6",)):
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, subprotocols=subprotocols, additional_headers=headers, proxy=None):
            pass
    return refused.value.response.status_code


def test_only_charge_points_of_the_registry_are_let_in(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made:
            assert await turned_away(f"{made.central.url}/stranger") == 404
            assert await turned_away(f"{made.central.url}/") == 404
            async with scripted(made, "CP*7"):
                assert made.central.connected() == {"CP*7"}

    asyncio.run(scenario())


def test_a_charge_point_of_a_registry_that_changed_is_let_in_without_a_restart(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made:
            url = f"{made.central.url}/ev-9"
            assert await turned_away(url) == 404
            fleet_file = tmp_path / "fleet.yaml"
            told = fleet_file.read_text()
            fleet_file.write_text(told.replace("ev-2", "ev-9"))
            async with scripted(made, "ev-9"):
                pass
            fleet_file.write_text("sites: [")
            async with scripted(made, "ev-9"):
                pass

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "headers",
    [
        None,
        basic("ev-1", "wrong-horse"),
        basic("ev-2", "right-horse"),
        {"Authorization": "Basic !"},
        {"Authorization": "Bearer right-horse"},
    ],
)
def test_a_charge_point_with_a_password_is_let_in_with_that_only(tmp_path, caplog, headers):
    caplog.set_level(logging.DEBUG, logger="vpp_pipeline")
    right = basic("ev-1", "right-horse")

    async def scenario():
        async with bench(tmp_path, environment=PASSWORD) as made:
            assert await turned_away(f"{made.central.url}/ev-1", headers) == 401
            async with scripted(made, headers=right):
                pass

    asyncio.run(scenario())
    assert "showed no valid credentials" in caplog.text
    assert "right-horse" not in caplog.text
    assert right["Authorization"].split()[1] not in caplog.text


def test_beyond_loopback_nobody_is_let_in_without_a_password(tmp_path):
    async def scenario():
        (tmp_path / "fleet.yaml").write_text("")
        async with bench(tmp_path / "local") as made:
            fleet_file = tmp_path / "local" / "fleet.yaml"
            open_to_all = CentralSystem(
                made.clock,
                tmp_path / "open",
                Admission(fleet_file, Credentials.read(PASSWORD)),
                Listening("0.0.0.0"),
            )
            async with open_to_all as central:
                url = central.url.replace("0.0.0.0", "127.0.0.1")
                assert await turned_away(f"{url}/ev-2") == 401
                headers = basic("ev-1", "right-horse")
                async with connect(
                    f"{url}/ev-1",
                    subprotocols=["ocpp1.6"],
                    additional_headers=headers,
                    proxy=None,
                ):
                    pass

    asyncio.run(scenario())


def test_another_protocol_than_ocpp_1_6_is_refused(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made:
            url = f"{made.central.url}/ev-1"
            assert await turned_away(url, subprotocols=["ocpp2.0.1"]) == 400
            assert await turned_away(url, subprotocols=None) == 400

    asyncio.run(scenario())


def test_with_a_certificate_the_central_system_speaks_tls_only(tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
        f" -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
        f" -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    import ssl

    @asynccontextmanager
    async def central():
        listening = Listening(certificate=certificate, key=key)
        admission = Admission(tmp_path / "c" / "fleet.yaml")
        async with CentralSystem(ManualClock(START), tmp_path / "tls", admission, listening) as it:
            yield it

    async def scenario():
        async with bench(tmp_path / "c"), central() as secured:
            assert secured.url.startswith("wss://")
            trusted = ssl.create_default_context(cafile=certificate)
            async with connect(
                f"{secured.url}/ev-1", subprotocols=["ocpp1.6"], ssl=trusted, proxy=None
            ):
                pass
            with pytest.raises((InvalidMessage, OSError)):
                await connect(secured.url.replace("wss", "ws"), proxy=None)

    asyncio.run(scenario())
    with pytest.raises(CentralSystemError, match="name PEM files"):
        asyncio.run(_start(tmp_path, Listening(certificate=key, key=certificate)))


def test_two_central_systems_in_one_home_or_at_one_port_are_refused(tmp_path):
    async def scenario():
        async with bench(tmp_path / "c") as made:
            with pytest.raises(CentralSystemError, match="already; stop it first"):
                await _start(tmp_path, Listening())
            port = int(made.central.url.rpartition(":")[2])
            with pytest.raises(CentralSystemError, match="choose another address"):
                await _start(tmp_path, Listening(port=port), "other")

    asyncio.run(scenario())


async def _start(directory, listening, name="c"):
    admission = Admission(directory / "fleet.yaml")
    async with CentralSystem(ManualClock(START), directory / name, admission, listening):
        pass


def test_the_channel_is_its_owners_alone_and_takes_what_steers_and_no_more(tmp_path):
    async def scenario():
        async with bench(tmp_path / "c") as made, scripted(made) as point:
            directory = tmp_path / "c"
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert stat.S_IMODE((directory / "commands.sock").stat().st_mode) == 0o600
            for line in (
                b"{}\n",
                ASK.encode(),
                ASK.replace("Look", "Reset").encode(),
                b"x" * 2_000_000 + b"\n",
            ):
                reader, writer = await asyncio.open_unix_connection(directory / "commands.sock")
                writer.write(line)
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
            assert point.asked == []
            (result,) = await made.command(command(-4.0))
            assert result.outcome is Outcome.ACKED

    asyncio.run(scenario())


def test_a_path_too_long_for_a_socket_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(CentralSystemError, match="a home whose path is shorter"):
        asyncio.run(_start(tmp_path, Listening(), "x" * 120))


def test_the_command_serves_charge_points_until_it_is_told_to_stop(tmp_path):
    home, fleet_file = tmp_path / "home", tmp_path / "fleet.yaml"
    fleet_file.write_text(REGISTRY)
    environment = {**os.environ, "VPP_HOME": str(home), "VPP_FLEET": str(fleet_file)}
    process = subprocess.Popen(
        [sys.executable, "-m", "vpp_pipeline.cli", "charge-points"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )

    async def scenario():
        url_file = home / "charge-points" / "url"
        await until(lambda: url_file.exists() and url_file.read_text())
        url = f"{url_file.read_text()}/ev-1"
        async with connect(url, subprotocols=["ocpp1.6"], proxy=None) as connection:
            ScriptedChargePoint(connection)
            driver = OcppDriver(home / "charge-points" / "commands.sock", ManualClock(START))
            (result,) = await driver.command([(link(), command(-4.0))], START, PATIENCE_S)
            assert result.outcome is Outcome.ACKED
            await driver.close()

    try:
        asyncio.run(scenario())
    finally:
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert f"charge points call {(home / 'charge-points' / 'url').read_text()}/" in words
    assert not (home / "charge-points" / "commands.sock").exists()


def test_many_drivers_may_ask_at_once(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            await point.status("Available")
            drivers = [OcppDriver(tmp_path / "commands.sock", made.clock) for _ in range(5)]
            told = await asyncio.gather(*(d.read([link()] * 3, 20) for d in drivers))
            assert {reading.plugged_in for readings in told for reading in readings} == {False}
            await asyncio.gather(*(driver.close() for driver in drivers))

    asyncio.run(scenario())
