"""The Modbus driver when answers are spoilt on the way and devices do other than they say."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from devices_modbus_fake_plant import BATTERY, NOON, PV, command_of
from devices_modbus_proxy import ModbusProxy, function_of
from devices_modbus_scripted import BATTERY_MODELS, HONEST, ScriptedDevice, on_write, sunspec_map

from vpp_pipeline import event_loop
from vpp_pipeline.clock import ManualClock
from vpp_pipeline.devices import sunspec
from vpp_pipeline.devices.endpoint_health import EndpointHealth, HealthLimits
from vpp_pipeline.devices.leases import Leases
from vpp_pipeline.devices.modbus import ModbusDriver
from vpp_pipeline.devices.protocol import (
    Command,
    CommandResult,
    DeviceLink,
    Outcome,
    ReadBack,
    Reading,
    Unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

PATIENCE_S = 30.0
WRITE = 16
CONTROL = {"WSet_SF": 0, "WSetEna": 0, "WSetRvrtTms": 0, "WSetRvrtRem": 900}
MODELS = BATTERY_MODELS | {704: CONTROL}
LEGACY_PV: dict[int, dict[str, int]] = {
    1: {},
    103: {"W": 3000, "W_SF": 0, "St": 4},
    120: {"WRtg": 10_000, "WRtg_SF": 0},
    121: {"WMax": 800, "WMax_SF": 1},
    123: {"WMaxLimPct_SF": -1, "WMaxLimPct_RvrtTms": 0, "WMaxLim_Ena": 0, "WMaxLimPct": 1000},
}


def link_to(endpoint: str, unit_id: int = 1, device_type: str = "battery") -> DeviceLink:
    kind = (5.0, 4.0) if device_type == "battery" else (10.0, 0.0)
    return DeviceLink("d", device_type, "modbus", endpoint, unit_id, *kind, writable=True)


class Bench:
    """A driver, a device, and a proxy between them."""

    def __init__(self, shared_dir: Path, device: ScriptedDevice, proxy: ModbusProxy) -> None:
        self.clock = ManualClock(NOON)
        self.driver = ModbusDriver(shared_dir, "tests", self.clock)
        self.device, self.proxy = device, proxy
        self.link = link_to(proxy.endpoint)

    async def command(self, power_kw: float) -> CommandResult:
        order = (self.link, command_of(BATTERY, power_kw))
        (result,) = await self.driver.command([order], self.clock.now(), PATIENCE_S)
        return result

    async def read_back(self, power_kw: float, command: Command | None = None) -> ReadBack:
        order = (self.link, command or command_of(BATTERY, power_kw))
        (back,) = await self.driver.read_back([order], PATIENCE_S)
        assert isinstance(back, ReadBack), back
        return back

    def address(self, model_id: int, name: str) -> int:
        """Find a point in the served map as a stranger would."""
        address = 40002
        while self.device.registers[address] != model_id:
            address += 2 + self.device.registers[address + 1]
        return address + sunspec.layout(model_id)[name].offset

    def put(self, model_id: int, name: str, raw: int) -> None:
        start = self.address(model_id, name)
        for i, word in enumerate(sunspec.pack(model_id, name, raw)):
            self.device.registers[start + i] = word

    def get(self, model_id: int, name: str) -> int:
        return self.device.registers[self.address(model_id, name)]


def on_bench(
    shared_dir: Path,
    scenario: Callable[[Bench], Coroutine[Any, Any, None]],
    models: dict[int, dict[str, int]] = MODELS,
) -> None:
    async def run() -> None:
        async with (
            ScriptedDevice(sunspec_map(models)) as device,
            ModbusProxy(device.endpoint) as proxy,
        ):
            await scenario(Bench(shared_dir, device, proxy))

    event_loop.run(run())


def wrong_unit(frame: bytes) -> bytes:
    return frame[:6] + bytes([frame[6] ^ 1]) + frame[7:]


def wrong_transaction(frame: bytes) -> bytes:
    return bytes([frame[0] ^ 0x40]) + frame[1:]


def wrong_address(frame: bytes) -> bytes:
    return frame[:8] + bytes([frame[8] ^ 1]) + frame[9:]


def truncated(frame: bytes) -> bytes:
    return frame[:-1]


def broken_line(_frame: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    "spoil", [wrong_unit, wrong_transaction, wrong_address, truncated, broken_line]
)
def test_invariant_06_a_write_whose_answer_was_spoilt_is_unknown_and_its_read_back_finds_it(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    async def scenario(bench: Bench) -> None:
        def only_writes(frame: bytes) -> list[bytes]:
            if function_of(frame) != WRITE:
                return [frame]
            return [spoilt] if (spoilt := spoil(frame)) else []

        bench.proxy.spoil = only_writes
        result = await bench.command(-2.5)
        assert (result.outcome, result.answer) == (Outcome.UNKNOWN, "")
        assert result.sent
        assert len(bench.device.writes) == 1
        back = await bench.read_back(-2.5)
        assert (back.matches, back.setpoint_kw) == (True, -2.5)

    on_bench(tmp_path, scenario)


def test_a_doubled_answer_is_not_taken_for_that_of_the_next_request(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.proxy.spoil = lambda frame: [frame, frame]
        (reading,) = await bench.driver.read([bench.link], PATIENCE_S)
        assert isinstance(reading, Reading), reading
        assert (reading.power_kw, reading.energy_kwh, reading.heartbeat) == (1.2, 6.75, 7)
        assert (await bench.command(-2.5)).outcome is Outcome.ACKED
        assert (await bench.read_back(-2.5)).matches

    on_bench(tmp_path, scenario)


def test_a_broken_line_is_told_at_once_and_the_next_call_connects_anew(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.proxy.spoil = lambda _frame: []
        (lost,) = await bench.driver.read([bench.link], PATIENCE_S)
        assert isinstance(lost, Unreachable)
        assert "closed the connection" in lost.reason
        bench.proxy.spoil = lambda frame: [frame]
        (reading,) = await bench.driver.read([bench.link], PATIENCE_S)
        assert isinstance(reading, Reading)

    on_bench(tmp_path, scenario)


def test_invariant_06_a_write_the_device_is_still_at_is_unknown_until_it_is_read_back(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.device.fault = on_write(bytes([5]))
        result = await bench.command(-2.5)
        assert (result.outcome, result.answer) == (Outcome.UNKNOWN, "9005")
        assert not (await bench.read_back(-2.5)).matches
        bench.device.fault = lambda *_: HONEST
        assert (await bench.command(-2.5)).outcome is Outcome.ACKED
        assert (await bench.read_back(-2.5)).matches

    on_bench(tmp_path, scenario)


def test_the_same_set_point_again_starts_the_timer_anew(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.command(1.0)
        bench.clock.sleep_until(NOON + timedelta(minutes=5))
        again = await bench.command(1.0)
        assert {first.outcome, again.outcome} == {Outcome.ACKED}
        assert [words[-1] for _, words in bench.device.writes] == [900, 600]
        assert first.fence is not None
        assert again.fence == first.fence + 1

    on_bench(tmp_path, scenario)


def test_invariant_07_a_set_point_that_was_clamped_in_silence_is_told_in_words(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.command(-4.0)
        bench.put(704, "WSet", -3000)
        back = await bench.read_back(-4.0)
        assert (back.matches, back.setpoint_kw) == (False, -3.0)
        assert back.detail == "WSet is -3000, not -4000"

    on_bench(tmp_path, scenario)


def test_invariant_07_a_scale_factor_changed_by_a_firmware_update_is_found_out(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.command(-2.5)
        bench.put(704, "WSet_SF", 1)
        back = await bench.read_back(-2.5)
        assert (back.matches, back.setpoint_kw) == (False, -25.0)
        assert "WSet is -2500, not -250" in back.detail
        assert (await bench.command(-2.5)).outcome is Outcome.ACKED
        assert (await bench.read_back(-2.5)).setpoint_kw == -2.5
        bench.device.registers[bench.address(704, "WSet_SF")] = 0x8000
        refused = await bench.command(-2.5)
        assert (refused.outcome, refused.sent) == (Outcome.REJECTED, "")
        assert "scale factor" in refused.detail

    on_bench(tmp_path, scenario)


def test_invariant_07_a_reboot_that_forgot_the_set_point_is_found_out(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.command(-2.5)
        assert (await bench.read_back(-2.5)).matches
        bench.device.registers = sunspec_map(MODELS)
        back = await bench.read_back(-2.5)
        assert (back.matches, back.setpoint_kw) == (False, None)
        assert (await bench.command(-2.5)).outcome is Outcome.ACKED
        assert (await bench.read_back(-2.5)).matches

    on_bench(tmp_path, scenario)


def test_invariant_14_anothers_value_is_reported_and_not_fought(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.command(-2.5)
        bench.put(704, "WSet", 1000)
        back = await bench.read_back(-2.5)
        assert (back.matches, back.setpoint_kw) == (False, 1.0)
        assert len(bench.device.writes) == 1

    on_bench(tmp_path, scenario)


def test_a_left_over_limit_beside_the_set_point_is_told(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.put(704, "WMaxLimPctEna", 1)
        bench.put(704, "WMaxLimPct", 30)
        await bench.command(-2.5)
        back = await bench.read_back(-2.5)
        assert back.matches
        assert back.detail == "WMaxLimPctEna is on as well, with WMaxLimPct 30"

    on_bench(tmp_path, scenario)


def test_a_left_over_reversion_is_overwritten_and_released(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        for name, raw in {"WSetEnaRvrt": 1, "WSetRvrt": 4000, "WSetRvrtTms": 60}.items():
            bench.put(704, name, raw)
        await bench.command(-2.5)
        assert bench.get(704, "WSetEnaRvrt") == 0
        (freed,) = await bench.driver.release([bench.link], PATIENCE_S)
        assert freed.outcome is Outcome.ACKED
        assert [bench.get(704, name) for name in ("WSetEna", "WSetEnaRvrt")] == [0, 0]
        assert bench.device.writes[-1][1][-2:] == (0, 0)

    on_bench(tmp_path, scenario)


def test_invariant_03_a_device_without_a_timer_is_commanded_and_says_so(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        assert (await bench.command(-2.5)).outcome is Outcome.ACKED
        assert len(bench.device.writes[0][1]) == 9  # the two of the timer are left alone
        back = await bench.read_back(-2.5)
        assert (back.matches, back.has_timer, back.timer_remaining_s) == (True, False, None)
        assert "nothing ends this by itself" in back.detail

    without = {name: raw for name, raw in CONTROL.items() if "Rvrt" not in name}
    on_bench(tmp_path, scenario, MODELS | {704: without})


def test_invariant_03_a_timer_that_stands_still_is_no_timer(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.command(-2.5)
        assert (await bench.read_back(-2.5)).has_timer
        bench.clock.sleep_until(NOON + timedelta(seconds=4))
        assert (await bench.read_back(-2.5)).has_timer
        bench.put(704, "WSetRvrtRem", 891)
        bench.clock.sleep_until(NOON + timedelta(seconds=9))
        assert (await bench.read_back(-2.5)).has_timer
        bench.put(704, "WSetRvrtRem", 900)
        bench.clock.sleep_until(NOON + timedelta(seconds=20))
        bench.put(704, "WSetRvrtRem", 880)
        await bench.command(-2.5)
        bench.put(704, "WSetRvrtRem", 880)
        assert (await bench.read_back(-2.5)).has_timer
        bench.clock.sleep_until(NOON + timedelta(seconds=30))
        frozen = await bench.read_back(-2.5, command_of(BATTERY, -2.5, minutes=30))
        assert (frozen.matches, frozen.has_timer) == (True, False)
        assert "stands at 880 s for 10 s" in frozen.detail

    on_bench(tmp_path, scenario)


def test_invariant_02_a_timer_that_would_outlive_the_command_does_not_match(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.command(-2.5)
        bench.put(704, "WSetRvrtRem", 902)
        assert (await bench.read_back(-2.5)).matches
        bench.put(704, "WSetRvrtRem", 903)
        back = await bench.read_back(-2.5)
        assert not back.matches
        assert back.detail == "its timer runs 903 s, the command 902 s at most"

    on_bench(tmp_path, scenario)


def test_a_legacy_inverter_is_read_limited_and_released(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        link = link_to(bench.proxy.endpoint, device_type="pv")
        (reading,) = await bench.driver.read([link], PATIENCE_S)
        assert isinstance(reading, Reading)
        assert (reading.power_kw, reading.available_power_kw, reading.setpoint_kw) == (3, 3, None)
        order = (link, command_of(PV, 2.0))
        (result,) = await bench.driver.command([order], NOON, PATIENCE_S)
        assert result.outcome is Outcome.ACKED, result
        # A share of WMax, with its window, timer, ramp and, last, the enable: one frame.
        assert bench.device.writes[0][1] == (250, 0, 900, 0, 1)
        (back,) = await bench.driver.read_back([order], PATIENCE_S)
        assert isinstance(back, ReadBack)
        assert (back.matches, back.setpoint_kw, back.has_timer) == (True, 2.0, True)
        (freed,) = await bench.driver.release([link], PATIENCE_S)
        assert freed.outcome is Outcome.ACKED
        assert bench.device.writes[1][1] == (1000, 0, 0, 0, 0)
        battery = (bench.link, command_of(BATTERY, 1.0))
        (refused,) = await bench.driver.command([battery], NOON, PATIENCE_S)
        assert (refused.outcome, refused.sent) == (Outcome.REJECTED, "")
        assert "name its register map" in refused.detail

    on_bench(tmp_path, scenario, LEGACY_PV)


def test_a_legacy_battery_tells_its_content_and_a_fault(tmp_path: Path) -> None:
    models = LEGACY_PV | {
        103: {"W": -1500, "W_SF": 0, "St": 7},
        120: {"WHRtg": 10_000, "WHRtg_SF": 0},
        124: {"ChaState": 555, "ChaState_SF": -1},
    }

    async def scenario(bench: Bench) -> None:
        (reading,) = await bench.driver.read([bench.link], PATIENCE_S)
        assert isinstance(reading, Reading)
        assert (reading.power_kw, reading.energy_kwh, reading.status) == (-1.5, 5.55, "fault")

    on_bench(tmp_path, scenario, models)


def test_the_registry_s_base_address_is_looked_at_first(tmp_path: Path) -> None:
    async def run() -> None:
        async with ScriptedDevice(sunspec_map(MODELS, base=50000)) as device:
            driver = ModbusDriver(tmp_path, "tests", ManualClock(NOON))
            link = DeviceLink(
                "d",
                "battery",
                "modbus",
                device.endpoint,
                1,
                5,
                4,
                writable=True,
                base_address=50000,
            )
            (reading,) = await driver.read([link], PATIENCE_S)
            assert isinstance(reading, Reading)
            assert device.reads[0] == (50000, 2)

    event_loop.run(run())


def test_invariant_14_a_lease_that_was_taken_away_stops_the_write(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        def take_away(frame: bytes) -> list[bytes]:
            for file in tmp_path.glob("*.lease"):
                file.unlink()
            return [frame]

        bench.proxy.spoil = take_away
        result = await bench.command(-2.5)
        assert (result.outcome, result.sent, bench.device.writes) == (Outcome.FAILED, "", [])
        assert "was taken away" in result.detail

    on_bench(tmp_path, scenario)


def test_invariant_14_a_stale_holder_never_writes_again_and_a_waiter_gets_the_new_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "e%3A1.lease"

    async def run() -> None:
        leases = Leases(tmp_path, "one")
        stale = await leases.acquire("e:1", 1)
        stale.check()
        waiting = asyncio.create_task(Leases(tmp_path, "two").acquire("e:1", 20))
        await asyncio.sleep(0)
        file.unlink()
        third = await Leases(tmp_path, "three").acquire("e:1", 1)
        with pytest.raises(Exception, match="taken away"):
            stale.check()
        stale.release()
        await asyncio.sleep(0.05)
        assert not waiting.done()  # it held the lock on the old file, and let go of it
        third.check()
        third.release()
        fourth = await waiting
        assert fourth.token == third.token + 1
        file.write_text("99 1 somebody\n")
        with pytest.raises(Exception, match=r"somebody \(pid 1\) has the lease"):
            fourth.check()
        fourth.release()

    event_loop.run(run())


def test_a_dead_unit_is_left_alone_and_its_neighbours_are_not_kept_waiting(tmp_path: Path) -> None:
    async def run() -> None:
        now_s = 0.0
        async with ScriptedDevice(sunspec_map(MODELS)) as device:
            limits = HealthLimits(failures_until_open=1)
            health = EndpointHealth(limits, monotonic_s=lambda: now_s)
            driver = ModbusDriver(tmp_path, "tests", ManualClock(NOON), health=health)
            links = [link_to(device.endpoint, unit) for unit in (1, 2, 3)]
            device.silent_units = {2}
            for _ in range(2):
                first, dead, last = await driver.read(links, PATIENCE_S)
                assert isinstance(first, Reading)
                assert isinstance(dead, Unreachable)
                assert isinstance(last, Reading)
                asked = device.asked.count(2)
            assert "left alone: 1 failures in a row" in dead.reason
            assert asked == 1
            device.silent_units = set()
            now_s = 2.0
            assert all(isinstance(one, Reading) for one in await driver.read(links, PATIENCE_S))

    event_loop.run(run())


def test_a_black_hole_is_asked_three_times_and_then_costs_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        with socket.socket() as black_hole:
            black_hole.bind(("127.0.0.1", 0))
            black_hole.listen()
            link = link_to(f"127.0.0.1:{black_hole.getsockname()[1]}")
            driver = ModbusDriver(tmp_path, "tests", ManualClock(NOON))
            reasons = []
            for _ in range(4):
                (answer,) = await driver.read([link], 0.6)
                assert isinstance(answer, Unreachable)
                reasons.append(answer.reason)
            assert "left alone" in reasons[-1]

    event_loop.run(run())
