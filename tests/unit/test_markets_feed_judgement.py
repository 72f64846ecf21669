"""What all price feeds share: each row is good or refused, none is lost."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.markets.feeds import CANDIDATES, FeedError, gaps, judge

START = datetime(2026, 3, 28, 23, tzinfo=UTC)
KNOWN = datetime(2026, 3, 28, 12, tzinfo=UTC)


def judged(*rows, known_at=KNOWN):
    """Judge rows of (market, minutes after START, price, resolution)."""
    frame = pl.DataFrame(
        [
            (
                i,
                "{}",
                market,
                START + timedelta(minutes=minutes),
                "",
                price,
                None if price is None else str(price),
                resolution,
            )
            for i, (market, minutes, price, resolution) in enumerate(rows, start=1)
        ],
        schema=CANDIDATES,
        orient="row",
    )
    return judge(frame, [], "here", known_at, "test")


def test_an_hourly_price_stands_on_its_four_quarter_hours():
    result = judged(("DE-LU", 60, 42.5, 60))
    assert result.rows["interval_start"].to_list() == [
        START + timedelta(minutes=m) for m in (60, 75, 90, 105)
    ]
    assert set(result.rows["price_eur_per_mwh"]) == {42.5}
    assert set(result.rows["resolution_minutes"]) == {60}
    assert set(result.rows["known_at"]) == {KNOWN}


def test_negative_prices_are_prices():
    assert judged(("DE-LU", 0, -500.0, 15)).rows["price_eur_per_mwh"].to_list() == [-500.0]


@pytest.mark.parametrize(
    ("row", "field", "said"),
    [
        (("DE-LU", 0, None, 15), "price_eur_per_mwh", "has no price"),
        (("DE-LU", 0, float("nan"), 15), "price_eur_per_mwh", "is no finite number"),
        (("DE-LU", 0, float("inf"), 15), "price_eur_per_mwh", "is no finite number"),
        (("DE-LU", 0, -5000.1, 15), "price_eur_per_mwh", "is outside -5000 to 20000 EUR/MWh"),
        (("DE-LU", 0, 20000.1, 15), "price_eur_per_mwh", "is outside -5000 to 20000 EUR/MWh"),
        (("DE-LU", 7, 1.0, 15), "start", "does not stand on a boundary of its resolution"),
        (("DE-LU", 15, 1.0, 30), "start", "does not stand on a boundary of its resolution"),
        (("DE-LU", 15, 1.0, 60), "start", "does not stand on a boundary of its resolution"),
    ],
)
def test_a_bad_row_comes_back_with_why_and_leaves_the_good_ones_alone(row, field, said):
    result = judged(("DE-LU", 120, 1.0, 15), row)
    assert result.rows.height == 1
    (refused,) = result.rejected.to_dicts()
    assert (refused["row_number"], refused["field"], refused["reason"]) == (2, field, said)
    assert refused["remedy"]


def test_a_repeated_row_is_refused_and_the_first_one_kept():
    result = judged(("DE-LU", 0, 1.0, 15), ("FR", 0, 1.0, 15), ("DE-LU", 0, 1.0, 15))
    assert result.rows["market"].to_list() == ["DE-LU", "FR"]
    assert result.rejected["row_number"].to_list() == [3]
    assert result.rejected["reason"].to_list() == ["repeats an earlier row"]


def test_rows_that_contradict_each_other_are_all_refused():
    result = judged(("DE-LU", 0, 1.0, 15), ("DE-LU", 0, 2.0, 15), ("DE-LU", 15, 3.0, 15))
    assert result.rows["price_eur_per_mwh"].to_list() == [3.0]
    assert result.rejected["row_number"].to_list() == [1, 2]


def test_a_quarter_hour_within_an_hour_that_is_given_too_is_a_repeat():
    result = judged(("DE-LU", 0, 1.0, 60), ("DE-LU", 15, 1.0, 15))
    assert result.rows.height == 4
    assert result.rejected["row_number"].to_list() == [2]


def test_a_gap_is_left_a_gap_and_can_be_asked_for():
    result = judged(("DE-LU", 0, 1.0, 15), ("DE-LU", 45, 2.0, 15), ("FR", 0, 1.0, 15))
    assert result.rows.height == 3
    assert gaps(result.rows).rows() == [
        ("DE-LU", START + timedelta(minutes=15)),
        ("DE-LU", START + timedelta(minutes=30)),
    ]


def test_nothing_gives_nothing():
    result = judged()
    assert (result.rows.height, result.rejected.height, gaps(result.rows).height) == (0, 0, 0)


def test_the_moment_of_knowing_is_an_instant():
    with pytest.raises(ValueError, match="no time zone"):
        judged(known_at=datetime(2026, 1, 1))  # noqa: DTZ001 - the naive one is what is refused


def test_an_error_names_source_reason_and_remedy():
    assert str(FeedError("here", "is empty", "fill it")) == "here: is empty; fill it"


rows = st.lists(
    st.tuples(
        st.sampled_from(["DE-LU", "FR"]),
        st.sampled_from([0, 5, 15, 30, 45, 60, 75, 120]),
        st.sampled_from([None, float("nan"), -1e9, 0.0, 1.0]),
        st.sampled_from([15, 30, 60]),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(rows)
def test_good_and_refused_rows_are_all_rows(given_rows):
    result = judged(*given_rows)
    refused = set(result.rejected["row_number"])
    assert len(refused) == result.rejected.height
    kept = [row for i, row in enumerate(given_rows, start=1) if i not in refused]
    expected = {
        (market, START + timedelta(minutes=minutes + step), price)
        for market, minutes, price, resolution in kept
        for step in range(0, resolution, 15)
    }
    assert result.rows.height == sum(resolution // 15 for *_, resolution in kept)
    assert (
        set(result.rows.select("market", "interval_start", "price_eur_per_mwh").rows()) == expected
    )
