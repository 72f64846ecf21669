"""The published warehouse in Dagster: a copy that readers open, so that nobody waits for them.

Belongs here: the asset. Does not: making the copy (`warehouse.snapshot`).
"""

import dagster as dg

from vpp_pipeline.defs.metadata import owners
from vpp_pipeline.defs.settlement import forecast_errors, settlement
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.warehouse.snapshot import publish

_BYTES_IN_MB = 1_000_000


@dg.asset(
    group_name="settlement", deps=[settlement, forecast_errors], kinds={"duckdb"}, owners=owners()
)
def warehouse_snapshot(runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
    """The warehouse as of the last settled day, for notebooks and dashboards."""
    target = runtime.settings.snapshot_file
    publish(runtime.warehouse, target)
    return dg.MaterializeResult(
        metadata={
            "snapshot": dg.MetadataValue.path(str(target)),
            "megabytes": target.stat().st_size / _BYTES_IN_MB,
        }
    )
