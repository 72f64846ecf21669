"""What is learned of a vehicle can ask for more than its driver did, never for less."""

from __future__ import annotations

import flexibility_fleets as given
import polars as pl
import pytest
from hypothesis import given as forall
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.optimization.planner import plan

DAY = day_intervals(given.WINTER_DAY, "Europe/Berlin")
CHARGED_KWH = 11 * STEP_H * 0.92
DEVICES = given.frame(given.site("home", [given.vehicle("v")]))


def learned(leaves_h: float, still_asked_kwh: float = 20.0) -> pl.DataFrame:
    """The vehicle came an hour ago and may well be gone `leaves_h` hours into the day."""
    of = ("v", given.hour(DAY[0], -1), given.hour(DAY[0], leaves_h), still_asked_kwh, 1.0, DAY[0])
    return given.sessions(of)


def envelope(
    expected: pl.DataFrame, deadline_h: float | None = 10.0, target_kwh: float | None = 40
):
    said = {
        "deadline": None if deadline_h is None else given.hour(DAY[0], deadline_h),
        "target_energy_kwh": target_kwh,
    }
    return given.envelopes(DEVICES, DAY, of_device={"v": said}, expected=expected)


def wishes(of: pl.DataFrame) -> dict[int, float]:
    owed = of.with_row_index("step").drop_nulls("required_end_kwh")
    return dict(owed.select("step", "required_end_kwh").iter_rows())


def test_who_may_leave_before_the_deadline_is_wished_ready_by_then_and_stays_to_the_deadline():
    of = envelope(learned(6.2))
    assert wishes(of) == {23: 40.0, 39: 40.0}
    assert of["min_energy_kwh"].is_not_null().sum() == 40


def test_who_may_be_gone_too_soon_to_be_ready_is_wished_what_can_be_charged_at_once():
    assert wishes(envelope(learned(1.0))) == {
        3: pytest.approx(10 + 4 * CHARGED_KWH),
        39: 40.0,
    }


@pytest.mark.parametrize("leaves_h", [-0.5, 0.1, 10.0, 14.0])
def test_what_is_learned_beyond_the_deadline_or_too_late_to_act_on_changes_nothing(leaves_h):
    assert wishes(envelope(learned(leaves_h))) == {39: 40.0}


def test_what_a_vehicle_does_not_say_is_filled_in_from_what_is_learned():
    assert wishes(envelope(learned(8.0), deadline_h=None, target_kwh=None)) == {31: 30.0}
    much = learned(8.0, still_asked_kwh=90.0)
    assert wishes(envelope(much, deadline_h=None, target_kwh=None)) == {31: 60.0}


@settings(max_examples=12, deadline=None)
@forall(
    leaves_h=st.floats(-2.0, 30.0),
    deadline_h=st.floats(0.5, 30.0),
    target_kwh=st.floats(0.0, 60.0),
)
def test_nothing_learned_lowers_what_the_deadline_is_promised(leaves_h, deadline_h, target_kwh):
    promised = envelope(given.sessions(), deadline_h, target_kwh)
    wary = envelope(learned(leaves_h), deadline_h, target_kwh)
    for name in ("required_end_kwh", "min_energy_kwh"):
        before, now = promised[name].fill_null(-1.0), wary[name].fill_null(-1.0)
        assert (now >= before - 1e-9).all()
    assert (promised["max_power_kw"] == wary["max_power_kw"]).all()
    assert (promised["min_power_kw"] == wary["min_power_kw"]).all()


def test_a_plan_charges_a_vehicle_that_may_leave_before_the_cheap_hours():
    cheap_late = given.prices(DAY, [90.0] * 32 + [10.0] * 64)
    waits = plan(DEVICES, envelope(given.sessions()), cheap_late).schedules
    wary = plan(DEVICES, envelope(learned(6.0)), cheap_late).schedules
    at_six = pl.col("interval_start") == DAY[23]
    assert waits.filter(at_six)["energy_kwh"].item() < 39.0
    assert wary.filter(at_six)["energy_kwh"].item() == pytest.approx(40.0, abs=0.01)
