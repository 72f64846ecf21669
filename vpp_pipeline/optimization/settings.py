"""What a plan can be asked for.

Belongs here: the settings, with their units. Does not: tuning of solvers (`relaxed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Solver = Literal["OSQP", "CLARABEL", "HIGHS"]


@dataclass(frozen=True)
class PlanSettings:
    """How to plan."""

    solvers: tuple[Solver, ...] = ("OSQP", "CLARABEL", "HIGHS")
    """Of a small fleet, in this order, until a plan is proven within `gap_tolerance`."""
    time_limit_s: float = 60.0
    """For the whole; then the best plan so far stands."""
    gap_tolerance: float = 1e-3
    """A plan within it of the proven bound is called optimal."""
    stored_energy_eur_per_mwh: float | None = None
    """Of energy left in batteries and two-way vehicles; None: the horizon's median price, not
    below 0."""
    overload_eur_per_kwh: float = 10.0
    """Of energy beyond a grid connection's limit, where the site's own load breaks it."""
    fairness_eur_per_kwh: float = 0.002
    """By how much a kWh at a device's full power is dearer than its first: like devices share."""
