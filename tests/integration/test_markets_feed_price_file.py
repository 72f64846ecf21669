"""A price file on disk: good rows go on, bad rows come back."""

import json
from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.markets.feeds import FeedError
from vpp_pipeline.markets.price_file import read_price_file

KNOWN = datetime(2026, 3, 28, 12, tzinfo=UTC)
HEADER = "market,start,price_eur_per_mwh,resolution_minutes"


@pytest.fixture
def read(tmp_path):
    def read(*lines, header=HEADER):
        path = tmp_path / "prices.csv"
        path.write_text("\n".join([header, *lines]), newline="")
        return read_price_file(path, KNOWN)

    return read


@pytest.mark.parametrize(
    "start",
    [
        "2026-03-29T00:00:00Z",
        "2026-03-29T00:00Z",
        "2026-03-29t00:00z".upper(),
        "2026-03-29 00:00:00+00:00",
        "2026-03-29T01:00:00+01:00",
        "2026-03-29T01:00+0100",
        "2026-03-28T19:00:00.000-05:00",
    ],
)
def test_an_instant_may_be_written_with_any_offset(read, start):
    result = read(f"DE-LU,{start},12.5,15")
    assert result.rows["interval_start"].to_list() == [datetime(2026, 3, 29, tzinfo=UTC)]
    assert result.rejected.is_empty()


def test_the_hours_around_a_clock_change_stay_apart(read):
    result = read(
        "DE-LU,2025-10-26T02:00:00+02:00,1,60",
        "DE-LU,2025-10-26T02:00:00+01:00,2,60",
    )
    assert result.rows["price_eur_per_mwh"].to_list() == [1.0] * 4 + [2.0] * 4
    assert result.rows["interval_start"][0] == datetime(2025, 10, 26, tzinfo=UTC)


def test_without_a_resolution_a_row_is_a_quarter_hour(read):
    header = "price_eur_per_mwh,start,market"
    result = read("-3,2026-03-29T00:15Z,FR", header=header)
    assert result.rows.select("market", "price_eur_per_mwh", "resolution_minutes").rows() == [
        ("FR", -3.0, 15)
    ]


@pytest.mark.parametrize(
    ("line", "field", "value", "said"),
    [
        ("DE-LU,2026-03-29T00:00Z,NaN,15", "price_eur_per_mwh", "NaN", "is no finite number"),
        ("DE-LU,2026-03-29T00:00Z,inf,15", "price_eur_per_mwh", "inf", "is no finite number"),
        ('DE-LU,2026-03-29T00:00Z,"1,5",15', "price_eur_per_mwh", "1,5", "is no finite number"),
        ("DE-LU,2026-03-29T00:00Z,1e6,15", "price_eur_per_mwh", "1e6", "is outside"),
        ("DE-LU,2026-03-29T00:00Z,,15", "price_eur_per_mwh", None, "has no price"),
        ("DE-LU,2026-03-29T00:00,1,15", "start", "2026-03-29T00:00", "has no time zone"),
        ("DE-LU,29.03.2026,1,15", "start", "29.03.2026", "is no time"),
        ("DE-LU,2026-02-30T00:00Z,1,15", "start", "2026-02-30T00:00Z", "is no time"),
        ("DE-LU,0001-01-01T00:00+01:00,1,15", "start", "0001-01-01T00:00+01:00", "is no time"),
        ("DE-LU,,1,15", "start", None, "is no time"),
        ("DE-LU,2026-03-29T00:10Z,1,15", "start", "2026-03-29T00:10Z", "boundary"),
        ("DE-LU,2026-03-29T00:00:01Z,1,15", "start", "2026-03-29T00:00:01Z", "boundary"),
        ("DE-LU,2026-03-29T00:30Z,1,60", "start", "2026-03-29T00:30Z", "boundary"),
        ("DE-LU,2026-03-29T00:00Z,1,20", "resolution_minutes", "20", "is no market's resolution"),
        ("DE-LU,2026-03-29T00:00Z,1,hour", "resolution_minutes", "hour", "is no market's"),
        (",2026-03-29T00:00Z,1,15", "market", None, "has no market"),
        ("DE-LU,2026-03-29T06:00Z,1,15", "start", "2026-03-29T06:00Z", "repeats an earlier row"),
        ("DE-LU,2026-03-29T00:00Z,1", "", "DE-LU,2026-03-29T00:00Z,1", "has 3 cells"),
        ("DE-LU,2026-03-29T00:00Z,1,5,15", "", "DE-LU,2026-03-29T00:00Z,1,5,15", "has 5 cells"),
    ],
)
def test_a_bad_row_comes_back_whole_with_why_and_the_good_ones_go_on(
    read, line, field, value, said
):
    result = read(
        "DE-LU,2026-03-29T06:00Z,1,15",
        line,
        "DE-LU,2026-03-29T06:15Z,1,15",
    )
    assert result.rows.height == 2
    (refused,) = result.rejected.to_dicts()
    assert (refused["row_number"], refused["field"], refused["value"]) == (2, field, value)
    assert said in refused["reason"]
    assert refused["remedy"]
    assert json.loads(refused["row_json"])


