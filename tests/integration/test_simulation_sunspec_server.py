"""The simulated SunSpec gateways, seen by the driver and by pysunspec2's own client."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from devices_modbus_fake_plant import BATTERY, NOON, PV, FakePlant, command_of, link_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.constants import ExcCodes
from sunspec2.modbus.client import SunSpecModbusClientDeviceTCP

from vpp_pipeline.devices import sunspec
from vpp_pipeline.devices.modbus import ModbusDriver
from vpp_pipeline.devices.protocol import Outcome, ReadBack, Reading, Unreachable
from vpp_pipeline.devices.sunspec_control import differences, set_point_frame, steering
from vpp_pipeline.simulation.sunspec_registers import FOREVER, SunspecUnit, UnitRegisters
from vpp_pipeline.simulation.sunspec_server import PortTaken, SunspecGateways

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from pathlib import Path

PATIENCE_S = 30.0
METER = SunspecUnit("meter-1", "load", 0.0, 20.0)
CHP = SunspecUnit("chp-1", "chp", 50.0, 0.0)
UNITS = (BATTERY, PV, METER, CHP)
IDS = {unit.device_id: number for number, unit in enumerate(UNITS, 1)}


class Bench:
    """One site of simulated devices, a driver, and the plant behind them."""

    def __init__(self, lease_dir: Path) -> None:
        self.plant = FakePlant()
        self.driver = ModbusDriver(lease_dir, "tests", self.plant.clock)
        self.gateways = SunspecGateways({"site-1": UNITS}, self.plant)
        self.links: dict[str, tuple[str, int]] = {}

    def link(self, unit: SunspecUnit) -> Any:
        return link_of(unit, self.links)

    async def read(self, unit: SunspecUnit) -> Reading:
        (reading,) = await self.driver.read([self.link(unit)], PATIENCE_S)
        assert isinstance(reading, Reading), reading
        return reading

    async def command(self, unit: SunspecUnit, power_kw: float, minutes: float = 15) -> Any:
        order = (self.link(unit), command_of(unit, power_kw, self.plant.clock.now(), minutes))
        (result,) = await self.driver.command([order], self.plant.clock.now(), PATIENCE_S)
        (back,) = await self.driver.read_back([order], PATIENCE_S)
        assert isinstance(back, ReadBack), back
        return result, back

    def after(self, minutes: float) -> None:
        self.plant.clock.sleep_until(self.plant.clock.now() + timedelta(minutes=minutes))

    @contextlib.asynccontextmanager
    async def raw(self) -> AsyncIterator[AsyncModbusTcpClient]:
        host, port = self.links[BATTERY.device_id][0].split(":")
        client = AsyncModbusTcpClient(host, port=int(port), retries=0, reconnect_delay=0)
        assert await client.connect()
        try:
            yield client
        finally:
            client.close()

    async def theirs(self, unit: SunspecUnit, use: Callable[[Any], Any]) -> Any:
        """Call `use` with pysunspec2's own client, after its scan, in a thread."""
        endpoint, unit_id = self.links[unit.device_id]

        def ask() -> Any:
            client = SunSpecModbusClientDeviceTCP(
                slave_id=unit_id, ipaddr="127.0.0.1", ipport=int(endpoint.split(":")[1]), timeout=10
            )
            client.connect()
            try:
                client.scan(connect=False)
                return use(client)
            finally:
                client.disconnect()

        return await asyncio.to_thread(ask)


