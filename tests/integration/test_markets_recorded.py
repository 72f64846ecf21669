"""The shipped recordings keep what SOURCES.md promises."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, date, datetime
from importlib.resources import files

import polars as pl
import pytest

from vpp_pipeline.delivery_day import intervals
from vpp_pipeline.markets import recorded
from vpp_pipeline.markets.schemas import Prices

SHIPPED = files("vpp_pipeline.markets") / "recorded"
ALL = [
    recorded.prices,
    recorded.market_forecasts,
    recorded.household_load,
    recorded.pv,
    recorded.temperature,
    recorded.wind,
    recorded.ev_sessions,
]


def market_day() -> pl.Expr:
    return pl.col("interval_start").dt.convert_time_zone("Europe/Berlin").dt.date()


def test_the_shipped_files_are_the_described_ones():
    described = dict(
        re.findall(
            r"`(\w+\.parquet)` \|[^|]*\| `(\w{64})`", SHIPPED.joinpath("SOURCES.md").read_text()
        )
    )
    shipped = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in SHIPPED.iterdir()
        if path.name.endswith(".parquet")
    }
    assert described == shipped


@pytest.mark.parametrize("series", ALL)
def test_nothing_is_missing(series):
    frame = series()
    assert frame.null_count().sum_horizontal().item() == 0
    assert not frame.select(pl.any_horizontal(pl.col(pl.Float64).is_nan().any())).item()


@pytest.mark.parametrize("series", [recorded.pv, recorded.temperature, recorded.wind])
def test_every_quarter_hour_of_the_window_is_there_once(series):
    window = intervals(recorded.WINDOW_START, recorded.WINDOW_END)
    assert series()["interval_start"].to_list() == window.to_list()


def test_every_home_has_every_quarter_hour():
    window = intervals(recorded.WINDOW_START, recorded.WINDOW_END)
    load = recorded.household_load()
    assert load["home"].unique().to_list() == [1, 2, 3, 4, 5]
    for (_,), home in load.group_by("home"):
        assert home["interval_start"].to_list() == window.to_list()


def test_the_day_of_the_clock_change_has_a_hundred_quarter_hours():
    counts = recorded.prices().group_by(day=market_day()).len().sort("day")
    odd = counts.filter(pl.col("len") != 96)
    assert odd.rows() == [(date(2020, 10, 25), 100)]
    assert counts["day"].max() == date(2020, 10, 31)


def test_prices_are_the_markets_and_known_at_five_to_one_the_day_before():
    prices = Prices.validate(recorded.prices())
    assert prices.filter(pl.col("price_eur_per_mwh") < 0).height == 112
    by_start = prices.filter(pl.col("interval_start") == datetime(2020, 10, 26, 12, tzinfo=UTC))
    assert by_start["known_at"].item() == datetime(2020, 10, 25, 11, 55, tzinfo=UTC)
    summer = prices.filter(pl.col("interval_start") == datetime(2020, 8, 10, 12, tzinfo=UTC))
    assert summer["known_at"].item() == datetime(2020, 8, 9, 10, 55, tzinfo=UTC)


def test_an_hour_of_an_hourly_price_is_four_equal_quarter_hours():
    by_hour = recorded.prices().group_by(pl.col("interval_start").dt.truncate("1h"))
    assert by_hour.agg(pl.col("price_eur_per_mwh").n_unique()).to_series(1).unique().to_list() == [
        1
    ]


def test_powers_are_in_their_ranges():
    assert recorded.household_load()["load_kw"].min() >= 0
    for series in (recorded.pv(), recorded.wind()):
        assert series["power_per_kw"].min() == 0
        assert 0.9 < series["power_per_kw"].max() <= 1


def test_the_sun_stands_highest_where_the_fleet_is():
    """The clear sky's centre of mass is at solar noon of 14.8 degrees east: 10:55 to 11:05 UTC."""
    hour = pl.col("interval_start").dt.hour() + pl.col("interval_start").dt.minute() / 60 + 0.125
    weight = pl.col("ghi_clear_w_per_m2")
    noon = recorded.pv().select((hour * weight).sum() / weight.sum()).item()
    assert noon == pytest.approx(11.0, abs=0.2)


def test_no_sun_no_power():
    dark = recorded.pv().filter(pl.col("ghi_clear_w_per_m2") == 0)
    assert dark["power_per_kw"].max() == 0


def test_a_station_charges_one_vehicle_at_a_time():
    sessions = recorded.ev_sessions().sort("station", "arrival")
    assert sessions.filter(pl.col("departure") <= pl.col("arrival")).is_empty()
    earlier = pl.col("departure").shift(1).over("station")
    assert sessions.filter(pl.col("arrival") < earlier).is_empty()


def test_vehicles_come_in_the_morning_of_their_new_home():
    local = recorded.ev_sessions()["arrival"].dt.convert_time_zone("Europe/Berlin")
    weekday = local.filter(local.dt.weekday() <= 5)
    assert weekday.dt.hour().median() in range(7, 11)
    assert (local.dt.weekday() <= 5).mean() > 0.8
