"""What a forecast cost, in euros."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import polars as pl
import pytest
from settlement_days import DAY, TZ, actual, battery, fleet, load, pv, told

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.settlement.cost import day_cost
from vpp_pipeline.settlement.forecast_loss import believing, cost_if_believed, euros_lost
from vpp_pipeline.settlement.foresight import perfect_foresight
from vpp_pipeline.settlement.stores import stores

PLAN = PlanSettings(fairness_eur_per_kwh=0.0)
ASKED = day_intervals(DAY, TZ)
HOUR = pl.col("interval_start").dt.convert_time_zone(TZ).dt.hour()
PRICE = pl.when(HOUR.is_between(18, 20)).then(200.0).otherwise(20.0)
SUN_KW = pl.when(HOUR.is_between(10, 14)).then(4.0).otherwise(0.0)


def said(target: str, subject: str, p50: pl.Expr, forecaster: str = "ours") -> pl.DataFrame:
    return ASKED.to_frame().select(
        "interval_start",
        target=pl.lit(target),
        subject_id=pl.lit(subject),
        forecaster=pl.lit(forecaster),
        p10=p50,
        p50=p50,
        p90=p50,
        known_at=pl.lit(datetime(2020, 9, 9, 9, tzinfo=UTC)),
    )


def home():
    devices = fleet(battery(), pv(), load())
    there = SUN_KW.alias("power_kw")
    day = actual(
        devices,
        told("battery", energy_kwh=5.0),
        told("pv", power_kw=there, available_power_kw=there),
        told("load", power_kw=-1.0),
        price=PRICE,
    )
    return devices, day


def lost(forecasts: pl.DataFrame, spread: float = 0.0) -> dict[str, float | None]:
    rows = euros_lost(*home(), forecasts, PLAN, spread)
    return dict(rows.select("forecaster", "euros_lost").iter_rows())


def test_foresight_of_everything_costs_what_settlement_says_perfect_foresight_costs():
    devices, day = home()
    foresight = perfect_foresight(devices, day, PLAN).power_kw
    held = stores(devices, day)
    best = day_cost(devices, day, held, foresight, held.contents(foresight), PLAN).total_eur
    assert cost_if_believed(devices, day, day, PLAN, 50.0) == pytest.approx(best, abs=1e-3)


def test_a_price_forecast_with_the_peak_in_the_wrong_place_costs_and_one_that_is_right_does_not():
    wrong = pl.when(HOUR.is_between(6, 8)).then(200.0).otherwise(20.0)
    forecasts = pl.concat([said("price", "market", PRICE), said("price", "market", wrong, "wrong")])
    euros = lost(forecasts)
    assert euros["ours"] == pytest.approx(0.0, abs=1e-3)
    assert euros["wrong"] > 0.5  # most of 5 kWh at a spread of 180 EUR/MWh


def test_sun_and_load_off_by_a_kw_cost_the_imbalance_spread_of_a_kw_and_nothing_without_one():
    forecasts = pl.concat(
        [
            said("generation", "pv", pl.max_horizontal(SUN_KW - 1.0, pl.lit(0.0))),
            said("load", "load", pl.lit(-2.0), "theirs"),
        ]
    )
    assert lost(forecasts.tail(96)) == {"theirs": pytest.approx(0.0, abs=1e-3)}
    assert lost(forecasts, spread=100.0) == {
        "ours": pytest.approx(5 * 0.1, abs=1e-3),
        "theirs": pytest.approx(24 * 0.1, abs=1e-3),
    }


def test_a_forecast_with_a_gap_is_not_scored_for_a_gap_would_count_as_foresight():
    whole = said("load", "load", pl.lit(-1.0))
    assert lost(whole.filter(HOUR != 7)) == {"ours": None}
    _, day = home()
    assert believing(day, "price", said("price", "market", PRICE).head(95)) is None
    assert believing(day, "load", whole).profiles.height == day.profiles.height


def test_a_site_that_no_temperature_was_forecast_of_keeps_the_one_it_had():
    _, day = home()
    seen = ASKED.to_frame().select(
        site_id=pl.lit("heated"), interval_start="interval_start", temperature_c=pl.lit(4.0)
    )
    two = replace(
        day, temperatures=pl.concat([seen, seen.with_columns(site_id=pl.lit("unheated"))])
    )
    told = believing(two, "temperature", said("temperature", "heated", pl.lit(1.0))).temperatures
    by_site = told.group_by("site_id").agg(pl.col("temperature_c").unique())
    assert dict(by_site.iter_rows()) == {"heated": [1.0], "unheated": [4.0]}
