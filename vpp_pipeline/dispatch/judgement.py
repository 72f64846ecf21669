"""What a read-back says of a command.

Belongs here: from a device's answer to the command's next state. Does not: asking the device or
storing the answer (`push`), comparing raw registers (the drivers: `ReadBack.matches`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.devices.protocol import CommandResult, Outcome, ReadBack, Unreachable
from vpp_pipeline.dispatch.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_SAME_KW = 0.01  # two set-points closer than this, or than 1 %, are one
_SAME_SHARE = 0.01

_ANSWERS = {
    "command_id": pl.String,
    "reachable": pl.Boolean,
    "matches": pl.Boolean,
    "reported_kw": pl.Float64,
    "reported_id": pl.String,
    "timer_s": pl.Float64,
    "raw": pl.String,
    "told": pl.String,
}

_RESULTS = {
    "command_id": pl.String,
    "state": pl.String,
    "words": pl.String,
    "wire": pl.String,
    "answer": pl.String,
    "raw": pl.String,
    "fence": pl.Int64,
}


def results_frame(results: Mapping[str, CommandResult]) -> pl.DataFrame:
    """Return what is known right after a send: each command's `state`, and what went to and fro.

    One that the device took and was seen to have in force at once is VERIFIED. What it was seen
    to do instead proves nothing yet: it may take a moment.
    """
    return pl.DataFrame(
        [_at_once(id_, result) for id_, result in results.items()], schema=_RESULTS, orient="row"
    )


def answers_frame(answers: Mapping[str, ReadBack | Unreachable]) -> pl.DataFrame:
    """Return the devices' answers, by command id, as a frame for `judge`."""
    return pl.DataFrame(
        [
            (command_id, False, False, None, None, None, "", answer.reason)
            if isinstance(answer, Unreachable)
            else (
                command_id,
                True,
                answer.matches,
                answer.setpoint_kw,
                answer.command_id,
                answer.timer_remaining_s,
                answer.raw,
                answer.detail,
            )
            for command_id, answer in answers.items()
        ],
        schema=_ANSWERS,
        orient="row",
    )


def judge(
    asked: pl.DataFrame,
    answers: pl.DataFrame,
    standing: pl.DataFrame,
    now: datetime,
    *,
    last_look: bool,
) -> pl.DataFrame:
    """Return for each command asked about its `verdict` (null: look again).

    `asked` has `command_id`, `device_id`, `state`, `offered_kw` and `valid_until`; `standing`
    the newest set-point of other commands (`Ledger.standing`). Columns returned: those of
    `asked`, `verdict`, `words` and `raw`.

    VERIFIED needs a match and, where the device names a command, this one. After a lost answer
    the timer must cover half of the time left as well: an equal set-point of the interval before
    would soon run out. A command in UNKNOWN that does not stand is FAILED: it may be sent again,
    but not over another's value. On the `last_look`, a set-point that is neither ours nor the
    one before is OVERRIDDEN, and all others keep their state, with the device's words.
    """
    left_s = (pl.col("valid_until") - now).dt.total_microseconds() / 1e6
    doubtful = pl.col("state") == State.UNKNOWN.value
    names_it = pl.col("reported_id") == pl.col("command_id")
    covers = ~doubtful | (pl.col("timer_s") >= left_s / 2).fill_null(value=True)
    proven = pl.col("matches") & names_it.fill_null(value=True) & covers
    applied = (
        names_it.fill_null(value=False) & pl.col("reported_kw").is_not_null() & ~pl.col("matches")
    )
    same = (pl.col("reported_kw") - pl.col("previous_kw")).abs() <= pl.max_horizontal(
        pl.lit(_SAME_KW), pl.col("previous_kw").abs() * _SAME_SHARE
    )
    before = same.fill_null(value=False) | (
        pl.col("reported_id").is_not_null()
        & (pl.col("reported_id") == pl.col("previous_id")).fill_null(value=False)
    )
    equal_but_not_ours = pl.col("matches") & names_it.is_null()
    foreign = (
        pl.col("reported_kw").is_not_null()
        & ~names_it.fill_null(value=False)
        & ~before
        & ~equal_but_not_ours
    )
    return (
        asked.join(answers, on="command_id", how="inner", maintain_order="left")
        .join(
            standing.select("device_id", previous_id="command_id", previous_kw="setpoint_kw"),
            on="device_id",
            how="left",
            maintain_order="left",
        )
        .with_columns(proven=pl.col("reachable") & proven, applied=pl.col("reachable") & applied)
        .with_columns(
            verdict=pl.when("proven")
            .then(pl.lit(State.VERIFIED.value))
            .when("applied")
            .then(pl.lit(State.APPLIED.value))
            .when(pl.lit(last_look) & pl.col("reachable") & foreign)
            .then(pl.lit(State.OVERRIDDEN.value))
            .when(doubtful & pl.col("reachable") & (pl.col("matches") | ~foreign))
            .then(pl.lit(State.FAILED.value))
            .when(pl.lit(last_look))
            .then("state"),
            words=_words(),
        )
        .select(*asked.columns, "verdict", "words", "raw")
    )


def _at_once(command_id: str, result: CommandResult) -> tuple[str | int | None, ...]:
    state, words, raw = result.outcome.value, result.detail, ""
    back = result.read_back
    if back and back.matches and back.command_id in {None, command_id} and state == Outcome.ACKED:
        state, words, raw = State.VERIFIED.value, back.detail, back.raw
    return command_id, state, words, result.sent, result.answer, raw, result.fence


def _words() -> pl.Expr:
    told = pl.when(pl.col("told") != "").then(pl.format(" ({})", "told")).otherwise(pl.lit(""))
    return (
        pl.when(~pl.col("reachable"))
        .then(pl.format("not read back: {}", "told"))
        .when("proven")
        .then("told")
        .when(pl.col("reported_kw").is_null())
        .then(pl.format("asked {} kW, no set-point is in force{}", "offered_kw", told))
        .otherwise(
            pl.format("asked {} kW, the device reports {} kW{}", "offered_kw", "reported_kw", told)
        )
    )
