"""A dispatcher's hand on a plant's devices, in this process or in one that a test kills.

Belongs here: commands to all devices at once. Does not: any promise.

Run as `watchdog_controller.py SECONDS` in the environment of a plant, it commands every device
for so many seconds of the plant's clock, again and again, and says each time that all have
accepted.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from vpp_pipeline.devices.protocol import Command, Outcome
from vpp_pipeline.dispatch.release import releasable
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vpp_pipeline.devices.protocol import CommandResult

PATIENCE_S = 15.0
SENT_KW = {
    "alba-battery": -1.0,
    "alba-pv": 0.5,
    "alba-heat-pump": -0.5,
    "borgo-battery": -2.0,
    "borgo-charger": 0.0,  # there is no vehicle
}
"""Over HTTP, Modbus and MQTT."""


async def sent(
    runtime: Runtime, validity: timedelta, only: Sequence[str] = ()
) -> list[CommandResult]:
    """Command devices (all where none is named) until `validity` from now; return the answers."""
    links = releasable(runtime.registered_devices())
    drivers = runtime.drivers("dispatcher")
    now = runtime.clock.now()
    version = int(now.timestamp() * 1000)
    pairs = [
        (
            link,
            Command(
                f"{link.device_id}.v{version}.1",
                link.device_id,
                "plan",
                version,
                1,
                SENT_KW.get(link.device_id, 0.0),
                now,
                now + validity,
            ),
        )
        for link in links
        if link.device_id in only or not only
    ]
    results: list[CommandResult] = []
    for protocol, driver in drivers.items():
        if batch := [pair for pair in pairs if pair[0].protocol == protocol]:
            results += await driver.command(batch, now, PATIENCE_S)
        await driver.close()
    return results


def main(validity_s: str) -> None:
    """Command and refresh until killed."""
    runtime = Runtime.of(Settings.from_environment())
    while True:
        results = asyncio.run(sent(runtime, timedelta(seconds=float(validity_s))))
        refused = [result for result in results if result.outcome is not Outcome.ACKED]
        sys.stdout.write(f"{refused or 'accepted'}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
