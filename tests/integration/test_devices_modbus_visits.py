"""What a visit to a Modbus device costs it: one connection, few requests, and no walk twice."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from devices_modbus_fake_plant import BATTERY, NOON, command_of
from devices_modbus_scripted import (
    BATTERY_MODELS,
    HONEST,
    ScriptedDevice,
    on_read,
    sunspec_map,
)

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.devices import modbus_visits
from vpp_pipeline.devices.modbus import ModbusDriver
from vpp_pipeline.devices.protocol import CommandResult, DeviceLink, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PATIENCE_S = 30.0


def link_to(endpoint: str) -> DeviceLink:
    return DeviceLink(BATTERY, "battery", "modbus", endpoint, 1, 5.0, 4.0, writable=True)


async def told(directory: Path, device: ScriptedDevice, clock: ManualClock) -> CommandResult:
    """Command the device as a process of its own would."""
    driver = ModbusDriver(directory, "tests", clock)
    (result,) = await driver.command(
        [(link_to(device.endpoint), command_of(BATTERY, -2.5))], NOON, PATIENCE_S
    )
    await driver.close()
    device.reads.append((-1, -1))  # between two processes
    return result


def requests(device: ScriptedDevice) -> list[int]:
    """How many reads each process made."""
    runs = [0]
    for read in device.reads:
        if read == (-1, -1):
            runs.append(0)
        else:
            runs[-1] += 1
    return runs[:-1]


def test_a_set_point_is_read_back_within_the_visit_that_wrote_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedDevice(sunspec_map(BATTERY_MODELS)) as device:
            result = await told(tmp_path, device, ManualClock(NOON))
            assert result.outcome is Outcome.ACKED
            assert result.read_back is not None
            assert result.read_back.matches
            assert result.read_back.setpoint_kw == -2.5
            assert device.connections == 1

    event_loop.run(run())


def test_the_read_back_within_the_visit_is_the_devices_word_not_ours(tmp_path: Path) -> None:
    async def run() -> None:
        registers = sunspec_map(BATTERY_MODELS)
        async with ScriptedDevice(registers) as device:
            await told(tmp_path, device, ManualClock(NOON))
            address = device.writes[0][0]

            def forgetful(function: int, at: int, count: int) -> bytes | None:
                if function == 3 and len(device.writes) > 1:
                    device.registers[address] = 0  # acknowledged, and not enabled
                return HONEST

            device.fault = forgetful
            result = await told(tmp_path, device, ManualClock(NOON))
            assert result.outcome is Outcome.ACKED
            assert result.read_back is not None
            assert not result.read_back.matches
            assert "WSetEna is 0, not 1" in result.read_back.detail

    event_loop.run(run())


def test_a_set_point_whose_read_back_fails_stays_acknowledged(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedDevice(sunspec_map(BATTERY_MODELS)) as device:
            refuse = on_read(b"\x06")

            def busy(function: int, at: int, count: int) -> bytes | None:
                return refuse(function, at, count) if device.writes else HONEST

            device.fault = busy
            result = await told(tmp_path, device, ManualClock(NOON))
            assert result.outcome is Outcome.ACKED
            assert result.read_back is None

    event_loop.run(run())


def test_a_new_process_need_not_walk_through_a_map_again_on_the_same_day(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedDevice(sunspec_map(BATTERY_MODELS)) as device:
            for at in (NOON, NOON, NOON + timedelta(days=1)):
                await told(tmp_path, device, ManualClock(at))
            first, second, next_day = requests(device)
            assert second < first / 3
            assert next_day > second

    event_loop.run(run())


def test_a_map_that_moved_since_another_process_saw_it_is_walked_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedDevice(sunspec_map(BATTERY_MODELS)) as device:
            await told(tmp_path, device, ManualClock(NOON))
            device.registers.clear()
            device.registers.update(sunspec_map(BATTERY_MODELS | {1: {}, 120: {}}))
            result = await told(tmp_path, device, ManualClock(NOON))
            assert result.outcome is Outcome.ACKED
            assert result.read_back is not None
            assert result.read_back.matches

    event_loop.run(run())


def test_a_nameplate_is_read_once_a_day_and_anew_once_it_forbade_a_set_point(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        weak = BATTERY_MODELS | {702: {"WMaxRtg": 2000, "W_SF": 0}}
        async with ScriptedDevice(sunspec_map(weak)) as device:
            refused = await told(tmp_path, device, ManualClock(NOON))
            assert refused.outcome is Outcome.REJECTED
            assert "WMaxRtg" in refused.detail
            device.registers.update(sunspec_map(BATTERY_MODELS))
            for _ in range(2):
                result = await told(tmp_path, device, ManualClock(NOON))
                assert result.outcome is Outcome.ACKED
            assert requests(device)[-1] == 2  # before the write and after it

    event_loop.run(run())


def test_an_endpoint_that_keeps_us_waiting_leaves_its_place_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modbus_visits, "_MOST_AT_ONCE", 1)

    async def run() -> list[int]:
        registers = sunspec_map(BATTERY_MODELS)
        async with ScriptedDevice(registers) as silent, ScriptedDevice(registers) as honest:
            silent.silent_units.add(1)
            order = command_of(BATTERY, -2.5)
            driver = ModbusDriver(tmp_path, "tests", ManualClock(NOON))
            come: list[int] = []
            await driver.command(
                [(link_to(device.endpoint), order) for device in (silent, honest)],
                NOON,
                PATIENCE_S,
                lambda place, _result: come.append(place),
            )
            return come

    assert event_loop.run(run()) == [1, 0]


def test_a_damaged_memory_of_maps_is_no_memory(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedDevice(sunspec_map(BATTERY_MODELS)) as device:
            await told(tmp_path, device, ManualClock(NOON))
            memory = tmp_path / "sunspec-models.json"
            for damage in ("", "[]", '{"day": "x"}', memory.read_text()[:-20]):
                memory.write_text(damage)
                result = await told(tmp_path, device, ManualClock(NOON))
                assert result.outcome is Outcome.ACKED

    event_loop.run(run())
