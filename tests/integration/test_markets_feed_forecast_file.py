"""A file of market forecasts on disk: good rows go on, bad rows come back."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import polars as pl
import pytest

from vpp_pipeline.markets.feeds import FeedError
from vpp_pipeline.markets.forecast_file import is_forecast_file, read_forecast_file

KNOWN = datetime(2026, 3, 28, 9, tzinfo=UTC)
HEADER = "market,start,load_mw,renewables_mw,resolution_minutes"


@pytest.fixture
def read(tmp_path):
    def read(*lines, header=HEADER):
        path = tmp_path / "told.csv"
        path.write_text("\n".join([header, *lines]), newline="")
        return read_forecast_file(path, KNOWN)

    return read


def test_an_hours_mean_stands_on_its_four_quarter_hours(read):
    result = read("DE-LU,2026-03-29T00:00Z,50000,31000.5,60")
    assert result.rejected.is_empty()
    assert result.rows["interval_start"].dt.minute().to_list() == [0, 15, 30, 45]
    assert result.rows["load_mw"].to_list() == [50000.0] * 4
    assert result.rows["renewables_mw"].to_list() == [31000.5] * 4
    assert result.rows["known_at"].unique().to_list() == [KNOWN]
    assert result.rows["source"].unique().to_list() == ["forecast_file"]


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        (",2026-03-29T00:00Z,1,1,60", "market", None),
        ("DE-LU,2026-03-29T00:00,1,1,60", "start", "2026-03-29T00:00"),
        ("DE-LU,soon,1,1,60", "start", "soon"),
        ("DE-LU,2026-03-29T00:15Z,1,1,60", "start", "2026-03-29T00:15Z"),
        ("DE-LU,2026-03-29T00:00Z,1,1,45", "resolution_minutes", "45"),
        ("DE-LU,2026-03-29T00:00Z,,1,60", "load_mw", None),
        ("DE-LU,2026-03-29T00:00Z,much,1,60", "load_mw", "much"),
        ("DE-LU,2026-03-29T00:00Z,1,-1,60", "renewables_mw", "-1"),
        ("DE-LU,2026-03-29T00:00Z,1,nan,60", "renewables_mw", "nan"),
        ("DE-LU,2026-03-29T00:00Z,1,1e9,60", "renewables_mw", "1e9"),
    ],
)
def test_a_bad_row_comes_back_with_field_value_and_remedy(read, line, field, value):
    result = read(line, "DE-LU,2026-03-29T04:00Z,40000,9000,60")
    assert result.rows.height == 4
    (refused,) = result.rejected.to_dicts()
    assert (refused["row_number"], refused["field"], refused["value"]) == (1, field, value)
    assert refused["reason"]
    assert refused["remedy"]
    assert json.loads(refused["row_json"])["start"] == line.split(",")[1]


def test_rows_that_contradict_each_other_are_refused_and_repeated_ones_once(read):
    result = read(
        "DE-LU,2026-03-29T00:00Z,1,5,60",
        "DE-LU,2026-03-29T00:15Z,1,6,15",
        "DE-LU,2026-03-29T01:00Z,2,5,60",
        "DE-LU,2026-03-29T01:00Z,2,5,60",
    )
    assert result.rejected["row_number"].to_list() == [1, 2, 4]
    assert result.rows["load_mw"].to_list() == [2.0] * 4


def test_a_row_with_too_many_cells_is_refused_whole(read):
    result = read("DE-LU,2026-03-29T00:00Z,1,5,60,7", "DE-LU,2026-03-29T01:00Z,2,5,60")
    assert result.rejected["row_number"].to_list() == [1]
    assert result.rows.height == 4


def test_other_columns_are_an_error_that_says_what_to_write(read):
    with pytest.raises(FeedError, match="lacks renewables_mw and has the unknown wind_mw") as error:
        read(header="market,start,load_mw,wind_mw")
    assert "write columns market, start, load_mw, renewables_mw" in error.value.remedy


def test_a_parquet_file_says_the_same_as_a_csv_file(read, tmp_path):
    path = tmp_path / "told.parquet"
    pl.DataFrame(
        {
            "market": ["DE-LU"],
            "start": [datetime(2026, 3, 29, tzinfo=UTC)],
            "load_mw": [50000],
            "renewables_mw": [31000.5],
            "resolution_minutes": [60],
        }
    ).write_parquet(path)
    as_csv = read("DE-LU,2026-03-29T00:00Z,50000,31000.5,60")
    assert read_forecast_file(path, KNOWN).rows.equals(as_csv.rows)


@pytest.mark.parametrize(
    ("header", "expected"),
    [("market,start,load_mw,renewables_mw", True), ("market,start,price_eur_per_mwh", False)],
)
def test_a_file_is_known_by_its_columns(tmp_path, header, expected):
    path = tmp_path / "dropped.csv"
    path.write_text(header)
    assert is_forecast_file(path) is expected


def test_a_naive_moment_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no time zone"):
        read_forecast_file(tmp_path / "told.csv", datetime(2026, 3, 28))  # noqa: DTZ001 - the point
