"""What the models over all loads and all PV plants promise."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from vpp_pipeline.delivery_day import day_intervals, gate_closure
from vpp_pipeline.forecasting import load_model, pv_model
from vpp_pipeline.forecasting.clear_sky import clear_sky

TZ = "Europe/Berlin"
HOUR = timedelta(hours=1)
DAY = date(2020, 6, 17)
NOW = gate_closure(DAY, TZ)
NO_WEATHER = pl.DataFrame(
    schema={
        "site_id": pl.String,
        "interval_start": pl.Datetime("us", "UTC"),
        "ghi_w_per_m2": pl.Float64,
        "kind": pl.String,
        "known_at": pl.Datetime("us", "UTC"),
    }
)
SIZES = {"a": 1.0, "b": 3.0, "c": 0.5}


def hours(start: datetime, end: datetime) -> pl.Series:
    return pl.datetime_range(
        start, end, HOUR, closed="left", time_unit="us", time_zone="UTC", eager=True
    ).alias("interval_start")


def asked_hours(day: date = DAY) -> pl.Series:
    return day_intervals(day, TZ).gather_every(4)


def loads(*names: str) -> pl.DataFrame:
    return pl.DataFrame({"device_id": names or list(SIZES)}).with_columns(
        device_type=pl.lit("load"), max_draw_kw=pl.lit(20.0)
    )


def habits(now: datetime, noise: float = 0.2, seed: int = 1) -> pl.DataFrame:
    """Four weeks of hours up to two days after `now`, a peak at 19:00 local time."""
    rng = np.random.default_rng(seed)
    rows = pl.DataFrame({"device_id": list(SIZES), "size": list(SIZES.values())}).join(
        hours(now - timedelta(days=28), now + timedelta(days=2)).to_frame(), how="cross"
    )
    peak = pl.col("interval_start").dt.convert_time_zone(TZ).dt.hour() == 19
    shape = pl.when(peak).then(3.0).otherwise(1.0)
    return rows.select(
        "device_id",
        "interval_start",
        power_kw=-pl.col("size") * shape * pl.Series(np.exp(rng.normal(0.0, noise, rows.height))),
    )


def forecast(history: pl.DataFrame, now: datetime = NOW, asked: pl.Series | None = None):
    model = load_model.train(history, TZ, now, HOUR)
    asked = asked_hours() if asked is None else asked
    return load_model.issue(model, loads(), history, asked, TZ, now)


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**16), later_kw=st.sampled_from([-999.0, 0.0, 999.0]))
def test_nothing_that_had_not_ended_changes_model_or_forecast(seed: int, later_kw: float):
    history = habits(NOW, seed=seed)
    ended = pl.col("interval_start") + HOUR <= NOW
    poisoned = history.with_columns(power_kw=pl.when(ended).then("power_kw").otherwise(later_kw))
    assert_frame_equal(forecast(history), forecast(poisoned), check_exact=True)


def test_every_hour_is_answered_once_by_the_model_with_ascending_quantiles():
    answers = forecast(habits(NOW))
    assert answers.height == 3 * 24
    assert answers["model"].unique().to_list() == ["global"]
    assert answers.select(
        ((pl.col("p10") <= pl.col("p50")) & (pl.col("p50") <= pl.col("p90"))).all()
    ).item()
    assert answers["p90"].max() <= 0.0


def test_the_median_is_near_the_middle_and_the_band_holds_four_fifths():
    now = NOW - timedelta(days=1)
    model = load_model.train(habits(NOW), TZ, now, HOUR)
    told = []
    for n in range(24):
        at = now + n * HOUR
        asked = hours(at, at + 24 * HOUR)
        told.append(load_model.issue(model, loads(), habits(NOW), asked, TZ, at))
    truth = habits(NOW).select("interval_start", subject_id="device_id", value="power_kw")
    scored = pl.concat(told).join(truth, on=["subject_id", "interval_start"])
    assert 0.72 < scored.select(pl.col("value").is_between("p10", "p90").mean()).item() < 0.88
    relative = (pl.col("p50") - pl.col("value")).abs().sum() / pl.col("value").abs().sum()
    assert scored.select(relative).item() < 0.2


def lingering(now: datetime) -> pl.DataFrame:
    """Five weeks of eight loads whose departures from 2 kW fade by a fifth an hour."""
    rng = np.random.default_rng(7)
    times = hours(now - timedelta(days=35), now + timedelta(days=2))
    departed = np.zeros((len(times), 8))
    for n in range(1, len(times)):
        departed[n] = 0.8 * departed[n - 1] + rng.normal(0.0, 0.2, 8)
    frames = [
        pl.DataFrame(
            {"device_id": f"{n}", "interval_start": times, "power_kw": -2.0 - departed[:, n]}
        )
        for n in range(8)
    ]
    return pl.concat(frames)


def test_the_band_holds_four_fifths_of_the_coming_hour_and_of_the_next_day():
    start = NOW - timedelta(days=1)
    history = lingering(NOW)
    model = load_model.train(history, TZ, start, HOUR)
    truth = history.select("interval_start", subject_id="device_id", value="power_kw")

    def covered(spans: list[tuple[datetime, datetime, datetime]]) -> tuple[float, float]:
        told = [
            load_model.issue(
                model, loads(*(f"{n}" for n in range(8))), history, hours(since, end), TZ, at
            )
            for at, since, end in spans
        ]
        scored = pl.concat(told).join(truth, on=["subject_id", "interval_start"])
        held = scored.select(pl.col("value").is_between("p10", "p90").mean()).item()
        return held, scored.select((pl.col("p90") - pl.col("p10")).mean()).item()

    moments = [start + n * HOUR for n in range(0, 24, 2)]
    soon, narrow = covered([(at, at, at + HOUR) for at in moments])
    later, wide = covered([(start, start + 12 * HOUR, start + 36 * HOUR)])
    assert 0.7 < soon < 0.9
    assert 0.7 < later < 0.9
    assert narrow < 0.8 * wide


def test_a_load_without_a_past_gets_its_nameplate_and_says_so():
    history = habits(NOW)
    model = load_model.train(history, TZ, NOW, HOUR)
    answers = load_model.issue(model, loads("a", "new"), history, asked_hours(), TZ, NOW)
    by_model = dict(answers.group_by("subject_id").agg(pl.col("model").unique()).iter_rows())
    assert by_model == {"a": ["global"], "new": ["nameplate"]}


def test_a_fleet_of_new_loads_is_answered_though_others_have_taught_a_model():
    history = habits(NOW)
    model = load_model.train(history, TZ, NOW, HOUR)

    told = load_model.issue(model, loads("new", "newer"), history, asked_hours(), TZ, NOW)

    assert set(told["subject_id"]) == {"new", "newer"}
    assert load_model.NAME not in set(told["model"])


def test_too_little_history_teaches_no_model_and_the_similar_days_answer():
    history = habits(NOW).filter(pl.col("interval_start") > NOW - timedelta(days=4))
    assert load_model.train(history, TZ, NOW, HOUR) is None
    answers = forecast(history)
    assert answers.height == 3 * 24
    assert "global" not in answers["model"].to_list()


@pytest.mark.parametrize("day", [date(2020, 3, 30), date(2020, 10, 26)])
def test_an_evening_peak_stays_at_its_local_hour_when_the_clocks_have_changed(day: date):
    now = gate_closure(day, TZ)
    answers = forecast(habits(now, 0.05), now, asked_hours(day))
    peaks = answers.sort("p50").group_by("subject_id").head(1)
    assert peaks["interval_start"].dt.convert_time_zone(TZ).dt.hour().to_list() == [19] * 3


def roof(tilt: float | None = None, azimuth: float | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "device_id": ["roof"],
            "site_id": ["site"],
            "device_type": ["pv"],
            "latitude": [48.0],
            "longitude": [11.0],
            "tilt_deg": [tilt],
            "azimuth_deg": [azimuth],
            "max_inject_kw": [8.0],
        },
        schema_overrides={"tilt_deg": pl.Float64, "azimuth_deg": pl.Float64},
    )


def sunny(now: datetime) -> pl.DataFrame:
    """A steep roof that faces west, under skies that change from day to day."""
    times = hours(now - timedelta(days=28), now + timedelta(days=2)).to_frame()
    lit = clear_sky(times.join(roof(50.0, 260.0), how="cross"))
    cloud = np.repeat(np.random.default_rng(3).uniform(0.5, 1.0, 31), 24)[: lit.height]
    return lit.select(
        "device_id",
        "interval_start",
        power_kw=6.0 * pl.col("poa_clear_w_per_m2") / 1000 * pl.Series(cloud),
    )


def sun_forecast(history: pl.DataFrame, weather: pl.DataFrame = NO_WEATHER):
    model = pv_model.train(roof(), history, weather, TZ, NOW, HOUR)
    return pv_model.issue(model, roof(), history, weather, asked_hours(), TZ, NOW)


def foretold(history: pl.DataFrame) -> pl.DataFrame:
    """What a service that is always right tells of `sunny`'s clouds a day and a half ahead."""
    lit = clear_sky(
        history.select("interval_start").join(roof(50.0, 260.0), how="cross")
    ).with_columns(history["power_kw"])
    clearness = pl.col("power_kw") / (6.0 * pl.col("poa_clear_w_per_m2") / 1000)
    return lit.select(
        "site_id",
        "interval_start",
        ghi_w_per_m2=(pl.col("ghi_clear_w_per_m2") * clearness).fill_nan(0.0),
        kind=pl.lit("forecast"),
        known_at=pl.col("interval_start") - timedelta(hours=36),
    )


