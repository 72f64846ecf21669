from datetime import timedelta

import flexibility_fleets as given
import polars as pl
import pytest

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.flexibility.states import project, usable_states

AT = given.utc(2025, 1, 15, 12)
MAX_AGE = timedelta(minutes=10)
DEVICES = given.frame(
    given.site(
        "home",
        [
            given.battery("battery"),
            given.vehicle("vehicle"),
            given.heat_pump("heating"),
            given.flexible_load("washer"),
            given.pv("roof"),
        ],
    )
)


def state(name, **reading):
    states = usable_states(DEVICES, given.telemetry(DEVICES, AT, **{name: reading}), AT, MAX_AGE)
    return states.row(by_predicate=pl.col("device_id") == name, named=True)


def test_an_ordinary_reading_makes_a_device_available():
    states = usable_states(DEVICES, given.telemetry(DEVICES, AT), AT, MAX_AGE)
    assert states["available"].all()
    assert states["why"].unique().to_list() == [""]


@pytest.mark.parametrize(
    ("name", "reading", "why"),
    [
        ("battery", {"measured_at": AT - timedelta(minutes=11)}, "too old"),
        ("battery", {"measured_at": AT + timedelta(minutes=1)}, "future"),
        ("roof", {"status": "offline"}, "offline"),
        ("vehicle", {"status": "fault"}, "fault"),
        ("heating", {"status": "local"}, "local"),
        ("battery", {"energy_kwh": None}, "no state of charge"),
        ("battery", {"energy_kwh": float("nan")}, "no state of charge"),
        ("battery", {"energy_kwh": 1e6}, "implausible"),
        ("battery", {"energy_kwh": -1.0}, "implausible"),
        ("vehicle", {"energy_kwh": None}, "no state of charge"),
        ("vehicle", {"plugged_in": None}, "plugged in"),
        ("heating", {"temperature_c": None}, "no temperature"),
    ],
)
def test_a_reading_that_can_not_be_believed_makes_a_device_unavailable(name, reading, why):
    found = state(name, **reading)
    assert not found["available"]
    assert why in found["why"]


def test_a_missing_state_of_charge_is_never_read_as_empty():
    assert state("battery", energy_kwh=None)["energy_kwh"] is None


def test_a_device_that_never_reported_is_unavailable():
    silent = given.telemetry(DEVICES, AT).filter(pl.col("device_id") != "battery")
    states = usable_states(DEVICES, silent, AT, MAX_AGE)
    assert states.filter(~pl.col("available"))["device_id"].to_list() == ["battery"]
    assert states.filter(~pl.col("available"))["why"].to_list() == ["no reading"]


def test_an_empty_parking_space_is_available_and_has_no_energy():
    found = state("vehicle", plugged_in=False, energy_kwh=0.0)
    assert found["available"]
    assert found["energy_kwh"] is None


def test_a_building_stores_heat_above_its_lowest_comfortable_temperature():
    assert state("heating", temperature_c=21.5)["energy_kwh"] == pytest.approx(1.5 * 4.0)


def schedule(name, energy_kwh, power_kw=0.0, *, before=STEP):
    return pl.DataFrame(
        {
            "device_id": [name],
            "interval_start": [LATER - before],
            "power_kw": [power_kw],
            "energy_kwh": [energy_kwh],
            "begin_kwh": [None],
        },
        schema_overrides={"begin_kwh": pl.Float64},
    )


LATER = AT + timedelta(hours=11)


def projected(name, planned, **reading):
    states = usable_states(DEVICES, given.telemetry(DEVICES, AT, **{name: reading}), AT, MAX_AGE)
    return project(states, DEVICES, planned, LATER).row(
        by_predicate=pl.col("device_id") == name, named=True
    )


def test_what_is_scheduled_until_then_is_expected():
    found = projected("battery", schedule("battery", 7.5))
    assert (found["energy_kwh"], found["valid_at"]) == (7.5, LATER)


def test_only_the_interval_just_before_counts():
    found = projected("battery", schedule("battery", 7.5, before=2 * STEP))
    assert (found["energy_kwh"], found["valid_at"]) == (5.0, AT)


def test_a_building_is_expected_as_warm_as_its_heat():
    assert projected("heating", schedule("heating", 6.0))["temperature_c"] == pytest.approx(21.5)


