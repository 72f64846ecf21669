"""The ledger: every intent and every event of every command, append-only.

Belongs here: writing and reading `commands` and `command_events`, and refusing what may not follow
or has been superseded. Does not: what the states mean (`lifecycle`), when they come about
(`push`), what an operator is told of them (`why`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.dispatch.lifecycle import FINAL, PROVEN_BY_READ_BACK, TRANSITIONS, State
from vpp_pipeline.dispatch.schemas import Events, whole_events, whole_intents

if TYPE_CHECKING:
    from vpp_pipeline.warehouse.store import Connection, Warehouse

_LEGAL = pl.DataFrame(
    [(before, after) for before, afters in TRANSITIONS.items() for after in sorted(afters)],
    schema={"before": pl.String, "state": pl.String},
    orient="row",
)

_PROVEN = pl.DataFrame(
    sorted(PROVEN_BY_READ_BACK), schema={"before": pl.String, "state": pl.String}, orient="row"
)

_NO_RIVALS = pl.DataFrame(schema={"command_id": pl.String, "newest": pl.Int64, "fence": pl.Int64})

_REACH = timedelta(hours=36)  # no event is further from its command's intent

_DAY = timedelta(days=1)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)

_ENDED_AS = pl.format("the interval ended while this was {}", "state")

_SUPERSEDED = pl.format("superseded by plan version {}", "newest")

_KNOWN_BEFORE = "the ledger had the command already"


class Ledger:
    """The dispatch ledger in the warehouse. Each call is one transaction, durable on return."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def record_intents(self, commands: pl.DataFrame, at: datetime, actor: str) -> pl.DataFrame:
        """Store `commands` (columns of `Intents`) as PLANNED; return those already known.

        Without `kind`, `authority` and `order_id` they are set-points of their plan. A command
        whose id the ledger has is left exactly as it is there, whatever `commands` says of it.
        One whose device has a newer plan's command for the same quarter-hour is REJECTED in the
        same transaction.
        """
        intents = whole_intents(commands)
        with self._warehouse.write() as connection:
            new = _intend(connection, intents, at, actor)
        return intents.join(new, on="command_id", how="anti", maintain_order="left")

    def record_claimed_intents(
        self, commands: pl.DataFrame, batch: pl.DataFrame, at: datetime, actor: str
    ) -> pl.DataFrame:
        """Do as `record_intents` and `record_events` in one transaction; return the refused events.

        Events of a command that the ledger had already are refused: another run has it.
        """
        intents, rows = whole_intents(commands), _rows(batch)
        with self._warehouse.write() as connection:
            new = _intend(connection, intents, at, actor)
            ours = rows.join(new, on="command_id", how="semi", maintain_order="left")
            refused = _tell(connection, ours, new)
        theirs = rows.join(new, on="command_id", how="anti", maintain_order="left")
        return pl.concat(
            [refused, theirs.with_columns(refusal=pl.lit(_KNOWN_BEFORE))], how="diagonal"
        )

    def record_events(self, batch: pl.DataFrame) -> pl.DataFrame:
        """Append `batch` (columns of `Events`); return the rows that were refused, and why.

        Such a row comes back with the command's last state as `before` (null: no such command)
        and the reason as `refusal`; nothing of it is stored. Refused is a state that may not
        follow, so that of two runs that mark one command as SENT, one is told no; one that only a
        read-back proves, without it; and a claim (SENT) under an older lease than one of the
        device's others. A claim for which a newer plan has a command is REJECTED instead.
        """
        rows = _rows(batch)
        with self._warehouse.write() as connection:
            known = connection.frame(
                "dispatch_last_states",
                frames={"named": rows.select("command_id")},
                since=_earliest(rows),
            )
            return _tell(connection, rows, known)

    def states(self, interval_start: datetime) -> pl.DataFrame:
        """Return the interval's commands with `state`, `state_at`, `detail` and `offered_kw`.

        `offered_kw` is the set-point of the last send, null where nothing was sent.
        """
        with self._warehouse.read() as connection:
            return connection.frame("dispatch_states", interval_start=interval_start)

    def newest(self, interval_start: datetime) -> pl.DataFrame:
        """Return a row a device of `states`: its newest set-point, with `created_at`."""
        with self._warehouse.read() as connection:
            return connection.frame("dispatch_newest_commands", interval_start=interval_start)

    def next_version(self) -> int:
        """Return a plan version above that of every plan and command."""
        with self._warehouse.read() as connection:
            return int(connection.frame("dispatch_next_version")["plan_version"][0])

    def standing(self, interval_start: datetime, plan_version: int) -> pl.DataFrame:
        """Return, a row a device, the newest set-point others than this plan's were sent.

        Columns `device_id`, `command_id`, `plan_version`, `interval_start`, `setpoint_kw`; of
        commands for this interval or one before it that may still be in force.
        """
        with self._warehouse.read() as connection:
            return connection.frame(
                "dispatch_standing", interval_start=interval_start, plan_version=plan_version
            )

    def overdue(self, now: datetime) -> pl.DataFrame:
        """Return the commands whose interval is over but which are in no final state.

        Columns `command_id` and `state`. Looked for in the day before the last interval that is
        over: each push ends what is overdue before it adds to it, and plants stand still for days.
        """
        with self._warehouse.read() as connection:
            return _overdue(connection, now)

    def expire(self, now: datetime, actor: str) -> pl.DataFrame:
        """End what is `overdue` as EXPIRED; return it."""
        if (overdue := self.overdue(now)).is_empty():
            return overdue
        with self._warehouse.write() as connection:
            overdue = _overdue(connection, now)
            ended = events(overdue, State.EXPIRED, now, actor, detail=_ENDED_AS)
            _append(connection, whole_events(ended))
        return overdue

    def history(self, device_id: str, at: datetime) -> pl.DataFrame:
        """Return what `device_id` was told for the moment `at`, event by event, oldest first."""
        with self._warehouse.read() as connection:
            return connection.frame("dispatch_history", device_id=device_id, at=at)


