"""What the sums of loads promise: a site's and a group's are forecast, and counted once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import STEP, intervals
from vpp_pipeline.forecasting.groups import (
    TARGETS,
    actuals_with_sums,
    members,
    sums,
    told_apart,
    with_sums,
)
from vpp_pipeline.forecasting.load import load_forecast

START = datetime(2020, 6, 15, tzinfo=UTC)
FLEET = pl.DataFrame(
    [
        ("a", "house", "load", 2.0, ["village", "poor"]),
        ("b", "house", "load", 6.0, ["village"]),
        ("c", "shop", "load", 32.0, ["village"]),
        ("roof", "shop", "pv", 0.0, ["village"]),
        ("d", "village", "load", 1.0, []),  # a site may have a group's name
    ],
    schema={
        "device_id": pl.String,
        "site_id": pl.String,
        "device_type": pl.String,
        "max_draw_kw": pl.Float64,
        "groups": pl.List(pl.String),
    },
    orient="row",
)


def drawn(**powers_kw: list[float | None]) -> pl.DataFrame:
    """Return the loads' powers by the quarter-hour."""
    return pl.concat(
        pl.DataFrame(
            {
                "device_id": name,
                "interval_start": [START + n * STEP for n in range(len(powers))],
                "power_kw": pl.Series(powers, dtype=pl.Float64),
            }
        ).with_columns(pl.col("interval_start").cast(pl.Datetime("us", "UTC")))
        for name, powers in powers_kw.items()
    )


def test_sites_and_groups_are_sums_of_their_loads_and_of_nothing_else():
    made_up = members(FLEET).group_by("sum_id").agg("device_id").sort("sum_id")
    assert dict(made_up.iter_rows()) == {
        "~group_load~poor": ["a"],
        "~group_load~village": ["a", "b", "c"],
        "~site_load~house": ["a", "b"],
        "~site_load~shop": ["c"],
        "~site_load~village": ["d"],
    }


def test_a_missing_fifth_of_the_rated_draw_is_made_up_for_and_more_leaves_a_gap():
    history = drawn(a=[-1.0, None, -1.0], b=[-3.0, -3.0, None], c=[-8.0, -8.0, -8.0])
    told = sums(history, members(FLEET))
    by_name = dict(told.group_by("device_id").agg("power_kw").iter_rows())
    assert by_name["~group_load~village"] == pytest.approx([-12.0, -11.0 * 40 / 38, -9.0 * 40 / 34])
    assert by_name["~site_load~house"] == [-4.0]


def test_every_load_site_and_group_is_told_once_under_its_own_target_and_name():
    history = drawn(**{name: [-1.0] * 4 * 96 for name in "abcd"})
    now = START + timedelta(days=4)
    asked = intervals(now, now + timedelta(hours=1))
    makes_up = members(FLEET)
    loads, known = with_sums(FLEET.filter(pl.col("device_type") == "load"), history, makes_up)
    told = told_apart(load_forecast(loads, known, asked, "Europe/Berlin", now), makes_up)
    middle = told.group_by(pl.col("target").cast(pl.String), "subject_id").agg(
        pl.col("p50").mean(), rows=pl.len()
    )
    assert set(middle["rows"]) == {4}
    assert {(of, name): kw for of, name, kw, _ in middle.iter_rows()} == {
        **{("load", name): -1.0 for name in "abcd"},
        ("site_load", "house"): -2.0,
        ("site_load", "shop"): -1.0,
        ("site_load", "village"): -1.0,
        ("group_load", "poor"): -1.0,
        ("group_load", "village"): -3.0,
    }
    of_devices = told.filter(~pl.col("target").cast(pl.String).is_in(TARGETS))
    assert set(of_devices["target"]) == {"load"}


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(12)), st.lists(st.floats(-9.0, 0.0), min_size=12, max_size=12))
def test_what_came_of_a_sum_is_what_came_of_its_loads_whatever_their_order(
    order: list[int], powers: list[float]
):
    history = drawn(a=powers[:4], b=powers[4:8], c=powers[8:])
    came = history[order].select(
        "interval_start", target=pl.lit("load"), subject_id="device_id", value="power_kw"
    )
    every = actuals_with_sums(came, members(FLEET))
    village = every.filter(pl.col("target") == "group_load", pl.col("subject_id") == "village")
    assert village["value"].to_list() == pytest.approx(
        [sum(powers[n::4]) for n in range(4)], abs=2e-6
    )
    assert every.filter(pl.col("target") == "load").equals(came)
