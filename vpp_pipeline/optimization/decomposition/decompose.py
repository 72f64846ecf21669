"""A fleet of any size against its portfolio: prices from a sample, passes over all, a balance.

Belongs here: the order of these, and when to stop. Does not: the steps themselves (`together`,
`at_prices`, `master`), switches and whole watts (`solve`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.bound import lower_bound_eur
from vpp_pipeline.optimization.decomposition.answers import Answers, Prices
from vpp_pipeline.optimization.decomposition.at_prices import answer, solve_sites
from vpp_pipeline.optimization.decomposition.coupled import CoupledError
from vpp_pipeline.optimization.decomposition.master import MasterError, next_prices
from vpp_pipeline.optimization.decomposition.shared import shared_rows
from vpp_pipeline.optimization.decomposition.together import prices_of, solve_together
from vpp_pipeline.optimization.multipliers import consistent
from vpp_pipeline.optimization.repair import Setpoints
from vpp_pipeline.optimization.reserves import ready_stores
from vpp_pipeline.optimization.verify import verify

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Portfolio, Problem

_TOGETHER_AT_MOST = 2_500  # devices that are solved as one, and in a sample
_BALANCING = 1_500  # devices that balance the portfolio in the end
_PASSES_AT_MOST = 6
_BOUND_KW = 1e-6


@dataclass(frozen=True)
class Relaxation:
    """The convex problem's answer, and the proof of how good it is."""

    answers: Answers
    prices: Prices
    cost_eur: float
    bound_eur: float
    passes: int

    @property
    def gap(self) -> float:
        """Return (cost - bound) / max(1, |cost|)."""
        return max(self.cost_eur - self.bound_eur, 0.0) / max(1.0, abs(self.cost_eur))
