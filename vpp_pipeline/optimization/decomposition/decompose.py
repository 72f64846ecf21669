"""A fleet of any size against its portfolio: prices from a sample, passes over all, a balance.

Belongs here: the order of these, and when to stop. Does not: the steps themselves (`together`,
`at_prices`, `master`), switches and milliwatts (`fleet`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.bound import lower_bound_eur
from vpp_pipeline.optimization.decomposition.answers import Answers, link_prices
from vpp_pipeline.optimization.decomposition.at_prices import answer, binding_sites, using
from vpp_pipeline.optimization.decomposition.coupled import Aim, CoupledError
from vpp_pipeline.optimization.decomposition.master import MasterError, next_prices
from vpp_pipeline.optimization.decomposition.together import (
    Together,
    nearer_together,
    prices_of,
    shared_of,
    solve_together,
)
from vpp_pipeline.optimization.found import Prices, gap_of, market_prices
from vpp_pipeline.optimization.multipliers import consistent
from vpp_pipeline.optimization.problem import at_sites
from vpp_pipeline.optimization.repair import Setpoints
from vpp_pipeline.optimization.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vpp_pipeline.optimization.problem import Bools, Portfolio, Problem

_TOGETHER_AT_MOST = 2_500  # devices that are solved as one
_KINKED_TOGETHER_AT_MOST = 40_000  # a sample tells little of prices that two imbalance prices pin
_RESERVE_TOGETHER_AT_MOST = 20_000  # nor of how reserve is shared out
_SAMPLE_SHARE, _SAMPLE_MOST = 0.1, 4_000  # of the devices, for finding the prices; at most so many
_SAMPLE_LEAST = (1_000, 2_000)  # the closer the gap wanted, the more
_SAMPLE_TIMES_GAP = 0.2
_BEFORE_A_BALANCE, _AT_ONCE = 0.8, 0.1  # of the gap wanted: it counts a part of the cost only
_BEFORE_A_REPAIR = (2.5, 1.2)  # of the gap wanted, if the first is not enough
_LEFT_BY_A_REPAIR = 0.2  # of the residuals' cost, about
_WORTH_A_SAMPLE = 2_500  # devices: above, a sample's prices save more steps than they cost
_FIRST_TOLERANCE = 1e-3  # of a sample that only tells where to begin
_GOLDEN = 0.5 * (5**0.5 - 1)  # of a stride: multiples of it lie far from each other
_NEAR_LIMIT = 0.6  # a site that uses so much of a limit may reach it
_PASSES_AT_MOST = 6
_TRUST_EUR_PER_KWH = 0.02


@dataclass(frozen=True)
class Relaxation:
    """The convex problem's answer, and the proof of how good it is."""

    answers: Answers
    limited: Bools  # (K,) sites where limits decide
    prices: Prices
    cost_eur: float
    bound_eur: float
    passes: int

    @property
    def gap(self) -> float:
        """Return (cost - bound) / max(1, |cost|)."""
        return gap_of(self.cost_eur, self.bound_eur)


def relaxations(
    problem: Problem, tolerance: float, deadline: float, warm: Prices | None
) -> Iterator[Relaxation]:
    """Yield answers to the convex problem, the last with a gap of `tolerance` or as near as comes.

    One before it is yielded where repair often makes it good enough; going on writes over it.
    `deadline` is of `time.perf_counter`; `warm` are the prices of a plan like this one. Raises
    `CoupledError` where no prices can be found.
    """
    portfolio = problem.portfolio
    at_market = market_prices(problem)
    guess = warm or at_market
    if not portfolio.couples:
        answers, limited = answer(problem, at_market)
        yield _judged(problem, answers, limited, at_market, 1)
        return
    if problem.steered > _together_at_most(portfolio):
        yield _passes(problem, tolerance, deadline, guess, warm=warm is not None)
        return
    near = warm or _first_prices(problem, guess)
    limited = binding_sites(problem, near or guess)
    can_balance = not _every(problem, tolerance, 1).all()
    roughly = tuple(Aim(share * tolerance, _LEFT_BY_A_REPAIR) for share in _BEFORE_A_REPAIR)
    nearly, at_once = (Aim(share * tolerance) for share in (_BEFORE_A_BALANCE, _AT_ONCE))
    aims = (*roughly, nearly) if can_balance else (at_once,)
    here = None
    try:
        for here in _together(problem, limited, near, aims):
            yield here
    except CoupledError:
        if here is None:
            raise
    if here is None or here.gap <= tolerance or time.perf_counter() > deadline:
        return
    yield (
        balanced(problem, here, _every(problem, tolerance, 1), tolerance)
        if can_balance
        else _nearer(problem, here, tolerance)
    )


