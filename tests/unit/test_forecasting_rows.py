"""The rows that forecasts start from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpp_pipeline.forecasting.rows import ended_by, of_each_instant

QUARTER = timedelta(minutes=15)


@pytest.mark.parametrize("timezone", ["Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"])
@given(
    quarters=st.lists(st.integers(0, 60 * 96)),
    since=st.sampled_from([datetime(2020, 3, 1, tzinfo=UTC), datetime(2020, 10, 1, tzinfo=UTC)]),
)
def test_many_instants_are_told_the_local_day_that_each_is_told_alone(timezone, quarters, since):
    starts = pl.Series([since + QUARTER * n for n in quarters], dtype=pl.Datetime("us", "UTC"))

    def local_day(instants):
        return instants.dt.convert_time_zone(timezone).dt.date()

    assert of_each_instant(starts, local_day).to_list() == local_day(starts).to_list()


def test_an_instant_within_a_quarter_hour_is_told_what_its_start_is():
    starts = pl.Series([datetime(2020, 3, 1, 10, 7, 30, tzinfo=UTC)])
    told = of_each_instant(starts, lambda instants: instants)
    assert told.to_list() == [datetime(2020, 3, 1, 10, tzinfo=UTC)]


@given(ago=st.lists(st.integers(-3, 30 * 96), max_size=30), late=st.integers(-3, 3))
def test_what_has_ended_and_was_known_is_all_that_is_left_of_four_weeks(ago, late):
    known_at = datetime(2020, 6, 1, 9, 5, tzinfo=UTC)
    starts = [datetime(2020, 6, 1, 9, tzinfo=UTC) - QUARTER * n for n in ago]
    rows = pl.DataFrame(
        {
            "interval_start": starts,
            "known_at": [start + QUARTER + timedelta(minutes=late) for start in starts],
        },
        {"interval_start": pl.Datetime("us", "UTC"), "known_at": pl.Datetime("us", "UTC")},
    )
    for columns in (["interval_start"], ["interval_start", "known_at"]):
        expected = [
            row["interval_start"]
            for row in rows.iter_rows(named=True)
            if row["interval_start"] + QUARTER <= known_at
            and row["interval_start"] >= known_at - timedelta(days=28)
            and ("known_at" not in columns or row["known_at"] <= known_at)
        ]
        assert ended_by(rows.select(columns), known_at)["interval_start"].to_list() == expected


def test_a_row_that_does_not_tell_when_it_was_known_was_not():
    starts = [datetime(2020, 6, 1, 8, tzinfo=UTC)] * 2
    rows = pl.DataFrame({"interval_start": starts, "known_at": [starts[0] + QUARTER, None]})
    assert ended_by(rows, datetime(2020, 6, 1, 9, tzinfo=UTC)).height == 1
