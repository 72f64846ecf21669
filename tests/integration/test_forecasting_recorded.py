"""Day-ahead forecasts, day after day, on the recorded data."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl
import pytest

from vpp_pipeline.delivery_day import day_intervals, gate_closure
from vpp_pipeline.forecasting.generation import generation_forecast
from vpp_pipeline.forecasting.load import load_forecast
from vpp_pipeline.forecasting.prices import price_forecast
from vpp_pipeline.forecasting.temperature import temperature_forecast
from vpp_pipeline.markets import recorded
from vpp_pipeline.markets.schemas import Weather

TZ = recorded.MARKET_TZ
DAYS = [date(2020, 9, 2) + timedelta(days=3 * n) for n in range(18)] + [date(2020, 10, 25)]
NO_WEATHER = Weather.create_empty()


def homes() -> pl.DataFrame:
    return recorded.household_load().select(
        subject_id=pl.format("home-{}", "home"),
        interval_start="interval_start",
        value=-pl.col("load_kw"),
    )


def pv() -> pl.DataFrame:
    return recorded.pv().select(
        subject_id=pl.lit("roof"),
        interval_start="interval_start",
        value=5.5 * pl.col("power_per_kw"),
    )


def prices() -> pl.DataFrame:
    return recorded.prices().select(
        subject_id="market", interval_start="interval_start", value="price_eur_per_mwh"
    )


def temperature() -> pl.DataFrame:
    return recorded.temperature().select(
        subject_id=pl.lit("garden"), interval_start="interval_start", value="temperature_c"
    )


def forecast(target: str, day: date) -> pl.DataFrame:
    asked, known_at = day_intervals(day, TZ), gate_closure(day, TZ) - timedelta(hours=1)
    if target == "load":
        rows = homes()
        loads = (
            rows.select(device_id="subject_id")
            .unique()
            .with_columns(device_type=pl.lit("load"), max_draw_kw=pl.lit(20.0))
        )
        history = rows.rename({"subject_id": "device_id", "value": "power_kw"})
        return load_forecast(loads, history, asked, TZ, known_at)
    if target == "pv":
        roof = pl.DataFrame(
            {
                "device_id": ["roof"],
                "site_id": ["garden"],
                "device_type": ["pv"],
                "latitude": [39.74],
                "longitude": [14.82],
                "tilt_deg": [30.0],
                "azimuth_deg": [180.0],
                "max_inject_kw": [5.5],
            }
        )
        history = pv().rename({"subject_id": "device_id", "value": "power_kw"})
        return generation_forecast(roof, history, NO_WEATHER, asked, known_at)
    if target == "price":
        return price_forecast(recorded.prices(), asked, recorded.MARKET, TZ, known_at)
    seen = temperature().select(
        site_id="subject_id",
        interval_start="interval_start",
        temperature_c="value",
        kind=pl.lit("observed"),
        known_at=pl.col("interval_start") + timedelta(minutes=15),
    )
    return temperature_forecast(pl.Series(["garden"]), seen, asked, TZ, known_at)


ACTUALS = {"load": homes, "pv": pv, "price": prices, "temperature": temperature}


@pytest.mark.parametrize("target", ACTUALS)
def test_the_forecast_beats_the_same_hour_a_week_ago(target: str):
    happened = ACTUALS[target]()
    week_ago = happened.select(
        "subject_id",
        pl.col("interval_start").dt.offset_by("7d"),
        naive="value",
    )
    on = ["subject_id", "interval_start"]
    told = pl.concat([forecast(target, day) for day in DAYS])
    scored = told.join(happened, on=on).join(week_ago, on=on)
    assert scored.height == told.height
    mae, naive_mae, covered = scored.select(
        (pl.col("p50") - pl.col("value")).abs().mean(),
        naive=(pl.col("naive") - pl.col("value")).abs().mean(),
        covered=pl.col("value").is_between("p10", "p90").mean(),
    ).row(0)
    assert mae < 0.95 * naive_mae
    assert 0.6 < covered < 0.95
