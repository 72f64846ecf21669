"""Putting the definitions together around one runtime.

Belongs here: the list of what Dagster sees. Does not: any asset.
"""

from __future__ import annotations

import dagster as dg

from vpp_pipeline.defs import (
    dispatch,
    envelopes,
    forecasts,
    group,
    jobs,
    market,
    orders,
    planning,
    plant,
    regret,
    replay,
    report,
    sensors,
    settlement,
    skill,
    snapshot,
    telemetry_quality,
    verification,
    why,
)
from vpp_pipeline.runtime import Runtime

_MODULES = [
    plant,
    telemetry_quality,
    market,
    forecasts,
    envelopes,
    planning,
    dispatch,
    verification,
    group,
    orders,
    why,
    settlement,
    regret,
    replay,
    report,
    skill,
    snapshot,
]


def build_defs(runtime: Runtime) -> dg.Definitions:
    """Return fresh definitions over `runtime`: the plant's own, a demo's, or a test's."""
    return dg.Definitions(
        assets=dg.load_assets_from_modules(_MODULES),
        asset_checks=dg.load_asset_checks_from_modules(_MODULES),
        jobs=jobs.ALL,
        schedules=sensors.SCHEDULES,
        sensors=sensors.SENSORS,
        resources={"runtime": runtime},
        executor=dg.in_process_executor,
    )
