"""A register map against npm's modbus-serial server, where node finds that package.

Install it anywhere and name the folder: `npm install modbus-serial`, `NODE_PATH=…/node_modules`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from devices_modbus_fake_plant import NOON

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.devices.modbus import ModbusDriver
from vpp_pipeline.devices.protocol import Command, DeviceLink, Outcome, ReadBack, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NODE = shutil.which("node")
PATIENCE_S = 30.0
SERVER = """
const { ServerTCP } = require("modbus-serial");
const registers = new Map(JSON.parse(process.argv[1]));
const at = (address) => {
  if (!registers.has(address)) throw { modbusErrorCode: 2 };
  return registers.get(address);
};
const server = new ServerTCP({
  getHoldingRegister: at,
  getInputRegister: at,
  setRegister: (address, value) => { at(address); registers.set(address, value); },
}, { host: "127.0.0.1", port: 0, unitID: 1 });
server.on("initialized", () => console.log(server._server.address().port));
process.stdin.resume().on("end", () => process.exit(0));
"""
AT_REST = dict.fromkeys((*range(37000, 37005), 37758, 47083, 47100, *range(47246, 47251)), 0)


def has_modbus_serial() -> bool:
    return NODE is not None and (
        subprocess.run(
            [NODE, "-e", "require('modbus-serial')"], capture_output=True, check=False
        ).returncode
        == 0
    )


@pytest.fixture
def endpoint() -> Iterator[str]:
    if not has_modbus_serial():
        pytest.skip(
            f"NOT TESTED against npm's modbus-serial: node is {NODE}, NODE_PATH is"
            f" {os.environ.get('NODE_PATH')}; run `npm install modbus-serial` and set NODE_PATH"
        )
    assert NODE is not None
    holding = AT_REST | {37002: 1500, 37004: 500, 37759: 10_000}
    with subprocess.Popen(
        [NODE, "-e", SERVER, json.dumps(list(holding.items()))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            yield f"127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def test_a_battery_on_modbus_serial_is_read_commanded_verified_and_released(
    tmp_path: Path, endpoint: str
) -> None:
    async def run() -> None:
        driver = ModbusDriver(tmp_path, "tests", ManualClock(NOON))
        link = DeviceLink(
            *("d", "battery", "modbus", endpoint, 1, 5.0, 5.0),
            writable=True,
            register_map="huawei-luna2000",
        )
        (reading,) = await driver.read([link], PATIENCE_S)
        assert isinstance(reading, Reading), reading
        assert (reading.power_kw, reading.energy_kwh) == (-1.5, 5.0)
        until = NOON + timedelta(minutes=15)
        order = (link, Command("c", "d", "p", 1, 1, -2.5, NOON, until))
        (result,) = await driver.command([order], NOON, PATIENCE_S)
        assert result.outcome is Outcome.ACKED, result
        (back,) = await driver.read_back([order], PATIENCE_S)
        assert isinstance(back, ReadBack)
        assert (back.matches, back.setpoint_kw) == (True, -2.5)
        (freed,) = await driver.release([link], PATIENCE_S)
        assert freed.outcome is Outcome.ACKED, freed

    event_loop.run(run())