def test_a_vehicle_has_left_at_its_deadline():
    found = projected("vehicle", schedule("washer", 0.0), deadline=LATER)
    assert (found["plugged_in"], found["energy_kwh"], found["deadline"]) == (False, None, None)


@pytest.mark.parametrize(("begins_in", "stays"), [(STEP, True), (timedelta(hours=13), False)])
def test_a_vehicle_past_its_deadline_is_taken_to_stay_for_a_while(begins_in, stays):
    past = {"vehicle": {"deadline": AT - timedelta(minutes=5)}}
    states = usable_states(DEVICES, given.telemetry(DEVICES, AT, **past), AT, MAX_AGE)
    nothing = schedule("washer", 0.0)
    found = project(states, DEVICES, nothing, AT + begins_in).filter(device_id="vehicle")
    assert (found["plugged_in"].item(), found["energy_kwh"].item() is not None) == (stays, stays)


def test_a_vehicle_that_stays_keeps_its_deadline_and_target():
    deadline = LATER + timedelta(hours=8)
    found = projected("vehicle", schedule("vehicle", 25.0), deadline=deadline)
    assert (found["energy_kwh"], found["deadline"]) == (25.0, deadline)
    assert found["target_energy_kwh"] == 40.0


def test_a_vehicle_that_only_the_schedule_expects_has_no_deadline_of_its_own():
    found = projected("vehicle", schedule("vehicle", 25.0), plugged_in=False, deadline=None)
    assert (found["plugged_in"], found["energy_kwh"], found["deadline"]) == (None, 25.0, None)


def test_an_unavailable_device_is_not_made_available_by_a_schedule():
    found = projected("battery", schedule("battery", 7.5), energy_kwh=None)
    assert not found["available"]
    assert found["energy_kwh"] is None


def _from_now(name, contents_kwh, begin_kwh):
    """A schedule from this quarter-hour on, which began with `begin_kwh` in the store."""
    return pl.DataFrame(
        {
            "device_id": name,
            "interval_start": [AT + STEP * n for n in range(len(contents_kwh))],
            "power_kw": 0.0,
            "energy_kwh": contents_kwh,
            "begin_kwh": [begin_kwh, *contents_kwh[:-1]],
        }
    )


def _after(name, planned, **reading):
    states = usable_states(DEVICES, given.telemetry(DEVICES, AT, **{name: reading}), AT, MAX_AGE)
    until = AT + STEP * planned.height
    return project(states, DEVICES, planned, until).row(
        by_predicate=pl.col("device_id") == name, named=True
    )


def test_a_plan_that_was_off_is_not_planned_upon_again():
    planned = _from_now("battery", [8.0, 9.0], begin_kwh=7.0)
    assert _after("battery", planned, energy_kwh=5.0)["energy_kwh"] == pytest.approx(7.0)


def test_what_is_expected_stays_within_the_store():
    planned = _from_now("battery", [1.0, 0.5], begin_kwh=9.0)
    assert _after("battery", planned, energy_kwh=5.0)["energy_kwh"] == 0.0


@pytest.mark.parametrize(
    ("now_kwh", "target_kwh", "planned_kwh", "expected_kwh"),
    [
        pytest.param(70.0, 76.0, [70.0, 70.0], 70.0, id="it rests"),
        pytest.param(58.0, 76.0, [60.0, 62.0], 62.0, id="it is charged to its own target"),
        pytest.param(70.0, 65.0, [71.0, 72.0], 70.0, id="it is asked for no more"),
    ],
)
def test_a_vehicle_larger_than_the_registry_says_keeps_what_it_holds(
    now_kwh, target_kwh, planned_kwh, expected_kwh
):
    planned = _from_now("vehicle", planned_kwh, begin_kwh=now_kwh)
    found = _after("vehicle", planned, energy_kwh=now_kwh, target_energy_kwh=target_kwh)
    assert found["energy_kwh"] == pytest.approx(expected_kwh)


def test_a_load_whose_window_begins_anew_holds_what_the_plan_says():
    planned = _from_now("washer", [0.0, 0.5], begin_kwh=2.0)
    assert _after("washer", planned, energy_kwh=1.5)["energy_kwh"] == 0.5
