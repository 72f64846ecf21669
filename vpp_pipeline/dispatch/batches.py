"""Asking many devices over their protocols at once.

Belongs here: from rows to the drivers' batches and back to one answer a command, as they come.
Does not: what is asked or what follows from the answers (`exchange`, `release`), any wire format
(the drivers).
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from vpp_pipeline.devices.protocol import Command, CommandResult, DeviceLink, ReadBack, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    import polars as pl

    from vpp_pipeline.devices.protocol import Driver, Tell

Pair = tuple[DeviceLink, Command]
Item = TypeVar("Item")
Told = TypeVar("Told")
Answer = TypeVar("Answer", CommandResult, ReadBack | Unreachable)

_OVERTIME_S = 1.0  # what a driver may take beyond its own time-out before it is given up
_QUIET_S = 0.05  # no answer for so long, and for such a share of the time that the others took:
_QUIET_SHARE = 0.03  # who has answered waits no longer for the rest


async def ask_all(
    rows: pl.DataFrame,
    links: Mapping[str, DeviceLink],
    drivers: Mapping[str, Driver],
    *,
    ask: Callable[[Driver, Sequence[Pair], Tell[Answer]], Awaitable[list[Answer]]],
    without_answer: Callable[[Pair, str], Answer],
    take: Callable[[dict[str, Answer]], Awaitable[None]],
    timeout_s: float,
) -> None:
    """Ask every protocol's driver about its rows at once; `take` the answers by command id.

    They are taken when all are there, and before that whenever no other came for a moment: who
    answers does not wait for who is silent. `rows` are commands with `protocol` and `offered_kw`.
    A driver that fails as `ask_driver` tells leaves `without_answer` to those not yet told.
    """
    answers: dict[str, Answer] = {}

    async def ask_one(protocol: str, pairs: list[Pair]) -> None:
        ids = [command.command_id for _, command in pairs]

        def tell(place: int, answer: Answer) -> None:
            answers.setdefault(ids[place], answer)

        told = await ask_driver(
            drivers,
            protocol,
            pairs,
            timeout_s,
            ask=lambda driver, batch: ask(driver, batch, tell),
            lost=without_answer,
        )
        for place, answer in enumerate(told):
            tell(place, answer)

    batches = [
        (str(protocol), _pairs(batch, links))
        for (protocol,), batch in rows.group_by("protocol", maintain_order=True)
    ]
    with _uncollected():
        asking = asyncio.gather(*(ask_one(*batch) for batch in batches))
        now = asyncio.get_running_loop().time
        began = now()
        taken = heard = 0
        try:
            while taken < len(answers) or not asking.done():
                await asyncio.wait([asking], timeout=max(_QUIET_S, (now() - began) * _QUIET_SHARE))
                if taken < len(answers) and (asking.done() or len(answers) == heard):
                    come = dict(islice(answers.items(), taken, None))
                    taken += len(come)
                    await take(come)
                heard = len(answers)
            await asking
        finally:
            asking.cancel()
            await asyncio.wait([asking])


async def ask_driver(
    drivers: Mapping[str, Driver],
    protocol: str,
    batch: Sequence[Item],
    timeout_s: float,
    *,
    ask: Callable[[Driver, Sequence[Item]], Awaitable[list[Told]]],
    lost: Callable[[Item, str], Told],
) -> list[Told]:
    """Return a protocol's answers to a batch, in its order.

    A driver that is missing, raises, overstays or answers for another number fails this batch
    only: each of it is `lost`, and why.
    """
    if protocol not in drivers:
        return [lost(item, f"no driver for {protocol}: give one") for item in batch]
    try:
        async with asyncio.timeout(timeout_s + _OVERTIME_S):
            answers = await ask(drivers[protocol], batch)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other batches go on
        why = f"the {protocol} driver failed: {type(error).__name__}: {error}"
        return [lost(item, why) for item in batch]
    if len(answers) != len(batch):
        why = f"the {protocol} driver gave {len(answers)} answers to {len(batch)} commands"
        return [lost(item, why) for item in batch]
    return answers


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the collector of cycles: all that waits for an answer is alive.

    It would be gone through again and again, which took a tenth of the time.
    """
    runs = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if runs:
            gc.enable()


def _pairs(rows: pl.DataFrame, links: Mapping[str, DeviceLink]) -> list[Pair]:
    told = rows.with_columns(power_kw="offered_kw").select(field.name for field in fields(Command))
    commands = (Command(*row) for row in told.iter_rows())
    return [(links[command.device_id], command) for command in commands]
