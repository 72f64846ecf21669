from datetime import timedelta

import polars as pl
import pytest
from dispatch_cases import EV, PV, START, devices, schedules
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.dispatch.commands import PlanRef, due_commands
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.fleet.model import Battery, SimulatedConnection

PLAN = PlanRef("plan-a", 7)


def commands_of(rows: dict[str, float | None], **how: object) -> pl.DataFrame:
    return due_commands(PLAN, schedules(rows), devices(), START, **how).commands


def test_invariant_02_every_command_is_valid_until_a_grace_after_its_interval():
    row = commands_of({"battery": 3.0}).row(0, named=True)
    assert row["valid_from"] == row["interval_start"] == START
    assert row["valid_until"] == START + timedelta(minutes=20)


def test_the_grace_is_a_parameter():
    row = commands_of({"battery": 3.0}, grace=timedelta(minutes=1)).row(0, named=True)
    assert row["valid_until"] == START + timedelta(minutes=16)


def test_invariant_04_the_sequence_grows_by_one_an_interval():
    later = START + timedelta(minutes=15)
    first = due_commands(PLAN, schedules({"battery": 1.0}), devices(), START)
    second = due_commands(PLAN, schedules({"battery": 1.0}, later), devices(), later)
    assert second.commands["sequence"][0] == first.commands["sequence"][0] + 1
    assert first.commands["sequence"][0] == int(START.timestamp()) // 900


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["battery", "chp", "heat-pump"]),
            st.integers(0, 3),
            st.integers(0, 3),
            st.floats(-5, 5),
        ),
        max_size=8,
    )
)
@settings(max_examples=15, deadline=None)
def test_invariant_05_an_id_is_the_same_for_one_device_version_and_interval_and_for_no_other(asked):
    seen: dict[tuple[str, int, int], str] = {}
    for device_id, version, quarter, kw in asked:
        start = START + quarter * timedelta(minutes=15)
        plan = PlanRef(f"plan-of-{kw}", version)
        made = due_commands(plan, schedules({device_id: kw}, start), devices(), start)
        seen.setdefault((device_id, version, quarter), made.commands["command_id"][0])
        assert seen[device_id, version, quarter] == made.commands["command_id"][0]
    assert len(set(seen.values())) == len(seen)


def test_pv_is_told_its_cap_and_others_their_set_point():
    told = commands_of({"pv": 4.0, "battery": -2.0})
    assert dict(told.select("device_id", "setpoint_kw").rows()) == {"battery": -2.0, "pv": 4.0}


def test_a_load_is_told_nothing():
    due = due_commands(PLAN, schedules({"load": -1.0}), devices(), START)
    assert due.commands.is_empty()
    assert due.refused.is_empty()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None])
def test_invariant_01_a_row_that_is_no_number_is_refused_and_told(value):
    due = due_commands(PLAN, schedules({"battery": value, "pv": 1.0}), devices(), START)
    assert due.commands["device_id"].to_list() == ["pv"]
    refused = due.refused.row(0, named=True)
    assert refused["device_id"] == "battery"
    assert refused["field"] == "power_kw"
    assert "plan-a" in refused["reason"]
    assert "plan again" in refused["reason"]


def test_a_pv_row_without_a_cap_is_refused_by_that_field():
    due = due_commands(PLAN, schedules({"pv": None}), devices(), START)
    assert due.refused["field"].to_list() == ["limit_kw"]


def test_a_device_that_left_the_registry_is_refused():
    due = due_commands(PLAN, schedules({"battery": 1.0}), devices(PV), START)
    assert due.commands.is_empty()
    assert "registry" in due.refused["reason"][0]


def test_two_rows_for_one_device_are_both_refused():
    doubled = pl.concat([schedules({"battery": 1.0}), schedules({"battery": 2.0})])
    due = due_commands(PLAN, doubled, devices(), START)
    assert due.commands.is_empty()
    assert due.refused.height == 2


def test_other_intervals_are_left_alone():
    later = schedules({"battery": 1.0}, START + timedelta(minutes=15))
    assert due_commands(PLAN, later, devices(), START).commands.is_empty()


def test_a_solvers_noise_is_no_set_point():
    told = commands_of({"battery": -1e-9, "chp": 8.9999999999})
    assert told["setpoint_kw"].to_list() == [0.0, 9.0]


def test_invariant_21_only_a_simulated_or_live_device_may_be_written():
    simulated = Battery(
        device_id="simulated",
        connection=SimulatedConnection(over="modbus"),
        max_charge_kw=1,
        max_discharge_kw=1,
        energy_capacity_kwh=1,
    )
    real = EV.model_copy(update={"live": False})
    frame = devices(simulated, real, PV).with_columns(
        endpoint=pl.col("endpoint").fill_null("127.0.0.1:5020")
    )
    assert {link.device_id: link.writable for link in device_links(frame)} == {
        "simulated": True,
        "ev": False,
        "pv": True,
    }


def test_a_device_without_an_address_has_no_link():
    nowhere = devices().with_columns(endpoint=pl.lit(None, pl.String))
    assert device_links(nowhere) == []


def test_a_load_is_never_writable():
    links = {link.device_id: link for link in device_links(devices())}
    assert not links["load"].writable
