import math

import polars as pl
import pytest
from dispatch_cases import START, devices
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.dispatch.verification import Tolerance, power_verified

TOLERANCE = Tolerance(power_kw=0.1, share_of_nameplate=0.05)


def verified(device_id: str, commanded_kw: float, measured_kw: float | None):
    keys = {"device_id": [device_id], "interval_start": [START]}
    commands = pl.DataFrame({**keys, "setpoint_kw": [commanded_kw], "settled_at": [START]})
    measured = pl.DataFrame(
        {**keys, "measured_kw": [measured_kw]}, schema_overrides={"measured_kw": pl.Float64}
    )
    row = power_verified(commands, measured, devices(), TOLERANCE).row(0, named=True)
    return row["power_verified"], row["reason"]


def test_invariant_07_power_within_tolerance_is_verified():
    assert verified("battery", -4.0, -4.4) == (True, "")


def test_invariant_07_power_beyond_tolerance_is_not_and_says_by_what():
    ok, reason = verified("battery", -4.0, -3.4)
    assert not ok
    assert "-3.4 kW measured, -4.0 kW commanded, 0.5 kW allowed" in reason


@pytest.mark.parametrize(("measured_kw", "ok"), [(0.0, True), (5.5, True), (5.7, False)])
def test_a_cap_is_kept_by_any_power_up_to_it(measured_kw, ok):
    assert verified("pv", 5.0, measured_kw)[0] is ok


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("device_id", ["battery", "pv"])
def test_without_a_measurement_nothing_is_verified(device_id, nothing):
    assert verified(device_id, 1.0, nothing) == (False, "no power was measured")


def test_a_device_that_is_not_registered_is_not_verified():
    assert verified("ghost", 1.0, 1.0) == (False, "the device is not in the registry")


@given(st.sampled_from(["battery", "pv", "chp"]), st.floats(), st.floats())
@settings(deadline=None)
def test_invariant_07_a_verified_power_is_a_number_near_its_set_point(device_id, told, measured):
    ok, reason = verified(device_id, told, measured)
    assert ok == (reason == "")
    if ok:
        excess = measured - told if device_id == "pv" else abs(measured - told)
        assert excess <= max(0.1, 0.05 * {"battery": 10, "pv": 12, "chp": 30}[device_id])
