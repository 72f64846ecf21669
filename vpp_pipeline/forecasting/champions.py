"""Who is to answer: the candidate whose forecasts lost the fewest euros of late.

Belongs here: the election among a target's candidates, from their skill. Does not: how they were
scored (`skill`, `settlement.forecast_loss`), asking them (`planning`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW_DAYS = 28
"""How many of the last scored days count."""
LEAST_DAYS = 7
"""Fewer days that both were scored on are no evidence against the first candidate."""
_TIE_SHARE = 0.01
_TIE_EUR_PER_DAY = 0.01
_TIE_PINBALL_SHARE = 0.01


@dataclass(frozen=True)
class Election:
    """Who answers for a target, and why."""

    champion: str
    why: str
    days: int
    """The days that it stands on."""


def elect(skill: pl.DataFrame, candidates: Sequence[str]) -> Election:
    """Return the champion among a target's `candidates`, the first of whom answers by default.

    `skill` holds `delivery_day`, `forecaster`, `pinball`, `euros_lost` (null: not told), a row a
    day and candidate. Rivals are compared on the last `WINDOW_DAYS` days on which all of them were
    scored; who has not `LEAST_DAYS` days in common with the first candidate does not stand yet.

    The fewest euros win. Whoever is within 1 % of that, or within a cent a day, ties with it (a
    forecast of what nothing is steered by costs nothing): then the lowest pinball loss wins, and
    within 1 % of that the candidate that is named first. The rule has no memory: the same skill
    elects the same champion.
    """
    first = candidates[0]
    scored = skill.filter(
        pl.col("forecaster").is_in(list(candidates)), pl.col("euros_lost").is_finite()
    ).unique(["delivery_day", "forecaster"])
    of_first = scored.filter(pl.col("forecaster") == first).select("delivery_day")
    shared = scored.join(of_first, on="delivery_day", how="semi")
    counts = dict(shared.group_by("forecaster").len().iter_rows())
    standing = [name for name in candidates if counts.get(name, 0) >= LEAST_DAYS]
    if len(candidates) == 1:
        return Election(first, "the only candidate", counts.get(first, 0))
    if len(standing) <= 1:
        most = max((counts.get(name, 0) for name in candidates[1:]), default=0)
        return Election(first, f"too little evidence: {most} of {LEAST_DAYS} days", most)
    means, days = _means(shared, standing)
    if days < LEAST_DAYS:
        return Election(first, f"too little evidence: {days} of {LEAST_DAYS} days", days)
    fewest = min(euros for euros, _ in means.values())
    room = max(_TIE_SHARE * abs(fewest), _TIE_EUR_PER_DAY)
    tied = [name for name in standing if means[name][0] <= fewest + room]
    if len(tied) == 1:
        return Election(tied[0], "fewest euros lost", days)
    lowest = min(means[name][1] for name in tied)
    closest = [name for name in tied if means[name][1] <= lowest * (1 + _TIE_PINBALL_SHARE)]
    why = "lowest pinball loss of those that lost as few euros"
    return Election(closest[0], why if len(closest) == 1 else "as good as any, and first", days)


def _means(
    skill: pl.DataFrame, standing: Sequence[str]
) -> tuple[dict[str, tuple[float, float]], int]:
    """Return each one's mean euros and pinball a day over the common days, and how many those are.

    Sorted, so that sums come out the same to the last bit whatever order the rows came in.
    """
    of_standing = skill.filter(pl.col("forecaster").is_in(list(standing)))
    common = (
        of_standing.group_by("delivery_day")
        .len()
        .filter(pl.col("len") == len(standing))
        .sort("delivery_day")
        .tail(WINDOW_DAYS)
    )
    means = (
        of_standing.join(common, on="delivery_day", how="semi")
        .sort("delivery_day", "forecaster")
        .group_by("forecaster", maintain_order=True)
        .agg(pl.col("euros_lost").mean(), pl.col("pinball").mean())
    )
    return {name: (euros, pinball) for name, euros, pinball in means.iter_rows()}, common.height
