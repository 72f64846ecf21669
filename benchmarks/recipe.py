"""Which made-up problem is meant: enough to draw it again in another process.

Belongs here: the recipe. Does not: the drawing (`vpp_pipeline.optimization.sample`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.optimization.sample import Market, sample_problem

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Problem


@dataclass(frozen=True)
class Recipe:
    """A size, a seed, a market, and whether devices have a least power."""

    devices: int
    portfolio: Market
    seed: int = 0
    switches: bool = False

    @classmethod
    def read(cls, text: str) -> Recipe:
        return cls(**json.loads(text))

    def text(self) -> str:
        return json.dumps(asdict(self))

    def problem(self) -> Problem:
        drawn = sample_problem(
            self.devices, np.random.default_rng(self.seed), portfolio=self.portfolio
        )
        return drawn if self.switches else without_switches(drawn)


def without_switches(problem: Problem) -> Problem:
    """Return the problem with no least power: convex, as most peers know it."""
    stores, sources = problem.stores, problem.sources
    return replace(
        problem,
        stores=replace(stores, min_active_kw=np.zeros(len(stores.place))),
        sources=replace(sources, min_active_kw=np.zeros(len(sources.place))),
    )


def without_fairness(problem: Problem) -> Problem:
    """Return the problem with linear cost only."""
    stores, sources = problem.stores, problem.sources
    return replace(
        problem,
        stores=replace(stores, curvature_eur_per_kw2h=np.zeros(len(stores.place))),
        sources=replace(sources, curvature_eur_per_kw2h=np.zeros(len(sources.place))),
    )