def on_bench(lease_dir: Path, scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        bench = Bench(lease_dir)
        bench.links = await bench.gateways.start()
        try:
            await scenario(bench)
        finally:
            await bench.driver.close()
            await bench.gateways.stop()

    asyncio.run(run())


def address_of(model_id: int, name: str, unit: SunspecUnit) -> int:
    """Find a point by walking the served map, as a stranger would."""
    registers = UnitRegisters(unit, FakePlant())
    address = 40002
    while True:
        header = registers.read(address, 2)
        assert isinstance(header, list)
        if header[0] == model_id:
            return address + sunspec.layout(model_id)[name].offset
        address += 2 + header[1]


def test_another_sunspec_client_finds_the_models_and_reads_the_commanded_power(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.plant.readings["battery-1"] = Reading(
            "battery-1", NOON, energy_kwh=6.75, heartbeat=77
        )
        await bench.command(BATTERY, -2.345)
        await bench.command(PV, 7.5)

        def battery(client: Any) -> tuple[Any, ...]:
            assert [m.model_id for m in client.model_list] == [1, 701, 702, 704, 713, 715]
            assert all(not model.error_info for model in client.model_list)
            control, storage = client.models[704][0], client.models[713][0]
            return (
                client.models[1][0].SN.value,
                client.models[701][0].W.cvalue,
                client.models[702][0].WMaxRtg.cvalue,
                (control.WSetEna.value, control.WSetMod.value, control.WSet.cvalue),
                (control.WSetRvrtTms.value, control.WSetRvrtRem.value),
                (storage.WHRtg.cvalue, storage.WHAvail.cvalue, storage.SoC.cvalue),
                client.models[715][0].DERHb.value,
            )

        assert await bench.theirs(BATTERY, battery) == (
            "battery-1",
            -2345,
            5000,
            (1, 1, -2345),
            (900, 900),
            (13500, 6750, 50.0),
            77,
        )

        def pv(client: Any) -> tuple[Any, ...]:
            control = client.models[704][0]
            assert 713 not in client.models
            return control.WMaxLimPctEna.value, control.WMaxLimPct.cvalue, control.WSetEna.value

        assert await bench.theirs(PV, pv) == (1, 75.0, None)

    on_bench(tmp_path, scenario)


def test_another_clients_set_point_is_obeyed_and_found_to_be_not_ours(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.command(BATTERY, 1.0)

        def overrule(client: Any) -> None:
            client.models[704][0].WSet.cvalue = -1500
            client.models[704][0].write()

        await bench.theirs(BATTERY, overrule)
        order = (bench.link(BATTERY), command_of(BATTERY, 1.0))
        (back,) = await bench.driver.read_back([order], PATIENCE_S)
        assert isinstance(back, ReadBack)
        assert (back.matches, back.setpoint_kw) == (False, -1.5)
        assert (await bench.read(BATTERY)).power_kw == -1.5

    on_bench(tmp_path, scenario)


@pytest.mark.parametrize(
    ("unit", "power_kw"), [(BATTERY, 5.0), (BATTERY, -4.0), (PV, 0.0), (PV, 10.0), (CHP, 33.3)]
)
def test_what_is_commanded_is_applied_verified_and_read(
    tmp_path: Path, unit: SunspecUnit, power_kw: float
) -> None:
    async def scenario(bench: Bench) -> None:
        result, back = await bench.command(unit, power_kw)
        assert result.outcome is Outcome.ACKED, result
        assert back.matches, back
        assert back.timer_remaining_s == 900
        assert back.setpoint_kw == pytest.approx(power_kw, abs=0.006)
        reading = await bench.read(unit)
        assert reading.setpoint_kw == back.setpoint_kw
        ((device_id, applied),) = bench.plant.applied
        assert (device_id, applied.until) == (unit.device_id, NOON + timedelta(minutes=15))

    on_bench(tmp_path, scenario)


def test_a_device_falls_back_by_itself_when_nobody_refreshes(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.command(BATTERY, 3.0)
        bench.after(minutes=7.5)
        order = (bench.link(BATTERY), command_of(BATTERY, 3.0))
        (half,) = await bench.driver.read_back([order], PATIENCE_S)
        assert isinstance(half, ReadBack)
        assert (half.matches, half.timer_remaining_s) == (True, 450.0)
        bench.after(minutes=7.5)
        (over,) = await bench.driver.read_back([order], PATIENCE_S)
        assert isinstance(over, ReadBack)
        assert (over.matches, over.setpoint_kw, over.timer_remaining_s) == (False, None, None)
        assert (await bench.read(BATTERY)).power_kw == 0.0

    on_bench(tmp_path, scenario)


def test_a_refreshed_set_point_runs_on(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.command(BATTERY, 3.0)
        bench.after(minutes=10)
        await bench.command(BATTERY, 3.0)
        bench.after(minutes=10)
        assert (await bench.read(BATTERY)).setpoint_kw == 3.0
        bench.after(minutes=5)
        assert (await bench.read(BATTERY)).setpoint_kw is None

    on_bench(tmp_path, scenario)


def test_a_set_point_over_a_zero_timer_is_obeyed_for_ever_and_shows_it(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        def hold(client: Any) -> None:
            control = client.models[704][0]
            control.WSetEna.value, control.WSetMod.value = 1, 1
            control.WSet.value, control.WSetRvrt.value = 2000, 0
            control.WSetPct.value, control.WSetPctRvrt.value = 0, 0
            control.WSetEnaRvrt.value, control.WSetRvrtTms.value = 0, 0
            control.write()

        await bench.theirs(BATTERY, hold)
        assert bench.plant.applied[-1][1].until == FOREVER
        bench.after(minutes=60 * 24 * 365)
        assert (await bench.read(BATTERY)).setpoint_kw == 2.0
        order = (bench.link(BATTERY), command_of(BATTERY, 2.0))
        (back,) = await bench.driver.read_back([order], PATIENCE_S)
        assert isinstance(back, ReadBack)
        assert not back.matches
        assert back.detail == "no reversion timer is armed"

    on_bench(tmp_path, scenario)


def test_invariant_11_a_release_returns_the_device_to_its_default_and_is_read_back(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        for unit in (BATTERY, PV):
            await bench.command(unit, 2.0)
        links = [bench.link(BATTERY), bench.link(PV)]
        assert [one.outcome for one in await bench.driver.release(links, PATIENCE_S)] == [
            Outcome.ACKED
        ] * 2
        assert [(await bench.read(unit)).setpoint_kw for unit in (BATTERY, PV)] == [None, None]
        assert bench.plant.setpoint("battery-1") is None

    on_bench(tmp_path, scenario)


def test_pv_that_nothing_curtails_says_what_it_could_give(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.plant.readings["pv-1"] = Reading("pv-1", NOON, power_kw=6.4)
        assert (await bench.read(PV)).available_power_kw == 6.4
        await bench.command(PV, 2.0)
        assert (await bench.read(PV)).available_power_kw is None

    on_bench(tmp_path, scenario)


def test_a_dead_device_behind_a_gateway_does_not_silence_the_others(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.plant.out = {"battery-1", "meter-1"}
        links = [bench.link(unit) for unit in UNITS]
        answers = await bench.driver.read(links, PATIENCE_S)
        assert [isinstance(one, Unreachable) for one in answers] == [True, False, True, False]
        assert "target did not answer" in answers[0].reason  # type: ignore[union-attr]
        order = (links[0], command_of(BATTERY, 1.0))
        (result,) = await bench.driver.command([order], NOON, PATIENCE_S)
        assert (result.outcome, result.sent) == (Outcome.FAILED, "")
        bench.plant.out = set()
        assert isinstance((await bench.driver.read(links, PATIENCE_S))[0], Reading)

    on_bench(tmp_path, scenario)


def test_what_the_plant_does_not_know_is_not_a_number(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.plant.readings["battery-1"] = Reading("battery-1", NOON, status="fault")
        bench.plant.readings["pv-1"] = Reading("pv-1", NOON, power_kw=float("nan"))
        bench.plant.readings["chp-1"] = Reading("chp-1", NOON, power_kw=1e9)
        battery = await bench.read(BATTERY)
        assert (battery.power_kw, battery.energy_kwh, battery.heartbeat) == (None, None, None)
        assert battery.status == "fault"
        assert (await bench.read(PV)).power_kw is None
        assert (await bench.read(CHP)).power_kw is None

    on_bench(tmp_path, scenario)


def test_somebody_on_site_keeps_the_control(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.plant.readings["battery-1"] = Reading("battery-1", NOON, status="local")
        assert (await bench.read(BATTERY)).status == "local"
        result, _ = await bench.command(BATTERY, 1.0)
        assert result.outcome is Outcome.REJECTED
        assert "LOCAL" in result.detail
        (released,) = await bench.driver.release([bench.link(BATTERY)], PATIENCE_S)
        assert released.outcome is Outcome.REJECTED
        assert bench.plant.applied == []
        async with bench.raw() as client:
            start = address_of(704, "WSetEna", BATTERY)
            forced = await client.write_registers(start, enabled_for_900_s(1000), device_id=1)
            assert forced.exception_code == ExcCodes.ILLEGAL_VALUE

    on_bench(tmp_path, scenario)


def test_a_device_that_says_yes_and_does_nothing_is_not_verified(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.plant.deaf = {"battery-1"}
        result, back = await bench.command(BATTERY, 1.0)
        assert result.outcome is Outcome.ACKED
        assert not back.matches

    on_bench(tmp_path, scenario)


def enabled_for_900_s(watts: int, enable: int = 1, mode: int = 1, revert: int = 0) -> list[int]:
    high, low = (watts >> 16) & 0xFFFF, watts & 0xFFFF
    return [enable, mode, high, low, 0, 0, 0, 0, revert, 0, 900]


@pytest.mark.parametrize(
    ("registers", "code"),
    [
        (enabled_for_900_s(5000), None),
        (enabled_for_900_s(5100), ExcCodes.ILLEGAL_VALUE),
        (enabled_for_900_s(-4100), ExcCodes.ILLEGAL_VALUE),
        (enabled_for_900_s(1000, enable=2), ExcCodes.ILLEGAL_VALUE),
        (enabled_for_900_s(1000, mode=0), ExcCodes.ILLEGAL_VALUE),
        (enabled_for_900_s(1000, revert=1), ExcCodes.ILLEGAL_VALUE),
        ([*enabled_for_900_s(1000)[:9], 0xFFFF, 0xFFFF], ExcCodes.ILLEGAL_VALUE),
        ([*enabled_for_900_s(1000), 0, 0], ExcCodes.ILLEGAL_ADDRESS),
    ],
)
def test_invariant_20_a_write_is_taken_whole_or_refused_whole(
    tmp_path: Path, registers: Sequence[int], code: ExcCodes | None
) -> None:
    async def scenario(bench: Bench) -> None:
        start = address_of(704, "WSetEna", BATTERY)
        async with bench.raw() as client:
            before = (await client.read_holding_registers(start, count=11, device_id=1)).registers
            answer = await client.write_registers(start, list(registers), device_id=1)
            after = (await client.read_holding_registers(start, count=11, device_id=1)).registers
        if code is None:
            assert not answer.isError()
            assert after == registers
        else:
            assert answer.exception_code == code
            assert after == before
            assert bench.plant.applied == []

    on_bench(tmp_path, scenario)


def test_invariant_20_read_only_and_unknown_registers_functions_and_units_are_refused(
    tmp_path: Path,
) -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.raw() as client:
            power = address_of(701, "W", BATTERY)
            answers = [
                (await client.write_register(power, 1, device_id=1), 2),
                (
                    await client.write_register(
                        address_of(704, "WSetRvrtRem", BATTERY), 1, device_id=1
                    ),
                    2,
                ),
                (await client.write_register(39999, 1, device_id=1), 2),
                (await client.read_holding_registers(39999, count=1, device_id=1), 2),
                (await client.read_holding_registers(40000, count=1, device_id=99), 11),
                (await client.read_holding_registers(41000, count=1, device_id=1), 2),
                (await client.read_input_registers(40000, count=1, device_id=1), 1),
                (
                    await client.write_register(
                        address_of(704, "WMaxLimPct", BATTERY), 1, device_id=1
                    ),
                    2,
                ),
            ]
            assert [one.exception_code for one, _ in answers] == [code for _, code in answers]
            heartbeat = address_of(715, "ControllerHb", BATTERY)
            assert not (await client.write_registers(heartbeat, [0, 5], device_id=1)).isError()
            assert bench.plant.applied == []

    on_bench(tmp_path, scenario)


def test_a_plain_load_can_be_read_and_has_nothing_to_write(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.plant.readings["meter-1"] = Reading("meter-1", NOON, power_kw=-3.5, heartbeat=1)
        reading = await bench.read(METER)
        assert (reading.power_kw, reading.setpoint_kw, reading.heartbeat) == (-3.5, None, 1)
        assert await bench.theirs(METER, lambda client: 704 not in client.models)

    on_bench(tmp_path, scenario)


def test_sites_keep_their_ports_over_a_restart_and_units_their_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        sites = {"north": [BATTERY, PV], "south": [CHP]}
        first = SunspecGateways(sites, FakePlant())
        links = await first.start()
        assert [unit_id for _, unit_id in links.values()] == [1, 2, 1]
        assert links["battery-1"][0] == links["pv-1"][0] != links["chp-1"][0]
        ports = {"north": int(links["pv-1"][0].split(":")[1])}
        second = SunspecGateways(sites, FakePlant())
        with pytest.raises(
            PortTaken, match=r"site north: 127\.0\.0\.1:\d+ can't be listened on; stop"
        ):
            await second.start(ports)
        await first.stop()
        await first.stop()
        again = await second.start(ports)
        assert again["battery-1"] == links["battery-1"]
        driver = ModbusDriver(tmp_path, "tests", FakePlant().clock)
        (reading,) = await driver.read([link_of(BATTERY, again)], PATIENCE_S)
        assert isinstance(reading, Reading)
        await second.stop()

    asyncio.run(scenario())


def test_a_site_with_more_devices_than_unit_ids_is_told_what_to_do() -> None:
    crowd = [SunspecUnit(f"pv-{number}", "pv", 1.0, 0.0) for number in range(248)]
    with pytest.raises(ValueError, match=r"site big has 248 Modbus devices.*split"):
        SunspecGateways({"big": crowd}, FakePlant())


@settings(max_examples=60, deadline=None)
@given(
    unit=st.sampled_from(UNITS),
    address=st.integers(0, 65535) | st.integers(39990, 40400),
    values=st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=20),
)
def test_no_write_ever_breaks_the_map_or_leaves_the_nameplate(
    unit: SunspecUnit, address: int, values: list[int]
) -> None:
    plant = FakePlant()
    registers = UnitRegisters(unit, plant)
    answer = registers.write(address, values)
    assert answer in {None, ExcCodes.ILLEGAL_ADDRESS, ExcCodes.ILLEGAL_VALUE}
    assert registers.read(40000, 3) == [0x5375, 0x6E53, 1]
    for _, setpoint in plant.applied:
        assert -unit.max_draw_kw <= setpoint.setpoint_kw <= unit.max_inject_kw


@settings(max_examples=60, deadline=None)
@given(
    nameplate_kw=st.floats(0.1, 200_000),
    share=st.floats(-1, 1),
    store=st.booleans(),
)
def test_any_nameplate_is_published_and_any_set_point_in_it_can_be_commanded(
    nameplate_kw: float, share: float, store: bool
) -> None:
    unit = SunspecUnit(
        "x",
        "battery" if store else "pv",
        nameplate_kw,
        nameplate_kw if store else 0.0,
        energy_capacity_kwh=nameplate_kw * 2 if store else None,
    )
    power_kw = nameplate_kw * (share if store else abs(share))
    plant = FakePlant()
    registers = UnitRegisters(unit, plant)
    control, rating = (block_of(registers, model_id, unit) for model_id in (704, 702))
    frame = set_point_frame(unit.device_type, power_kw, 900, control, rating)
    start = address_of(704, frame.values[0][0], unit)
    assert registers.write(start, frame.registers) is None
    ((_, applied),) = plant.applied
    assert applied.setpoint_kw == pytest.approx(power_kw, abs=nameplate_kw * 6e-4 + 0.0011)
    assert not differences(
        dict(frame.values), block_of(registers, 704, unit), steering(unit.device_type).kept
    )


def block_of(registers: UnitRegisters, model_id: int, unit: SunspecUnit) -> sunspec.Block:
    length = max(point.end for point in sunspec.layout(model_id).values())
    words = registers.read(address_of(model_id, "ID", unit), length)
    assert isinstance(words, list)
    return sunspec.Block(model_id, tuple(words))