def test_a_refused_row_is_kept_as_it_came(read):
    (refused,) = read('DE-LU,soon,"1,5",').rejected.to_dicts()
    assert json.loads(refused["row_json"]) == {
        "market": "DE-LU",
        "start": "soon",
        "price_eur_per_mwh": "1,5",
        "resolution_minutes": None,
    }


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("market,start,price", "lacks price_eur_per_mwh and has the unknown price"),
        ("market,start,price_eur_per_mwh,note", "has the unknown note"),
        ("market;start;price_eur_per_mwh", "lacks market, start, price_eur_per_mwh"),
        ("market,market,start", "columns of the same name"),
    ],
)
def test_wrong_columns_refuse_the_whole_file(read, header, said):
    with pytest.raises(FeedError) as refusal:
        read("DE-LU,2026-03-29T00:00Z,1", header=header)
    assert said in refusal.value.reason
    assert refusal.value.remedy


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", b"", "is empty"),
        ("p.csv", b"\xff\xfe\x00", "is not text in UTF-8"),
        ("p.parquet", b"PAR1 and junk", "is no Parquet file"),
        ("p.txt", b"", "has no known suffix"),
        ("gone.csv", None, "can't be read"),
    ],
)
def test_a_file_that_holds_no_prices_is_refused(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FeedError) as refusal:
        read_price_file(tmp_path / name, KNOWN)
    assert said in refusal.value.reason
    assert str(tmp_path / name) in str(refusal.value)


def test_a_header_alone_gives_nothing(read):
    result = read()
    assert (result.rows.height, result.rejected.height) == (0, 0)


def test_parquet_holds_instants_and_numbers_as_such(tmp_path):
    berlin = timezone(timedelta(hours=1))
    frame = pl.DataFrame(
        {
            "market": ["DE-LU"] * 3,
            "start": [datetime(2026, 1, 1, h, tzinfo=berlin) for h in (0, 1, 2)],
            "price_eur_per_mwh": [0.1 + 0.2, float("nan"), -1.0],
            "resolution_minutes": [60.0, 60.0, None],
        }
    )
    frame.write_parquet(tmp_path / "p.parquet")
    result = read_price_file(tmp_path / "p.parquet", KNOWN)
    assert result.rows["price_eur_per_mwh"].to_list() == [0.1 + 0.2] * 4 + [-1.0]
    assert result.rows["interval_start"][0] == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert result.rejected.select("row_number", "value").rows() == [(2, "NaN")]


def test_parquet_with_naive_times_is_refused_row_by_row(tmp_path):
    start = pl.Series([datetime(2026, 1, 1)])  # noqa: DTZ001 - the naive one is what is refused
    frame = pl.DataFrame({"market": ["FR"], "start": start, "price_eur_per_mwh": [1.0]})
    frame.write_parquet(tmp_path / "p.parquet")
    result = read_price_file(tmp_path / "p.parquet", KNOWN)
    assert result.rejected["reason"].to_list() == ["has no time zone"]


cells = st.tuples(
    st.sampled_from(["DE-LU", "FR", "", "  "]),
    st.one_of(
        st.integers(0, 12).map(lambda i: f"2026-03-29T{i // 4:02}:{i % 4 * 15:02}Z"),
        st.sampled_from(["", "noon", "2026-03-29T00:00", "2026-03-29T00:07Z", "2026-03-29T24:00Z"]),
    ),
    st.sampled_from(["1", "2", "-5e2", "", "nan", "1e9", "x"]),
    st.sampled_from(["", "15", "30", "60", "7", "x"]),
)
lines = st.one_of(
    cells.map(",".join),
    st.text(st.characters(codec="utf-8", exclude_characters='\r\n"'), min_size=1, max_size=12),
)


@settings(deadline=None)
@given(st.lists(lines.filter(str.strip), max_size=30))
def test_any_mixture_of_good_and_bad_rows_loses_none(tmp_path_factory, given_lines):
    path = tmp_path_factory.getbasetemp() / "mixture.csv"
    path.write_text("\n".join([HEADER, *given_lines]), newline="")
    result = read_price_file(path, KNOWN)
    refused = result.rejected["row_number"].to_list()
    assert len(set(refused)) == len(refused)
    assert set(refused) <= set(range(1, len(given_lines) + 1))
    kept = [line for i, line in enumerate(given_lines, start=1) if i not in refused]
    resolutions = [int(line.split(",")[3] or 15) for line in kept]
    assert result.rows.height == sum(minutes // 15 for minutes in resolutions)
