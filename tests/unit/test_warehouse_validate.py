"""Rows against their schema, refusals in words, and the fingerprint of inputs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.forecasting.schemas import Forecasts
from vpp_pipeline.markets.feeds import FeedResult, RejectedRows
from vpp_pipeline.markets.schemas import Prices
from vpp_pipeline.warehouse.quarantine import from_failures, from_feed, from_unreadable
from vpp_pipeline.warehouse.schemas import Quarantine
from vpp_pipeline.warehouse.validate import input_hash, validated

T0 = datetime(2025, 3, 30, tzinfo=UTC)
NOW = T0 + timedelta(hours=1)


def telemetry(rows: int, **columns: list[object]) -> pl.DataFrame:
    plain = {name: [None] * rows for name in Telemetry.column_names()}
    plain |= {
        "device_id": [f"battery-{i}" for i in range(rows)],
        "measured_at": [T0] * rows,
        "status": ["ok"] * rows,
        "known_at": [T0] * rows,
        "power_kw": [1.0] * rows,
    }
    types = dict(Telemetry.create_empty().schema) | {"status": pl.String()}
    frame = pl.DataFrame(
        plain | columns,
        schema_overrides={name: types[name] for name in types if name not in columns},
    )
    return frame.with_columns(
        file_name=pl.lit("a.parquet"), row_number=pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    )


def test_good_rows_pass_with_their_place_and_the_schemas_types():
    good, failures = validated(Telemetry, telemetry(3))

    assert good["row_number"].to_list() == [1, 2, 3]
    assert good.select(Telemetry.column_names()).schema == Telemetry.create_empty().schema
    assert failures.is_empty()


def test_a_repeated_reading_stands_beside_the_first():
    good, _ = validated(Telemetry, telemetry(2, device_id=["one", "one"]))

    assert good.height == 2


def test_a_refused_row_is_kept_whole_with_field_value_reason_and_remedy():
    rows = telemetry(3, power_kw=[1.0, float("nan"), 3.0], status=["ok", "ok", "asleep"])

    good, failures = validated(Telemetry, rows)
    refused = from_failures(Telemetry, [failures], "telemetry", NOW)

    Quarantine.validate(refused)
    assert good["device_id"].to_list() == ["battery-0"]
    assert refused.select("source", "row_number", "field", "value", "known_at").rows() == [
        ("a.parquet", 2, "power_kw", "NaN", NOW),
        ("a.parquet", 3, "status", "asleep", NOW),
    ]
    assert "not a number" in refused["reason"][0]
    assert "offline" in refused["remedy"][1]  # what may be sent instead
    assert json.loads(refused["row_json"][1])["device_id"] == "battery-2"


def test_a_row_that_breaks_two_rules_is_told_twice():
    rows = telemetry(1, device_id=[None], power_kw=[float("inf")])

    _, failures = validated(Telemetry, rows)
    refused = from_failures(Telemetry, [failures], "telemetry", NOW)

    assert sorted(refused["field"]) == ["device_id", "power_kw"]


def test_a_rule_over_several_fields_names_the_row():
    rows = pl.DataFrame(
        {
            "target": ["pv"],
            "subject_id": ["roof"],
            "interval_start": [T0],
            "p10": [2.0],
            "p50": [1.0],
            "p90": [3.0],
            "model": ["clear sky"],
            "known_at": [T0],
            "file_name": ["f.parquet"],
            "row_number": [7],
        }
    )

    _, failures = validated(Forecasts, rows)
    refused = from_failures(Forecasts, [failures], "forecasts", NOW)

    assert refused.select("row_number", "field", "value").rows() == [(7, "row", None)]
    assert "quantiles_ascend" in refused["reason"][0]


def test_what_a_feed_refused_is_told_with_its_source():
    rejected = RejectedRows.validate(
        pl.DataFrame(
            {
                "row_number": [4],
                "field": ["price_eur_per_mwh"],
                "value": ["abc"],
                "reason": ["is no number"],
                "remedy": ["write a number"],
                "row_json": ["{}"],
            }
        )
    )
    result = FeedResult(Prices.create_empty(), rejected, "drop/prices.csv", T0)

    refused = from_feed("prices", result, NOW)

    Quarantine.validate(refused)
    assert refused.select("table_name", "source", "row_number", "value", "known_at").rows() == [
        ("prices", "drop/prices.csv", 4, "abc", NOW)
    ]


def test_an_unreadable_file_is_told_as_row_zero():
    refused = from_unreadable({"b.parquet": "cut short"}, Path("kept"), "telemetry", NOW)

    assert refused.select("source", "row_number", "field", "reason").rows() == [
        ("b.parquet", 0, "file", "cut short")
    ]
    assert "kept" in refused["remedy"][0]


def test_nothing_refused_is_an_empty_frame_of_the_same_shape():
    assert (
        from_failures(Telemetry, [], "telemetry", NOW).schema
        == from_unreadable({}, Path(), "telemetry", NOW).schema
    )


@st.composite
def frames(draw):
    values = {
        "device_id": st.text('ab,"\n', max_size=3),
        "power_kw": st.none() | st.floats(-1e6, 1e6),
        "at": st.none() | st.datetimes(datetime(2025, 1, 1), datetime(2026, 1, 1)),  # noqa: DTZ001 - made aware by the frame's type
        "tags": st.none() | st.lists(st.sampled_from(["x", "y"]), max_size=2),
    }
    types = {
        "device_id": pl.String,
        "power_kw": pl.Float64,
        "at": pl.Datetime("us", "UTC"),
        "tags": pl.List(pl.String),
    }
    rows = draw(st.lists(st.fixed_dictionaries(values), max_size=6))
    return pl.DataFrame(rows, types)


@settings(deadline=None)
@given(frames(), st.randoms(use_true_random=False))
def test_the_hash_of_inputs_is_blind_to_the_order_of_rows_and_columns(frame, random):
    rows = random.sample(range(frame.height), frame.height)
    columns = random.sample(frame.columns, frame.width)

    assert input_hash({"a": frame[rows].select(columns)}) == input_hash({"a": frame})


@settings(deadline=None)
@given(frames(), frames())
def test_the_hash_of_inputs_tells_any_two_contents_apart(one, other):
    same = sorted(map(repr, one.rows())) == sorted(map(repr, other.rows()))

    assert (input_hash({"a": one}) == input_hash({"a": other})) == same


@pytest.mark.parametrize(
    "other",
    [
        {"b": pl.DataFrame({"x": [1.0]})},
        {"a": pl.DataFrame({"y": [1.0]})},
        {"a": pl.DataFrame({"x": [1.0, 1.0]})},
        {"a": pl.DataFrame({"x": [1.0]}), "b": pl.DataFrame({"x": [1.0]})},
        {},
    ],
)
def test_the_hash_of_inputs_tells_names_columns_and_numbers_of_rows_apart(other):
    assert input_hash(other) != input_hash({"a": pl.DataFrame({"x": [1.0]})})


def test_the_hash_of_inputs_is_the_same_before_and_after_an_enum_was_stored():
    stored = pl.DataFrame({"status": ["ok", "fault"]})
    fresh = stored.cast(pl.Enum(["ok", "fault"]))

    assert input_hash({"a": stored}) == input_hash({"a": fresh})
