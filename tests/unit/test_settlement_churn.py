"""What a re-plan moved: held against the plan that was in force until then."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP, STEP_H
from vpp_pipeline.settlement.churn import PlanChurn, churn_by_cause, plan_churn

T0 = datetime(2020, 9, 10, tzinfo=UTC)
DEVICES = pl.DataFrame(
    {"device_id": ["a", "b", "pv", "load"], "controllable": [True] * 3 + [False]}
)


def plans(*causes):
    return pl.DataFrame(
        {
            "plan_id": [f"plan-{n}" for n in range(len(causes))],
            "plan_version": [10 * (n + 1) for n in range(len(causes))],
            "delivery_day": [date(2020, 9, 10)] * len(causes),
            "revision": list(range(len(causes))),
            "cause": [f"in words: {cause}" for cause in causes],
            "cause_kind": list(causes),
        }
    )


def schedule(version, powers, *, first=0, limits=None):
    """Each device's powers from quarter-hour `first` on."""
    return pl.DataFrame(
        [
            {
                "plan_version": version,
                "device_id": device_id,
                "interval_start": T0 + (first + step) * STEP,
                "power_kw": power_kw,
                "limit_kw": (limits or {}).get(device_id),
            }
            for device_id, row in powers.items()
            for step, power_kw in enumerate(row)
        ],
        schema_overrides={"limit_kw": pl.Float64, "power_kw": pl.Float64},
    )


def test_a_re_plan_is_held_against_the_plan_in_force_quarter_hour_by_quarter_hour():
    made = pl.concat(
        [
            schedule(10, {"a": [1, 1, 1, 1], "b": [0, 0, 0, 0]}),
            schedule(20, {"a": [3], "b": [0]}, first=1),
            schedule(30, {"a": [3, 1, 5], "b": [0, 2, 0]}, first=1),
        ]
    )
    churn = plan_churn(plans("gate closure", "prices", "outage"), made, DEVICES)
    PlanChurn.validate(churn)
    assert churn["cause_kind"].to_list() == ["prices", "outage"]
    assert churn["moved_kwh"].to_list() == pytest.approx([2 * STEP_H, (2 + 4) * STEP_H])
    assert churn["devices_moved"].to_list() == [1, 2]
    assert churn["share_moved"].to_list() == [0.5, 1.0]


def test_a_new_forecast_of_sun_or_load_is_no_churn_and_a_new_limit_is():
    before = schedule(10, {"pv": [2, 2], "load": [-1, -1]}, limits={"pv": 8.0})
    told = schedule(20, {"pv": [3, 3], "load": [-4, -4]}, limits={"pv": 8.0})
    limited = schedule(30, {"pv": [1, 1], "load": [-4, -4]}, limits={"pv": 1.0})
    churn = plan_churn(plans("x", "weather", "site"), pl.concat([before, told, limited]), DEVICES)
    assert churn["moved_kwh"].to_list() == pytest.approx([0.0, 4 * STEP_H])
    assert churn["devices"].to_list() == [1, 1]


def test_a_day_that_was_planned_once_has_no_churn():
    assert plan_churn(plans("gate closure"), schedule(10, {"a": [1]}), DEVICES).is_empty()


powers = st.lists(st.floats(-50, 50), min_size=4, max_size=4)


@given(st.lists(powers, min_size=1, max_size=5))
def test_churn_is_never_less_than_what_the_last_plan_is_off_the_first(rows):
    made = pl.concat([schedule(10 * (n + 1), {"a": row}) for n, row in enumerate(rows)])
    churn = plan_churn(plans(*map(str, range(len(rows)))), made, DEVICES)
    off = sum(abs(last - first) for first, last in zip(rows[0], rows[-1], strict=True)) * STEP_H
    rounding = 1e-3 * STEP_H * 4 * len(rows)
    assert churn["moved_kwh"].sum() >= off - rounding
    assert churn.height == len(rows) - 1


def test_causes_are_summed_and_the_one_that_moved_most_comes_first():
    made = pl.concat([schedule(10 * (n + 1), {"a": [kw]}) for n, kw in enumerate([0, 1, 5, 6])])
    told = churn_by_cause(plan_churn(plans("x", "outage", "prices", "outage"), made, DEVICES))
    assert told.rows() == [("prices", 1, 4 * STEP_H, 1.0), ("outage", 2, 2 * STEP_H, 1.0)]
