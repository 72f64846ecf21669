"""The frames that dispatch makes.

Belongs here: what a command, a guarded command and a ledger event are. Does not: the states'
machine (`lifecycle`), how commands are made (`commands`).
"""

from __future__ import annotations

import dataframely as dy

from vpp_pipeline.dispatch.lifecycle import State


class Commands(dy.Schema):
    """One row a device: its set-point for one interval, before or after the guard.

    For PV and wind `planned_kw` and `setpoint_kw` are the most they may inject.
    """

    command_id = dy.String(primary_key=True)
    device_id = dy.String()
    plan_id = dy.String()
    plan_version = dy.Int64(min=0)
    sequence = dy.Int64(min=0)  # the interval's number since the epoch
    interval_start = dy.Datetime(time_unit="us", time_zone="UTC")
    valid_from = dy.Datetime(time_unit="us", time_zone="UTC")
    valid_until = dy.Datetime(time_unit="us", time_zone="UTC")
    planned_kw = dy.Float64()
    setpoint_kw = dy.Float64()
    guard_reason = dy.String()  # empty where the guard changed nothing


class GuardedCommands(Commands):
    """`Commands` after the guard; a refused one keeps its row with `setpoint_kw` 0."""

    refused = dy.Bool()


class Events(dy.Schema):
    """What happened to commands; one row a command in one batch."""

    command_id = dy.String(primary_key=True)
    state = dy.Enum([state.value for state in State])
    at = dy.Datetime(time_unit="us", time_zone="UTC")
    actor = dy.String()  # the run or process
    detail = dy.String()  # why, in words
    sent = dy.String()  # bytes or payload
    read_back = dy.String()  # raw registers or report
