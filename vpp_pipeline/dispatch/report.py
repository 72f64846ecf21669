"""What came of a push.

Belongs here: the report of one interval's push, and what of the plan it leaves short. Does not:
the ledger it is made from, making good what is short (`group`, `deviation`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.dispatch.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from vpp_pipeline.dispatch.commands import DueCommands, PlanRef

ACCEPTED = frozenset({State.ACKED, State.APPLIED, State.VERIFIED})
"""In these a device has said yes, or was seen to obey."""


@dataclass(frozen=True)
class Tolerance:
    """How far the accepted set-points may sum up from the plan: the larger of the two."""

    power_kw: float = 0.5
    share: float = 0.02  # of the sum of magnitudes


@dataclass(frozen=True, eq=False)
class PushReport:
    """One interval's commands after a push; of several for a device the newest.

    `planned_kw` sums what the plan asked of all of them, caps included; `accepted_kw` what of it
    the devices accepted, `verified_kw` what is verified to be in force. `shortfall_kw` is what
    was planned and not accepted, signed, and 0 within the tolerance. `left_over_kw` is what the
    fleet's ramp had no room for, a part of the shortfall. `not_verified` has a row a device that
    does not verifiably obey: `device_id`, `state`, `why`.
    """

    plan_id: str
    plan_version: int
    interval_start: datetime
    counts: Mapping[State, int]
    planned_kw: float
    accepted_kw: float
    verified_kw: float
    shortfall_kw: float
    left_over_kw: float
    not_verified: pl.DataFrame


def push_report(  # noqa: PLR0917 - what was asked, what came of it, and what is near enough
    plan: PlanRef,
    interval_start: datetime,
    due: DueCommands,
    states: pl.DataFrame,
    left_over: pl.Expr,
    tolerance: Tolerance,
) -> PushReport:
    """Return the report on `states` (rows of `Ledger.states`) and the rows refused before them.

    `left_over` tells of each of `states` whether the ramp had no room for it.
    """
    verified = pl.col("state") == State.VERIFIED.value
    not_verified = pl.concat(
        [
            states.filter(~verified).select("device_id", "state", why="detail"),
            due.refused.select("device_id", state=pl.lit(State.REJECTED.value), why="reason"),
        ]
    )
    counts = Counter(State(state) for state in states["state"])
    counts.update({State.REJECTED: due.refused.height} if due.refused.height else {})
    waiting = states.filter(left_over, pl.col("state") == State.REJECTED.value)
    return PushReport(
        plan_id=plan.plan_id,
        plan_version=plan.plan_version,
        interval_start=interval_start,
        counts=dict(counts),
        planned_kw=float(states["planned_kw"].sum()),
        accepted_kw=accepted_kw(states),
        verified_kw=float(states.filter(verified)["offered_kw"].sum()),
        shortfall_kw=shortfall_kw(states, tolerance),
        left_over_kw=float(waiting["planned_kw"].sum()),
        not_verified=not_verified,
    )


def accepted_kw(states: pl.DataFrame) -> float:
    """Return the sum of the set-points that devices have accepted."""
    accepted = pl.col("state").is_in([state.value for state in ACCEPTED])
    return float(states.filter(accepted)["offered_kw"].sum())


def shortfall_kw(states: pl.DataFrame, tolerance: Tolerance) -> float:
    """Return what of the plan no device has accepted, signed; 0 within the tolerance."""
    short = float(states["planned_kw"].sum()) - accepted_kw(states)
    allowed = max(tolerance.power_kw, tolerance.share * float(states["planned_kw"].abs().sum()))
    return short if abs(short) > allowed else 0.0
