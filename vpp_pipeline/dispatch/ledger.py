"""The ledger: every intent and every event of every command, append-only.

Belongs here: writing and reading `commands` and `command_events`, and refusing a state that may
not follow. Does not: what the states mean (`lifecycle`), when they come about (`push`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.dispatch.lifecycle import FINAL, TRANSITIONS, State
from vpp_pipeline.dispatch.schemas import Commands, Events

if TYPE_CHECKING:
    from vpp_pipeline.warehouse.store import Connection, Warehouse

_LEGAL = pl.DataFrame(
    [(before, after) for before, afters in TRANSITIONS.items() for after in sorted(afters)],
    schema={"before": pl.String, "state": pl.String},
    orient="row",
)

_REACH = timedelta(days=3)  # no command lives longer: its older events need not be read


class Ledger:
    """The dispatch ledger in the warehouse. Each call is one transaction, durable on return."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def record_intents(self, commands: pl.DataFrame, at: datetime, actor: str) -> pl.DataFrame:
        """Store `commands` (columns of `Commands`) as PLANNED; return those already known.

        A command whose id the ledger has is left exactly as it is there, whatever `commands`
        says of it.
        """
        intents = Commands.validate(commands.select(Commands.column_names()))
        with self._warehouse.write() as connection:
            known = connection.frame(
                "dispatch_known_commands",
                frames={"named": intents.select("command_id", "interval_start")},
            )
            new = intents.join(known, on="command_id", how="anti", maintain_order="left")
            connection.append("commands", new.with_columns(created_at=pl.lit(at)))
            _append(connection, events(new, State.PLANNED, at, actor))
        return intents.join(known, on="command_id", how="semi", maintain_order="left")

    def record_events(self, batch: pl.DataFrame) -> pl.DataFrame:
        """Append `batch` (columns of `Events`); return the rows that were refused.

        A state that may not follow the command's last one is refused: the row comes back with
        that state as `before` (null: no such command) and nothing of it is stored. So of two
        runs that mark one command as SENT, one is told no.
        """
        rows = Events.validate(batch, cast=True).with_columns(pl.col("state").cast(pl.String))
        with self._warehouse.write() as connection:
            judged = rows.join(
                connection.frame(
                    "dispatch_last_states",
                    frames={"named": rows.select("command_id")},
                    since=rows.select(pl.col("at").min() - _REACH).item(),
                ),
                on="command_id",
                how="left",
                maintain_order="left",
            )
            pair = ["before", "state"]
            known = judged.filter(pl.col("before").is_not_null())
            legal = known.join(_LEGAL, on=pair, how="semi", maintain_order="left")
            _append(connection, legal.drop("before"))
        return judged.join(legal, on="command_id", how="anti", maintain_order="left")

    def states(self, interval_start: datetime) -> pl.DataFrame:
        """Return the interval's commands with `state`, `state_at`, `detail` and `offered_kw`.

        `offered_kw` is the set-point of the last send, null where nothing was sent.
        """
        with self._warehouse.read() as connection:
            return connection.frame("dispatch_states", interval_start=interval_start)

    def open_commands(self, interval_start: datetime) -> pl.DataFrame:
        """Return those of `states` that are in no final state."""
        return self.states(interval_start).filter(~pl.col("state").is_in(list(FINAL)))

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
        """Return the last day's commands whose interval is over but which are in no final state.

        Columns `command_id` and `state`.
        """
        with self._warehouse.read() as connection:
            return connection.frame("dispatch_overdue", now=now, final=sorted(FINAL))

    def history(self, device_id: str, at: datetime) -> pl.DataFrame:
        """Return what `device_id` was told for the moment `at`, event by event, oldest first."""
        with self._warehouse.read() as connection:
            return connection.frame("dispatch_history", device_id=device_id, at=at)


def events(
    commands: pl.DataFrame,
    state: State | pl.Expr,
    at: datetime,
    actor: str,
    *,
    detail: str | pl.Expr = "",
    sent: str | pl.Expr = "",
    read_back: str | pl.Expr = "",
) -> pl.DataFrame:
    """Return an event for each row of `commands`; expressions read that frame's columns."""
    return commands.select(
        command_id="command_id",
        state=state if isinstance(state, pl.Expr) else pl.lit(state.value),
        at=pl.lit(at).cast(pl.Datetime("us", "UTC")),
        actor=pl.lit(actor),
        detail=detail if isinstance(detail, pl.Expr) else pl.lit(detail),
        sent=sent if isinstance(sent, pl.Expr) else pl.lit(sent),
        read_back=read_back if isinstance(read_back, pl.Expr) else pl.lit(read_back),
    )


def _append(connection: Connection, rows: pl.DataFrame) -> None:
    connection.execute("dispatch_append_events", frames={"events": rows.with_row_index("position")})
