"""Releases as the ledger keeps them: from the file that needs no database to its commands.

Belongs here: `release_log.RELEASES` → intents and events. Does not: releasing (`release`), the
file (`release_log`), storing (`ledger`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.devices.protocol import Outcome
from vpp_pipeline.dispatch.lifecycle import State

if TYPE_CHECKING:
    from vpp_pipeline.dispatch.ledger import Ledger

_STEP_S = int(STEP.total_seconds())
_LAST = {
    Outcome.ACKED.value: State.VERIFIED.value,
    Outcome.REJECTED.value: State.REJECTED.value,
    Outcome.FAILED.value: State.EXPIRED.value,
    Outcome.UNKNOWN.value: State.EXPIRED.value,
}
"""An attempt is over with its answer; one that was not seen to succeed is followed by another."""


def record_releases(ledger: Ledger, releases: pl.DataFrame) -> None:
    """Store `releases` (columns `RELEASES`) as commands of kind release, each once.

    Each attempt is a command of its own, `<device>.release.<microseconds>`, so that it has the
    same id however often the log is read. May be done again, and after it was cut short: what the
    ledger has is left as it is.
    """
    rows = releases.sort("at").with_columns(
        command_id=pl.format("{}.release.{}", "device_id", pl.col("at").dt.epoch("us"))
    )
    for (at, actor), of_one in rows.group_by(["at", "actor"], maintain_order=True):
        ledger.record_intents(_intents(of_one), at, actor)
    answered = rows.filter(pl.col("outcome") != Outcome.REJECTED.value)
    for batch in (_sent(rows), _answered(answered), _ended(rows)):
        ledger.record_events(batch)


def _intents(rows: pl.DataFrame) -> pl.DataFrame:
    nothing = pl.lit(None)
    return rows.select(
        "command_id",
        "device_id",
        "authority",
        "order_id",
        plan_id=nothing,
        plan_version=nothing,
        sequence=pl.col("at").dt.epoch("s") // _STEP_S,
        interval_start=pl.col("at").dt.truncate(f"{_STEP_S}s"),
        valid_from="at",
        valid_until=pl.col("at") + STEP,
        planned_kw=nothing,
        setpoint_kw=nothing,
        guard_reason=pl.lit(""),
        kind=pl.lit("release"),
    )


def _sent(rows: pl.DataFrame) -> pl.DataFrame:
    """Say what was sent and why; told after the fact, it is no claim under a lease."""
    return rows.select(
        "command_id", "at", "actor", "sent", detail="why", state=pl.lit(State.SENT.value)
    )


def _answered(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        "command_id", "at", "actor", "acknowledged", "detail", "fence", state="outcome"
    )


def _ended(rows: pl.DataFrame) -> pl.DataFrame:
    last = pl.col("outcome").replace_strict(_LAST)
    read = pl.when(last == State.VERIFIED.value).then(pl.lit("at its default"))
    return rows.select(
        "command_id", "at", "actor", "detail", state=last, read_back=read.otherwise(pl.lit(""))
    )
