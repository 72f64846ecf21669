"""The resident collector: asks every device for its readings and lands them.

Belongs here: the loop beside Dagster that polls. Does not: wire formats (`devices`), loading
what has landed (`warehouse.landing`), any decision.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import polars as pl

from vpp_pipeline.devices.protocol import DeviceLink, Driver, Reading, Unreachable
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.dispatch.links import device_links
from vpp_pipeline.warehouse import landing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpp_pipeline.runtime import Runtime
    from threading import Event
    from datetime import datetime, timedelta
    from collections.abc import Sequence

_LEAST_PAUSE_S = 1.0


async def poll(
    drivers: dict[str, Driver], links: Sequence[DeviceLink], timeout_s: float
) -> list[Reading | Unreachable]:
    """Read every device once, all protocols at the same time."""
    answers = await asyncio.gather(
        *(
            driver.read([link for link in links if link.protocol == protocol], timeout_s)
            for protocol, driver in drivers.items()
        )
    )
    return [answer for batch in answers for answer in batch]


def telemetry_rows(answers: Sequence[Reading | Unreachable], now: datetime) -> pl.DataFrame:
    """Return answers as `Telemetry` rows; a silent device is told as offline, not left out."""
    rows = [
        asdict(answer)
        if isinstance(answer, Reading)
        else {"device_id": answer.device_id, "measured_at": now, "status": "offline"}
        for answer in answers
    ]
    schema = {
        name: dtype for name, dtype in Telemetry.create_empty().schema.items() if name != "known_at"
    }
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        known_at=pl.lit(now).cast(pl.Datetime("us", "UTC"))
    )


def collect_once(runtime: Runtime, owner: str, timeout_s: float) -> pl.DataFrame:
    """Poll the whole fleet once with fresh connections, land the rows and return them."""
    return asyncio.run(_collect_once(runtime, owner, timeout_s))


async def _collect_once(runtime: Runtime, owner: str, timeout_s: float) -> pl.DataFrame:
    links = device_links(runtime.devices(runtime.clock.now()))
    drivers = runtime.drivers(owner)
    try:
        answers = await poll(drivers, links, timeout_s)
    finally:
        await asyncio.gather(*(driver.close() for driver in drivers.values()))
    rows = telemetry_rows(answers, runtime.clock.now())
    landing.land(runtime.settings.landing_dir, "telemetry", rows, runtime.clock.now())
    return rows


def run(runtime: Runtime, every: timedelta, stop: Event) -> None:
    """Poll the fleet every `every` of clock time until `stop` is set."""
    pause_s = max(_LEAST_PAUSE_S, every.total_seconds() / runtime.clock.rate)
    while not stop.is_set():
        if runtime.knows_a_fleet():
            collect_once(runtime, "collector", timeout_s=pause_s + 2.0)
        stop.wait(pause_s)
