"""The plan that needs no solver: every device does what it would do by itself, within limits.

Belongs here: the greedy goals. Does not: following them (`repair.track`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.repair import Setpoints, track

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem


def greedy(problem: Problem) -> Setpoints:
    """Charge vehicles and run loads at once, hold comfort, let the sun in, rest batteries."""
    stores, sources = problem.stores, problem.sources
    promised = _ahead(np.where(stores.owed, stores.wished_kwh, np.nan), stores.starts)
    begun = np.maximum.accumulate(
        np.where(stores.starts, np.arange(len(stores.starts))[:, None], 0), axis=0
    )
    at_rest = np.take_along_axis(stores.initial_kwh, begun, axis=0)
    comfortable = np.where(stores.excess_eur_per_kwh > 0, stores.wished_kwh, at_rest)
    goal = np.fmax(comfortable, promised)
    return track(problem, goal, np.where(sources.curtailable, sources.max_kw, sources.min_kw))


def _ahead(marks: Floats, starts: Bools) -> Floats:
    """Return the next mark of the same stay at or after each quarter-hour, NaN without one."""
    ahead = marks.copy()
    for t in range(len(marks) - 2, -1, -1):
        next_mark = np.where(starts[t + 1], np.nan, ahead[t + 1])
        ahead[t] = np.where(np.isnan(marks[t]), next_mark, marks[t])
    return ahead