def events(
    commands: pl.DataFrame,
    state: State | pl.Expr,
    at: datetime,
    actor: str,
    **told: str | float | pl.Expr | None,
) -> pl.DataFrame:
    """Return an event for each row of `commands`, for `record_events` to make whole.

    Expressions read that frame's columns. `told` are the other columns of `Events`, where there
    is something to tell.
    """
    return commands.select(
        command_id="command_id",
        state=state if isinstance(state, pl.Expr) else pl.lit(state.value),
        at=pl.lit(at),
        actor=pl.lit(actor),
        **{
            name: value if isinstance(value, pl.Expr) else pl.lit(value)
            for name, value in told.items()
        },
    )


def _overdue(connection: Connection, now: datetime) -> pl.DataFrame:
    for since in (now - _DAY, _EVER):
        newest = connection.frame("dispatch_newest_over", since=since, now=now)
        if (last := newest["interval_start"].item()) is not None:
            break
    else:
        last = now
    return connection.frame("dispatch_overdue", since=last - _DAY, now=now, final=sorted(FINAL))


def _rows(batch: pl.DataFrame) -> pl.DataFrame:
    return whole_events(batch).with_columns(pl.col("state").cast(pl.String))


def _intend(
    connection: Connection, intents: pl.DataFrame, at: datetime, actor: str
) -> pl.DataFrame:
    """Store `Intents` as `record_intents` tells; return the new ones, and their state as `before`."""
    known = connection.frame(
        "dispatch_known_commands",
        frames={"named": intents.select("command_id", "interval_start")},
    )
    new = intents.join(known, on="command_id", how="anti", maintain_order="left")
    stored = new.with_columns(pl.col("kind").cast(pl.String), created_at=pl.lit(at))
    connection.append("commands", stored)
    _append(connection, whole_events(events(new, State.PLANNED, at, actor)))
    superseded = connection.frame("dispatch_superseded", frames={"named": new})
    if not superseded.is_empty():
        rejected = events(superseded, State.REJECTED, at, actor, detail=_SUPERSEDED)
        _append(connection, whole_events(rejected))
    is_older = pl.col("command_id").is_in(superseded["command_id"].implode())
    before = (
        pl.when(is_older).then(pl.lit(State.REJECTED.value)).otherwise(pl.lit(State.PLANNED.value))
    )
    return new.select("command_id", before=before)


def _tell(connection: Connection, rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Append events as `record_events` tells; return those refused.

    `known` has each command's last state as `before`.
    """
    claims = rows.filter(pl.col("state") == State.SENT.value).select("command_id")
    rivals = (
        _NO_RIVALS
        if claims.is_empty()
        else connection.frame("dispatch_claims", frames={"named": claims}, since=_earliest(rows))
    )
    judged = _judged(rows, known, rivals)
    accepted = judged.filter(pl.col("refusal").is_null())
    _append(connection, accepted.select(Events.column_names()))
    superseded = judged.filter("superseded")
    for_a_newer = superseded.with_columns(
        state=pl.lit(State.REJECTED.value), detail=pl.col("refusal")
    )
    _append(connection, for_a_newer.select(Events.column_names()))
    return judged.filter(pl.col("refusal").is_not_null()).drop("superseded")


def _earliest(rows: pl.DataFrame) -> datetime | None:
    """Return when the commands of such events were stored at the earliest; none of no events."""
    earliest: datetime | None = rows.select(pl.col("at").min() - _REACH).item()
    return earliest


def _judged(rows: pl.DataFrame, known: pl.DataFrame, rivals: pl.DataFrame) -> pl.DataFrame:
    """Add to events `before`, `refusal` (null: it may be stored) and `superseded`.

    `known` has each command's last state as `before`; `rivals` of claims the newest plan version
    and the highest lease token they stand against.
    """
    pair = ["before", "state"]
    return (
        rows.join(known, on="command_id", how="left", maintain_order="left")
        .join(
            rivals.select("command_id", "newest", highest="fence"),
            on="command_id",
            how="left",
            maintain_order="left",
        )
        .join(_LEGAL.with_columns(legal=True), on=pair, how="left", maintain_order="left")
        .join(_PROVEN.with_columns(to_prove=True), on=pair, how="left", maintain_order="left")
        .with_columns(
            refusal=pl.when(pl.col("before").is_null())
            .then(pl.lit("the ledger has no such command: record its intent first"))
            .when(pl.col("legal").is_null())
            .then(pl.format("{} may not follow {}", "state", "before"))
            .when(pl.col("to_prove").is_not_null() & (pl.col("read_back") == ""))
            .then(pl.format("{} needs a read-back after {}", "state", "before"))
            .when(pl.col("newest").is_not_null())
            .then(_SUPERSEDED)
            .when(pl.col("fence") < pl.col("highest"))
            .then(pl.format("lease {} ended: {} sent since", "fence", "highest")),
        )
        .with_columns(superseded=(pl.col("refusal") == _SUPERSEDED).fill_null(value=False))
        .drop("legal", "to_prove", "newest", "highest")
    )


def _append(connection: Connection, rows: pl.DataFrame) -> None:
    if not rows.is_empty():
        numbered = rows.with_columns(pl.col("state").cast(pl.String)).with_row_index("position")
        connection.execute("dispatch_append_events", frames={"events": numbered})
