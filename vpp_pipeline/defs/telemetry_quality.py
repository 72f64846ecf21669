"""Doubted readings in Dagster.

Belongs here: the asset that keeps flags, and the check that tells whose values are withheld.
Does not: the rules (`telemetry_quality`); what decides judges the readings it reads by itself.
"""

from datetime import timedelta

import dagster as dg
import polars as pl

from vpp_pipeline.defs.metadata import column_schema, owners, table
from vpp_pipeline.defs.plant import fleet, telemetry
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.telemetry_quality.parts import in_parts
from vpp_pipeline.telemetry_quality.repair import telemetry_flags as flags_of
from vpp_pipeline.telemetry_quality.schemas import TelemetryFlags
from vpp_pipeline.telemetry_quality.settings import QualitySettings

_JUDGED = timedelta(days=7)
"""Long enough to know a device's habit, short enough to be judged at every plan."""


@dg.asset(
    group_name="telemetry",
    deps=[fleet, telemetry],
    kinds={"polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(TelemetryFlags),
)
def telemetry_flags(runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
    """Readings of the last week that break a rule, each told once, with what stands in for them."""
    now = runtime.clock.now()
    with runtime.warehouse.read() as connection:
        readings = connection.frame("warehouse_recent_telemetry", start=now - _JUDGED, as_of=now)
    devices, settings = runtime.devices(now), QualitySettings()
    found = in_parts(readings, lambda part: flags_of(part, devices, settings, now))
    as_text = found.with_columns(pl.col(pl.Enum).cast(pl.String))
    with runtime.warehouse.write("telemetry flags") as connection:
        new = connection.frame("defs_new_telemetry_flags", {"found": as_text})
        connection.append("telemetry_flags", new)
    counts = found.group_by(pl.col("rule").cast(pl.String)).agg(
        flags=pl.len(), devices=pl.col("device_id").n_unique()
    )
    return dg.MaterializeResult(
        metadata={
            "readings": readings.height,
            "dagster/row_count": new.height,
            "by_rule": table(counts.sort("rule")),
        }
    )


@dg.asset_check(asset=telemetry_flags)
def telemetry_is_believed(runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
    """No device tells values now that a plan can't stand on; they are withheld from it."""
    now = runtime.clock.now()
    doubted = (
        runtime.believed_telemetry(now)
        .filter(pl.col("doubt").is_not_null())
        .select("device_id", "measured_at", "doubt")
        .sort("device_id")
    )
    with runtime.warehouse.read() as connection:
        counts = connection.frame("defs_telemetry_flag_counts", start=now - _JUDGED, as_of=now)
    return dg.AssetCheckResult(
        passed=doubted.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "doubted_devices": table(doubted, rows=50),
            "count": doubted.height,
            "by_rule_and_device": table(counts, rows=100),
        },
    )
