"""A fleet as a table: judged at once, every bad row told."""

import io

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vpp_pipeline.fleet.sample import sample_table
from vpp_pipeline.fleet.table_file import WORDED_ROWS, read_csv, read_parquet

TABLE = sample_table(40, seed=5)
BATTERY = TABLE["type"].index_of("battery")
MODBUS = {"connection_protocol": "modbus", "connection_over": None, "connection_host": "10.0.0.7"}


def csv_of(table):
    lists = pl.selectors.by_dtype(pl.List(pl.String))
    return table.with_columns(lists.list.join(";")).write_csv().encode()


def parquet_of(table):
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def changed(row, **values):
    rows = TABLE.to_dicts()
    rows[row] |= values
    return pl.DataFrame(rows, schema=TABLE.schema)


def problems_of(content, reader=read_csv):
    table, problems = reader(content, "f")
    assert table.is_empty() == bool(problems)
    return problems


@pytest.mark.parametrize(("write", "reader"), [(csv_of, read_csv), (parquet_of, read_parquet)])
def test_a_sound_table_comes_back_whole(write, reader):
    table, problems = reader(write(TABLE), "f")
    assert problems == []
    assert table.equals(TABLE)


def test_columns_may_stand_in_any_order_and_those_left_blank_may_be_left_out():
    full = csv_of(TABLE.select(reversed(TABLE.columns)).drop("connection_url", "site_name"))
    assert read_csv(full, "f")[0].equals(TABLE)


@pytest.mark.parametrize(
    ("values", "field", "said"),
    [
        ({"max_charge_kw": -5.0}, "max_charge_kw", "is not above 0"),
        ({"max_charge_kw": None}, "max_charge_kw", "is missing"),
        ({"min_soc": 0.9, "max_soc": 0.5}, "max_soc", "is not above min_soc (0.9)"),
        ({"device_id": "No Good"}, "device_id", "is malformed"),
        ({"type": "batery"}, "type", "is not known"),
        ({"type": None}, "type", "is missing"),
        ({"connection_protocol": "can"}, "connection_protocol", "is not known"),
        ({"connection_port": 502}, "connection_port", "is no field of this record"),
        ({"cop": 3.0}, "cop", "is no field of this record"),
        ({"live": True}, "live", "can't be live"),
        ({"tags": ["ok", "No"]}, "tags", "is malformed"),
        ({"groups": ["No"]}, "groups", "is malformed"),
        ({"timezone": "Mars/Base"}, "timezone", "is no IANA time zone"),
        ({"export_limit_kw": -1.0}, "export_limit_kw", "is not at least 0"),
        ({"site_tags": ["No"]}, "site_tags", "is malformed"),
    ],
)
@pytest.mark.parametrize(("write", "reader"), [(csv_of, read_csv), (parquet_of, read_parquet)])
def test_a_bad_row_is_told_by_row_column_value_reason_and_remedy(
    write, reader, values, field, said
):
    problems = problems_of(write(changed(BATTERY, **values)), reader)
    told = [p for p in problems if p.field == field and said in p.reason]
    assert [p.row for p in told] == [BATTERY + 1]
    assert [p.line for p in told] == [BATTERY + 2 if write is csv_of else None]
    assert told[0].remedy


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("max_charge_kw", "five", "is no number"),
        ("max_charge_kw", '"1,5"', "is no number"),
        ("max_charge_kw", "nan", "is not finite"),
        ("connection_unit_id", "1.5", "is no whole number"),
        ("live", "yes", "is neither true nor false"),
        ("earliest", "25:00", "is no time of day"),
    ],
)
def test_a_cell_that_does_not_fit_its_column_is_shown_as_it_stands(column, cell, said):
    text = TABLE.with_columns(pl.lit("").alias(column)) if column != "max_charge_kw" else TABLE
    lines = csv_of(text.select(column, pl.exclude(column))).decode().splitlines()
    rest = lines[BATTERY + 1].split(",", 1)[1]
    lines[BATTERY + 1] = f"{cell},{rest}"
    told = [p for p in problems_of("\n".join(lines).encode()) if p.row == BATTERY + 1]
    assert [(p.field, p.value, p.reason) for p in told] == [(column, cell.strip('"'), said)]


def test_a_device_id_and_a_modbus_unit_stand_once():
    rows = TABLE.to_dicts()
    modbus = [i for i, row in enumerate(rows) if row["connection_over"] == "modbus"][:2]
    for i in modbus:
        rows[i] |= MODBUS
    rows[modbus[1]]["device_id"] = rows[modbus[0]]["device_id"]
    problems = problems_of(csv_of(pl.DataFrame(rows, schema=TABLE.schema)))
    assert [(p.row, p.field) for p in problems] == [
        (modbus[1] + 1, "connection_unit_id"),
        (modbus[1] + 1, "device_id"),
    ]
    assert all(f"first in row {modbus[0] + 1}" in p.reason for p in problems)


@pytest.mark.parametrize(
    ("values", "field", "value", "said"),
    [
        (
            MODBUS | {"connection_register_map": "huawei"},
            "register_map",
            "huawei",
            "is no register",
        ),
        (
            MODBUS | {"connection_register_map": "go-e-charger"},
            "register_map",
            "go-e-charger",
            "for",
        ),
        ({"connection_over": "ocpp"}, "over", "ocpp", "charge points alone"),
        (
            {
                "connection_protocol": "http",
                "connection_over": None,
                "connection_url": "https://me:secret@h/a",
            },
            "url",
            "https://…@h/a",
            "holds a user or password",
        ),
    ],
)
def test_a_connection_that_can_not_serve_its_device_is_refused(values, field, value, said):
    (problem,) = problems_of(csv_of(changed(BATTERY, **values)))
    assert (problem.row, problem.field) == (BATTERY + 1, f"connection_{field}")
    assert problem.value == value
    assert said in problem.reason


