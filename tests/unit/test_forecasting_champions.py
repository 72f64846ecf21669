"""Who answers: the fewest euros, on enough evidence, with ties settled by rule."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.forecasting.champions import LEAST_DAYS, WINDOW_DAYS, elect

FIRST = date(2022, 3, 1)


def days(forecaster: str, euros: list[float | None], pinball: float = 1.0, first: int = 0):
    return pl.DataFrame(
        {
            "delivery_day": [FIRST + timedelta(days=first + n) for n in range(len(euros))],
            "forecaster": forecaster,
            "pinball": pinball,
            "euros_lost": euros,
        },
        {"delivery_day": pl.Date, "forecaster": pl.String, "pinball": pl.Float64}
        | {"euros_lost": pl.Float64},
    )


def test_the_fewest_euros_win_whatever_the_error_says():
    skill = pl.concat([days("a", [2.0] * 9, pinball=0.5), days("b", [1.0] * 9, pinball=3.0)])
    elected = elect(skill, ["a", "b"])
    assert (elected.champion, elected.why, elected.days) == ("b", "fewest euros lost", 9)


def test_a_week_of_shared_days_is_the_least_that_unseats_the_first():
    known = days("a", [2.0] * 30)
    six = elect(pl.concat([known, days("b", [0.0] * (LEAST_DAYS - 1))]), ["a", "b"])
    assert six.champion == "a"
    assert six.why == "too little evidence: 6 of 7 days"
    assert elect(pl.concat([known, days("b", [0.0] * LEAST_DAYS)]), ["a", "b"]).champion == "b"
    elsewhere = days("b", [0.0] * 20, first=25)  # five days in common
    assert elect(pl.concat([known, elsewhere]), ["a", "b"]).champion == "a"
    unpriced = days("b", [None] * 30)
    assert elect(pl.concat([known, unpriced]), ["a", "b"]).champion == "a"
    assert elect(known.clear(), ["a", "b"]).champion == "a"


def test_only_the_last_weeks_count():
    past = pl.concat([days("a", [0.0] * 60), days("b", [9.0] * 60)])
    lately = pl.concat(
        [days("a", [3.0] * WINDOW_DAYS, first=60), days("b", [1.0] * WINDOW_DAYS, first=60)]
    )
    assert elect(pl.concat([past, lately]), ["a", "b"]).champion == "b"


@pytest.mark.parametrize(("pinball", "champion"), [(0.5, "b"), (0.995, "a"), (2.0, "a")])
def test_a_tie_in_euros_goes_to_the_lower_pinball_loss_and_then_to_the_first(pinball, champion):
    skill = pl.concat([days("a", [0.0] * 8), days("b", [0.004] * 8, pinball=pinball)])
    assert elect(skill, ["a", "b"]).champion == champion


def test_a_newcomer_neither_wins_nor_shortens_the_evidence_of_others():
    skill = pl.concat([days("a", [2.0] * 20), days("b", [1.0] * 20), days("c", [0.0] * 3)])
    elected = elect(skill, ["a", "b", "c"])
    assert (elected.champion, elected.days) == ("b", 20)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 4))
def test_the_same_skill_in_any_order_elects_the_same_candidate_of_least_cost(seed, count):
    rng = np.random.default_rng(seed)
    names = [f"model-{n}" for n in range(count)]
    skill = pl.concat([days(name, list(rng.normal(1, 2, 12)), rng.uniform(0, 3)) for name in names])
    elected = elect(skill, names)
    assert elect(skill.sample(fraction=1, shuffle=True, seed=seed % 2**31), names) == elected
    means = dict(skill.group_by("forecaster").agg(pl.col("euros_lost").mean()).iter_rows())
    fewest = min(means.values())
    assert means[elected.champion] <= fewest + max(0.01, 0.01 * abs(fewest)) + 1e-9
