"""Releases that were made without the database, as the ledger keeps them.

Belongs here: from the release log's rows to release commands and their events. Does not: releasing
(`release`), the log (`release_log`), storing (`ledger`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.devices.protocol import Outcome
from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.schemas import Intents, whole_events

if TYPE_CHECKING:
    import dataframely as dy

    from vpp_pipeline.dispatch.schemas import Events

_STEP_S = int(STEP.total_seconds())


def release_commands(releases: pl.DataFrame) -> dy.DataFrame[Intents]:
    """Return a release command for each row of `releases` (columns of `release_log.RELEASES`).

    Each attempt is a command of its own; the identity `<device>.release.<microseconds>` names
    device and time, so that one attempt has the same id however often the log is read.
    """
    rows = _identified(releases)
    return Intents.validate(
        rows.select(
            command_id="command_id",
            device_id="device_id",
            plan_id=pl.lit(None, pl.String),
            plan_version=pl.lit(None, pl.Int64),
            sequence=pl.col("at").dt.epoch("s") // _STEP_S,
            interval_start=pl.col("at").dt.truncate(f"{_STEP_S}s"),
            valid_from="at",
            valid_until=pl.col("at") + STEP,
            planned_kw=pl.lit(None, pl.Float64),
            setpoint_kw=pl.lit(None, pl.Float64),
            guard_reason=pl.lit(""),
            kind=pl.lit("release"),
            authority=pl.when(pl.col("actor") == "watchdog")
            .then(pl.lit("watchdog"))
            .otherwise(pl.lit("kill switch")),
            order_id=pl.lit(None, pl.String),
        ),
        cast=True,
    )


def release_events(releases: pl.DataFrame) -> list[dy.DataFrame[Events]]:
    """Return the events of those commands, a batch for each step, in their order.

    What a driver says was released it has read back at the device's default: that is VERIFIED. An
    attempt that was not seen to succeed has ended; the next one is a command of its own.
    """
    rows = _identified(releases)
    seen = pl.col("outcome") == Outcome.ACKED.value
    ended = rows.filter(pl.col("outcome").is_in([Outcome.FAILED.value, Outcome.UNKNOWN.value]))
    return [
        _batch(rows, pl.lit(State.PLANNED.value), detail=pl.col("why")),
        _batch(rows, pl.lit(State.SENT.value), detail=pl.col("why")),
        _batch(
            rows,
            pl.when(seen).then(pl.lit(State.VERIFIED.value)).otherwise("outcome"),
            detail=pl.col("detail"),
            sent=pl.col("sent"),
            read_back=pl.when(seen).then(pl.lit("at its default")).otherwise(pl.lit("")),
        ),
        _batch(ended, pl.lit(State.EXPIRED.value), detail=pl.lit("this attempt has ended")),
    ]


def _identified(releases: pl.DataFrame) -> pl.DataFrame:
    identity = pl.format("{}.release.{}", "device_id", pl.col("at").dt.epoch("us"))
    return releases.with_columns(command_id=identity).unique("command_id", maintain_order=True)


def _batch(rows: pl.DataFrame, state: pl.Expr, **told: pl.Expr) -> dy.DataFrame[Events]:
    return whole_events(rows.select("command_id", "at", "actor", state=state, **told))
