"""The Modbus driver against devices that obey, refuse, lie, fall silent and move."""

from __future__ import annotations

import asyncio
import math
import socket
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from devices_modbus_fake_plant import BATTERY, NOON, PV, command_of
from devices_modbus_scripted import (
    BATTERY_MODELS,
    HONEST,
    LATE,
    ScriptedDevice,
    echo_writes,
    on_read,
    on_write,
    sunspec_map,
)

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.devices.leases import Leases
from vpp_pipeline.devices.modbus import ModbusDriver
from vpp_pipeline.devices.protocol import DeviceLink, Outcome, ReadBack, Reading, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

PATIENCE_S = 30.0


def link_to(endpoint: str, unit_id: int | None = 1, device_type: str = "battery") -> DeviceLink:
    return DeviceLink(
        f"{device_type}-{unit_id}",
        device_type,
        "modbus",
        endpoint,
        unit_id,
        5.0,
        4.0,
        writable=True,
    )


def run_with(
    lease_dir: Path,
    scenario: Callable[[ModbusDriver, ScriptedDevice], Coroutine[Any, Any, None]],
    models: dict[int, dict[str, int]] = BATTERY_MODELS,
) -> None:
    async def run() -> None:
        async with ScriptedDevice(sunspec_map(models)) as device:
            driver = ModbusDriver(lease_dir, "tests", ManualClock(NOON))
            try:
                await scenario(driver, device)
            finally:
                await driver.close()

    event_loop.run(run())


