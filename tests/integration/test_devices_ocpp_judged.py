"""An independent OCPP 1.6 implementation in strict mode finds nothing wrong with ours."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from devices_ocpp_bench import PATIENCE_S, bench, command

from vpp_pipeline.devices.protocol import Outcome

SCRIPT = Path(__file__).with_name("ocpp_rpc_charge_point.cjs")
PASSWORD = {"VPP_CREDENTIAL_EV_1_PASSWORD": "right-horse"}


def need_ocpp_rpc():
    node = shutil.which("node")
    if (
        node is None
        or subprocess.run(
            [node, "-e", "require('ocpp-rpc')"], capture_output=True, check=False, cwd=SCRIPT.parent
        ).returncode
    ):
        pytest.skip("no node with ocpp-rpc: `npm install ocpp-rpc`, and name it in NODE_PATH")


class Judge:
    """The charge point's process, and what it says line by line."""

    def __init__(self, process):
        self._process = process
        self.said = []

    @classmethod
    async def start(cls, *arguments):
        process = await asyncio.create_subprocess_exec(
            "node",
            str(SCRIPT),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def until_ready(self):
        async with asyncio.timeout(PATIENCE_S):
            while self.said[-1:] != [{"ready": True}]:
                line = await self._process.stdout.readline()
                assert line, f"it ended after {self.said}"
                self.said.append(json.loads(line))

    async def end(self):
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE_S):
            rest, _ = await self._process.communicate()
        self.said += [json.loads(line) for line in rest.splitlines()]


def test_ocpp_rpc_in_strict_mode_agrees_with_the_central_system_and_the_driver(tmp_path):
    need_ocpp_rpc()

    async def scenario():
        async with bench(tmp_path, environment=PASSWORD) as made:
            now = made.clock.now().isoformat()
            judge = await Judge.start(made.central.url, "ev-1", "right-horse", now)
            try:
                await judge.until_ready()
                (reading,) = await made.read()
                assert reading.power_kw == pytest.approx(-3.6)
                assert (reading.energy_kwh, reading.plugged_in) == (30, True)
                (result,) = await made.command(command(-6.9))
                assert result.outcome is Outcome.ACKED
                assert '"limit":10.0,"numberPhases":3' in result.sent
                (back,) = await made.read_back(command(-6.9))
                assert (back.matches, back.timer_remaining_s) == (True, 900)
                (released,) = await made.release()
                assert released.outcome is Outcome.ACKED
            finally:
                await judge.end()
            assert [line["wrong"] for line in judge.said if "wrong" in line] == []
            boot, heartbeat, authorised, transferred, *_, stopped = judge.said
            assert (boot["status"], boot["currentTime"]) == ("Accepted", "2020-08-13T06:30:00Z")
            assert heartbeat == {"currentTime": "2020-08-13T06:30:00Z"}
            assert authorised == {"idTagInfo": {"status": "Accepted"}}
            assert transferred == {"status": "UnknownVendorId"}
            assert stopped == {}

    asyncio.run(scenario())
