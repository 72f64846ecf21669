"""Which candidate answers for a target, and what the others would have said of a day.

Belongs here: holding the election on the skill known at a moment, asking the champion, asking the
challengers afterwards. Does not: the rule (`forecasting.champions`), the candidates themselves
(`candidates`), scoring (`scoring`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.forecasting import groups
from vpp_pipeline.forecasting.champions import Election, elect
from vpp_pipeline.forecasting.schemas import ChallengerForecasts, ChallengerSessions
from vpp_pipeline.forecasting.skill import SCORED_AS
from vpp_pipeline.planning.candidates import CANDIDATES
from vpp_pipeline.settings import MARKET_TZ

if TYPE_CHECKING:
    from datetime import date, datetime

    from vpp_pipeline.runtime import Runtime

_ELECTED_AS = SCORED_AS | dict.fromkeys(groups.TARGETS, "load")


def election(runtime: Runtime, target: str, as_of: datetime) -> Election:
    """Return who answers for `target` by what was known of the candidates' skill at a moment."""
    with runtime.warehouse.read() as connection:
        skill = connection.frame("planning_forecast_skill", target=target, as_of=as_of)
    return elect(skill, list(CANDIDATES[target]))


def from_champion(runtime: Runtime, target: str, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the `Forecasts` of the candidate that answers for `target` at a moment."""
    return CANDIDATES[target][election(runtime, target, as_of).champion](runtime, day, as_of)


def issued(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the stored `Forecasts` that the day was sold on, with `champion`: who made them.

    Of each target those of one moment: the last by gate closure, else before the day began. A
    price that was published by then is no forecast.
    """
    made = _sold_on(runtime, "planning_issued_forecasts", day, as_of)
    moments = made.select(answers=_answers(), moment="known_at").unique(maintain_order=True)
    named = [
        (target, moment, election(runtime, target, moment).champion)
        for target, moment in moments.iter_rows()
    ]
    who = pl.DataFrame(
        named,
        {"answers": pl.String, "known_at": made.schema["known_at"], "champion": pl.String},
        orient="row",
    )
    return (
        made.with_columns(answers=_answers())
        .join(who, on=["answers", "known_at"], maintain_order="left")
        .drop("answers")
    )


def issued_sessions(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return the stored `SessionForecasts` that the day was sold on, with `champion`: who made them.

    They are of one moment, chosen as `issued` does. No rows where nobody was expected to come.
    """
    made = _sold_on(runtime, "planning_issued_sessions", day, as_of)
    who = election(runtime, "sessions", made["known_at"][0]).champion if made.height else None
    return made.with_columns(champion=pl.lit(who, pl.String))


def challenges(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return `ChallengerForecasts`: what the others would have said when the champions spoke.

    Each is made from what was known at the moment of the champion's forecast (`issued`), whenever
    it is made: asked again, it says the same.
    """
    spoke = issued(runtime, day, as_of).select(
        answers=_answers(), moment="known_at", champion="champion"
    )
    said = [
        answer(runtime, day, moment).with_columns(forecaster=pl.lit(name))
        for target, moment, champion in spoke.unique().sort("answers").iter_rows()
        for name, answer in CANDIDATES[target].items()
        if name != champion
    ]
    return ChallengerForecasts.validate(
        pl.concat(
            [ChallengerForecasts.create_empty(), *said],
            how="diagonal_relaxed",
        ),
        cast=True,
    )


def session_challenges(runtime: Runtime, day: date, as_of: datetime) -> pl.DataFrame:
    """Return `ChallengerSessions`, made of `issued_sessions` as `challenges` are of `issued`."""
    spoke = issued_sessions(runtime, day, as_of).select("known_at", "champion").unique()
    said = [
        answer(runtime, day, moment).with_columns(forecaster=pl.lit(name))
        for moment, champion in spoke.iter_rows()
        for name, answer in CANDIDATES["sessions"].items()
        if name != champion
    ]
    return ChallengerSessions.validate(
        pl.concat([ChallengerSessions.create_empty(), *said], how="diagonal_relaxed"), cast=True
    )


def _sold_on(runtime: Runtime, query: str, day: date, as_of: datetime) -> pl.DataFrame:
    start, end = market_day.bounds(day, MARKET_TZ)
    closes = market_day.gate_closure(day, MARKET_TZ)
    with runtime.warehouse.read() as connection:
        return connection.frame(query, start=start, end_=end, gate_closure=closes, as_of=as_of)


def _answers() -> pl.Expr:
    """Return under which target's election a forecast was made: who tells loads tells their sums."""
    return pl.col("target").cast(pl.String).replace_strict(_ELECTED_AS)