def test_a_plant_is_forecast_for_the_side_it_faces_whatever_the_registry_says():
    answers = sun_forecast(sunny(NOW))
    assert answers["model"].unique().to_list() == ["global-sun"]
    brightest = answers.sort("p50")["interval_start"].dt.convert_time_zone(TZ).dt.hour()[-1]
    assert brightest in {15, 16, 17}
    night = answers["interval_start"].dt.convert_time_zone(TZ).dt.hour().is_in([0, 1, 2, 23])
    assert answers.filter(night).select(pl.col("p90").max()).item() == 0.0


def test_clouds_that_a_trusty_service_foretold_are_in_the_forecast():
    history = sunny(NOW)
    truth = history.select("interval_start", value="power_kw")

    def error(weather: pl.DataFrame) -> float:
        scored = sun_forecast(history, weather).join(truth, on="interval_start")
        return scored.select((pl.col("p50") - pl.col("value")).abs().sum()).item()

    assert error(foretold(history)) < 0.5 * error(NO_WEATHER)


def test_clouds_over_somebody_elses_site_change_no_forecast():
    history = sunny(NOW)
    elsewhere = foretold(history).with_columns(site_id=pl.lit("elsewhere"))
    assert_frame_equal(sun_forecast(history, elsewhere), sun_forecast(history))


def test_steps_held_back_by_a_limit_teach_nothing():
    free = sunny(NOW).with_columns(setpoint_kw=pl.lit(None, pl.Float64))
    limited = pl.col("interval_start").dt.date() >= (NOW - timedelta(days=3)).date()
    held = free.with_columns(
        setpoint_kw=pl.when(limited).then(0.5),
        power_kw=pl.when(limited).then(pl.min_horizontal("power_kw", 0.5)).otherwise("power_kw"),
    )
    curtailed, whole = (sun_forecast(rows)["p50"].sum() for rows in (held, free))
    assert curtailed > 0.8 * whole


def test_a_new_plant_gets_its_nameplate_and_says_so():
    answers = sun_forecast(sunny(NOW).clear())
    assert answers["model"].unique().to_list() == ["nameplate"]
    assert answers["known_at"].unique().to_list() == [NOW.astimezone(UTC)]
