"""The second verification in Dagster: whether the power followed, and what each device delivers.

Belongs here: the assets after each quarter-hour, and the check on them. Does not: judging a power
(`dispatch.verification`, `dispatch.delivery`), what a low score costs (`flexibility.derating`).
"""

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs.dispatch import dispatch_ledger
from vpp_pipeline.defs.metadata import column_schema, owners, picture, table
from vpp_pipeline.defs.plant import telemetry
from vpp_pipeline.dispatch import settling
from vpp_pipeline.dispatch.delivery import (
    MEMORY,
    DeliveryScores,
    PowerVerifications,
    followed,
)
from vpp_pipeline.dispatch.delivery import delivery_scores as scored
from vpp_pipeline.dispatch.report import ACCEPTED
from vpp_pipeline.dispatch.verification import Tolerance
from vpp_pipeline.flexibility.derating import deratings
from vpp_pipeline.reporting import pictures
from vpp_pipeline.runtime import Runtime


@dg.asset(
    group_name="dispatch",
    deps=[dispatch_ledger, telemetry],
    kinds={"polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(PowerVerifications),
)
def power_verification(runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
    """Whether the measured power followed the set-points of the quarter-hours that are over.

    A flag of its own beside VERIFIED: a device may hold a set-point and not do it.
    """
    now = runtime.clock.now()
    commands = unmeasured(runtime)
    if commands.is_empty():
        return dg.MaterializeResult(metadata={"dagster/row_count": 0})
    starts = pl.col("interval_start")
    first, last = commands.select(starts.min(), last=starts.max()).row(0)
    with runtime.warehouse.read() as connection:
        readings = connection.frame(
            "warehouse_readings",
            {"devices": commands.select("device_id").unique()},
            start=first - settling.BEFORE,
            end_=last + market_day.STEP,
            as_of=now,
        )
    judged = followed(commands, readings, runtime.devices(now), Tolerance())
    with runtime.warehouse.write() as connection:
        connection.append("power_verifications", judged.with_columns(judged_at=pl.lit(now)))
    counts = judged["power_verified"].value_counts()
    by_outcome = dict(zip(counts["power_verified"], counts["count"], strict=True))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": judged.height,
            "followed": by_outcome.get(True, 0),
            "did_not_follow": by_outcome.get(False, 0),
            "not_judged": by_outcome.get(None, 0),
            "not_verified": table(_not_verified(judged), rows=50),
        }
    )


@dg.asset(
    group_name="dispatch",
    deps=[power_verification],
    kinds={"polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(DeliveryScores),
)
def delivery_scores(runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
    """What share of the power it was asked for each device delivers, up and down.

    Whoever delivers less than nine tenths is derated in the next envelopes, and earns its way
    back by delivering.
    """
    now = runtime.clock.now()
    with runtime.warehouse.read() as connection:
        verified = connection.frame(
            "dispatch_power_verifications", start=now - MEMORY, end_=now, as_of=now
        )
    scores = scored(verified)
    with runtime.warehouse.write() as connection:
        known = connection.frame("dispatch_delivery_scores", since=now - MEMORY, as_of=now)
        told = known.filter(pl.col("known_at") == now)  # by a run of the same instant
        connection.append(
            "delivery_scores",
            scores.join(told, on=["device_id", "direction"], how="anti").with_columns(
                known_at=pl.lit(now)
            ),
        )
    unknown = scores.filter(pl.col("score").is_null())
    lowest = scores.drop_nulls("score").sort("score", "device_id")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": scores.height,
            "unknown": unknown.height,
            "derated": table(deratings(scores), rows=50),
            "lowest": table(lowest, rows=50),
            "picture": picture(pictures.delivery_scores(lowest, "png"), "delivery scores"),
        }
    )


@dg.asset_check(asset=power_verification)
def power_follows_set_points(runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
    """In the last two hours every device did what its verified set-point said, or is excused."""
    now = runtime.clock.now()
    with runtime.warehouse.read() as connection:
        judged = connection.frame(
            "dispatch_power_verifications", start=now - 8 * market_day.STEP, end_=now, as_of=now
        )
    off = _not_verified(judged)
    faults = off.filter(pl.col("excuse") == "")
    return dg.AssetCheckResult(
        passed=faults.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "count": faults.height,
            "excused": off.height - faults.height,
            "not_verified": table(faults, rows=50),
        },
    )


def unmeasured(runtime: Runtime) -> pl.DataFrame:
    """Return the set-points that were in force and whose power can be looked at by now."""
    end = market_day.floor_interval(settling.judged_until(runtime.clock.now(), runtime.clock.rate))
    with runtime.warehouse.read() as connection:
        return connection.frame(
            "dispatch_unmeasured_commands",
            start=end - settling.REACH,
            end_=end,
            accepted=sorted(ACCEPTED),
        )


def _not_verified(judged: pl.DataFrame) -> pl.DataFrame:
    return (
        judged.filter(~pl.col("power_verified"))
        .sort("interval_start", "device_id", descending=[True, False])
        .select("device_id", "interval_start", "commanded_kw", "measured_kw", "reason", "excuse")
    )
