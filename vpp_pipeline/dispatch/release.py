"""Returning devices to their own default, and knowing that they are there.

Belongs here: releasing many devices at once, again until it was seen, and looking for those that
still obey a set-point. Does not: who must be released (`orders`, `watchdog`), any database: this
works when nothing else does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import polars as pl

from vpp_pipeline.devices.protocol import CommandResult, Outcome, Reading, Unreachable
from vpp_pipeline.dispatch.batches import ask_driver
from vpp_pipeline.dispatch.links import HELD_READ_ONLY, NO_ADDRESS, WRITABLE, device_links

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from vpp_pipeline.devices.protocol import DeviceLink, Driver

Answer = TypeVar("Answer", CommandResult, Reading | Unreachable)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0


def releasable(devices: pl.DataFrame) -> list[DeviceLink]:
    """Return the links of the devices that may be written and have an address."""
    return [link for link in device_links(devices) if link.writable]


def out_of_reach(devices: pl.DataFrame, held: Collection[str]) -> dict[str, str]:
    """Return the devices that only somebody on site can release, and why.

    A read-only device was never commanded, unless it is `held`: then it was made so meanwhile.
    """
    why = (
        pl.when(WRITABLE & pl.col("endpoint").is_null())
        .then(pl.lit(NO_ADDRESS))
        .when(~WRITABLE & pl.col("device_id").is_in(list(held)))
        .then(pl.lit(HELD_READ_ONLY))
    )
    return dict(devices.select("device_id", why=why).drop_nulls("why").iter_rows())


async def release(
    drivers: Mapping[str, Driver], links: Sequence[DeviceLink], timeout_s: float
) -> dict[str, CommandResult]:
    """Release each device once, all protocols at the same time; return the results by device.

    ACKED says that the device was read back at its default. What a driver raises fails its own
    devices only.
    """
    return await _ask(
        drivers,
        links,
        timeout_s,
        ask=lambda driver, batch: driver.release(batch, timeout_s),
        lost=lambda _, why: CommandResult("", Outcome.UNKNOWN, "", why),
    )


async def release_until_seen(
    drivers: Mapping[str, Driver], links: Sequence[DeviceLink], timeout_s: float, within_s: float
) -> dict[str, CommandResult]:
    """Release each device, and again those not seen at their default, for `within_s` wall seconds.

    `timeout_s` bounds one attempt. Returns each device's last result.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + within_s
    results: dict[str, CommandResult] = {}
    left, pause_s = list(links), _FIRST_PAUSE_S
    while left:
        results |= await release(drivers, left, min(timeout_s, max(deadline - now(), 1.0)))
        left = [link for link in left if results[link.device_id].outcome is not Outcome.ACKED]
        if now() + pause_s >= deadline:
            break
        if left:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return results


async def obeying(
    drivers: Mapping[str, Driver], links: Sequence[DeviceLink], timeout_s: float
) -> list[DeviceLink]:
    """Return the devices that say they obey a set-point; a silent one is not among them."""
    answers = await _ask(
        drivers,
        links,
        timeout_s,
        ask=lambda driver, batch: driver.read(batch, timeout_s),
        lost=lambda link, why: Unreachable(link.device_id, why),
    )
    return [link for link in links if _obeys(answers[link.device_id])]


def _obeys(answer: Reading | Unreachable) -> bool:
    return isinstance(answer, Reading) and answer.setpoint_kw is not None


async def _ask(
    drivers: Mapping[str, Driver],
    links: Sequence[DeviceLink],
    timeout_s: float,
    *,
    ask: Callable[[Driver, Sequence[DeviceLink]], Awaitable[list[Answer]]],
    lost: Callable[[DeviceLink, str], Answer],
) -> dict[str, Answer]:
    batches: dict[str, list[DeviceLink]] = {}
    for link in links:
        batches.setdefault(link.protocol, []).append(link)
    answered = await asyncio.gather(
        *(
            ask_driver(drivers, protocol, batch, timeout_s, ask=ask, lost=lost)
            for protocol, batch in batches.items()
        )
    )
    return {
        link.device_id: answer
        for batch, answers in zip(batches.values(), answered, strict=True)
        for link, answer in zip(batch, answers, strict=True)
    }