def test_a_reading_carries_what_the_device_says_and_when_it_arrived(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        (reading,) = await driver.read([link_to(device.endpoint)], PATIENCE_S)
        assert reading == Reading(
            "battery-1", NOON, power_kw=1.2, energy_kwh=6.75, heartbeat=7, status="ok"
        )

    run_with(tmp_path, scenario)


def test_a_set_point_and_its_timer_go_out_as_one_frame_and_are_read_back_raw(
    tmp_path: Path,
) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        order = (link_to(device.endpoint), command_of(BATTERY, -2.5))
        (result,) = await driver.command([order], NOON, PATIENCE_S)
        assert result.outcome is Outcome.ACKED
        assert result.command_id == order[1].command_id
        assert len(device.writes) == 1
        address, words = device.writes[0]
        assert len(words) == 11
        assert result.sent == f"10{address:04x}000b16" + "".join(f"{word:04x}" for word in words)
        (back,) = await driver.read_back([order], PATIENCE_S)
        assert isinstance(back, ReadBack)
        assert back.matches
        assert back.setpoint_kw == -2.5
        assert (back.has_timer, back.timer_remaining_s) == (False, None)  # it counts nothing down
        (other,) = await driver.read_back([(order[0], command_of(BATTERY, -2.4))], PATIENCE_S)
        assert isinstance(other, ReadBack)
        assert not other.matches
        assert "WSet is -2500, not -2400" in other.detail

    run_with(tmp_path, scenario)


def test_invariant_2_the_timer_never_outlives_the_command(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        late = NOON + timedelta(minutes=14, seconds=57.4)
        order = (link_to(device.endpoint), command_of(BATTERY, 1.0))
        (result,) = await driver.command([order], late, PATIENCE_S)
        assert result.outcome is Outcome.ACKED
        assert device.writes[-1][1][-2:] == (0, 2)
        for moment in (timedelta(minutes=14, seconds=59.5), timedelta(minutes=20)):
            (result,) = await driver.command([order], NOON + moment, PATIENCE_S)
            assert result.outcome is Outcome.REJECTED
            assert "less than a second" in result.detail
        assert len(device.writes) == 1

    run_with(tmp_path, scenario)


@pytest.mark.parametrize(
    ("power_kw", "reason"),
    [
        (math.nan, "not a finite number"),
        (math.inf, "not a finite number"),
        (5.1, "outside the nameplate"),
        (-4.1, "outside the nameplate"),
    ],
)
def test_invariant_1_an_impossible_power_is_refused_before_anything_is_sent(
    tmp_path: Path, power_kw: float, reason: str
) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        order = (link_to(device.endpoint), command_of(BATTERY, power_kw))
        (result,) = await driver.command([order], NOON, PATIENCE_S)
        assert (result.outcome, result.sent) == (Outcome.REJECTED, "")
        assert reason in result.detail
        assert device.connections == 0

    run_with(tmp_path, scenario)


def test_invariant_21_a_read_only_device_is_never_written(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        link = replace(link_to(device.endpoint), writable=False)
        meter = link_to(device.endpoint, 2, "load")
        orders = [(one, command_of(BATTERY, 1.0)) for one in (link, meter)]
        commanded = await driver.command(orders, NOON, PATIENCE_S)
        released = await driver.release([link, meter], PATIENCE_S)
        assert {one.outcome for one in commanded + released} == {Outcome.REJECTED}
        assert "read-only" in commanded[0].detail
        assert "nobody steers it" in released[1].detail
        assert device.connections == 0

    run_with(tmp_path, scenario)


def test_a_command_that_is_early_is_refused_because_modbus_would_obey_at_once(
    tmp_path: Path,
) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        order = (link_to(device.endpoint), command_of(BATTERY, 1.0))
        (early,) = await driver.command([order], NOON - timedelta(seconds=3), PATIENCE_S)
        (near,) = await driver.command([order], NOON - timedelta(seconds=2), PATIENCE_S)
        assert (early.outcome, near.outcome) == (Outcome.REJECTED, Outcome.ACKED)
        assert "send it then" in early.detail

    run_with(tmp_path, scenario)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({715: {"LocRemCtl": 1}}, "LOCAL"),
        ({704: {"WSetEna": 0}}, "scale factor of WSet"),
        ({702: {"WMaxRtg": 900, "W_SF": 0}}, "beyond the device's WMaxRtg"),
    ],
)
def test_what_the_device_says_of_itself_can_refuse_a_command(
    tmp_path: Path, change: dict[int, dict[str, int]], reason: str
) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        order = (link_to(device.endpoint), command_of(BATTERY, 1.0))
        (result,) = await driver.command([order], NOON, PATIENCE_S)
        assert (result.outcome, result.sent) == (Outcome.REJECTED, "")
        assert reason in result.detail
        assert device.writes == []

    run_with(tmp_path, scenario, BATTERY_MODELS | change)


def test_a_device_without_controls_or_measurements_says_which_model_it_lacks(
    tmp_path: Path,
) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        link = link_to(device.endpoint)
        order = (link, command_of(BATTERY, 1.0))
        (reading,) = await driver.read([link], PATIENCE_S)
        (result,) = await driver.command([order], NOON, PATIENCE_S)
        (back,) = await driver.read_back([order], PATIENCE_S)
        (freed,) = await driver.release([link], PATIENCE_S)
        assert isinstance(reading, Unreachable)
        assert "701" in reading.reason
        assert isinstance(back, Unreachable)
        assert {result.outcome, freed.outcome} == {Outcome.REJECTED}
        assert all("704" in text for text in (result.detail, freed.detail, back.reason))

    run_with(tmp_path, scenario, {1: {}, 203: {}})


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        *((code, Outcome.REJECTED) for code in (1, 2, 3)),
        *((code, Outcome.FAILED) for code in (6, 10)),  # nothing was done
        *((code, Outcome.UNKNOWN) for code in (4, 5, 11)),  # it may have been: read back first
    ],
)
def test_invariant_18_only_a_transient_refusal_may_be_tried_again(
    tmp_path: Path, code: int, outcome: Outcome
) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        device.fault = on_write(bytes([code]))
        order = (link_to(device.endpoint), command_of(BATTERY, 1.0))
        (result,) = await driver.command([order], NOON, PATIENCE_S)
        assert result.outcome is outcome
        assert f"exception {code} " in result.detail
        assert result.sent
        assert len(device.writes) == 1

    run_with(tmp_path, scenario)


