"""The one partitioning of the pipeline: the delivery day.

Belongs here: partitions and what a run says of its partition. Does not: the market's calendar
(`delivery_day`).
"""

from __future__ import annotations

from datetime import date

import dagster as dg

from vpp_pipeline.settings import MARKET_TZ

_PARTITION_TAG = "dagster/partition"

# From the first day of the shipped data, where the demo and `vpp up` live. Tomorrow is a valid key
# (an offset of 1 ends with today): its plan is made today.
delivery_days = dg.DailyPartitionsDefinition("2020-08-03", timezone=MARKET_TZ, end_offset=2)


def delivery_day(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> date:
    """Return the delivery day this run is about; a check has it from its run."""
    return date.fromisoformat(context.run.tags[_PARTITION_TAG])
