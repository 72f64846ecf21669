"""What solving comes to: set-points, who made them, and what is known of them.

Belongs here: the plan in arrays, keeping the better one, following a wish. Does not: solving.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.repair import track
from vpp_pipeline.optimization.reserves import held
from vpp_pipeline.optimization.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vpp_pipeline.optimization.problem import Floats, Problem
    from vpp_pipeline.optimization.repair import Setpoints
    from vpp_pipeline.optimization.verify import Verdict


class Stages:
    """Seconds by stage, added up as they pass."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count what happens inside to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


@dataclass(frozen=True)
class Prices:
    """What the portfolio pays for the fleet's power and reserve in each quarter-hour (T,)."""

    energy_eur_per_kwh: Floats
    peak_eur_per_kw: Floats  # the part of the energy price that the highest draw makes
    reserve_up_eur_per_kwh: Floats  # for a kW held ready over an hour
    reserve_down_eur_per_kwh: Floats


def market_prices(problem: Problem) -> Prices:
    """Return what a fleet is paid that sells at the market: a guess where it does more."""
    portfolio = problem.portfolio
    return Prices(
        energy_eur_per_kwh=np.clip(
            problem.price_eur_per_kwh,
            portfolio.surplus_eur_per_kwh,
            portfolio.shortage_eur_per_kwh,
        ),
        peak_eur_per_kw=np.zeros(len(portfolio.position_kw)),
        reserve_up_eur_per_kwh=portfolio.reserve_up_eur_per_kwh,
        reserve_down_eur_per_kwh=portfolio.reserve_down_eur_per_kwh,
    )


@dataclass(frozen=True)
class Found:
    """A plan that keeps all rules, and what is known of it."""

    setpoints: Setpoints
    verdict: Verdict
    method: str  # "monolith", "decomposition" or "none"
    solver: str
    status: str
    prices: Prices
    bound_eur: float | None = None
    relaxed_gap: float | None = None
    passes: int = 0
    """How many times the fleet was asked, or solvers gave an answer."""
    complaints: tuple[str, ...] = ()
    """Why nothing better was found, in words."""
    stages: Stages = field(default_factory=Stages)

    @property
    def gap(self) -> float | None:
        """Return (objective - bound) / max(1, |objective|); null without a bound."""
        if self.bound_eur is None:
            return None
        return gap_of(self.verdict.objective_eur, self.bound_eur)

    def proven(self, tolerance: float) -> bool:
        """Return whether no plan can be better by more than the tolerance."""
        return self.gap is not None and self.gap <= tolerance

    def bounded(self, bound_eur: float) -> Found:
        """Return the plan with the higher of two bounds."""
        known = self.bound_eur
        return replace(self, bound_eur=bound_eur if known is None else max(known, bound_eur))

    def or_better(
        self, problem: Problem, energy_kwh: Floats, source_kw: Floats, *, solver: str, status: str
    ) -> Found:
        """Return the cheaper of this plan and the one that follows a wish (T, S), (T, G)."""
        setpoints, verdict = followed(problem, energy_kwh, source_kw)
        return self.or_cheaper(
            replace(self, setpoints=setpoints, verdict=verdict, solver=solver, status=status)
        )

    def or_cheaper(self, other: Found) -> Found:
        """Return the cheaper of two plans, with the higher of their bounds."""
        dearer = other.verdict.objective_eur > self.verdict.objective_eur
        kept, left = (self, other) if dearer else (other, self)
        return kept if left.bound_eur is None else kept.bounded(left.bound_eur)


def gap_of(cost_eur: float, bound_eur: float) -> float:
    """Return (cost - bound) / max(1, |cost|), not below 0."""
    return max(cost_eur - bound_eur, 0.0) / max(1.0, abs(cost_eur))


def followed(problem: Problem, energy_kwh: Floats, source_kw: Floats) -> tuple[Setpoints, Verdict]:
    """Return set-points that follow a wish within every rule, and their verdict."""
    setpoints = tracked(problem, energy_kwh, source_kw)
    return setpoints, verify(problem, setpoints)


def tracked(problem: Problem, energy_kwh: Floats, source_kw: Floats) -> Setpoints:
    """Return set-points that follow a wish within every rule, with the reserve they leave room for."""
    return held(problem, track(problem, energy_kwh, source_kw))
