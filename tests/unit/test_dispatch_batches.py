"""A batch leaves the process as it found it."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from vpp_pipeline.devices.protocol import CommandResult, DeviceLink, Outcome
from vpp_pipeline.dispatch.batches import ask_all

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LINK = DeviceLink("b1", "battery", "modbus", "127.0.0.1:1", 1, 5.0, 5.0, writable=True)


def test_cycles_are_collected_again_after_a_batch_whatever_became_of_it() -> None:
    rows = pl.DataFrame(
        {
            "command_id": ["b1.v1.1"],
            "device_id": ["b1"],
            "plan_id": ["p"],
            "plan_version": [1],
            "sequence": [1],
            "offered_kw": [1.0],
            "valid_from": [NOON],
            "valid_until": [NOON + timedelta(minutes=15)],
            "protocol": ["modbus"],
        }
    )
    collected: list[bool] = []

    async def take(answers: dict[str, CommandResult]) -> None:
        collected.append(gc.isenabled())
        assert answers["b1.v1.1"].outcome is Outcome.UNKNOWN
        raise OSError("the ledger can't be written")

    async def push() -> None:
        await ask_all(
            rows,
            {"b1": LINK},
            {},
            ask=lambda driver, pairs, tell: driver.command(pairs, NOON, 1.0, tell),
            without_answer=lambda pair, why: CommandResult(
                pair[1].command_id, Outcome.UNKNOWN, "", why
            ),
            take=take,
            timeout_s=1.0,
        )

    with pytest.raises(OSError, match="can't be written"):
        asyncio.run(push())
    assert collected == [False]
    assert gc.isenabled()
