"""What a plan of a past day would have cost on what was measured.

Belongs here: a schedule and a day's records → costs and regret. Does not: how a day is costed
(`settlement`), the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP_H, day_intervals
from vpp_pipeline.planning.variants import within_capacity
from vpp_pipeline.settings import MARKET_TZ
from vpp_pipeline.settlement.cost import day_cost
from vpp_pipeline.settlement.followed import followed_power
from vpp_pipeline.settlement.foresight import perfect_foresight
from vpp_pipeline.settlement.promises import with_promises_kept
from vpp_pipeline.settlement.regret import regret
from vpp_pipeline.settlement.schemas import SettlementError, Stays
from vpp_pipeline.settlement.stores import stores
from vpp_pipeline.settlement.unmanaged import unmanaged_power

if TYPE_CHECKING:
    from datetime import date

    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.optimization.planner import Plan
    from vpp_pipeline.optimization.settings import PlanSettings
    from vpp_pipeline.planning.variants import Variant
    from vpp_pipeline.settlement.regret import Regret
    from vpp_pipeline.settlement.schemas import ActualDay, Commitment
    from vpp_pipeline.settlement.settle import Records
    from vpp_pipeline.settlement.stores import Floats

_CELL = ["device_id", "interval_start"]


@dataclass(frozen=True)
class Judged:
    """A plan's day under the accounting of `settlement`, every schedule followed as it stands."""

    regret: dy.DataFrame[Regret]
    """One row; `managed_eur` is null, for nobody ran the plan."""
    real_plan_eur: float | None
    """What the schedules that were really in force would have cost; None: there were none."""
    moved_kwh: float | None
    """By how much the fleet's planned power differs from theirs: Σ |power - theirs| · h."""


def judged(
    fleet: dy.DataFrame[DeviceFrame],
    variant: Variant,
    devices: dy.DataFrame[DeviceFrame],
    plan: Plan,
    *,
    records: Records,
    day: date,
    settings: PlanSettings,
    commitment: Commitment | None,
    real_commitment: Commitment | None,
) -> Judged:
    """Return what `plan` for `devices` would have cost, on what the real `fleet` measured.

    Before the plan's horizon the schedules that were in force count. No plan is made again here,
    as it would be on such a day: a charger whose plan expects no vehicle is told nothing, so that
    one that comes charges at once, and devices keep what promises they can by themselves
    (`settlement.promises`). Prices, batteries, rooms and what flexible loads need are the
    variant's; loads, sun, wind, cold, vehicles, a room's temperature and what batteries held when
    the day began are as measured, in every variant; but no battery holds more than it can. Every way
    to run the day is held against `commitment`, the schedules that were really in force against
    `real_commitment`. Raises
    `SettlementError` where the day's records lack something.
    """
    intervals = day_intervals(day, MARKET_TZ)
    seen = records.telemetry.filter(pl.col("interval_start").is_in(intervals.implode()))
    if seen.is_empty():
        raise SettlementError(
            f"telemetry: no reading of any device is known on {day}: what a plan of it would have "
            "cost can be told once its readings are in the warehouse"
        )
    paid = replace(records, prices=variant.prices(records.prices))
    actual = replace(happened_to(devices, fleet, paid, intervals), commitment=commitment)
    held = stores(devices, actual)
    default_kw = unmanaged_power(devices, actual, held)

    def cost_of(power_kw: Floats, sold: Commitment | None = commitment) -> float:
        contents = held.contents(power_kw)
        day_sold = replace(actual, commitment=sold)
        return day_cost(devices, day_sold, held, power_kw, contents, settings).total_eur

    def followed(schedules: pl.DataFrame) -> Floats:
        power_kw = followed_power(devices, actual, held, default_kw, schedules)
        return with_promises_kept(devices, held, power_kw)

    in_force, made = _told(records.in_force, devices), _told(plan.schedules, devices)
    horizon = plan.schedules["interval_start"].unique()
    before = in_force.filter(~pl.col("interval_start").is_in(horizon.implode()))
    costs = {
        "unmanaged": cost_of(default_kw),
        "perfect_foresight": cost_of(perfect_foresight(devices, actual, settings).power_kw),
        "as_planned": cost_of(followed(pl.concat([before, made]))),
    }
    plans = pl.DataFrame(
        {
            "delivery_day": [day],
            "objective_eur": [plan.certificate.objective_eur],
            "bound_eur": [plan.certificate.bound_eur],
            "in_force": [horizon.len()],
            "quarter_hours": [horizon.len()],
        },
        schema_overrides={"bound_eur": pl.Float64},
    )
    told = pl.DataFrame(
        {"delivery_day": day, "basis": list(costs), "total_eur": list(costs.values())}
    )
    real = in_force.join(made.select(_CELL), on=_CELL, how="semi")
    return Judged(
        regret=regret(told, plans),
        real_plan_eur=None if real.is_empty() else cost_of(followed(in_force), real_commitment),
        moved_kwh=None if real.is_empty() else moved_kwh(made, real),
    )


def happened_to(
    devices: pl.DataFrame, fleet: pl.DataFrame, records: Records, intervals: pl.Series
) -> ActualDay:
    """Return what happened to the real `fleet`, with the stores of `devices` in their place.

    A room is as warm, a battery holds as much, if it can, and a load has drawn as much as was
    measured; comfort, capacity, need and window are those of `devices`.
    """
    actual = records.happened(fleet, intervals)
    if devices.equals(fleet):
        return actual
    readings = within_capacity(records.telemetry, fleet, devices)
    own = replace(records, telemetry=readings).happened(devices, intervals)
    loads = devices.filter(pl.col("device_type").cast(pl.String) == "flexible_load")["device_id"]
    is_load = pl.col("device_id").is_in(loads.implode())
    return replace(
        actual,
        stays=Stays.validate(pl.concat([actual.stays.filter(~is_load), own.stays.filter(is_load)])),
        start_kwh=own.start_kwh,
    )


def _told(schedules: pl.DataFrame, devices: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `Schedules` that say what a device is to do."""
    chargers = devices.filter(pl.col("device_type").cast(pl.String) == "ev_charger")["device_id"]
    without_vehicle = pl.col("device_id").is_in(chargers.implode()) & pl.col("energy_kwh").is_null()
    return schedules.filter(~without_vehicle).select(*_CELL, "power_kw", "limit_kw")


def moved_kwh(made: pl.DataFrame, real: pl.DataFrame) -> float:
    """Return by how much one schedule's powers differ from another's, where both have a row."""
    both = made.join(real, on=_CELL, suffix="_real")
    off_kw = (pl.col("power_kw") - pl.col("power_kw_real")).abs()
    return STEP_H * float(both.select(off_kw.sum()).item())
