"""What a charge point tells is believed for what it is, whatever the order it comes in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices.ocpp_metering import Connector, Look, Measured, moment, reading, samplings

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(minutes):
    return NOON + timedelta(minutes=minutes)


def sampled(value, measurand=None, **more):
    return {"value": value} | ({"measurand": measurand} if measurand else {}) | more


def sampling(*values, when="2026-01-01T12:00:00Z"):
    (measured,) = samplings([{"timestamp": when, "sampled_value": list(values)}])
    return measured


IMPORT, EXPORT = "Power.Active.Import", "Power.Active.Export"


@pytest.mark.parametrize(
    ("values", "power_kw"),
    [
        ([sampled("7000", IMPORT)], 7.0),
        ([sampled("7", IMPORT, unit="kW")], 7.0),
        (
            [sampled(str(w), IMPORT, phase=f"L{n}") for n, w in ((1, 1000), (2, 2000), (3, 3000))],
            6.0,
        ),
        ([sampled("6000", IMPORT), sampled("2000", IMPORT, phase="L1")], 6.0),
        ([sampled("2000", IMPORT, phase="L1-N"), sampled("1000", IMPORT, phase="L1")], 1.0),
        ([sampled("3000", EXPORT)], -3.0),
        ([sampled("16", "Current.Import", unit="A"), sampled("12345")], None),
        ([sampled("NaN", IMPORT)], None),
        ([sampled("7000", IMPORT, unit="VA")], None),
        ([sampled("7000", IMPORT, format="SignedData")], None),
        ([sampled("", IMPORT)], None),
        ([], None),
    ],
)
def test_power_is_the_total_or_the_sum_of_the_phases(values, power_kw):
    assert sampling(*values).power_kw == power_kw


@pytest.mark.parametrize(("value", "percent"), [("40", 40), ("0", 0), ("101", None), ("-1", None)])
def test_invariant_15_a_state_of_charge_is_a_percentage_or_none(value, percent):
    assert sampling(sampled(value, "SoC", unit="Percent")).soc_percent == percent


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2026-01-01T12:00:00Z", NOON),
        ("2026-01-01T13:00:00.000+01:00", NOON),
        ("2026-01-01T12:00:00", NOON),
    ],
)
def test_timestamps_are_read_as_the_moments_they_are(text, read):
    assert moment(text) == read


def test_a_timestamp_that_is_none_is_refused():
    with pytest.raises(ValueError, match="noon"):
        samplings([{"timestamp": "noon", "sampled_value": []}])


TELLINGS = st.permutations(
    [
        ("status", "Preparing", 0),
        ("status", "Charging", 1),
        ("meter", 1.0, 2),
        ("meter", 7.0, 4),
        ("status", "SuspendedEV", 5),
    ]
)


@settings(max_examples=120, deadline=None)
@given(tellings=TELLINGS, again=st.integers(0, 4))
def test_what_comes_late_or_twice_never_replaces_what_is_newer(tellings, again):
    told = Connector()
    for kind, value, minute in (*tellings, tellings[again]):
        if kind == "status":
            told = told.told_status(value, at(minute))
        else:
            told = told.told_meter(Measured(at(minute), power_kw=value), 1)
    assert (told.status, told.status_at) == ("SuspendedEV", at(5))
    assert told.measured == Measured(at(4), power_kw=7.0)


@pytest.mark.parametrize(
    ("status", "plugged_in", "device"),
    [
        ("Preparing", True, "ok"),
        ("Charging", True, "ok"),
        ("SuspendedEVSE", True, "ok"),
        ("Finishing", True, "ok"),
        ("Reserved", False, "ok"),
        ("Unavailable", None, "local"),
        ("Faulted", None, "fault"),
    ],
)
def test_the_status_tells_of_the_vehicle_and_the_device(status, plugged_in, device):
    told = Connector().told_status(status, at(0)).told_meter(Measured(at(1), 0.0), None)
    found = reading("ev", told, at(9), 60.0)
    assert (found.plugged_in, found.status, found.measured_at) == (plugged_in, device, at(1))


def test_without_a_vehicle_a_charge_point_that_is_heard_of_draws_nothing():
    told = Connector().told_meter(Measured(at(0), 7.0, 50.0), 3).told_status("Available", at(1))
    assert not told.in_transaction
    found = reading("ev", told, at(30), 60.0)
    assert (found.measured_at, found.power_kw, found.plugged_in) == (at(30), 0.0, False)
    assert found.energy_kwh is None


def test_the_charge_of_one_vehicle_is_not_the_next_ones():
    told = Connector().told_meter(Measured(at(0), 7.0, 50.0), 3)
    assert reading("ev", told, at(0), 60.0).energy_kwh == 30
    for left in (told.ended(), told.told_status("Available", at(1))):
        again = left.told_status("Charging", at(2)).told_meter(Measured(at(3), 7.0), 4)
        assert reading("ev", again, at(3), 60.0).energy_kwh is None


def test_invariant_15_nothing_told_is_no_reading_and_unknown_capacity_no_energy():
    assert reading("ev", Connector(), at(0), 60.0) is None
    told = Connector().told_meter(Measured(at(0), 7.0, 50.0), None)
    assert reading("ev", told, at(0), None).energy_kwh is None


@pytest.mark.parametrize("status", ["Charging", "SuspendedEV", "SuspendedEVSE"])
def test_a_transaction_from_before_is_known_by_its_status(status):
    told = Connector().told_status(status, at(0))
    assert (told.in_transaction, told.transaction_id) == (True, None)


def test_an_account_survives_the_way_to_the_driver():
    told = Connector().told_status("Charging", at(0)).told_meter(Measured(at(1), 7.0, 50.0), 3)
    look = Look(connector=told, heard_at=at(2), configuration={"key": "value"})
    assert Look.model_validate(look.model_dump(mode="json")) == look
