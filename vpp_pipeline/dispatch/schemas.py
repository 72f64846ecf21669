"""The frames that dispatch makes.

Belongs here: what a command, a guarded command, an intent and a ledger event are. Does not: the
states' machine (`lifecycle`), how they are made (`commands`, `releases`).
"""

from __future__ import annotations

from typing import Any, TypeVar

import dataframely as dy
import polars as pl

from vpp_pipeline.dispatch.lifecycle import State

_UTC: dict[str, Any] = {"time_unit": "us", "time_zone": "UTC"}

Schema = TypeVar("Schema", bound=dy.Schema)

KINDS = ["set_point", "release"]


class Commands(dy.Schema):
    """One row a device: its set-point for one interval, before or after the guard.

    For PV and wind `planned_kw` and `setpoint_kw` are the most they may inject.
    """

    command_id = dy.String(primary_key=True)
    device_id = dy.String()
    plan_id = dy.String()
    plan_version = dy.Int64(min=0)
    sequence = dy.Int64(min=0, description="the interval's number since the epoch")
    interval_start = dy.Datetime(**_UTC)
    valid_from = dy.Datetime(**_UTC)
    valid_until = dy.Datetime(**_UTC)
    planned_kw = dy.Float64()
    setpoint_kw = dy.Float64()
    guard_reason = dy.String(description="empty where the guard changed nothing")


class GuardedCommands(Commands):
    """`Commands` after the guard; a refused one keeps its row with `setpoint_kw` 0."""

    refused = dy.Bool()
    authority = dy.String(min_length=1, description="plan, or whose order bound it")
    order_id = dy.String(nullable=True)


class Intents(dy.Schema):
    """What the ledger keeps of a command before anything of it is sent.

    A release returns a device to its own default: it has no plan and no set-point.
    """

    command_id = dy.String(primary_key=True)
    device_id = dy.String()
    plan_id = dy.String(nullable=True)
    plan_version = dy.Int64(min=0, nullable=True)
    sequence = dy.Int64(min=0)
    interval_start = dy.Datetime(**_UTC)
    valid_from = dy.Datetime(**_UTC)
    valid_until = dy.Datetime(**_UTC)
    planned_kw = dy.Float64(nullable=True)
    setpoint_kw = dy.Float64(nullable=True)
    guard_reason = dy.String()
    kind = dy.Enum(KINDS)
    authority = dy.String(min_length=1, description="plan, or what bound it")
    order_id = dy.String(nullable=True, description="the order that bound it")

    @dy.rule()
    def set_points_stand_on_a_plan(cls) -> pl.Expr:  # noqa: N805 - a rule is given its class
        """A set-point has a plan, a version and its numbers; a release none of them."""
        of_plan = ["plan_id", "plan_version", "planned_kw", "setpoint_kw"]
        whole = pl.all_horizontal(pl.col(of_plan).is_not_null())
        none = pl.all_horizontal(pl.col(of_plan).is_null())
        return pl.when(pl.col("kind") == "release").then(none).otherwise(whole)


class Events(dy.Schema):
    """What happened to commands; one row a command in one batch."""

    command_id = dy.String(primary_key=True)
    state = dy.Enum([state.value for state in State])
    at = dy.Datetime(**_UTC)
    actor = dy.String(description="who: the run or process")
    authority = dy.String(
        nullable=True, description="why: what bound the value; null: the command's own"
    )
    order_id = dy.String(nullable=True)
    detail = dy.String(description="why, in words")
    old_kw = dy.Float64(
        nullable=True, description="the set-point in force before, as the device told it"
    )
    requested_kw = dy.Float64(nullable=True, description="what the guard let through, to be sent")
    sent = dy.String(description="bytes or payload")
    acknowledged = dy.String(description="the device's answer, its bytes or words")
    read_back = dy.String(description="raw registers or report")
    fence = dy.Int64(
        nullable=True, description="token of the lease that it was sent or answered under"
    )


_OF_A_PLAN: dict[str, Any] = {"kind": "set_point", "authority": "plan", "order_id": None}
_UNTOLD: dict[str, Any] = {
    "authority": None,
    "order_id": None,
    "detail": "",
    "old_kw": None,
    "requested_kw": None,
    "sent": "",
    "acknowledged": "",
    "read_back": "",
    "fence": None,
}


def whole_intents(commands: pl.DataFrame) -> dy.DataFrame[Intents]:
    """Return `commands` as `Intents`: set-points of their plan, where they do not say otherwise."""
    return _valid(Intents, _with(_OF_A_PLAN, commands))


def whole_events(batch: pl.DataFrame) -> dy.DataFrame[Events]:
    """Return `batch` as `Events`: without a word where it has no column."""
    return _valid(Events, _with(_UNTOLD, batch))


def _valid(schema: type[Schema], frame: pl.DataFrame) -> dy.DataFrame[Schema]:
    """Return the schema's columns of a frame. Raises dataframely's `ValidationError`."""
    whole = frame.select(schema.column_names())
    try:
        return schema.validate(whole.lazy(), cast=True).collect()  # in a third of the time,
    except pl.exceptions.ComputeError:  # but that names no row
        return schema.validate(whole, cast=True)


def _with(defaults: dict[str, Any], frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.lit(value).alias(name) for name, value in defaults.items() if name not in frame.columns
    )
