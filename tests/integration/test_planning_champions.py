"""Who answers for a target: whoever was known to have lost the fewest euros, and nobody's future."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest
from defs_plant import TODAY, TOMORROW, failure_of
from polars.testing import assert_frame_equal

from vpp_pipeline.forecasting.champions import LEAST_DAYS
from vpp_pipeline.forecasting.schemas import ForecastSkill
from vpp_pipeline.planning import forecasts
from vpp_pipeline.planning.candidates import CANDIDATES
from vpp_pipeline.planning.champions import election, session_challenges

A_MINUTE = timedelta(minutes=1)


def judged(target: str, euros_lost: dict[str, float], known_at) -> pl.DataFrame:
    """A week's skill of candidates that differ in euros, the worst in euros the best in error."""
    rows = [
        {
            "delivery_day": TODAY - timedelta(days=1 + back),
            "target": target,
            "forecaster": name,
            "champion": False,
            "subjects": 1,
            "intervals": 96,
            "mae": 1.0 / lost,
            "rmae": None,
            "pinball": 1.0 / lost,
            "coverage_p10_p90": 0.8,
            "euros_lost": lost,
            "forecast_known_at": known_at,
            "known_at": known_at,
        }
        for back in range(LEAST_DAYS)
        for name, lost in euros_lost.items()
    ]
    return ForecastSkill.validate(pl.DataFrame(rows), cast=True)


@pytest.mark.parametrize("target", [target for target, who in CANDIDATES.items() if len(who) > 1])
def test_the_fewest_euros_elect_the_answer_from_the_moment_they_are_known(plant, target):
    first, *_, last = CANDIDATES[target]
    known_at = plant.clock.now()
    losses = dict.fromkeys(CANDIDATES[target], 9.0) | {last: 1.0}
    plant.append("forecast_skill", judged(target, losses, known_at))

    assert election(plant.runtime, target, known_at - A_MINUTE).champion == first
    assert election(plant.runtime, target, known_at).champion == last


def test_a_plan_stands_on_the_elected_sessions_and_all_the_others_are_its_challengers(plant):
    before = plant.clock.now()
    plant.clock.sleep_until(before + A_MINUTE)
    now = plant.clock.now()
    losses = {"learned": 3.0, "stated": 3.0, "weekday": 1.0}
    plant.append("forecast_skill", judged("sessions", losses, now))

    made = plant.materialise("day_ahead", TOMORROW, "ev_forecast")

    assert made.success, failure_of(made)
    said = plant.rows("session_forecasts").filter(pl.col("probability") > 0)
    by_weekday = CANDIDATES["sessions"]["weekday"](plant.runtime, TOMORROW, now)
    assert_frame_equal(said, by_weekday, check_row_order=False)
    earlier = forecasts.sessions(plant.runtime, TOMORROW, before)
    assert earlier["model"].to_list() != said["model"].to_list()
    rivals = session_challenges(plant.runtime, TOMORROW, now)
    assert rivals["forecaster"].unique().sort().to_list() == ["learned", "stated"]
    assert rivals["known_at"].unique().to_list() == [now]


def test_nobody_is_challenged_where_no_vehicle_was_expected(plant):
    assert session_challenges(plant.runtime, TOMORROW, plant.clock.now()).is_empty()
