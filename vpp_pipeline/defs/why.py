"""Why a device was told what it was told, for people in the Dagster UI.

Belongs here: the asset. Does not: finding the chain (`dispatch.why`), its words
(`dispatch.why_words`).
"""

from datetime import UTC, datetime

import dagster as dg

from vpp_pipeline.defs.dispatch import dispatch_ledger
from vpp_pipeline.defs.metadata import owners
from vpp_pipeline.dispatch.why import explain
from vpp_pipeline.dispatch.why_words import markdown, summary
from vpp_pipeline.runtime import Runtime


class WhyConfig(dg.Config):
    """Which device's set-point at which time: ISO 8601, UTC where it has no offset; empty is now."""

    device: str
    time: str = ""


@dg.asset(group_name="dispatch", deps=[dispatch_ledger], kinds={"duckdb"}, owners=owners())
def why(config: WhyConfig, runtime: dg.ResourceParam[Runtime]) -> dg.MaterializeResult[None]:
    """Why a device was told what it was told at a time, back to forecasts, prices and readings.

    Materialise it with a device, and a time where it is not now, in the launchpad:

        ops: {why: {config: {device: alba-battery, time: "2026-01-31T18:07+01:00"}}}

    Nothing is written.
    """
    try:
        moment = _moment(config.time) if config.time else runtime.clock.now()
        answer = explain(runtime.warehouse, runtime.settings, config.device, moment)
    except (LookupError, ValueError) as error:
        raise dg.Failure(
            f"device {config.device!r}, time {config.time!r}: {error}", allow_retries=False
        ) from error
    return dg.MaterializeResult(
        metadata={
            "answer": summary(answer),
            "chain": dg.MetadataValue.md(markdown(answer)),
            "for_programs": dg.MetadataValue.json(answer.model_dump(mode="json")),
        }
    )


def _moment(text: str) -> datetime:
    told = datetime.fromisoformat(text)
    return told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