def test_a_charge_point_and_connector_stands_once():
    rows = TABLE.to_dicts()
    first, second = [i for i, row in enumerate(rows) if row["type"] == "ev_charger"][:2]
    for i in (first, second):
        rows[i] |= {
            "connection_protocol": "ocpp",
            "connection_over": None,
            "connection_charge_point_id": "CP-1",
        }
    (problem,) = problems_of(csv_of(pl.DataFrame(rows, schema=TABLE.schema)))
    assert (problem.row, problem.field) == (second + 1, "connection_connector_id")
    assert problem.value == "CP-1:1"
    assert f"first in row {first + 1}" in problem.reason


def test_a_site_says_the_same_on_all_its_rows():
    (problem,) = problems_of(csv_of(changed(1, import_limit_kw=1234.0)))
    assert (problem.row, problem.field, problem.value) == (2, "import_limit_kw", "1234.0")
    assert problem.reason == "is not what the site's first row says, first in row 1"


def test_several_problems_of_several_rows_are_told_in_one_go():
    rows = TABLE.to_dicts()
    rows[BATTERY] |= {"max_charge_kw": 0.0, "max_soc": 2.0, "timezone": "Mars"}
    rows[9]["device_id"] = rows[8]["device_id"]
    told = {(p.row, p.field) for p in problems_of(csv_of(pl.DataFrame(rows, schema=TABLE.schema)))}
    expected = {(BATTERY + 1, column) for column in ("max_charge_kw", "max_soc", "timezone")}
    assert told >= expected | {(10, "device_id")}


def test_only_the_first_hundred_bad_rows_are_worded_and_the_rest_counted():
    table = sample_table(400, seed=2).with_columns(latitude=pl.lit(99.0))
    problems = problems_of(csv_of(table))
    assert {p.row for p in problems[:-1]} == set(range(1, WORDED_ROWS + 1))
    assert problems[-1].reason == "has 300 more rows with problems"


def test_a_row_with_too_few_or_too_many_cells_is_told_and_does_not_shift_the_others():
    lines = csv_of(changed(4, latitude=99.0)).decode().splitlines()
    lines[2] += ",more"
    lines[3] = "cut,short"
    text = "\n".join([*lines[:2], "", *lines[2:]])
    problems = problems_of(text.encode())
    ragged = [(p.row, p.line, p.field) for p in problems if "cells" in p.reason]
    assert ragged == [(2, 4, ""), (3, 5, "")]
    assert (5, 7, "latitude") in [(p.row, p.line, p.field) for p in problems]


def test_a_line_is_told_right_after_a_cell_of_two_lines():
    table = changed(4, latitude=99.0).with_columns(site_name=pl.lit("two\nlines"))
    problem = next(p for p in problems_of(csv_of(table)) if p.field == "latitude")
    assert (problem.row, problem.line) == (5, 10)


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_table_with_other_separators_is_told_so_in_one_problem(mark, name):
    content = TABLE.drop("tags", "site_tags", "groups").write_csv(
        separator=mark, quote_style="non_numeric"
    )
    (problem,) = problems_of(content.replace(".", ",").encode())
    assert problem.reason == f"has its columns separated by {name}, not by commas"
    assert "comma-separated" in problem.remedy


@pytest.mark.parametrize("column", ["groups", "tags", "site_tags"])
def test_of_a_malformed_list_the_name_that_is_malformed_is_shown(column):
    told = problems_of(csv_of(changed(BATTERY, **{column: ["fine", "Not Fine"]})))
    assert [p.value for p in told if p.reason == "is malformed"] == ["'Not Fine'"]


def test_columns_that_are_missing_or_unknown_are_told_with_the_one_that_may_be_meant():
    problems = problems_of(csv_of(TABLE.rename({"latitude": "latitud"}).drop("type")))
    told = {p.field: (p.reason, p.remedy) for p in problems}
    assert told["type"] == ("is a missing column", "add it")
    assert told["latitud"] == ("is no column of the registry", "write latitude if that is meant")


@pytest.mark.parametrize(
    ("reader", "content", "said"),
    [
        (read_csv, b"", "is empty"),
        (read_csv, b"\xff\xfe", "is not text in UTF-8"),
        (read_csv, b"a,a\n1,2\n", "columns of the same name: a"),
        (read_csv, csv_of(TABLE.clear()), "holds no device"),
        (read_parquet, b"", "is no Parquet file"),
        (read_parquet, b"PAR1 and junk PAR1", "is no Parquet file"),
        (read_parquet, parquet_of(TABLE.clear()), "holds no device"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_words(reader, content, said):
    assert any(said in str(problem) for problem in problems_of(content, reader))


def test_parquet_may_hold_numbers_in_other_types_and_tags_as_text():
    other = TABLE.with_columns(
        pl.col("import_limit_kw").cast(pl.Float32).cast(pl.String),
        pl.col("connection_port").cast(pl.Float64),
        pl.col("tags").list.join("; "),
        pl.col("earliest").dt.strftime("%H:%M"),
        pl.col("live").cast(pl.String),
    )
    table, problems = read_parquet(parquet_of(other), "f")
    assert problems == []
    assert table["tags"].equals(TABLE["tags"])
    assert table["earliest"].equals(TABLE["earliest"])


@settings(deadline=None)
@given(st.integers(0, 2000), st.binary(max_size=12), st.integers(0, 30))
@example(at=0, junk=b"\r", lost=0)
def test_no_content_brings_the_reader_down(at, junk, lost):
    whole = csv_of(TABLE.head(4))
    at %= len(whole)
    table, problems = read_csv(whole[:at] + junk + whole[at + lost :], "f")
    assert table.is_empty() == bool(problems)
