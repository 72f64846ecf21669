"""What came of a push.

Belongs here: the report of one interval's push. Does not: the ledger it is made from.
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


@dataclass(frozen=True, eq=False)
class PushReport:
    """One interval's commands after a push.

    `planned_kw` sums what the plan asked of all of them, caps included; `verified_kw` what is
    verified to be in force of it: the difference is what a re-plan has to make good.
    `not_verified` has a row a device that does not verifiably obey: `device_id`, `state`, `why`.
    """

    plan_id: str
    plan_version: int
    interval_start: datetime
    counts: Mapping[State, int]
    planned_kw: float
    verified_kw: float
    not_verified: pl.DataFrame


def push_report(
    plan: PlanRef, interval_start: datetime, due: DueCommands, states: pl.DataFrame
) -> PushReport:
    """Return the report on `states` (rows of `Ledger.states`) and the rows refused before them."""
    verified = pl.col("state") == State.VERIFIED.value
    not_verified = pl.concat(
        [
            states.filter(~verified).select("device_id", "state", why="detail"),
            due.refused.select("device_id", state=pl.lit(State.REJECTED.value), why="reason"),
        ]
    )
    counts = Counter(State(state) for state in states["state"])
    counts.update({State.REJECTED: due.refused.height} if due.refused.height else {})
    return PushReport(
        plan_id=plan.plan_id,
        plan_version=plan.plan_version,
        interval_start=interval_start,
        counts=dict(counts),
        planned_kw=float(states["planned_kw"].sum()),
        verified_kw=float(states.filter(verified)["offered_kw"].sum()),
        not_verified=not_verified,
    )
