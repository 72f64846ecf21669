"""Stays are learned from whatever drivers say, alike or not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.forecasting.stay_model import LEAST_SESSIONS, still_there, train

QUANTILES = ("stay_h_p10", "stay_h_p50", "stay_h_p90")
MONDAY = datetime(2022, 1, 3, tzinfo=UTC)


def habits(sessions: int, seed: int = 3) -> pl.DataFrame:
    """Drivers of ten words, each of whom stays twice as long as said and takes half of what is asked."""
    rng = np.random.default_rng(seed)
    driver = rng.integers(0, 10, sessions)
    said_h = 1.0 + driver / 2
    arrival = [MONDAY + timedelta(hours=3 * k) for k in range(sessions)]
    stay_h = 2 * said_h * rng.uniform(0.9, 1.1, sessions)
    return pl.DataFrame(
        {
            "device_id": [f"charger-{k % 7}" for k in range(sessions)],
            "arrival": arrival,
            "departure": [at + timedelta(hours=h) for at, h in zip(arrival, stay_h, strict=True)],
            "charged_kwh": (10.0 + driver) / 2,
            "stated_departure": [
                at + timedelta(hours=h) for at, h in zip(arrival, said_h, strict=True)
            ],
            "stated_kwh": 10.0 + driver,
        }
    )


def test_what_becomes_of_drivers_words_is_learned_the_same_way_each_time_from_the_past_alone():
    sessions = habits(LEAST_SESSIONS + 60)
    asked = sessions.tail(20)
    first = asked["arrival"][0]
    past = sessions.filter(pl.col("departure") <= first)
    said = train(past, "Europe/Berlin").quantiles(past, asked)
    stay_h = (asked["departure"] - asked["arrival"]).dt.total_minutes() / 60
    stated_h = (asked["stated_departure"] - asked["arrival"]).dt.total_minutes() / 60
    assert (said["stay_h_p50"] - stay_h).abs().mean() < 0.25 * (stated_h - stay_h).abs().mean()
    assert (said["charged_kwh_p50"] - asked["charged_kwh"]).abs().mean() < 1.0

    unknown = pl.col("departure") > first
    absurd = sessions.with_columns(
        departure=pl.when(unknown)
        .then(pl.col("departure") + timedelta(days=90))
        .otherwise("departure"),
        charged_kwh=pl.when(unknown).then(1e6).otherwise("charged_kwh"),
    )
    model = train(absurd.filter(pl.col("departure") <= first), "Europe/Berlin")
    assert model.quantiles(absurd, asked.head(1)).equals(said.head(1))


def test_when_no_vehicle_is_there_nothing_is_said():
    sessions = habits(LEAST_SESSIONS + 10)
    said = train(sessions, "Europe/Berlin").quantiles(sessions, sessions.clear())
    assert said.height == 0
    assert set(QUANTILES) < set(said.columns)


def test_too_few_sessions_teach_nothing():
    assert train(habits(LEAST_SESSIONS - 1), "Europe/Berlin") is None


@settings(max_examples=25, deadline=None)
@given(
    stays=st.lists(st.tuples(*[st.floats(0.25, 30.0)] * 3).map(sorted), min_size=1, max_size=6),
    been_h=st.floats(0.0, 40.0),
)
def test_who_is_still_there_stays_no_shorter_than_until_now_and_its_quantiles_ascend(stays, been_h):
    said = pl.DataFrame(stays, dict.fromkeys(QUANTILES, pl.Float64), orient="row").with_columns(
        arrival=pl.lit(MONDAY)
    )
    known_at = MONDAY + timedelta(hours=been_h)
    left = still_there(said, known_at)
    low, middle, high = (left[name] for name in QUANTILES)
    assert (low >= been_h - 1e-6).all()
    assert (low <= middle + 1e-9).all()
    assert (middle <= high + 1e-9).all()
    for name in QUANTILES:
        assert (left[name] >= said[name] - 1e-6).all()
    assert still_there(said, MONDAY).select(QUANTILES).rows() == [
        tuple(pytest.approx(value, abs=1e-9) for value in row) for row in stays
    ]


def test_drivers_who_never_say_the_same_twice_can_be_learned_from():
    """Then nothing is known of sessions with the same words, in any row."""
    n = LEAST_SESSIONS
    arrival = pl.Series(
        [datetime(2022, 1, 1, 8, tzinfo=UTC) + timedelta(hours=7 * k) for k in range(n)]
    )
    stay = pl.Series(np.random.default_rng(1).uniform(60, 360, n).round() * 60_000_000).cast(
        pl.Duration("us")
    )
    past = pl.DataFrame(
        {
            "device_id": [f"charger-{k % 5}" for k in range(n)],
            "arrival": arrival,
            "departure": arrival + stay,
            "charged_kwh": np.linspace(5, 30, n),
            "stated_departure": arrival + stay,
            "stated_kwh": np.linspace(6, 40, n),
        }
    )
    model = train(past, "Europe/Berlin")
    said = model.quantiles(past, past.tail(3))
    assert (said["stay_h_p10"] <= said["stay_h_p90"]).all()
    assert np.isfinite(said.to_numpy()).all()
