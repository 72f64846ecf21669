"""How wrong a forecast was."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.forecasting.skill import errors

DAY = date(2020, 10, 25)
ASKED = day_intervals(DAY, "Europe/Berlin")


def told(p10: float, p50: float, p90: float, subject: str = "a") -> pl.DataFrame:
    return ASKED.to_frame().select(
        pl.lit("load").alias("target"),
        pl.lit(subject).alias("subject_id"),
        "interval_start",
        p10=pl.lit(p10),
        p50=pl.lit(p50),
        p90=pl.lit(p90),
        model=pl.lit("similar-day"),
        known_at=pl.lit(datetime(2020, 10, 24, 10, tzinfo=UTC)),
    )


def happened(value: float) -> pl.DataFrame:
    return ASKED.to_frame().select(
        pl.lit("a").alias("subject_id"), "interval_start", value=pl.lit(value)
    )


def test_errors_are_those_of_the_textbook():
    row = errors(told(-3.0, -2.0, -1.0), happened(-2.5), DAY).row(0, named=True)
    assert row["intervals"] == 100
    assert row["mae"] == pytest.approx(0.5)
    assert row["bias"] == pytest.approx(0.5)
    assert row["pinball"] == pytest.approx((0.1 * 0.5 + 0.5 * 0.5 + 0.1 * 1.5) / 3)
    assert row["coverage_p10_p90"] == 1.0


def test_a_value_outside_the_quantiles_is_not_covered():
    row = errors(told(-3.0, -2.0, -1.0), happened(0.0), DAY).row(0, named=True)
    assert row["coverage_p10_p90"] == 0.0
    assert row["bias"] == pytest.approx(-2.0)


def test_quarter_hours_without_a_number_do_not_count_and_a_subject_without_any_has_no_row():
    half = happened(-2.0).with_columns(
        value=pl.when(pl.int_range(pl.len()) < 50).then("value").otherwise(float("nan"))
    )
    scored = errors(pl.concat([told(-3, -2, -1), told(-3, -2, -1, "b")]), half, DAY)
    assert scored.select("subject_id", "intervals").rows() == [("a", 50)]


def test_a_day_answered_by_two_models_is_one_row_that_names_both():
    two = told(-3, -2, -1).with_columns(
        model=pl.when(pl.int_range(pl.len()) < 9).then(pl.lit("mean")).otherwise("model")
    )
    assert errors(two, happened(-2.0), DAY)["model"].to_list() == ["mean+similar-day"]
