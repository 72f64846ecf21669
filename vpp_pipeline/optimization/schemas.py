"""The frames that a plan is.

Belongs here: schedules, what fleet power is worth in them, and the plan's certificate. Does not:
the model (`model`), the solving.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dataframely as dy

_UTC: dict[str, Any] = {"time_zone": "UTC", "time_unit": "us"}


class Schedules(dy.Schema):
    """One row a device and quarter-hour: the set-point and what follows from it."""

    device_id = dy.String(primary_key=True)
    interval_start = dy.Datetime(primary_key=True, **_UTC)
    power_kw = dy.Float64(
        description="the set-point; of PV and wind, what is expected after curtailment"
    )
    limit_kw = dy.Float64(
        nullable=True, description="the cap to command to PV and wind; null for all others"
    )
    energy_kwh = dy.Float64(nullable=True, description="the store's content at the interval's end")


class PlanPrices(dy.Schema):
    """One row a quarter-hour: what one more kWh of the fleet's power is worth in a plan, and why.

    Of the energy's price, `peak_eur_per_kw` is what being the highest draw costs. Reserves' are
    for a kW held ready for an hour.
    """

    interval_start = dy.Datetime(primary_key=True, **_UTC)
    energy_eur_per_kwh = dy.Float64()
    peak_eur_per_kw = dy.Float64()
    reserve_up_eur_per_kwh = dy.Float64()
    reserve_down_eur_per_kwh = dy.Float64()


@dataclass(frozen=True)
class Certificate:
    """How good a plan is, measured on the repaired schedule by code that did not make it."""

    label: str  # "optimal", "feasible" (not proven), "deadline: …" or "fallback: <why>"
    method: str  # "monolith", "decomposition" or "none"
    solver: str
    solver_status: str
    objective_eur: float  # of the repaired schedule; lower is better
    bound_eur: float | None  # no feasible plan is below it; null when none was proven
    gap: float | None  # (objective - bound) / max(1, |objective|)
    relaxed_gap: float | None  # likewise before integers: of the convex problem; null if unknown
    worst_violation_kw: float
    worst_violation_kwh: float
    worst_violation_c: float  # by which a building is outside comfort where it could be inside
    simultaneous_steps: int  # device-steps that charge and discharge at once, after repair
    unmet_kwh: float  # energy owed to vehicles and loads that the plan can't deliver
    overload_kw: float  # by which a site's own load is beyond its connection, whatever is planned
    passes: int  # over the whole fleet, or solvers asked
    solve_seconds: float
    stage_seconds: dict[str, float]  # where they went
