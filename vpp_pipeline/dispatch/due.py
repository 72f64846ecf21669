"""Which pushes are due.

Belongs here: from the released plans and the clock to the pushes to ask for. Does not: asking for
them (a sensor), making the commands (`commands`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import floor_interval, intervals

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime, timedelta


@dataclass(frozen=True)
class Due:
    """One push to ask for; its `run_key` is the same whenever and by whomever it is asked."""

    plan_id: str
    plan_version: int
    revision: int
    interval_start: datetime
    run_key: str


def due(plans: pl.DataFrame, pushed: Collection[str], now: datetime, lead: timedelta) -> list[Due]:
    """Return the pushes due at `now`, oldest interval first.

    `plans` are released plans with `plan_id`, `plan_version`, `revision`, `horizon_start` and
    `horizon_end`; in each interval the highest version that covers it is in force. Due are the
    interval that runs and those that begin within `lead`, unless `pushed` has their run key. An
    interval that is over is never due.
    """
    starts = intervals(floor_interval(now), now + lead)
    in_force = (
        starts.to_frame()
        .join_where(
            plans,
            pl.col("horizon_start") <= pl.col("interval_start"),
            pl.col("interval_start") < pl.col("horizon_end"),
        )
        .sort("interval_start", "plan_version")
        .unique("interval_start", keep="last", maintain_order=True)
    )
    found = (
        Due(
            plan_id=row["plan_id"],
            plan_version=row["plan_version"],
            revision=row["revision"],
            interval_start=row["interval_start"],
            run_key=run_key(row["plan_id"], row["revision"], row["interval_start"]),
        )
        for row in in_force.iter_rows(named=True)
    )
    return [push for push in found if push.run_key not in pushed]


def run_key(plan_id: str, revision: int, interval_start: datetime) -> str:
    """Return the key of the one push of a plan's revision for an interval."""
    return f"dispatch:{plan_id}:r{revision}:{interval_start:%Y%m%dT%H%MZ}"