def _together_at_most(portfolio: Portfolio) -> int:
    """Return how many devices are solved as one, however little a sample would tell of them."""
    if portfolio.wants_reserve:
        return _RESERVE_TOGETHER_AT_MOST
    kinked = np.any(portfolio.shortage_eur_per_kwh > portfolio.surplus_eur_per_kwh)
    return _KINKED_TOGETHER_AT_MOST if kinked else _TOGETHER_AT_MOST


def _passes(
    problem: Problem, tolerance: float, deadline: float, guess: Prices, *, warm: bool
) -> Relaxation:
    """Pass over the fleet, each time at prices that fit its last answer better.

    Without a plan like this one to begin from, a sample gives the first prices, and often all that
    is wanted: other sites make the portfolio fit. After a first pass at such a plan's prices, and
    wherever the step before it led astray, a sample tells how the fleet's answer changes with
    prices, and the portfolio is solved with that; else one Newton step does, from the sample's
    answer.
    """
    sample = _every(problem, tolerance, 0)
    share = float(sample.mean())
    trust = _TRUST_EUR_PER_KWH * STEP_H
    prices, follows = guess, None
    if not warm:
        found = _sampled(problem, sample, share, guess, tolerance)
        prices, follows = found.prices, found.follows / share
    best = None
    nth = 0
    while True:
        answers, limited = answer(problem, prices)
        here = _judged(problem, answers, limited, prices, nth + 1)
        astray = best is not None and here.bound_eur < best.bound_eur
        told_kw = answers.links_kw(problem)  # before any is balanced
        try:
            if here.gap > tolerance and (nth or not warm):
                here = balanced(problem, here, _every(problem, tolerance, nth + 1), tolerance)
            best = here if best is None else _better_of(best, here)
            nth += 1
            late = time.perf_counter() > deadline
            if best.gap <= tolerance or late or nth == _PASSES_AT_MOST:
                return best
            if follows is None or astray:
                found = _beside_others(problem, here, sample, share, tolerance)
                prices, follows = found.prices, found.follows / share
                continue
            told = next_prices(
                shared_of(problem, np.zeros(problem.links)),
                link_prices(problem, prices),
                told_kw,
                follows,
                trust,
            )
        except (CoupledError, MasterError):
            if best is None:
                raise
            return best
        prices = prices_of(problem, told)


def _together(
    problem: Problem, limited: Bools, near: Prices | None, aims: tuple[Aim, ...]
) -> Iterator[Relaxation]:
    """Solve all sites as one, for one aim after the other."""
    nothing_kw = np.zeros(problem.links)
    for found in nearer_together(problem, limited, nothing_kw, near, aims):
        yield _judged(problem, found.answers, limited, found.prices, 2)


def _nearer(problem: Problem, found: Relaxation, tolerance: float) -> Relaxation:
    """Solve all sites again: what was asked for was a share of the portfolio's cost, not of all's."""
    aim = Aim(0.5 * tolerance * min(tolerance / found.gap, 1.0))
    try:
        return _better_of(found, next(_together(problem, found.limited, found.prices, (aim,))))
    except CoupledError:
        return found


def _first_prices(problem: Problem, guess: Prices) -> Prices | None:
    """Return the prices of a tenth of the sites, to begin from; nothing where that is too few."""
    if problem.steered < _WORTH_A_SAMPLE:
        return None
    sample = _spread(problem, _SAMPLE_SHARE * problem.steered, 0)
    try:
        return _sampled(problem, sample, float(sample.mean()), guess, _FIRST_TOLERANCE).prices
    except CoupledError:
        return None


def _sampled(
    problem: Problem, sample: Bools, share: float, guess: Prices, tolerance: float
) -> Together:
    """Solve a sample of the sites (K,) for its share of the portfolio, loads as all sites' are."""
    part = _part(problem, sample, share)
    beside_kw = np.zeros(problem.links)
    own_kw = part.sites.base_kw.sum(axis=1)
    beside_kw[: len(own_kw)] = share * problem.sites.base_kw.sum(axis=1) - own_kw
    return solve_together(part, binding_sites(part, guess), beside_kw, None, tolerance / 2)


def rebalanced(problem: Problem, found: Relaxation, tolerance: float) -> Relaxation:
    """Do as `balanced` with as many sites as are solved as one in no time, for large misfits."""
    sample = max(_SAMPLE_MOST, _SAMPLE_SHARE * problem.steered)
    return balanced(problem, found, _spread(problem, sample, 1), tolerance)


