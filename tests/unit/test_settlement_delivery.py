"""Planned, commanded and measured, side by side."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.settlement.delivery import delivery, delivery_errors

DAY = date(2020, 10, 25)
ASKED = day_intervals(DAY, "Europe/Berlin")
START = ASKED[0]
SETTLED = datetime(2020, 10, 26, 6, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
DEVICES = pl.DataFrame({"device_id": ["a", "b", "load"], "controllable": [True, True, False]})
_UTC = pl.Datetime("us", "UTC")


def powers(*rows):
    return pl.DataFrame(
        [(name, START + step * QUARTER, kw) for name, step, kw in rows],
        schema={"device_id": pl.String, "interval_start": _UTC, "power_kw": pl.Float64},
        orient="row",
    )


def commands(*rows):
    return pl.DataFrame(
        [(name, START + step * QUARTER, kw, state) for name, step, kw, state in rows],
        schema={
            "device_id": pl.String,
            "interval_start": _UTC,
            "setpoint_kw": pl.Float64,
            "state": pl.String,
        },
        orient="row",
    )


def outages(*rows):
    return pl.DataFrame(
        rows, schema={"device_id": pl.String, "from": _UTC, "until": _UTC}, orient="row"
    )


def delivered(planned, measured, day_ahead=None, told=None):
    return delivery(
        powers() if day_ahead is None else day_ahead,
        planned,
        commands() if told is None else told,
        measured,
        ASKED,
        delivery_day=DAY,
        settled_at=SETTLED,
    )


def test_every_stage_stands_in_its_own_column_and_what_is_missing_is_null():
    rows = delivered(
        powers(("a", 0, 2.0)),
        powers(("a", 0, 1.9), ("load", 0, -1.0)),
        powers(("a", 0, 3.0), ("a", 1, 3.0)),
        commands(("a", 0, 2.5, "SENT"), ("a", 0, 2.0, "VERIFIED")),
    )
    values = rows.select(
        "device_id", "day_ahead_kw", "planned_kw", "commanded_kw", "command_state", "measured_kw"
    )
    assert values.rows() == [
        ("a", 3.0, 2.0, 2.0, "VERIFIED", 1.9),
        ("a", 3.0, None, None, None, None),
        ("load", None, None, None, None, -1.0),
    ]


def test_a_quarter_hour_of_another_day_is_left_out():
    assert delivered(powers(("a", -1, 2.0), ("a", 100, 2.0)), powers()).is_empty()


def test_errors_net_over_the_day_and_quarter_hour_by_quarter_hour():
    rows = delivered(
        powers(("a", 0, 4.0), ("b", 0, -2.0), ("a", 1, 4.0)),
        powers(("a", 0, 3.0), ("b", 0, -1.5), ("a", 1, 4.5), ("load", 0, -9.0)),
    )
    told = delivery_errors(rows, DEVICES, outages()).row(0, named=True)
    assert told["planned_energy_kwh"] == pytest.approx(1.5)
    assert told["delivered_energy_kwh"] == pytest.approx(1.5)
    assert told["net_error"] == pytest.approx(0.0)
    assert told["absolute_error"] == pytest.approx((0.125 + 0.125) / 2.5)


def test_what_was_not_measured_was_not_delivered_unless_it_is_excluded():
    rows = delivered(powers(("a", 0, 4.0), ("b", 0, 4.0)), powers(("a", 0, 4.0)))
    assert delivery_errors(rows, DEVICES, outages())["net_error"].item() == pytest.approx(0.5)
    known = outages(("b", START, START + QUARTER), ("b", START, START + QUARTER))
    excluded = delivery_errors(rows, DEVICES, known).row(0, named=True)
    assert excluded["net_error"] == 0.0
    assert excluded["excluded_intervals"] == 1


def test_an_outage_excludes_only_the_quarter_hours_that_start_in_it():
    rows = delivered(powers(*[("a", n, 1.0) for n in range(4)]), powers())
    known = outages(("a", START + QUARTER, START + 3 * QUARTER))
    assert delivery_errors(rows, DEVICES, known)["excluded_intervals"].item() == 2


def test_energy_that_nobody_planned_is_an_error_of_one_and_nothing_at_all_is_none():
    assert delivery_errors(
        delivered(powers(("a", 0, 0.0)), powers(("a", 0, 1.0))), DEVICES, outages()
    ).select("net_error", "absolute_error").row(0) == (1.0, 1.0)
    assert delivery_errors(
        delivered(powers(("a", 0, 0.0)), powers(("a", 0, 0.0))), DEVICES, outages()
    ).select("net_error", "absolute_error").row(0) == (0.0, 0.0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]), st.integers(0, 99), st.floats(-50, 50), st.floats(-50, 50)
        ),
        min_size=1,
        max_size=40,
        unique_by=lambda row: row[:2],
    )
)
def test_the_net_error_is_never_above_the_absolute_one(rows):
    told = delivery_errors(
        delivered(
            powers(*[(name, step, planned) for name, step, planned, _ in rows]),
            powers(*[(name, step, measured) for name, step, _, measured in rows]),
        ),
        DEVICES,
        outages(),
    ).row(0, named=True)
    assert 0 <= told["net_error"] <= told["absolute_error"] + 1e-9
