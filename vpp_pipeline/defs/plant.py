"""The plant in Dagster: the fleet's versions and its telemetry.

Belongs here: assets and checks of the plant. Does not: validating a registry (`fleet`), loading
landed files (`warehouse.landing`).
"""

import dagster as dg
import polars as pl

from vpp_pipeline.defs.metadata import column_schema, owners, table
from vpp_pipeline.devices.failsafe import no_failsafe
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.fleet import document, registry
from vpp_pipeline.fleet.frame import DeviceFrame, device_frame
from vpp_pipeline.runtime import TELEMETRY_MAX_AGE, Runtime
from vpp_pipeline.warehouse import landing


@dg.asset(
    group_name="plant",
    kinds={"yaml", "duckdb"},
    owners=owners(),
    metadata=column_schema(DeviceFrame),
)
def fleet(runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
    """The registry of sites, devices and groups, versioned: any past day's fleet can be asked."""
    loaded = registry.load(runtime.settings.fleet_file)
    now = runtime.clock.now()
    with runtime.warehouse.write() as connection:
        known = connection.frame("warehouse_fleet_at", as_of=now)
        content_hash = document.content_hash(loaded)
        if known.is_empty() or known["content_hash"][0] != content_hash:
            version = 1 if known.is_empty() else known["fleet_version"][0] + 1
            connection.append(
                "fleet_versions",
                pl.DataFrame(
                    {
                        "fleet_version": [version],
                        "content_hash": [content_hash],
                        "source": [runtime.settings.fleet_file.name],
                        "document": [document.to_document(loaded)],
                        "known_at": [now],
                    }
                ),
            )
        else:
            version = known["fleet_version"][0]
    runtime.remember(loaded)
    devices = device_frame(loaded)
    without_timer = no_failsafe(devices).select("device_id", "site_id", "endpoint", "register_map")
    return dg.MaterializeResult(
        metadata={
            "fleet_version": int(version),
            "dagster/row_count": devices.height,
            "no_failsafe": table(without_timer, rows=50),
            "by_type": table(
                devices.group_by(pl.col("device_type").cast(pl.String))
                .agg(
                    devices=pl.len(),
                    max_inject_kw=pl.col("max_inject_kw").sum(),
                    max_draw_kw=pl.col("max_draw_kw").sum(),
                )
                .sort("device_type")
            ),
        }
    )


@dg.asset(
    group_name="telemetry",
    deps=[fleet],
    kinds={"parquet", "duckdb"},
    owners=owners(),
    metadata=column_schema(Telemetry),
)
def telemetry(runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
    """Readings that landed since the last time, loaded exactly once; bad rows quarantined."""
    report = landing.compact(
        runtime.warehouse,
        runtime.settings.landing_dir,
        "telemetry",
        Telemetry,
        "telemetry",
        runtime.clock.now(),
    )
    return dg.MaterializeResult(
        metadata={
            "files": report.files,
            "dagster/row_count": report.rows,
            "quarantined": report.quarantined,
        }
    )


@dg.asset_check(asset=telemetry)
def telemetry_is_fresh(runtime: dg.ResourceParam[Runtime]) -> dg.AssetCheckResult:
    """Every device was heard of lately; a silent one is planned as if it did its default."""
    now = runtime.clock.now()
    silent = (
        runtime.devices(now)
        .select("device_id")
        .join(
            runtime.latest_telemetry(now).select("device_id", "measured_at", "status"),
            on="device_id",
            how="left",
        )
        .filter(
            pl.col("measured_at").is_null()
            | (pl.col("measured_at") < now - TELEMETRY_MAX_AGE)
            | (pl.col("status") == "offline")
        )
        .sort("device_id")
    )
    return dg.AssetCheckResult(
        passed=silent.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"silent_devices": table(silent), "count": silent.height},
    )
