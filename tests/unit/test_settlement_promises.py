"""A plan followed without a re-plan breaks no promise that its devices can keep."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from settlement_days import actual, battery, charger, fleet, heat_pump, stay, told

from vpp_pipeline.settlement.promises import with_promises_kept
from vpp_pipeline.settlement.stores import stores

ARRIVAL, DEPARTURE = datetime(2020, 9, 10, 8, tzinfo=UTC), datetime(2020, 9, 10, 12, tzinfo=UTC)
VEHICLE = told("charger", **stay(ARRIVAL, DEPARTURE, 10.0, 30.0))


def held_of(devices, *telemetry):
    day = actual(devices, *telemetry)
    return stores(devices, day)


def test_a_vehicle_that_a_plan_forgot_is_charged_as_late_as_will_do():
    devices = fleet(charger())
    held = held_of(devices, VEHICLE)
    power = with_promises_kept(devices, held, np.zeros(held.present.shape))
    there = np.flatnonzero(held.present[:, 0])
    contents = held.contents(power)[there[-1], 0]
    assert abs(contents - 30.0) < 1e-9
    assert (power[there[:6], 0] == 0).all()  # 10 of 16 quarter-hours are enough
    assert (power[there[-9:], 0] == -10).all()


def test_a_vehicle_draws_no_more_than_it_wanted():
    devices = fleet(charger())
    held = held_of(devices, VEHICLE)
    power = with_promises_kept(devices, held, np.full(held.present.shape, -10.0))
    assert np.nanmax(held.contents(power)) <= 30.0 + 1e-9


def test_a_room_stays_in_its_band_whatever_the_plan_thought_of_the_weather():
    devices = fleet(heat_pump())
    warm = told("heat_pump", temperature_c=21.0, power_kw=0.0)
    held = held_of(devices, warm)
    top = 2.5 * devices["thermal_capacity_kwh_per_k"][0]
    for planned in (0.0, -3.0):
        power = with_promises_kept(devices, held, np.full(held.present.shape, planned))
        contents = held.contents(power)
        assert contents.min() >= -1e-9
        assert contents.max() <= top + 1e-9


@pytest.fixture(scope="module")
def battery_and_charger():
    devices = fleet(battery(), charger())
    return devices, held_of(devices, told("battery", energy_kwh=5.0, power_kw=0.0), VEHICLE)


@given(st.integers(0, 2**32 - 1))
def test_a_battery_and_a_plan_that_keeps_its_promises_are_left_as_they_are(
    battery_and_charger, seed
):
    devices, held = battery_and_charger
    rng = np.random.default_rng(seed)
    power = rng.uniform(-4, 4, held.present.shape)
    power[:, 1] = 0.0
    there = np.flatnonzero(held.present[:, 1])
    power[rng.choice(there, 10, replace=False), 1] = -10.0  # 20 kWh at 8 kW: what it wanted
    kept = with_promises_kept(devices, held, power)
    assert np.array_equal(kept[:, 0], power[:, 0])
    assert np.allclose(kept[:, 1], power[:, 1])


def test_what_is_not_there_draws_nothing():
    devices = fleet(charger())
    held = held_of(devices, VEHICLE)
    power = with_promises_kept(devices, held, np.zeros(held.present.shape))
    assert (power[~held.present] == 0).all()
