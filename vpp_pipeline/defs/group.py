"""A target for a group, from the Dagster UI.

Belongs here: the asset. Does not: sharing a target out and bringing it to the devices
(`dispatch.group`).
"""

from datetime import timedelta

import dagster as dg
from pydantic import Field

from vpp_pipeline import event_loop
from vpp_pipeline.defs.dispatch import dispatch_ledger
from vpp_pipeline.defs.envelopes import flexibility_envelopes
from vpp_pipeline.defs.metadata import figures, owners, table
from vpp_pipeline.dispatch.group import GroupReport, GroupTarget, dispatch_group
from vpp_pipeline.planning.outlook import outlook, rest_of_day
from vpp_pipeline.runtime import Runtime


class GroupConfig(dg.Config):
    """Which group (a group's id, or tag:, site: or fleet) is to sum to what, and how long."""

    group: str
    kw: float
    minutes: int = Field(ge=1)
    who: str = "the Dagster UI"
    why: str = "asked for in the Dagster UI"


@dg.asset(
    group_name="dispatch",
    deps=[flexibility_envelopes, dispatch_ledger],
    kinds={"modbus", "mqtt", "http", "duckdb"},
    owners=owners(),
)
def group_dispatch(
    context: dg.AssetExecutionContext,
    config: GroupConfig,
    runtime: dg.ResourceParam[Runtime],
) -> dg.MaterializeResult[None]:
    """A group's target shared out as overrides, sent at once, and made good where some fail.

    Materialise it with `group`, `kw` (positive injects) and `minutes` in the launchpad.
    """
    now = runtime.clock.now()
    target = GroupTarget(
        key=f"group-{context.run.run_id[:8]}",
        scope=config.group
        if ":" in config.group or config.group == "fleet"
        else f"group:{config.group}",
        power_kw=config.kw,
        until=now + timedelta(minutes=config.minutes),
        who=config.who,
        why=config.why,
    )
    report = event_loop.run(_dispatch(runtime, target))
    return dg.MaterializeResult(
        metadata={
            **figures(
                {
                    "target_kw": report.target_kw,
                    "reachable_kw": report.reachable_kw,
                    "accepted_kw": report.accepted_kw,
                    "shortfall_kw": report.shortfall_kw,
                }
            ),
            "until": target.until.isoformat(),
            "devices": table(report.devices, rows=100),
            "skipped": table(report.skipped, rows=100),
        }
    )


async def _dispatch(runtime: Runtime, target: GroupTarget) -> GroupReport:
    now = runtime.clock.now()
    known = outlook(runtime, rest_of_day(now, target.until), now)
    async with runtime.dispatching(target.key) as dispatcher:
        return await dispatch_group(dispatcher, known, target)
