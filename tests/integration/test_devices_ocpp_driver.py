"""The OCPP driver through the central system: simulated chargers, and some that misbehave."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from devices_ocpp_bench import (
    CHARGER_KW,
    DEVICES,
    PATIENCE_S,
    QUARTER,
    SOON_S,
    START,
    WORLD,
    bench,
    command,
    link,
    scripted,
    until,
)

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.devices.ocpp import OcppDriver
from vpp_pipeline.devices.protocol import Outcome, Reading, Unreachable
from vpp_pipeline.simulation.fleet import SimulatedFleet


@asynccontextmanager
async def plant(directory, clock=None):
    """A central system, and a simulated plant whose two chargers call it."""
    async with bench(directory / "c", clock or ManualClock(START)) as made:
        fleet = SimulatedFleet(
            DEVICES,
            WORLD,
            made.clock,
            np.random.default_rng(2),
            directory / "simulation",
            central_system=directory / "c" / "url",
        )
        made.clock.on_move = fleet.step
        fleet.start(ticking=False)
        try:
            await made.connected("ev-1", "ev-2")
            await made.read(link(), link("ev-2"))  # by then each has begun its transaction
            yield made, fleet
        finally:
            await asyncio.to_thread(fleet.stop)


def test_invariant_02_a_charger_obeys_its_command_and_falls_back_by_itself_when_it_ends(tmp_path):
    async def scenario():
        async with plant(tmp_path) as (made, fleet):
            (free,) = await made.read()
            assert (free.power_kw, free.setpoint_kw, free.plugged_in) == (-11, None, True)
            orders = [command(-4.2), command(0.0, device_id="ev-2")]
            results = await made.command(*orders)
            assert [result.outcome for result in results] == [Outcome.ACKED] * 2
            assert "TxDefaultProfile" in results[0].sent
            assert "TxProfile" in results[0].sent
            backs = await made.read_back(*orders)
            assert [
                (b.matches, b.setpoint_kw, b.timer_remaining_s, b.has_timer) for b in backs
            ] == [
                (True, -4.2, 900, True),
                (True, 0.0, 900, True),
            ]
            made.clock.sleep_until(START + timedelta(minutes=5))
            told = await made.read(link(), link("ev-2"))
            assert [(r.power_kw, r.setpoint_kw) for r in told] == [(-4.2, -4.2), (0, 0)]
            assert {r.measured_at for r in told} == {made.clock.now()}
            # Nobody says anything more, as if the controller were dead.
            made.clock.sleep_until(START + QUARTER + timedelta(seconds=1))
            powers = [fleet.plant.reading(name).power_kw for name in ("ev-1", "ev-2")]
            assert powers == [-11, -11]

    asyncio.run(scenario())


def test_invariant_11_a_release_leaves_no_limit_and_is_seen_to(tmp_path):
    async def scenario():
        async with plant(tmp_path) as (made, fleet):
            await made.command(command(-4.2))
            (released,) = await made.release()
            assert (released.outcome, released.detail) == (Outcome.ACKED, "")
            assert fleet.plant.setpoint("ev-1") is None
            assert (await made.read())[0].power_kw == -11
            (again,) = await made.release()
            assert again.outcome is Outcome.ACKED

    asyncio.run(scenario())


def test_a_vehicle_that_comes_within_the_interval_meets_the_limit(tmp_path):
    async def scenario():
        before = ManualClock(START - timedelta(minutes=46))  # ev-2's vehicle comes before 06:00
        async with plant(tmp_path, before) as (made, _):
            assert [r.plugged_in for r in await made.read(link("ev-2"))] == [False]
            order = replace(
                command(-4.2, device_id="ev-2"),
                valid_from=before.now(),
                valid_until=before.now() + 2 * QUARTER,
            )
            (result,) = await made.command(order)
            assert result.outcome is Outcome.ACKED
            assert '"chargingProfilePurpose":"TxProfile"' not in result.sent
            before.sleep_until(START - timedelta(minutes=30))
            (there,) = await made.read(link("ev-2"))
            assert (there.plugged_in, there.power_kw, there.setpoint_kw) == (True, -4.2, -4.2)

    asyncio.run(scenario())


def test_invariant_20_a_simulated_charger_refuses_what_a_real_one_would(tmp_path):
    async def scenario():
        async with plant(tmp_path) as (made, fleet):
            beyond = [(link(max_draw_kw=30), command(-20.0))]
            wrong_connector = [(link(unit_id=2), command(-5.0))]
            for orders in (beyond, wrong_connector):
                (result,) = await made.driver.command(orders, START, 5)
                assert result.outcome is Outcome.REJECTED
                assert "Rejected" in result.detail
            for out_of_order, status in (("Faulted", "fault"), ("Unavailable", "local")):
                fleet.charge_points.set_out_of_order("ev-1", out_of_order)
                (result,) = await made.command(command(-5.0))
                assert result.outcome is Outcome.REJECTED
                assert (await made.read())[0].status == status
            fleet.charge_points.set_out_of_order("ev-1", None)
            assert (await made.command(command(-5.0)))[0].outcome is Outcome.ACKED

    asyncio.run(scenario())


def test_a_dead_charge_point_is_told_as_such_and_comes_back(tmp_path):
    async def scenario():
        async with plant(tmp_path) as (made, fleet):
            assert isinstance((await made.read())[0], Reading)
            fleet.plant.set_outage("ev-1", out=True)
            fleet.step()
            await until(lambda: "ev-1" not in made.central.connected())
            (silent, other) = await made.read(link(), link("ev-2"))
            assert isinstance(silent, Unreachable)
            assert "ev-1 is not connected, last heard of at 2020-08-13 06:30:00" in silent.reason
            assert isinstance(other, Reading)
            (result,) = await made.command(command(-5.0))
            assert (result.outcome, result.sent) == (Outcome.FAILED, "")
            fleet.plant.set_outage("ev-1", out=False)
            fleet.step()
            await made.connected("ev-1")
            assert (await made.command(command(-5.0)))[0].outcome is Outcome.ACKED

    asyncio.run(scenario())


def test_a_charge_point_without_power_for_a_moment_keeps_its_profiles(tmp_path):
    async def scenario():
        async with plant(tmp_path) as (made, _):
            await made.command(command(-4.2))
        async with plant(tmp_path, ManualClock(START + timedelta(minutes=1))) as (made, fleet):
            (back,) = await made.read_back(command(-4.2))
            assert (back.matches, back.timer_remaining_s) == (True, 840)
            assert fleet.plant.reading("ev-1").power_kw == pytest.approx(-4.2)

    asyncio.run(scenario())


def test_invariant_07_an_accepted_command_without_effect_is_found(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            (result,) = await made.command(command(-4.0))
            assert result.outcome is Outcome.ACKED
            (nothing,) = await made.read_back(command(-4.0))
            assert (nothing.matches, nothing.setpoint_kw) == (False, None)
            for limit, matches, kw in (
                (4000.0, True, -4.0),
                (6000.0, False, -6.0),
                (11000.0, False, None),
                (0.0, False, 0.0),
            ):
                point.allows(limit, then=(900, 11000.0))
                (back,) = await made.read_back(command(-4.0))
                assert (back.matches, back.setpoint_kw) == (matches, kw)

    asyncio.run(scenario())


def test_invariant_02_a_limit_that_does_not_end_with_the_command_is_no_match(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            point.allows(4000.0, duration=86400)
            (back,) = await made.read_back(command(-4.0))
            assert (back.matches, back.has_timer, back.setpoint_kw) == (False, False, -4.0)
            assert "beyond its validTo" in back.detail

    asyncio.run(scenario())


def test_invariant_11_a_release_without_effect_is_unknown(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            point.allows(4000.0)
            (result,) = await made.release()
            assert result.outcome is Outcome.UNKNOWN
            assert "allows 4 kW of 11" in result.detail
            point.answers["ClearChargingProfile"] = None
            (silent,) = await made.release(timeout_s=SOON_S)
            assert silent.outcome is Outcome.UNKNOWN

    asyncio.run(scenario())


def test_invariant_06_a_lost_answer_is_unknown_until_it_is_read_back(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            point.answers["SetChargingProfile"] = None
            (result,) = await made.command(command(-4.0), timeout_s=SOON_S)
            assert result.outcome is Outcome.UNKNOWN
            assert "SetChargingProfile" in result.sent
            point.allows(4000.0, then=(900, 11000.0))
            (back,) = await made.read_back(command(-4.0))
            assert (back.matches, back.timer_remaining_s) == (True, 900)

    asyncio.run(scenario())


def test_invariant_06_a_charge_point_that_hangs_up_before_it_answers_is_unknown(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            point.answers["SetChargingProfile"] = None
            ordered = asyncio.create_task(made.command(command(-4.0)))
            await until(point.profiles)
            point.connection.transport.abort()
            (result,) = await ordered
            assert result.outcome is Outcome.UNKNOWN
            assert "hung up" in result.detail

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"status": "Accepted"}, Outcome.ACKED),
        ({"status": "Rejected"}, Outcome.REJECTED),
        ({"status": "NotSupported"}, Outcome.REJECTED),
        (("NotImplemented", "no smart charging"), Outcome.REJECTED),
        (("PropertyConstraintViolation", "stackLevel"), Outcome.REJECTED),
        (("SecurityError", "who are you"), Outcome.REJECTED),
        (("InternalError", "half done"), Outcome.UNKNOWN),
        (("GenericError", ""), Outcome.UNKNOWN),
        (("NoSuchCode", "invented"), Outcome.REJECTED),
        ({"status": "Perhaps"}, Outcome.UNKNOWN),
        ({}, Outcome.UNKNOWN),
    ],
)
def test_invariant_18_only_what_may_have_been_applied_or_may_pass_is_in_doubt(
    tmp_path, answer, outcome
):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            point.answers["SetChargingProfile"] = answer
            (result,) = await made.command(command(-4.0))
            assert result.outcome is outcome
            assert result.sent.startswith("[2,")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("power_kw", "where", "why"),
    [
        (-4.0, {"writable": False}, "read-only"),
        (2.0, {"max_inject_kw": 5.0}, "no discharging"),
        (float("nan"), {}, "no finite number"),
        (-12.0, {}, "outside the nameplate"),
    ],
)
def test_invariant_01_and_21_nothing_is_sent_that_must_not_be(tmp_path, power_kw, where, why):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            order = [(link(**where), command(power_kw))]
            (result,) = await made.driver.command(order, START, 5)
            assert (result.outcome, result.sent) == (Outcome.REJECTED, "")
            assert why in result.detail
            assert point.asked == []

    asyncio.run(scenario())


def test_a_read_only_charger_is_not_released_and_an_early_command_waits(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            (released,) = await made.release(link(writable=False))
            (early,) = await made.command(command(-4.0, START + QUARTER))
            assert {released.outcome, early.outcome} == {Outcome.REJECTED}
            assert "send it then" in early.detail
            assert point.asked == []

    asyncio.run(scenario())


def test_the_transaction_that_runs_is_limited_whoever_knows_its_id(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            await point.status("Charging")
            await made.command(command(-4.0))
            transaction_id = await point.start_transaction()
            await made.command(command(-4.0))
            profiles = point.profiles()
            assert [profile["chargingProfilePurpose"] for profile in profiles] == [
                "TxDefaultProfile",
                "TxProfile",
            ] * 2
            assert [p.get("transactionId") for p in profiles[1::2]] == [None, transaction_id]
            assert {p["validTo"] for p in profiles} == {"2020-08-13T06:45:00Z"}

    asyncio.run(scenario())


def test_a_charge_point_that_tells_no_status_may_be_charging_and_is_limited_as_if(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            (result,) = await made.command(command(-4.0))
            assert (result.outcome, len(point.profiles())) == (Outcome.ACKED, 2)

    asyncio.run(scenario())


def test_a_limit_for_a_transaction_that_ends_meanwhile_is_none_for_the_charge_point_to_refuse(
    tmp_path,
):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            await point.status("Charging")

            async def leave():
                if len(point.profiles()) == 1:
                    point.before["SetChargingProfile"] = [leave]
                    return
                await point.status("Available", START + timedelta(seconds=1))
                point.answers["SetChargingProfile"] = {"status": "Rejected"}

            point.before["SetChargingProfile"] = [leave]
            (result,) = await made.command(command(-4.0))
            assert (result.outcome, len(point.profiles())) == (Outcome.ACKED, 2)
            assert "none any more" in result.detail

    asyncio.run(scenario())


def test_a_transaction_that_begins_while_the_limit_is_on_its_way_is_limited_too(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:  # it tells no status

            async def next_time():
                point.before["SetChargingProfile"] = [begin]

            async def begin():
                await point.start_transaction()
                point.answers["SetChargingProfile"] = {"status": "Rejected"}
                point.before["SetChargingProfile"] = [accept]

            async def accept():
                point.answers["SetChargingProfile"] = {"status": "Accepted"}

            point.before["SetChargingProfile"] = [next_time]
            (result,) = await made.command(command(-4.0))
            assert result.outcome is Outcome.ACKED
            ids = [profile.get("transactionId") for profile in point.profiles()]
            assert ids[:2] == [None, None]
            assert ids[2] is not None
            assert f'"transactionId":{ids[2]}' in result.sent

    asyncio.run(scenario())


def test_one_call_is_in_flight_at_a_time_and_one_that_had_no_turn_was_not_sent(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            await point.status("Available")
            await made.command(command(-4.0))
            told = len(point.asked)
            point.answers["SetChargingProfile"] = None
            results = await made.command(command(-4.0), command(-5.0), timeout_s=SOON_S)
            assert sorted(result.outcome for result in results) == ["FAILED", "UNKNOWN"]
            assert len(point.asked) == told + 1

    asyncio.run(scenario())


def test_a_late_answer_is_not_taken_for_the_next_calls(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            await point.status("Available")
            point.answers["SetChargingProfile"] = None
            await made.command(command(-4.0), timeout_s=SOON_S)
            late = point.numbers[-1]
            point.before["SetChargingProfile"] = [
                lambda: point.raw(f'[3,"{late}",{{"status":"Rejected"}}]')
            ]
            point.answers["SetChargingProfile"] = {"status": "Accepted"}
            (result,) = await made.command(command(-4.0))
            assert result.outcome is Outcome.ACKED

    asyncio.run(scenario())


def test_a_second_connection_of_one_charge_point_takes_over(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as old:
            await old.status("Charging")
            async with scripted(made) as new:
                await until(lambda: old.connection.close_code is not None)
                assert made.central.connected() == {"ev-1"}
                (result,) = await made.command(command(-4.0))
                assert result.outcome is Outcome.ACKED
                assert (len(new.profiles()), len(old.profiles())) == (2, 0)

    asyncio.run(scenario())


def test_a_charge_point_is_found_again_after_the_central_system_was_killed(tmp_path):
    async def scenario():
        clock = ManualClock(START)
        async with plant(tmp_path, clock) as (made, _):
            driver = made.driver
            await made.central.__aexit__()
            (gone,) = await driver.command([(link(), command(-4.0))], START, 1)
            assert gone.outcome is Outcome.FAILED
            assert "vpp charge-points" in gone.detail
            async with bench(tmp_path / "c", clock) as again:
                await again.connected("ev-1", "ev-2")
                # It knows of the transaction only by what it asks.
                (result,) = await driver.command([(link(), command(-4.0))], START, PATIENCE_S)
                assert result.outcome is Outcome.ACKED
                assert '"chargingProfilePurpose":"TxProfile"' in result.sent

    asyncio.run(scenario())


def test_a_charge_point_that_takes_amperes_of_one_phase_gets_them(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            point.answers["GetConfiguration"] = {
                "configurationKey": [
                    {"key": key, "readonly": True, "value": value}
                    for key, value in (
                        ("ChargingScheduleAllowedChargingRateUnit", "Current"),
                        ("ConnectorPhaseRotation", "0.NotApplicable,1.NotApplicable"),
                        ("ChargeProfileMaxStackLevel", "7"),
                    )
                ]
            }
            await point.status("Available")
            one_phase = link(max_draw_kw=7.36)
            await made.driver.command([(one_phase, command(-3.0))], START, 5)
            (profile,) = point.profiles()
            assert profile["stackLevel"] == 7
            assert profile["chargingSchedule"]["chargingRateUnit"] == "A"
            (period,) = profile["chargingSchedule"]["chargingSchedulePeriod"]
            assert period == {"startPeriod": 0, "limit": 13.0, "numberPhases": 1}
            point.allows(13.0, "A", then=(900, 32.0))
            (back,) = await made.driver.read_back([(one_phase, command(-3.0))], 5)
            assert (back.matches, back.setpoint_kw) == (True, pytest.approx(-2.99))

    asyncio.run(scenario())


def test_invariant_15_a_reading_is_as_old_as_its_sampling(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            await point.status("Charging", START - timedelta(hours=1))
            (nothing_measured,) = await made.read()
            assert nothing_measured.measured_at == START - timedelta(hours=1)
            assert nothing_measured.power_kw is None
            earlier, later = START - timedelta(minutes=40), START - timedelta(minutes=30)
            await point.meter(later, Power_Active_Import=("7.2", "kW"), SoC=("40", "Percent"))
            await point.meter(earlier, Power_Active_Import=("1.0", "kW"))
            (old,) = await made.read()
            assert (old.measured_at, old.power_kw, old.energy_kwh) == (later, -7.2, 24.0)

    asyncio.run(scenario())


def test_what_is_no_ocpp_is_answered_with_an_error_and_changes_nothing(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            await point.status("Charging")
            for text in (
                "{",
                "[]",
                "[9,1]",
                '[2,"x"]',
                '[3,"x",{"status":"Accepted"}]',
                "[2,{},[],1]",
            ):
                await point.raw(text)
            reply = await point.say("StatusNotification", {"connectorId": "one"})
            assert reply[0] == 4
            reply = await point.say(
                "MeterValues",
                {"connectorId": 1, "meterValue": [{"timestamp": "noon", "sampledValue": []}]},
            )
            assert reply[:1] == [4]
            reply = await point.say("NoSuchAction", {})
            assert reply[2] == "NotSupported"
            assert (await made.read())[0].plugged_in is True

    asyncio.run(scenario())


def test_a_start_that_is_sent_again_is_the_same_transaction(tmp_path):
    async def scenario():
        async with bench(tmp_path) as made, scripted(made) as point:
            first = await point.start_transaction()
            assert await point.start_transaction() == first
            await point.say(
                "StopTransaction",
                {"transactionId": first, "meterStop": 1, "timestamp": START.isoformat()},
            )
            assert await point.start_transaction() == first  # late, and over
            assert await point.start_transaction(START + QUARTER) > first
            await made.command(command(-4.0))
            assert point.profiles()[-1]["transactionId"] == first + 1

    asyncio.run(scenario())


def test_without_a_central_system_nothing_is_sent_and_the_remedy_is_named(tmp_path):
    async def scenario():
        driver = OcppDriver(tmp_path / "commands.sock", ManualClock(START))
        (reading,) = await driver.read([link()], 1)
        (result,) = await driver.command([(link(), command(-4.0))], START, 1)
        (back,) = await driver.read_back([(link(), command(-4.0))], 1)
        (released,) = await driver.release([link()], 1)
        await driver.close()
        assert {result.outcome, released.outcome} == {Outcome.FAILED}
        for words in (reading.reason, back.reason, result.detail, released.detail):
            assert "start it with `vpp charge-points`" in words

    asyncio.run(scenario())


def test_silent_charge_points_do_not_delay_the_others(tmp_path):
    async def scenario():
        async with (
            bench(tmp_path) as made,
            scripted(made) as silent,
            scripted(made, "ev-2") as well,
        ):
            silent.answers = dict.fromkeys(silent.answers)
            await well.status("Available")
            loop = asyncio.get_running_loop()
            began = loop.time()
            slow = asyncio.create_task(made.command(command(-4.0)))
            await until(lambda: silent.asked)
            (quick,) = await made.command(command(-4.0, device_id="ev-2"))
            assert quick.outcome is Outcome.ACKED
            assert not slow.done()
            slow.cancel()
            assert loop.time() - began < CHARGER_KW

    asyncio.run(scenario())
