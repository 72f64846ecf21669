"""What every forecast promises, whatever the history looks like."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from vpp_pipeline.delivery_day import day_intervals, gate_closure, intervals
from vpp_pipeline.forecasting.generation import generation_forecast
from vpp_pipeline.forecasting.load import load_forecast
from vpp_pipeline.forecasting.prices import price_forecast
from vpp_pipeline.forecasting.temperature import temperature_forecast

TZ = "Europe/Berlin"
DAYS = [date(2020, 3, 29), date(2020, 6, 17), date(2020, 10, 25)]
SUBJECTS = ["a", "b", "c"]
RATED = 4.0


def fleet(device_type: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "device_id": SUBJECTS,
            "site_id": SUBJECTS,
            "device_type": [device_type] * 3,
            "latitude": [50.0] * 3,
            "longitude": [8.0] * 3,
            "tilt_deg": [30.0, 0.0, None],
            "azimuth_deg": [180.0, 90.0, None],
            "max_inject_kw": [RATED] * 3,
            "max_draw_kw": [RATED] * 3,
        }
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.Series, datetime]:
    """A history with any holes, which goes on beyond `known_at`; what is asked; and when."""
    day = draw(st.sampled_from(DAYS))
    known_at = gate_closure(day, TZ) + timedelta(minutes=draw(st.integers(-600, 2400)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    steps = intervals(known_at.replace(minute=0) - timedelta(days=30), known_at.replace(minute=0))
    times = pl.concat([steps, steps.dt.offset_by("30d").head(200)])
    density = draw(st.sampled_from([0.0, 0.0005, 0.01, 0.3, 1.0]))
    rows = pl.DataFrame({"device_id": SUBJECTS}).join(times.to_frame("interval_start"), how="cross")
    rows = rows.with_columns(pl.Series("value", rng.normal(1.0, 3.0, rows.height)))
    kept = rows.filter(pl.Series(rng.random(rows.height) < density))
    if draw(st.booleans()):
        kept = kept.filter(pl.col("device_id") != "b")
    if draw(st.booleans()):
        cut = known_at - timedelta(hours=draw(st.integers(0, 600)))
        kept = kept.filter(pl.col("interval_start") < cut)
    broken = pl.Series(rng.random(kept.height) < 0.05)
    kept = kept.with_columns(
        pl.when(broken).then(pl.lit(float("nan"))).otherwise("value").alias("value")
    )
    return kept, day_intervals(day, TZ), known_at


def forecast(target: str, rows: pl.DataFrame, asked: pl.Series, known_at: datetime) -> pl.DataFrame:
    if target == "load":
        history = rows.select("device_id", "interval_start", power_kw="value")
        return load_forecast(fleet("load"), history, asked, TZ, known_at)
    if target in ("pv", "wind"):
        history = rows.select("device_id", "interval_start", power_kw="value")
        return generation_forecast(fleet(target), history, weather(rows, known_at), asked, known_at)
    if target == "temperature":
        return temperature_forecast(
            pl.Series(SUBJECTS), weather(rows, known_at), asked, TZ, known_at
        )
    prices = rows.filter(pl.col("device_id") == "a").select(
        "interval_start",
        market=pl.lit("a"),
        price_eur_per_mwh="value",
        known_at=pl.col("interval_start") + timedelta(minutes=15),
    )
    return price_forecast(prices, asked, "a", TZ, known_at)


def weather(rows: pl.DataFrame, known_at: datetime) -> pl.DataFrame:
    seen = rows.select(
        "interval_start",
        site_id="device_id",
        temperature_c="value",
        ghi_w_per_m2=pl.col("value").abs() * 100,
        kind=pl.lit("observed"),
        known_at=pl.col("interval_start") + timedelta(minutes=15),
    )
    ahead = seen.filter(pl.col("interval_start") >= known_at, pl.col("site_id") == "a")
    service = ahead.with_columns(kind=pl.lit("forecast"), known_at=pl.lit(known_at))
    return pl.concat([seen, service.cast(dict(seen.schema))])


TARGETS = ["load", "pv", "wind", "temperature", "price"]
# Five targets share what the profile gives to two.
EACH_TARGET = settings(max_examples=2 * settings.default.max_examples // 5, deadline=None)


@pytest.mark.parametrize("target", TARGETS)
@EACH_TARGET
@given(case=cases())
def test_every_asked_interval_is_answered_exactly_once_with_ascending_quantiles(target, case):
    rows, asked, known_at = case
    answers = forecast(target, rows, asked, known_at)
    subjects = ["a"] if target == "price" else SUBJECTS
    expected = pl.DataFrame({"subject_id": subjects}).join(asked.to_frame(), how="cross")
    got = answers.select("subject_id", "interval_start").sort("subject_id", "interval_start")
    assert got.equals(expected.sort("subject_id", "interval_start"))
    assert answers.select(
        pl.all_horizontal(pl.col("p10", "p50", "p90").is_finite()).all()
        & (pl.col("p10") <= pl.col("p50")).all()
        & (pl.col("p50") <= pl.col("p90")).all()
    ).item()
    assert answers["model"].null_count() == 0
    bounds = {"load": (-RATED, 0.0), "pv": (0.0, RATED), "wind": (0.0, RATED)}
    low, high = bounds.get(target, (-1e9, 1e9))
    assert answers["p10"].min() >= low
    assert answers["p90"].max() <= high


@pytest.mark.parametrize("target", TARGETS)
@EACH_TARGET
@given(case=cases())
def test_nothing_that_ends_after_known_at_changes_a_forecast(target, case):
    rows, asked, known_at = case
    later = pl.col("interval_start") + timedelta(minutes=15) > known_at
    poisoned = rows.with_columns(pl.when(later).then(999.0).otherwise("value").alias("value"))
    if target in ("pv", "temperature"):
        rows, poisoned = (r.filter(pl.col("device_id") != "a") for r in (rows, poisoned))
    before = forecast(target, rows, asked, known_at)
    after = forecast(target, poisoned, asked, known_at)
    assert_frame_equal(before, after)


@pytest.mark.parametrize(("day", "steps"), [(DAYS[0], 92), (DAYS[1], 96), (DAYS[2], 100)])
def test_a_habit_stays_at_its_local_hour_when_the_clocks_change(day, steps):
    known_at = gate_closure(day, TZ)
    times = intervals(known_at - timedelta(days=28), known_at)
    at_seven = pl.col("interval_start").dt.convert_time_zone(TZ).dt.hour() == 7
    history = times.to_frame().select(
        pl.lit("a").alias("device_id"),
        "interval_start",
        power_kw=pl.when(at_seven).then(-3.0).otherwise(-1.0),
    )
    asked = day_intervals(day, TZ)
    answers = load_forecast(fleet("load").head(1), history, asked, TZ, known_at)
    peak = answers.filter(pl.col("p50") < -2)["interval_start"].dt.convert_time_zone(TZ)
    assert answers.height == steps
    assert peak.dt.hour().to_list() == [7] * 4


def test_a_load_without_history_answers_by_its_nameplate_and_says_so():
    empty = pl.DataFrame(
        schema={
            "device_id": pl.String,
            "interval_start": pl.Datetime("us", "UTC"),
            "power_kw": pl.Float64,
        }
    )
    asked = day_intervals(DAYS[1], TZ)
    answers = load_forecast(fleet("load"), empty, asked, TZ, datetime(2020, 6, 16, tzinfo=UTC))
    assert set(answers["model"]) == {"nameplate"}
    assert set(answers["p50"]) == {-0.1 * RATED}


def test_a_load_with_one_day_of_history_repeats_that_day():
    known_at = datetime(2020, 6, 17, tzinfo=UTC)
    times = intervals(known_at - timedelta(hours=30), known_at)
    history = times.to_frame().select(
        pl.lit("a").alias("device_id"),
        "interval_start",
        power_kw=-(pl.col("interval_start").dt.hour() / 10.0),
    )
    answers = load_forecast(
        fleet("load").head(1),
        history,
        intervals(known_at, known_at + timedelta(days=1)),
        TZ,
        known_at,
    )
    assert set(answers["model"]) == {"similar-day", "all-days"}
    by_hour = answers.select(pl.col("interval_start").dt.hour() / 10.0 + pl.col("p50"))
    assert by_hour.to_series().abs().max() < 0.2


def test_a_published_price_is_answered_as_it_is_and_a_later_correction_only_once_known():
    start = datetime(2020, 6, 17, tzinfo=UTC)
    row = {"market": "a", "interval_start": start, "price_eur_per_mwh": 40.0}
    prices = pl.DataFrame(
        [
            {**row, "known_at": start - timedelta(hours=11)},
            {**row, "price_eur_per_mwh": -5.0, "known_at": start - timedelta(hours=1)},
        ],
        schema_overrides={
            "interval_start": pl.Datetime("us", "UTC"),
            "known_at": pl.Datetime("us", "UTC"),
        },
    )
    asked = intervals(start, start + timedelta(minutes=15))
    first = price_forecast(prices, asked, "a", TZ, start - timedelta(hours=2))
    second = price_forecast(prices, asked, "a", TZ, start)
    assert first.select("p10", "p50", "p90", "model").row(0) == (40.0, 40.0, 40.0, "published")
    assert second["p50"].item() == -5.0


def test_a_weather_service_goes_before_the_recent_days():
    known_at = datetime(2020, 6, 17, tzinfo=UTC)
    past = intervals(known_at - timedelta(days=10), known_at).to_frame()
    seen = past.select(
        site_id=pl.lit("a"),
        interval_start="interval_start",
        temperature_c=pl.lit(12.0),
        kind=pl.lit("observed"),
        known_at=pl.col("interval_start") + timedelta(minutes=15),
    )
    told = intervals(known_at, known_at + timedelta(hours=1)).to_frame()
    told = told.select(
        site_id=pl.lit("a"),
        interval_start="interval_start",
        temperature_c=pl.lit(20.0),
        kind=pl.lit("forecast"),
        known_at=pl.lit(known_at).cast(pl.Datetime("us", "UTC")),
    )
    answers = temperature_forecast(
        pl.Series(["a", "b"]),
        pl.concat([seen, told]),
        intervals(known_at, known_at + timedelta(hours=2)),
        TZ,
        known_at,
    )
    by_model = answers.group_by("subject_id", "model").agg(pl.col("p50").mean(), pl.len())
    assert by_model.sort("subject_id", "model").rows() == [
        ("a", "service", 20.0, 4),
        ("a", "similar-day", 12.0, 4),
        ("b", "other-sites", 16.0, 8),
    ]


def test_a_plant_is_forecast_among_hundreds_as_it_is_alone_in_whatever_order_they_come():
    asked = day_intervals(DAYS[1], TZ)
    known_at = gate_closure(DAYS[1], TZ)
    rng = np.random.default_rng(5)
    names = [f"plant-{n:03}" for n in range(230)]
    one = fleet("pv").head(1).drop("device_id", "site_id", "tilt_deg")
    many = pl.DataFrame(
        {"device_id": names, "site_id": names, "tilt_deg": rng.uniform(0, 40, len(names))}
    ).join(one, how="cross")
    past = intervals(known_at - timedelta(days=6), known_at).to_frame("interval_start")
    told = pl.DataFrame({"device_id": names[:-1]}).join(past, how="cross")
    told = told.with_columns(power_kw=pl.Series(rng.uniform(0.0, RATED, told.height)))
    nothing = weather(told.head(0).rename({"power_kw": "value"}), known_at)
    among = generation_forecast(
        many.sample(fraction=1.0, shuffle=True, seed=1),
        told.sample(fraction=1.0, shuffle=True, seed=2),
        nothing,
        asked,
        known_at,
    )
    for name in (names[0], names[99], names[100], names[-1]):
        alone = generation_forecast(
            many.filter(pl.col("device_id") == name),
            told.filter(pl.col("device_id") == name),
            nothing,
            asked,
            known_at,
        )
        assert_frame_equal(among.filter(pl.col("subject_id") == name), alone)
