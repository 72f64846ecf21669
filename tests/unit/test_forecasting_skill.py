"""How wrong a forecast was."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from vpp_pipeline.delivery_day import bounds, day_intervals, intervals
from vpp_pipeline.forecasting.naive import naive
from vpp_pipeline.forecasting.skill import errors, skill

TZ = "Europe/Berlin"
DAY = date(2020, 10, 25)
ASKED = day_intervals(DAY, TZ)
KNOWN_AT = datetime(2020, 10, 26, 1, tzinfo=UTC)


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


def candidate(name: str, p50: float, target: str = "load", subject: str = "a") -> pl.DataFrame:
    return told(p50 - 1, p50, p50 + 1, subject).with_columns(
        target=pl.lit(target), forecaster=pl.lit(name), champion=pl.lit(name == "ours")
    )


def scored(forecasts: pl.DataFrame, actuals: pl.DataFrame, rule: pl.DataFrame) -> pl.DataFrame:
    euros = pl.DataFrame({"target": ["load"], "forecaster": ["ours"], "euros_lost": [1.5]})
    return skill(forecasts, actuals, rule, euros, DAY, KNOWN_AT)


def of(target: str, value: float, subject: str = "a") -> pl.DataFrame:
    return happened(value).with_columns(target=pl.lit(target), subject_id=pl.lit(subject))


def test_candidates_of_a_target_are_scored_over_all_its_subjects_beside_the_naive_rule():
    said = pl.concat([candidate("ours", -2.0), candidate("theirs", -5.0)])
    said = pl.concat([said, candidate("ours", -2.0, subject="b")])
    actuals = pl.concat([of("load", -3.0), of("load", -3.0, "b")])
    rule = of("load", -7.0).rename({"value": "naive"})
    rows = {row["forecaster"]: row for row in scored(said, actuals, rule).to_dicts()}
    assert rows["ours"]["mae"] == pytest.approx(1.0)
    assert rows["ours"]["subjects"] == 2
    assert rows["ours"]["rmae"] == pytest.approx(0.25)
    assert rows["theirs"]["rmae"] == pytest.approx(0.5)
    assert rows["ours"]["champion"] is True
    assert (rows["ours"]["euros_lost"], rows["theirs"]["euros_lost"]) == (1.5, None)


def test_sun_and_wind_are_scored_as_one_and_a_rule_that_never_errs_gives_no_ratio():
    said = pl.concat([candidate("ours", 1.0, "pv"), candidate("ours", 3.0, "wind", "b")])
    actuals = pl.concat([of("pv", 0.0), of("wind", 2.0, "b")])
    (row,) = scored(said, actuals, actuals.rename({"value": "naive"})).to_dicts()
    assert (row["target"], row["subjects"], row["mae"]) == ("generation", 2, 1.0)
    assert row["rmae"] is None


def history(known_until: datetime) -> pl.DataFrame:
    """The value is how many whole days before DAY a quarter-hour lies."""
    start = bounds(DAY, TZ)[0] - timedelta(days=20)
    rows = intervals(start, known_until).to_frame()
    day = pl.col("interval_start").dt.convert_time_zone(TZ).dt.date()
    return rows.select(
        target=pl.lit("load"),
        subject_id=pl.lit("a"),
        interval_start="interval_start",
        value=(pl.lit(DAY) - day).dt.total_days().cast(pl.Float64),
    )


@pytest.mark.parametrize(
    ("day", "told_by", "lags"),
    [
        (date(2020, 10, 21), 24, {1.0}),  # a Wednesday that knows all of Tuesday
        (date(2020, 10, 21), 10, {1.0, 7.0}),  # and one that knows it until ten
        (date(2020, 10, 19), 24, {7.0}),  # a Monday
        (date(2020, 10, 25), 24, {7.0}),  # a Sunday of 100 quarter-hours
    ],
)
def test_the_naive_rule_is_yesterday_on_most_workdays_and_else_last_week(day, told_by, lags):
    eve = bounds(day - timedelta(days=1), TZ)[0]
    back = (DAY - day).days
    known = history(eve + timedelta(hours=told_by)).with_columns(pl.col("value") - back)
    said = naive(known, day_intervals(day, TZ), TZ)
    assert said.height == len(day_intervals(day, TZ))
    assert set(said["naive"]) == lags
    assert naive(known.clear(), day_intervals(day, TZ), TZ).is_empty()
