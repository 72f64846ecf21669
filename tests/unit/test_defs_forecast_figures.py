"""What the UI shows of a forecast: the fleet's course, each load counted once."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from vpp_pipeline.defs.forecast_figures import forecast_figures

SCHEMA = {"target": pl.String, "subject_id": pl.String} | dict.fromkeys(
    ["p10", "p50", "p90"], pl.Float64
)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def forecast(*rows: tuple[str, str, float, float, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, SCHEMA, orient="row").with_columns(
        interval_start=pl.lit(NOON, pl.Datetime("us", "UTC")), model=pl.lit("global")
    )


def records(value):
    return [record.data for record in value.records]


def test_a_load_counts_once_however_many_sites_and_groups_it_is_part_of():
    shown = forecast_figures(
        forecast(
            ("load", "one", -4.0, -3.0, -2.0),
            ("load", "two", -4.0, -3.0, -2.0),
            ("site_load", "home", -7.0, -6.0, -5.0),
            ("group_load", "all", -7.0, -6.0, -5.0),
        )
    )
    (at_noon,) = records(shown["by_quarter_hour"])
    assert at_noon["p50"] == -6
    assert at_noon["p90"] - at_noon["p50"] == pytest.approx(2**0.5, abs=1e-3)  # as squares
    assert [row["subject_id"] for row in records(shown["mean_of_sites_and_groups"])] == [
        "all",
        "home",
    ]
    assert {name for name in shown if name.endswith("_picture")} == {"load_picture"}


def test_a_temperature_is_a_mean_of_sites_and_no_sum():
    shown = forecast_figures(
        forecast(("temperature", "home", 8.0, 10.0, 12.0), ("temperature", "depot", 10, 12, 14))
    )
    (at_noon,) = records(shown["by_quarter_hour"])
    assert (at_noon["p10"], at_noon["p50"], at_noon["p90"]) == (9, 11, 13)


def test_a_fleet_without_what_is_forecast_has_an_empty_table_and_no_picture():
    shown = forecast_figures(forecast().clear())
    assert shown["by_quarter_hour"].records == []
    assert not [name for name in shown if name.endswith("_picture")]
