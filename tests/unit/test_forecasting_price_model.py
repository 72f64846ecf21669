"""The LEAR price model: what it learns, what it must not see, and who answers in its place."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from vpp_pipeline.delivery_day import STEP, bounds, day_intervals, gate_closure, intervals
from vpp_pipeline.forecasting.price_model import LEAST_DAYS, LONGEST_LAG_DAYS, regressors
from vpp_pipeline.forecasting.prices import lear_price_forecast, price_forecast

TZ = "Europe/Berlin"
DAY = date(2021, 6, 16)
SPRING, AUTUMN = date(2021, 3, 28), date(2021, 10, 31)
HISTORY = timedelta(days=100)


def known_before(hours: int) -> pl.Expr:
    """Return midnight of a row's delivery day, less some hours, in UTC."""
    local = pl.col("interval_start").dt.convert_time_zone(TZ).dt.truncate("1d")
    return local.dt.convert_time_zone("UTC") - timedelta(hours=hours)


def market(day: date, shape: tuple[float, ...] = (0.0,) * 4, history: timedelta = HISTORY):
    """Return prices and market forecasts around `day`; wind makes the price, often below zero."""
    start, end = bounds(day, TZ)[0] - history, bounds(day + timedelta(days=2), TZ)[1]
    starts = intervals(start, end)
    hours = starts.len() // 4
    rng = np.random.default_rng(11)
    load = 50e3 + 8e3 * np.sin(2 * np.pi * np.arange(hours) / 24)
    wind = 20e3 + 15e3 * np.sin(np.arange(hours) / 31) + rng.normal(0, 4e3, hours)
    price = (load - 1.5 * wind.clip(0)) / 500 - 20 + rng.normal(0, 2, hours)
    rows = pl.DataFrame({"interval_start": starts}).with_columns(
        market=pl.lit("a"),
        price_eur_per_mwh=np.repeat(price, 4) + np.tile(shape, hours),
        load_mw=np.repeat(load, 4),
        renewables_mw=np.repeat(wind.clip(0), 4),
    )
    prices = rows.select("market", "interval_start", "price_eur_per_mwh", known_at=known_before(11))
    told = rows.select(
        "market", "interval_start", "load_mw", "renewables_mw", known_at=known_before(14)
    )
    return prices, told


def lear(prices: pl.DataFrame, told: pl.DataFrame, day: date) -> pl.DataFrame:
    asked = day_intervals(day, TZ)
    return lear_price_forecast(prices, told, asked, "a", TZ, before_closure(day))


def before_closure(day: date) -> datetime:
    return gate_closure(day, TZ) - timedelta(hours=1)


@pytest.fixture(scope="module")
def usual():
    return market(DAY)


@pytest.fixture(scope="module")
def answer(usual):
    return lear(*usual, DAY)


def test_the_wind_of_tomorrow_makes_the_price_of_tomorrow(usual, answer):
    prices, _ = usual
    similar = price_forecast(prices, day_intervals(DAY, TZ), "a", TZ, before_closure(DAY))
    happened = prices.select("interval_start", "price_eur_per_mwh")

    def mae(forecast):
        both = forecast.join(happened, on="interval_start")
        return (both["p50"] - both["price_eur_per_mwh"]).abs().mean()

    assert answer["model"].unique().to_list() == ["lear"]
    assert mae(answer) < 0.3 * mae(similar)
    assert happened["price_eur_per_mwh"].min() < 0
    covered = answer.join(happened, on="interval_start").select(
        pl.col("price_eur_per_mwh").is_between("p10", "p90").mean()
    )
    assert 0.5 < covered.item() < 1.0


def test_prices_below_zero_are_forecast_below_zero():
    prices, told = market(DAY)
    windy = bounds(DAY, TZ)[0]
    storm = told.with_columns(
        renewables_mw=pl.when(pl.col("interval_start") >= windy)
        .then(60e3)
        .otherwise("renewables_mw")
    )
    assert (lear(prices, storm, DAY)["p50"] < 0).all()


@settings(max_examples=5, deadline=None)
@given(price=st.floats(-500, 4000), power=st.floats(0, 1e5), seed=st.integers(0, 99))
def test_nothing_that_is_not_known_yet_changes_a_forecast(usual, answer, price, power, seed):
    prices, told = usual
    later = pl.col("known_at") > before_closure(DAY)
    changed = prices.with_columns(
        price_eur_per_mwh=pl.when(later).then(price).otherwise("price_eur_per_mwh")
    )
    redone = told.with_columns(load_mw=pl.when(later).then(power).otherwise("load_mw"))
    corrected = told.with_columns(
        renewables_mw=pl.lit(power), known_at=pl.lit(before_closure(DAY) + STEP)
    )
    shuffled = pl.concat([redone, corrected], how="vertical_relaxed").sample(
        fraction=1, shuffle=True, seed=seed
    )
    again = lear(changed.sample(fraction=1, shuffle=True, seed=seed), shuffled, DAY)
    assert_frame_equal(again, answer, check_exact=True)


