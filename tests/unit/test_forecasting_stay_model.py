"""Stays are learned from whatever drivers say, alike or not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from vpp_pipeline.forecasting.stay_model import LEAST_SESSIONS, train


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
