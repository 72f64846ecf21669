"""Replays in the warehouse, in tables of their own.

Belongs here: keeping a replay, and what it is compared with. Does not: making one (`replay`).

A row here has no plan version and no release: nothing that dispatches can see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.planning.plans import certificate_row
from vpp_pipeline.planning.replay import schedule_hash
from vpp_pipeline.warehouse.validate import input_hash

if TYPE_CHECKING:
    from vpp_pipeline.planning.replay import Replay
    from vpp_pipeline.runtime import Runtime


@dataclass(frozen=True)
class Kept:
    """A replay that is stored."""

    replay_id: str
    earlier: int
    """How often the same was planned before: day, moment, variant and inputs."""
    identical: bool
    """Every one of them gave this schedule, to the last bit."""
    repeats_plan: str | None
    """The plan that was really made of the same inputs; None: there is none."""
    repeats_it_exactly: bool
    """That plan has this schedule, to the last bit."""


def keep(runtime: Runtime, replay: Replay) -> Kept:
    """Store a replay, and tell whether what was the same before came out the same."""
    variant = replay.variant.model_dump_json()
    name = input_hash(
        {
            "replay": pl.DataFrame(
                {
                    "variant": [variant],
                    "as_of": [replay.as_of],
                    "inputs": [replay.input_hash],
                    "schedules": [replay.schedule_hash],
                }
            )
        }
    )
    replay_id = f"{replay.day}-{replay.variant.name}-{name[:10]}"
    row = _row(replay, replay_id, variant).with_columns(
        replayed_at=pl.lit(runtime.clock.now()),
    )
    with runtime.warehouse.write("replay") as connection:
        fleet = connection.frame("warehouse_fleet_at", as_of=replay.as_of)
        before = connection.frame(
            "planning_same_replays",
            variant_spec=variant,
            delivery_day=replay.day,
            as_of=replay.as_of,
            input_hash=replay.input_hash,
        )
        real = connection.frame(
            "planning_plan_of_inputs", delivery_day=replay.day, input_hash=replay.input_hash
        )
        real_id = None if real.is_empty() else real["plan_id"][0]
        theirs = (
            None if real_id is None else connection.frame("warehouse_schedule", plan_id=real_id)
        )
        connection.append("replays", row.with_columns(fleet_version=fleet["fleet_version"]))
        if replay_id not in before["replay_id"]:
            connection.append(
                "replay_schedules",
                replay.plan.schedules.with_columns(replay_id=pl.lit(replay_id)),
            )
    return Kept(
        replay_id=replay_id,
        earlier=before.height,
        identical=bool((before["schedule_hash"] == replay.schedule_hash).all()),
        repeats_plan=real_id,
        repeats_it_exactly=theirs is not None and schedule_hash(theirs) == replay.schedule_hash,
    )


def _row(replay: Replay, replay_id: str, variant: str) -> pl.DataFrame:
    horizon = replay.inputs.horizon
    verdict = replay.judged
    figures: dict[str, Any] = {
        "replay_id": replay_id,
        "variant": replay.variant.name,
        "variant_spec": variant,
        "delivery_day": replay.day,
        "kind": replay.kind,
        "as_of": replay.as_of,
        "horizon_start": horizon[0],
        "horizon_end": horizon[-1] + STEP,
        "input_hash": replay.input_hash,
        "schedule_hash": replay.schedule_hash,
        "code_version": version("vpp-pipeline"),
        "unhurried": replay.unhurried,
        "not_judged": replay.not_judged,
        "real_plan_eur": None if verdict is None else verdict.real_plan_eur,
        "moved_kwh": None if verdict is None else verdict.moved_kwh,
    }
    floats = dict.fromkeys(("real_plan_eur", "moved_kwh"), pl.Float64)
    row = pl.DataFrame([figures], schema_overrides=floats).hstack(
        certificate_row(replay.plan.certificate)
    )
    if verdict is None:
        return row
    return row.hstack(verdict.regret.drop("delivery_day", "managed_eur", "execution_eur"))
