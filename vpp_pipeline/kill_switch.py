"""The kill switch's hand on the devices: releases them from this very process.

Belongs here: releasing a stopped scope with Dagster, the database and the watchdog down. Does
not: the order that stops it (`dispatch.orders`), arguments and messages (`cli`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vpp_pipeline import event_loop
from vpp_pipeline.devices.protocol import CommandResult, Outcome
from vpp_pipeline.dispatch.holds import Holds, HoldsDamaged
from vpp_pipeline.dispatch.release import obeying, out_of_reach, releasable, release_until_seen
from vpp_pipeline.dispatch.release_log import Cause, Release, ReleaseLog

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import polars as pl

    from vpp_pipeline.devices.protocol import DeviceLink, Driver
    from vpp_pipeline.dispatch.orders import Order
    from vpp_pipeline.runtime import Runtime

_TIMEOUT_S = 5.0
_DEVICES_A_S = 500  # released by a slow machine; an attempt at a large fleet takes longer


def release_stopped(
    runtime: Runtime, devices: pl.DataFrame, within_s: float, look_again_s: float
) -> dict[str, CommandResult]:
    """Release `devices` (a `DeviceFrame`) that are stopped; return each one's last result.

    ACKED says that it was seen at its default. Tries for `within_s` wall seconds. A send that was
    under way when the stop was given may arrive after its device was released: with
    `look_again_s` above 0 all are looked at once more after so long. Needs nothing to be written.
    """
    results = event_loop.run(
        _release(runtime.drivers("kill switch"), releasable(devices), within_s, look_again_s)
    )
    left = out_of_reach(devices, _held(Holds(runtime.settings.order_dir)))
    return results | {
        name: CommandResult("", Outcome.FAILED, "", words) for name, words in left.items()
    }


def keep_releases(runtime: Runtime, order: Order, results: Mapping[str, CommandResult]) -> None:
    """Note what `release_stopped` did for an order. Raises OSError, `HoldsDamaged`."""
    now, directory = runtime.clock.now(), runtime.settings.order_dir
    cause = Cause("kill switch", order.order_id, order.words)
    ReleaseLog(directory).append(
        [Release.of(name, now, order.who, cause, result) for name, result in results.items()]
    )
    seen = {name for name, result in results.items() if result.outcome is Outcome.ACKED}
    holds = Holds(directory)
    holds.let_go({name: until for name, until in holds.read().items() if name in seen})


def _held(holds: Holds) -> Collection[str]:
    try:
        return holds.read()
    except (HoldsDamaged, OSError):  # `keep_releases` tells of it
        return ()


async def _release(
    drivers: Mapping[str, Driver],
    links: Sequence[DeviceLink],
    within_s: float,
    look_again_s: float,
) -> dict[str, CommandResult]:
    timeout_s = _TIMEOUT_S + len(links) / _DEVICES_A_S
    try:
        results = await release_until_seen(drivers, links, timeout_s, within_s)
        if links and look_again_s > 0:
            await asyncio.sleep(look_again_s)
            woken = await obeying(drivers, links, timeout_s)
            results |= await release_until_seen(drivers, woken, timeout_s, within_s)
    finally:
        await asyncio.gather(*(driver.close() for driver in drivers.values()))
    return results