def test_a_correction_known_in_time_counts(usual, answer):
    prices, told = usual
    corrected = told.filter(pl.col("interval_start") >= bounds(DAY, TZ)[0]).with_columns(
        renewables_mw=pl.col("renewables_mw") + 5e3, known_at=pl.lit(before_closure(DAY))
    )
    again = lear(prices, pl.concat([corrected, told], how="vertical_relaxed"), DAY)
    assert (again["p50"] < answer["p50"]).all()


def without_the_days_forecast(prices, told):
    return prices, told.filter(pl.col("interval_start") < bounds(DAY, TZ)[0])


def without_any_forecast(prices, told):
    return prices, told.clear()


def without_yesterdays_prices(prices, told):
    start = bounds(DAY, TZ)[0]
    return prices.filter(
        ~pl.col("interval_start").is_between(start - timedelta(days=1), start)
    ), told


def with_a_day_too_few(prices, told):
    since = bounds(DAY, TZ)[0] - timedelta(days=LEAST_DAYS + LONGEST_LAG_DAYS - 1)
    return prices.filter(pl.col("interval_start") >= since), told


@pytest.mark.parametrize(
    "lack",
    [
        without_the_days_forecast,
        without_any_forecast,
        without_yesterdays_prices,
        with_a_day_too_few,
    ],
)
def test_where_its_inputs_lack_the_similar_days_answer_under_their_name(usual, lack):
    prices, told = lack(*usual)
    asked = day_intervals(DAY, TZ)
    similar = price_forecast(prices, asked, "a", TZ, before_closure(DAY))
    answer = lear(prices, told, DAY)
    assert answer["model"].unique().to_list() == ["similar-day"]
    assert_frame_equal(answer, similar)


def test_just_enough_days_are_enough(usual):
    prices, told = usual
    since = bounds(DAY, TZ)[0] - timedelta(days=LEAST_DAYS + LONGEST_LAG_DAYS)
    answer = lear(prices.filter(pl.col("interval_start") >= since), told, DAY)
    assert answer["model"].unique().to_list() == ["lear"]


def test_a_published_price_is_not_forecast(usual):
    prices, told = usual
    start, _ = bounds(DAY, TZ)
    asked = day_intervals(DAY, TZ)
    answer = lear_price_forecast(prices, told, asked, "a", TZ, start)
    assert answer["model"].unique().to_list() == ["published"]


@pytest.mark.parametrize(("day", "quarter_hours"), [(SPRING, 92), (AUTUMN, 100)])
def test_a_day_of_the_clock_change_is_answered_whole(day, quarter_hours):
    answer = lear(*market(day), day)
    assert answer["interval_start"].to_list() == day_intervals(day, TZ).to_list()
    assert answer.height == quarter_hours
    assert answer["model"].unique().to_list() == ["lear"]
    local = pl.col("interval_start").dt.convert_time_zone(TZ).dt.time()
    assert answer.group_by(local).agg(pl.col("p50").n_unique())["p50"].unique().to_list() == [1]


@pytest.mark.parametrize("day", [SPRING, AUTUMN])
def test_the_day_after_a_clock_change_is_answered_too(day):
    after = day + timedelta(days=1)
    assert lear(*market(after), after)["model"].unique().to_list() == ["lear"]


def test_quarter_hours_stand_off_their_hour_as_they_did():
    shape = (-9.0, -3.0, 3.0, 9.0)
    answer = lear(*market(DAY, shape), DAY)
    quarter = answer.with_columns(hour=pl.col("interval_start").dt.truncate("1h")).with_columns(
        off=pl.col("p50") - pl.col("p50").mean().over("hour")
    )
    assert quarter["off"].to_list() == pytest.approx(list(shape) * 24)


def test_a_price_that_never_moves_is_forecast_as_it_is():
    prices, told = market(DAY)
    answer = lear(prices.with_columns(price_eur_per_mwh=pl.lit(42.0)), told, DAY)
    assert answer["model"].unique().to_list() == ["lear"]
    assert answer["p10"].to_list() == pytest.approx([42.0] * 96)
    assert answer["p90"].to_list() == pytest.approx([42.0] * 96)


def test_two_days_are_answered_each_from_what_it_has(usual):
    prices, told = usual
    asked = intervals(bounds(DAY, TZ)[0], bounds(DAY + timedelta(days=1), TZ)[1])
    answer = lear_price_forecast(prices, told, asked, "a", TZ, before_closure(DAY))
    days = answer.with_columns(day=pl.col("interval_start").dt.convert_time_zone(TZ).dt.date())
    by_day = days.group_by("day", maintain_order=True).agg(pl.col("model").unique())
    assert by_day["model"].to_list() == [["lear"], ["similar-day"]]


def test_a_day_is_told_its_lags_and_its_own_forecasts_but_not_its_prices():
    days = 12
    prices = np.arange(days * 24, dtype=float).reshape(days, 24)
    told = -prices
    rows = regressors(prices, [told], np.arange(days, dtype=np.int64) % 7)
    assert np.isnan(rows[:7]).any(axis=1).all()
    last = [prices[days - 1 - lag] for lag in (1, 2, 3, 7)]
    own = [told[days - 1 - lag] for lag in (0, 1, 2, 7)]
    weekday = np.eye(7)[(days - 1) % 7]
    assert rows[-1].tolist() == np.concatenate([*last, *own, weekday]).tolist()