def test_invariant_6_silence_after_a_write_is_unknown_and_is_not_repeated(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        device.fault = on_write(None)
        order = (link_to(device.endpoint), command_of(BATTERY, 1.0))
        (result,) = await driver.command([order], NOON, PATIENCE_S)
        assert result.outcome is Outcome.UNKNOWN
        assert result.sent
        assert len(device.writes) == 1

    run_with(tmp_path, scenario)


def test_a_call_that_ends_while_a_write_is_under_way_leaves_it_unknown(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        link = link_to(device.endpoint)
        await driver.read([link], PATIENCE_S)
        device.fault = on_write(None)
        orders = [(link_to(device.endpoint, unit), command_of(BATTERY, 1.0)) for unit in (1, 2)]
        sent, unsent = await driver.command(orders, NOON, 0.8)
        assert sent.outcome is Outcome.UNKNOWN
        assert unsent.outcome in {Outcome.FAILED, Outcome.UNKNOWN}
        assert bool(unsent.sent) is (unsent.outcome is Outcome.UNKNOWN)

    run_with(tmp_path, scenario)


def test_silence_before_the_write_is_failed_with_nothing_sent(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        device.fault = on_read(None)
        order = (link_to(device.endpoint), command_of(BATTERY, 1.0))
        (result,) = await driver.command([order], NOON, PATIENCE_S)
        assert (result.outcome, result.sent, device.writes) == (Outcome.FAILED, "", [])

    run_with(tmp_path, scenario)


def test_invariant_7_a_device_that_acknowledges_and_does_nothing_is_found_out(
    tmp_path: Path,
) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        device.fault = echo_writes
        order = (link_to(device.endpoint), command_of(BATTERY, 1.0))
        (result,) = await driver.command([order], NOON, PATIENCE_S)
        (back,) = await driver.read_back([order], PATIENCE_S)
        assert result.outcome is Outcome.ACKED
        assert isinstance(back, ReadBack)
        assert not back.matches
        assert back.setpoint_kw is None
        assert "no reversion timer is armed" in back.detail

    run_with(tmp_path, scenario)


def test_invariant_11_a_release_that_did_not_happen_is_not_called_done(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        link = link_to(device.endpoint)
        await driver.command([(link, command_of(BATTERY, 1.0))], NOON, PATIENCE_S)
        device.fault = echo_writes
        (kept,) = await driver.release([link], PATIENCE_S)
        assert kept.outcome is Outcome.UNKNOWN
        assert "WSetEna is 1, not 0" in kept.detail
        assert "WSet is 1000, not 0" in kept.detail
        device.fault = lambda *_: HONEST
        (freed,) = await driver.release([link], PATIENCE_S)
        assert freed.outcome is Outcome.ACKED
        assert set(device.writes[-1][1]) == {0, 1}  # the one is WSetMod: watts
        assert device.writes[-1][1][0] == 0

    run_with(tmp_path, scenario)


def test_a_unit_that_moved_its_map_is_discovered_again(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        link = link_to(device.endpoint)
        await driver.read([link], PATIENCE_S)
        await driver.read([link], PATIENCE_S)
        asked = device.reads.count((40000, 2))
        assert asked == 1
        device.registers = sunspec_map(
            BATTERY_MODELS | {703: {}} | {713: {"WHAvail": 5, "WH_SF": 3}}
        )
        (moved,) = await driver.read([link], PATIENCE_S)
        device.registers = sunspec_map(BATTERY_MODELS, base=50000)
        (elsewhere,) = await driver.read([link], PATIENCE_S)
        assert isinstance(moved, Reading)
        assert moved.energy_kwh == 5.0
        assert isinstance(elsewhere, Reading)
        assert elsewhere.energy_kwh == 6.75

    run_with(tmp_path, scenario)


def test_a_map_that_changes_with_every_read_is_reported_and_does_not_loop(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        device.fault = lambda _f, _a, count: (
            bytes([3, count * 2]) + bytes(count * 2) if count > 2 else HONEST
        )
        (answer,) = await driver.read([link_to(device.endpoint)], PATIENCE_S)
        assert isinstance(answer, Unreachable)
        assert "discovered again" in answer.reason

    run_with(tmp_path, scenario)


def test_a_device_that_is_no_sunspec_device_is_named_so(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        device.registers = dict.fromkeys(range(60000), 0)
        (answer,) = await driver.read([link_to(device.endpoint)], PATIENCE_S)
        assert isinstance(answer, Unreachable)
        assert "no SunSpec map at 40000, 0, 50000" in answer.reason

    run_with(tmp_path, scenario)


def test_a_map_without_an_end_is_given_up(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        device.registers = dict.fromkeys(range(40000, 60000), 0) | {40000: 0x5375, 40001: 0x6E53}
        (answer,) = await driver.read([link_to(device.endpoint)], PATIENCE_S)
        assert isinstance(answer, Unreachable)
        assert "ends its SunSpec map nowhere" in answer.reason

    run_with(tmp_path, scenario)


def test_a_short_answer_is_no_reading(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        device.fault = lambda _f, _a, count: bytes([3, 2, 0, 0]) if count > 2 else HONEST
        (answer,) = await driver.read([link_to(device.endpoint)], PATIENCE_S)
        assert isinstance(answer, Unreachable)
        assert "with 1 of them" in answer.reason

    run_with(tmp_path, scenario)


def test_two_silences_in_a_row_close_the_endpoint_for_this_call_only(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        device.fault = on_read(None)
        links = [link_to(device.endpoint, unit) for unit in range(1, 9)]
        answers = await driver.read(links, PATIENCE_S)
        assert len(device.reads) == 2
        assert all(isinstance(answer, Unreachable) for answer in answers)
        assert "is closed" in answers[-1].reason  # type: ignore[union-attr]
        device.fault = lambda *_: HONEST
        assert all(isinstance(one, Reading) for one in await driver.read(links, PATIENCE_S))

    run_with(tmp_path, scenario)


def test_one_connection_and_one_lease_an_endpoint_and_both_are_given_back(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        links = [link_to(device.endpoint, unit) for unit in range(1, 6)]
        await driver.read(links, PATIENCE_S)
        assert device.connections == 1
        async with await Leases(tmp_path, "collector").acquire(device.endpoint, 0):
            (answer,) = await driver.read(links[:1], 0.2)
        assert isinstance(answer, Unreachable)
        assert "is leased by collector (pid" in answer.reason
        assert device.connections == 1

    run_with(tmp_path, scenario)


def test_the_dead_the_silent_and_the_misnamed_cost_only_themselves(
    tmp_path: Path, free_port: int
) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        with socket.socket() as black_hole:
            black_hole.bind(("127.0.0.1", 0))
            black_hole.listen()
            silent = f"127.0.0.1:{black_hole.getsockname()[1]}"
            links = [
                link_to(silent),
                link_to(f"127.0.0.1:{free_port}"),
                link_to("no address"),
                link_to(device.endpoint, None),
                *(link_to(device.endpoint, unit) for unit in range(1, 6)),
            ]
            loop = asyncio.get_running_loop()
            begun = loop.time()
            answers = await driver.read(links, PATIENCE_S)
            assert loop.time() - begun < PATIENCE_S
            orders = [(link, command_of(BATTERY, 1.0)) for link in links]
            results = await driver.command(orders, NOON, PATIENCE_S)
        reasons = [one.reason for one in answers if isinstance(one, Unreachable)]
        assert len(reasons) == 4
        assert "did not answer" in reasons[0]
        assert "refuses the connection" in reasons[1]
        assert "no host:port" in reasons[2]
        assert "no Modbus unit id" in reasons[3]
        assert [one.device_id for one in answers] == [link.device_id for link in links]
        assert [one.outcome for one in results] == [Outcome.FAILED] * 4 + [Outcome.ACKED] * 5

    run_with(tmp_path, scenario)


def test_a_call_ends_in_its_time_and_says_so(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        device.fault = on_read(None)
        (answer,) = await driver.read([link_to(device.endpoint)], 0.05)
        assert isinstance(answer, Unreachable)
        assert "answer" in answer.reason
        assert await driver.read([], 0.05) == []

    run_with(tmp_path, scenario)


def test_a_late_answer_is_never_taken_for_that_of_another_request(tmp_path: Path) -> None:
    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        links = [link_to(device.endpoint, unit) for unit in (1, 2)]
        await driver.read(links, PATIENCE_S)
        reads = len(device.reads)
        device.fault = lambda *_: LATE if len(device.reads) == reads + 1 else HONEST
        late, other = await driver.read(links, PATIENCE_S)
        assert isinstance(late, Unreachable)
        assert isinstance(other, Reading)
        assert (other.power_kw, other.energy_kwh, other.heartbeat) == (1.2, 6.75, 7)

    run_with(tmp_path, scenario)


def test_pv_is_limited_by_a_share_of_its_nameplate(tmp_path: Path) -> None:
    models = {1: {}, 701: {"W": 0, "W_SF": 0}, 702: {"WMaxRtg": 5000, "W_SF": 0}}
    models |= {704: {"WMaxLimPct_SF": -1, "WMaxLimPctRvrtTms": 0}}

    async def scenario(driver: ModbusDriver, device: ScriptedDevice) -> None:
        order = (link_to(device.endpoint, 1, "pv"), command_of(PV, 1.25))
        (result,) = await driver.command([order], NOON, PATIENCE_S)
        assert result.outcome is Outcome.ACKED
        assert device.writes[0][1] == (1, 250, 1000, 0, 0, 900)

    run_with(tmp_path, scenario, models)
