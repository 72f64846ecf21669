"""The vectorised rules judge as the models do."""

from datetime import time

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vpp_pipeline.fleet import screen
from vpp_pipeline.fleet.columns import COLUMNS, CONNECTION, DEVICE
from vpp_pipeline.fleet.model import Fleet
from vpp_pipeline.fleet.sample import sample_table
from vpp_pipeline.fleet.table import device_tree, fleet_of, site_tree, table_of, with_defaults

SOUND = sample_table(2000, seed=11).group_by("type", maintain_order=True).head(2)
SOUND = SOUND.select(COLUMNS.keys())
# Values at and beyond the models' bounds, and sound ones.
NUMBERS = st.sampled_from(
    [
        None,
        -1000000000.0,
        -1000.5,
        -90.0,
        -30.0,
        -1.0,
        0.0,
        1e-09,
        0.1,
        0.5,
        0.95,
        1.0,
        1.4,
        8.0,
        22.5,
        90.0,
        95.0,
        100.0,
        180.0,
        360.0,
        1000.0,
        1000000.0,
        1000000.0 + 1,
        10000000.0,
        20000000.0,
        float("nan"),
        float("inf"),
    ]
)
WHOLE_NUMBERS = st.sampled_from([None, -1, 0, 1, 247, 248, 502, 40000, 50000, 65535, 65536])
TEXTS = st.sampled_from(
    [
        None,
        "",
        "ok-1",
        "Bad",
        "-x",
        "x" * 63,
        "x" * 64,
        "a b",
        "a\n",
        "Europe/Berlin",
        "Mars/Base",
        "http://h",
        "https://h:1/x",
        "http://",
        "ftp://h",
        *DEVICE,
        *CONNECTION,
    ]
)
BY_TYPE = {
    pl.Float64(): NUMBERS,
    pl.Int64(): WHOLE_NUMBERS,
    pl.String(): TEXTS,
    pl.Boolean(): st.sampled_from([None, True, False]),
    pl.Time(): st.sampled_from([None, time(0), time(23, 59)]),
    pl.List(pl.String): st.lists(TEXTS.filter(lambda text: text is not None), max_size=2),
}


@st.composite
def changes(draw):
    """Draw cells to change: (row, column, value), mostly in columns that the row's type has."""
    row = draw(st.integers(0, SOUND.height - 1))
    own = sorted(DEVICE[SOUND["type"][row]])
    column = draw(st.one_of(st.sampled_from(own), st.sampled_from(sorted(COLUMNS))))
    return row, column, draw(BY_TYPE[COLUMNS[column]])


def model_refuses(row):
    groups = [{"group_id": name} for name in row["groups"] or ()]
    try:
        Fleet.model_validate({"sites": [site_tree(row, [device_tree(row)])], "groups": groups})
    except ValidationError:
        return True
    return False


@settings(deadline=None)
@given(st.lists(changes(), min_size=1, max_size=12))
def test_a_row_is_refused_if_and_only_if_its_model_refuses_it(changed):
    rows = SOUND.to_dicts()
    for i, column, value in changed:
        rows[i][column] = value
    table = pl.DataFrame(rows, schema=COLUMNS)
    expected = [model_refuses(row) for row in rows]
    assert screen.refused(with_defaults(table)).to_list() == expected


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("battery", {"min_soc": 0.5, "max_soc": 0.5}),
        ("heat_pump", {"comfort_min_c": 21.0, "comfort_max_c": 21.0}),
        ("ev_charger", {"min_charge_kw": 7.0, "max_charge_kw": 6.9}),
        ("chp", {"min_power_kw": 7.0, "rated_power_kw": 6.9}),
        ("pv", {"live": True}),
    ],
)
def test_a_rule_between_two_fields_holds_for_tables_too(kind, values):
    rows = SOUND.filter(type=kind).head(1).to_dicts()
    rows[0] |= values
    assert model_refuses(rows[0])
    assert screen.refused(with_defaults(pl.DataFrame(rows, schema=COLUMNS))).to_list() == [True]


@settings(max_examples=30, deadline=None)
@given(st.integers(5, 40), st.integers(0, 2**32 - 1))
def test_a_table_and_its_fleet_are_the_same_thing(devices, seed):
    table = sample_table(devices, seed)
    assert table_of(fleet_of(table)).equals(table)


def test_blanks_take_the_default_of_the_rows_own_type():
    table = pl.DataFrame(
        {
            "type": ["battery", "ev_charger", "pv"],
            "connection_protocol": ["modbus", "mqtt", "simulated"],
        }
    )
    blank = {n: pl.lit(None, dtype=t) for n, t in COLUMNS.items() if n not in table.columns}
    filled = with_defaults(table.with_columns(**blank).select(COLUMNS.keys()))
    assert filled["charge_efficiency"].to_list() == [0.95, 0.92, None]
    assert filled["connection_port"].to_list() == [502, 1883, None]
    assert filled["live"].to_list() == [False, False, False]
    assert filled["timezone"].to_list() == ["Europe/Berlin"] * 3
    assert filled["tags"].to_list() == [[], [], []]
