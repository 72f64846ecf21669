"""Sites and groups: series of their own, with quantiles from their own past.

Belongs here: the history of a sum, and members that add up to it. Does not: the models, which
forecast a group as any other series.

The p10 of a sum is not the sum of p10s: members err in different directions. So a group is learnt
and issued beside its members (`load_model`, `pv_model`), under its own name, and its members' p50
are then moved to add up to its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.forecasting.rows import QUANTILES
from vpp_pipeline.forecasting.schemas import Forecasts

if TYPE_CHECKING:
    import dataframely as dy

_EVEN_KW = 1e-9
"""Members without any spread share the difference evenly."""


def group_history(history: pl.DataFrame, members: pl.DataFrame) -> pl.DataFrame:
    """Return the sums of `history` over groups, as rows of devices named as the groups.

    `history` holds `device_id`, `interval_start`, `power_kw`; `members` holds `group_id` and
    `device_id`. A step that a member has not told, or told no number of, has no sum.
    """
    told = history.filter(pl.col("power_kw").is_finite()).join(members, on="device_id")
    every = members.group_by("group_id").agg(members=pl.col("device_id").n_unique())
    return (
        told.sort("group_id", "interval_start", "device_id")
        .group_by("group_id", "interval_start", maintain_order=True)
        .agg(pl.col("power_kw").sum(), told=pl.col("device_id").n_unique())
        .join(every, on="group_id", maintain_order="left")
        .filter(pl.col("told") == pl.col("members"))
        .select("interval_start", "power_kw", device_id="group_id")
        .select("device_id", "interval_start", "power_kw")
    )


def reconciled(forecasts: pl.DataFrame, members: pl.DataFrame) -> dy.DataFrame[Forecasts]:
    """Return the forecasts with the members' p50 adding up to their group's.

    `forecasts` are those of groups and members of one target, made at one moment; a device is a
    member of one group at most (`members`: `group_id`, `device_id`). What is missing to the
    group's p50 is shared out by the members' spread (p90 - p10), and each member's quantiles move
    with its p50. Groups stay as they are.
    """
    at = ["target", "interval_start", "known_at"]
    groups = forecasts.select(*at, group_id="subject_id", whole="p50")
    of_group = [*at, "group_id"]
    spread = pl.col("p90") - pl.col("p10") + _EVEN_KW
    moved = (
        forecasts.join(members.rename({"device_id": "subject_id"}), on="subject_id")
        .join(groups, on=of_group)
        .with_columns(
            move=(pl.col("whole") - pl.col("p50").sum().over(of_group))
            * (spread / spread.sum().over(of_group))
        )
        .with_columns(pl.col(name) + pl.col("move") for name in QUANTILES)
        .select(forecasts.columns)
    )
    others = forecasts.join(moved, on=[*at, "subject_id"], how="anti")
    return Forecasts.validate(pl.concat([others, moved]).sort("subject_id", "interval_start"))
