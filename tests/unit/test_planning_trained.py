"""A model is learnt once a day, from what had ended by midnight."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from vpp_pipeline.forecasting.stay_model import LEAST_SESSIONS
from vpp_pipeline.planning.trained import stay_model_at

MIDNIGHT = datetime(2020, 10, 6, 22, 0, tzinfo=UTC)
"""Of market time."""


def stays(count, last=MIDNIGHT):
    """Return as many stays of three hours, one an hour, the last one ending at `last`."""
    ends = [last - timedelta(hours=n) for n in range(count)]
    return pl.DataFrame(
        {
            "device_id": "charger",
            "arrival": [end - timedelta(hours=3) for end in ends],
            "departure": ends,
            "charged_kwh": [5.0 + n % 7 for n in range(count)],
            "stated_departure": ends,
            "stated_kwh": 8.0,
        }
    )


def test_stays_are_learnt_once_a_day():
    morning, evening = (
        stay_model_at(stays(LEAST_SESSIONS), MIDNIGHT + timedelta(hours=h)) for h in (9, 20)
    )

    assert morning is not None
    assert morning is evening


def test_a_stay_that_ended_after_midnight_teaches_tomorrow():
    known = stays(LEAST_SESSIONS, last=MIDNIGHT + timedelta(hours=1))

    assert stay_model_at(known, MIDNIGHT + timedelta(hours=9)) is None
    assert stay_model_at(known, MIDNIGHT + timedelta(hours=33)) is not None
