"""What a plan may be made on."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from vpp_pipeline import delivery_day
from vpp_pipeline.optimization import inputs, prices

BERLIN = "Europe/Berlin"
AS_OF = datetime(2020, 10, 3, 9, tzinfo=UTC)
DAYS = [date(2020, 10, 4), date(2020, 10, 25), date(2021, 3, 28)]


def _envelopes(intervals: pl.Series, devices: int = 4) -> pl.DataFrame:
    ids = pl.DataFrame({"device_id": [f"battery-{n}" for n in range(devices)]})
    return ids.join(intervals.to_frame(), how="cross").with_columns(
        min_power_kw=-5.0,
        max_power_kw=5.0,
        required_end_kwh=pl.lit(None, pl.Float64),
        available=True,
    )


def _prices(intervals: pl.Series) -> pl.DataFrame:
    return intervals.to_frame().with_columns(price_eur_per_mwh=30.0)


def _problems(
    envelopes: pl.DataFrame,
    market: pl.DataFrame,
    intervals: pl.Series,
    known_at: datetime | None = AS_OF,
) -> pl.DataFrame:
    devices = pl.DataFrame({"device_id": [f"battery-{n}" for n in range(4)]})
    return inputs.problems(
        devices, envelopes, market, intervals, newest_price_known_at=known_at, as_of=AS_OF
    )


@pytest.mark.parametrize("day", DAYS)
def test_sound_inputs_pass_on_days_of_92_96_and_100_quarter_hours(day: date) -> None:
    intervals = delivery_day.day_intervals(day, BERLIN)
    assert _problems(_envelopes(intervals), _prices(intervals), intervals).is_empty()


def test_a_nan_is_named_with_its_device_field_and_time() -> None:
    intervals = delivery_day.day_intervals(DAYS[0], BERLIN)
    envelopes = _envelopes(intervals).with_columns(
        max_power_kw=pl.when(
            (pl.col("device_id") == "battery-2") & (pl.col("interval_start") == intervals[7])
        )
        .then(float("nan"))
        .otherwise("max_power_kw")
    )
    found = _problems(envelopes, _prices(intervals), intervals)
    assert found.select("subject", "field").rows() == [("battery-2", "max_power_kw")]
    assert str(intervals[7])[:16] in found["value"][0]


def test_an_infinite_price_stops_the_plan() -> None:
    intervals = delivery_day.day_intervals(DAYS[0], BERLIN)
    market = _prices(intervals).with_columns(
        price_eur_per_mwh=pl.when(pl.col("interval_start") == intervals[0])
        .then(float("inf"))
        .otherwise("price_eur_per_mwh")
    )
    assert _problems(_envelopes(intervals), market, intervals)["subject"].to_list() == ["market"]


def test_a_grid_shifted_by_an_hour_is_misaligned_on_both_ends() -> None:
    intervals = delivery_day.day_intervals(DAYS[1], BERLIN)
    shifted = _envelopes(intervals + timedelta(hours=1))
    found = _problems(shifted, _prices(intervals), intervals)
    assert found.height == 4 * (4 + 4)
    assert set(found["problem"]) == {
        "quarter-hour is missing",
        "quarter-hour is not in the horizon",
    }


def test_a_missing_and_a_doubled_price_are_told() -> None:
    intervals = delivery_day.day_intervals(DAYS[0], BERLIN)
    market = pl.concat([_prices(intervals)[1:], _prices(intervals)[-1:]])
    found = _problems(_envelopes(intervals), market, intervals)
    assert sorted(found["problem"]) == [
        "quarter-hour is there twice",
        "quarter-hour is without a price",
    ]


def test_stale_telemetry_of_most_devices_stops_the_plan_but_one_silent_device_does_not() -> None:
    intervals = delivery_day.day_intervals(DAYS[0], BERLIN)
    silent = {1: True, 3: False}
    for count, sound in silent.items():
        quiet = [f"battery-{n}" for n in range(count)]
        envelopes = _envelopes(intervals).with_columns(available=~pl.col("device_id").is_in(quiet))
        assert _problems(envelopes, _prices(intervals), intervals).is_empty() is sound


def test_prices_nobody_has_renewed_for_long_stop_the_plan() -> None:
    intervals = delivery_day.day_intervals(DAYS[0], BERLIN)
    for known_at in (None, AS_OF - timedelta(days=9)):
        found = _problems(_envelopes(intervals), _prices(intervals), intervals, known_at)
        assert found["field"].to_list() == ["known_at"]


def test_published_prices_go_before_the_forecast_and_a_gap_stays_a_gap() -> None:
    intervals = delivery_day.day_intervals(DAYS[0], BERLIN)[:3]
    published = pl.DataFrame({"interval_start": intervals[:1], "price_eur_per_mwh": [10.0]})
    forecast = pl.DataFrame({"interval_start": intervals[:2], "p50": [99.0, 20.0]})
    complete = prices.complete(intervals, published, forecast)
    assert complete["price_eur_per_mwh"].to_list() == [10.0, 20.0, None]
    assert complete["origin"].to_list() == ["published", "forecast", "forecast"]