def balanced(problem: Problem, found: Relaxation, chosen: Bools, tolerance: float) -> Relaxation:
    """Let the chosen sites (K,) make the portfolio fit what others do, where that is cheaper.

    The answers of what was found are written over.
    """
    try:
        fitted = _beside_others(problem, found, chosen, 1.0, tolerance)
    except CoupledError:
        return found
    stores, sources = chosen[problem.stores.site], chosen[problem.sources.site]
    before = found.answers.exchange(fitted.answers, stores, sources)
    cost = cost_eur(problem, found.answers)
    if cost < found.cost_eur:
        return replace(found, cost_eur=cost)
    found.answers.exchange(before, stores, sources)
    return found


def _beside_others(
    problem: Problem, found: Relaxation, chosen: Bools, share: float, tolerance: float
) -> Together:
    """Solve the chosen sites (K,) for their share of the portfolio, beside what all do now.

    With a share of 1 all others are held still. With the sites' share of the fleet, the others
    are taken to change as the chosen do: what the chosen differ from their share is left as it
    is, so that only changes are drawn from the sample.
    """
    part = _part(problem, chosen, share)
    steps = len(problem.price_eur_per_kwh)
    stores, sources = chosen[problem.stores.site], chosen[problem.sources.site]
    mine = found.answers.links_kw(problem, stores, sources)
    mine[:steps] += part.sites.base_kw.sum(axis=1)
    whole = found.answers.links_kw(problem)
    whole[:steps] += problem.sites.base_kw.sum(axis=1)
    near = using(part, found.answers.site_kw(problem)[:, chosen], _NEAR_LIMIT)
    beside_kw = share * whole - mine
    limited = found.limited[chosen] | near
    return solve_together(part, limited, beside_kw, found.prices, tolerance / 2)


def _judged(
    problem: Problem, answers: Answers, limited: Bools, prices: Prices, passes: int
) -> Relaxation:
    return Relaxation(
        answers=answers,
        limited=limited,
        prices=prices,
        cost_eur=cost_eur(problem, answers),
        bound_eur=lower_bound_eur(
            problem, consistent(problem, answers.multipliers(problem, prices))
        ),
        passes=passes,
    )


def _better_of(one: Relaxation, other: Relaxation) -> Relaxation:
    """Return the cheaper answer with the higher bound, and with all that proves it."""
    cheaper = one if one.cost_eur <= other.cost_eur else other
    tighter = one if one.bound_eur >= other.bound_eur else other
    return replace(
        cheaper,
        answers=cheaper.answers.proven_as(tighter.answers),
        prices=tighter.prices,
        bound_eur=tighter.bound_eur,
        passes=max(one.passes, other.passes),
    )


def cost_eur(problem: Problem, answers: Answers) -> float:
    """Return what the convex problem charges, for charging and discharging at once too."""
    stores = problem.stores
    charge, discharge = answers.charge_kw, answers.discharge_kw
    made = verify(
        problem,
        Setpoints(
            (discharge - charge).T,
            answers.energy_kwh.T,
            answers.source_kw.T,
            *answers.ready_kw(problem),
        ),
    )
    burnt = stores.wear_eur_per_kwh @ np.minimum(charge, discharge).sum(axis=1)
    bent = stores.curvature_eur_per_kw2h @ np.einsum("st,st->s", charge, discharge)
    return made.objective_eur + STEP_H * float(burnt + bent)


def _every(problem: Problem, tolerance: float, begin: int) -> Bools:
    """Return a sample of the sites (K,), the larger the closer the gap wanted."""
    least = float(np.clip(_SAMPLE_TIMES_GAP / max(tolerance, 1e-9), *_SAMPLE_LEAST))
    return _spread(problem, min(max(_SAMPLE_SHARE * problem.steered, least), _SAMPLE_MOST), begin)


def _spread(problem: Problem, sample: float, begin: int) -> Bools:
    """Return sites (K,) with about so many devices, evenly from the smallest to the largest."""
    sites = problem.sites
    count = len(sites.import_limit_kw)
    stride = max(problem.steered / sample, 1.0)
    order = np.argsort(sites.import_limit_kw, kind="stable")
    places = np.arange(begin * _GOLDEN % 1 * stride, count, stride).astype(np.int64)
    chosen = np.zeros(count, dtype=np.bool_)
    chosen[order[places]] = True
    return chosen


def _part(problem: Problem, chosen: Bools, share: float) -> Problem:
    """Return the chosen sites' problem, with a share of the portfolio: quantities, no prices."""
    part, whole = at_sites(problem, chosen), problem.portfolio
    return replace(
        part,
        portfolio=replace(
            whole,
            position_kw=whole.position_kw * share,
            peak_free_kw=whole.peak_free_kw * share,
            event_min_kw=whole.event_min_kw * share,
            event_max_kw=whole.event_max_kw * share,
        ),
    )
