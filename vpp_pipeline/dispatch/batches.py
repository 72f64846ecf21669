"""Asking many devices over their protocols at once.

Belongs here: from rows to the drivers' batches and back to one answer a command. Does not: what
is asked or what follows from the answers (`push`), any wire format (the drivers).
"""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from vpp_pipeline.devices.protocol import Command, CommandResult, DeviceLink, ReadBack, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import polars as pl

    from vpp_pipeline.devices.protocol import Driver

Pair = tuple[DeviceLink, Command]
Answer = TypeVar("Answer", CommandResult, ReadBack | Unreachable)

_OVERTIME_S = 1.0  # what a driver may take beyond its own time-out before it is given up


async def ask_all(
    rows: pl.DataFrame,
    links: Mapping[str, DeviceLink],
    drivers: Mapping[str, Driver],
    *,
    ask: Callable[[Driver, Sequence[Pair]], Awaitable[list[Answer]]],
    without_answer: Callable[[Pair, str], Answer],
    timeout_s: float,
) -> dict[str, Answer]:
    """Ask every protocol's driver about its rows at once; return the answers by command id.

    `rows` are commands with `protocol` and `offered_kw`. A driver that raises, overstays or
    answers for another number of commands fails its own batch only: each of its commands gets
    `without_answer` and why.
    """

    async def ask_one(protocol: str, pairs: list[Pair]) -> list[Answer]:
        try:
            async with asyncio.timeout(timeout_s + _OVERTIME_S):
                answers = await ask(drivers[protocol], pairs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other batches go on
            why = f"the {protocol} driver failed: {type(error).__name__}: {error}"
            return [without_answer(pair, why) for pair in pairs]
        if len(answers) != len(pairs):
            why = f"the {protocol} driver gave {len(answers)} answers to {len(pairs)} commands"
            return [without_answer(pair, why) for pair in pairs]
        return answers

    batches = [
        (str(protocol), _pairs(batch, links))
        for (protocol,), batch in rows.group_by("protocol", maintain_order=True)
    ]
    answered = await asyncio.gather(*(ask_one(*batch) for batch in batches))
    return {
        pair[1].command_id: answer
        for (_, pairs), answers in zip(batches, answered, strict=True)
        for pair, answer in zip(pairs, answers, strict=True)
    }


def _pairs(rows: pl.DataFrame, links: Mapping[str, DeviceLink]) -> list[Pair]:
    told = rows.with_columns(power_kw="offered_kw").select(field.name for field in fields(Command))
    commands = (Command(*row) for row in told.iter_rows())
    return [(links[command.device_id], command) for command in commands]
