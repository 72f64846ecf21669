"""Trickles made whole: the least of what a convex answer asks below a least power is turned off.

Belongs here: from a site's convex answer to one that keeps its devices' least powers. Does not:
patterns that prices alone tell (`integers`), what runs in one go (`runs`), whole sites solved with
their switches (`exact`).

At a narrow connection a charger's trickle fits at any time, its least power only while something
else, a battery or the sun, lends a hand; a pattern made at prices does not see that. So a few of
the smallest trickles are turned off and the site is solved again, and again: what is left grows to
powers that the device can hold (diving: Berthold, *Primal Heuristics for Mixed Integer Programs*,
TU Berlin 2006, ch. 2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.decomposition.answers import Answers
from vpp_pipeline.optimization.decomposition.at_prices import solve_sites
from vpp_pipeline.optimization.runs import ruled

if TYPE_CHECKING:
    from vpp_pipeline.optimization.found import Prices
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem

_TOLD_KW = 1e-3
_AT_A_TIME = 0.1  # of a device's trickles
_ROUNDS = 60


def dived(problem: Problem, patterned: Problem, prices: Prices) -> tuple[Problem, Answers]:
    """Return the problem narrowed to powers that devices can hold, and its answer at these prices.

    What runs in one go, or for a least time, keeps to its pattern in `patterned`.
    """
    narrowed = _free(problem, patterned)
    answers = Answers.blank(problem)
    still: Bools = np.ones(len(problem.sites.import_limit_kw), dtype=np.bool_)
    for _ in range(_ROUNDS):
        solve_sites(narrowed, still, prices, answers)
        narrowed, still = _without_the_least(narrowed, answers)
        if not still.any():
            break
    return kept_on(narrowed, answers), answers


def _free(problem: Problem, patterned: Problem) -> Problem:
    """Return the problem in which only what is ruled keeps to its pattern."""
    loads, timed = ruled(problem)
    stores, sources = problem.stores, problem.sources
    draw_min, draw_max = np.array(stores.charge_min_kw), np.array(stores.charge_max_kw)
    low, high = np.array(sources.min_kw), np.array(sources.max_kw)
    draw_min[:, loads] = patterned.stores.charge_min_kw[:, loads]
    draw_max[:, loads] = patterned.stores.charge_max_kw[:, loads]
    low[:, timed] = patterned.sources.min_kw[:, timed]
    high[:, timed] = patterned.sources.max_kw[:, timed]
    return replace(
        problem,
        stores=replace(stores, charge_min_kw=draw_min, charge_max_kw=draw_max),
        sources=replace(sources, min_kw=low, max_kw=high),
    )


def _without_the_least(problem: Problem, answers: Answers) -> tuple[Problem, Bools]:
    """Turn off each device's smallest trickles; return also the sites (K,) that had any.

    Of both ways at once the smaller is one too.
    """
    stores, sources = problem.stores, problem.sources
    charge, discharge, source = answers.charge_kw.T, answers.discharge_kw.T, answers.source_kw.T
    both = np.minimum(charge, discharge) > _TOLD_KW
    smaller_in, smaller_out = both & (charge < discharge), both & (charge >= discharge)
    least = stores.min_active_kw
    no_more_in = _least_of(
        charge, (_little(charge, least) | smaller_in) & _idle(stores.charge_min_kw)
    )
    no_more_out = _least_of(
        discharge, (_little(discharge, least) | smaller_out) & _idle(stores.discharge_min_kw)
    )
    off = _least_of(source, _little(source, sources.min_active_kw) & _idle(sources.min_kw))
    still = np.zeros(len(problem.sites.import_limit_kw), dtype=np.bool_)
    still[stores.site[(no_more_in | no_more_out).any(axis=0)]] = True
    still[sources.site[off.any(axis=0)]] = True
    return replace(
        problem,
        stores=replace(
            stores,
            charge_max_kw=np.where(no_more_in, 0.0, stores.charge_max_kw),
            discharge_max_kw=np.where(no_more_out, 0.0, stores.discharge_max_kw),
        ),
        sources=replace(sources, max_kw=np.where(off, 0.0, sources.max_kw)),
    ), still


def _little(power_kw: Floats, least_kw: Floats) -> Bools:
    little: Bools = (power_kw > _TOLD_KW) & (power_kw < least_kw - _TOLD_KW)
    return little


def _idle(least_kw: Floats) -> Bools:
    """Return where nothing has to run."""
    idle: Bools = least_kw <= 0
    return idle


def _least_of(power_kw: Floats, trickles: Bools) -> Bools:
    """Return a share of each device's trickles (T, n), its smallest: one at least, if there is one."""
    order = np.argsort(np.where(trickles, power_kw, np.inf), axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(len(order))[:, None], axis=0)
    least: Bools = trickles & (rank < np.ceil(_AT_A_TIME * trickles.sum(axis=0)))
    return least


def kept_on(problem: Problem, answers: Answers) -> Problem:
    """Hold every device with a least power to it where it reaches it, and off elsewhere."""
    stores, sources = problem.stores, problem.sources

    def held(
        power_kw: Floats, least_kw: Floats, low_kw: Floats, high_kw: Floats
    ) -> tuple[Floats, Floats]:
        reaches = power_kw >= least_kw - _TOLD_KW
        low = np.where(reaches, np.maximum(low_kw, np.minimum(least_kw, high_kw)), low_kw)
        high = np.where(reaches, high_kw, low_kw)
        switched = least_kw > 0
        return np.where(switched, low, low_kw), np.where(switched, high, high_kw)

    least = stores.min_active_kw
    charge_min, charge_max = held(
        answers.charge_kw.T, least, stores.charge_min_kw, stores.charge_max_kw
    )
    discharge_min, discharge_max = held(
        answers.discharge_kw.T, least, stores.discharge_min_kw, stores.discharge_max_kw
    )
    low, high = held(answers.source_kw.T, sources.min_active_kw, sources.min_kw, sources.max_kw)
    return replace(
        problem,
        stores=replace(
            stores,
            charge_min_kw=charge_min,
            charge_max_kw=charge_max,
            discharge_min_kw=discharge_min,
            discharge_max_kw=discharge_max,
        ),
        sources=replace(sources, min_kw=low, max_kw=high),
    )
