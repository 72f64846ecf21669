"""What has become other than the plan believed: causes to plan again within the day.

Belongs here: comparing the plan in force with states and prices as they are now. Does not: what
may be believed of a device (`flexibility.states`), asking for the run (a sensor).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl

from vpp_pipeline.delivery_day import STEP, STEP_H, floor_interval
from vpp_pipeline.dispatch.lifecycle import State
from vpp_pipeline.dispatch.orders import PLAN
from vpp_pipeline.dispatch.report import Tolerance, shortfall_kw

if TYPE_CHECKING:
    from datetime import datetime

_KEYS = ["device_id", "interval_start"]


@dataclass(frozen=True)
class PlanInForce:
    """The plan compared with: its id, what it knew, and what it says.

    `schedules` are its rows (columns of `Schedules`), `envelopes` those it stands on.
    """

    plan_id: str
    as_of: datetime
    schedules: pl.DataFrame
    envelopes: pl.DataFrame


@dataclass(frozen=True)
class DeviationSettings:
    """What is too much. Of a share and its floor, the larger counts."""

    store_share: float = 0.1  # of a store's capacity
    store_floor_kwh: float = 1.0
    fleet_share: float = 0.08  # of the energy the fleet is planned to move in the interval
    fleet_floor_kwh: float = 4.0
    price_eur_per_mwh: float = 5.0


@dataclass(frozen=True)
class Cause:
    """A reason to plan again. The `key` stays the same as long as the cause does."""

    kind: Literal["outage", "return", "session", "store", "fleet", "prices", "shortfall"]
    key: str
    words: str


def deviations(
    plan: PlanInForce,
    states: pl.DataFrame,
    devices: pl.DataFrame,
    prices: pl.DataFrame,
    *,
    now: datetime,
    settings: DeviationSettings,
) -> list[Cause]:
    """Return the causes to plan again, as seen at `now`.

    `states` is one row a device (columns of `flexibility.schemas.States`), `devices` a
    `DeviceFrame`, `prices` every known version of one market's prices (columns of `Prices`).

    - outage, return: a controllable device is gone that the plan counts on, or the reverse;
    - session: a vehicle is there though neither this interval nor the next expects one, or away
      though both do;
    - store: a content beyond the threshold from the planned one, interpolated to `now`;
    - fleet: the sum of power, kept up for an interval, misses the plan by more than the threshold;
    - prices: known after the plan's `as_of`, for an interval ahead, and new or other than before.

    Causes in devices name the plan in their key: a new plan that does not see to them asks again.
    """
    facts = _facts(plan, states, devices, now)
    return [
        *_outages(plan, facts),
        *_sessions(plan, facts),
        *_stores(plan, facts, settings),
        *_fleet(plan, facts, now, settings),
        *_prices(plan, prices, now, settings),
    ]


def shortfall(
    plan_id: str, newest: pl.DataFrame, states: pl.DataFrame, tolerance: Tolerance
) -> list[Cause]:
    """Return the cause that devices have accepted less, or more, than the plan asks of them.

    `newest` are rows of `Ledger.newest` of the running interval, `states` `flexibility.States`.
    Only what stands on the plan counts, of devices that are available (the others are an outage),
    and only once nothing is under way. As long as the plan is the same, so is the cause.
    """
    usable = states.filter("available")
    rows = newest.filter(pl.col("plan_id") == plan_id, pl.col("authority") == PLAN).join(
        usable, on="device_id", how="semi"
    )
    under_way = rows["state"].is_in([State.PLANNED.value, State.SENT.value]).any()
    short_kw = shortfall_kw(rows, tolerance)
    if under_way or short_kw == 0:
        return []
    words = f"of {rows['planned_kw'].sum():+.1f} kW planned no device accepts {short_kw:+.1f} kW"
    return [Cause("shortfall", f"shortfall:{plan_id}", words)]


def _facts(
    plan: PlanInForce, states: pl.DataFrame, devices: pl.DataFrame, now: datetime
) -> pl.DataFrame:
    """Return a row a device: what the plan says of this interval, and what is."""
    start = floor_interval(now)
    elapsed = (now - start) / STEP
    present = (pl.col("min_power_kw") < 0) | (pl.col("max_power_kw") > 0)
    envelopes = plan.envelopes.select(
        *_KEYS,
        present=present,
        counted_on="available",
        initial_energy_kwh="initial_energy_kwh",
        session_start="session_start",
    )
    schedules = plan.schedules.select(*_KEYS, planned_kw="power_kw", end_kwh="energy_kwh")
    this = pl.col("interval_start") == start
    after = pl.col("interval_start") == start + STEP
    before = pl.col("interval_start") == start - STEP
    begin_kwh = pl.coalesce("before_kwh", "initial_energy_kwh")
    return (
        envelopes.filter(this)
        .join(schedules.filter(this), on=_KEYS, how="left")
        .join(
            schedules.filter(before).select("device_id", before_kwh="end_kwh"),
            on="device_id",
            how="left",
        )
        .join(
            envelopes.filter(after).select("device_id", present_next="present"),
            on="device_id",
            how="left",
        )
        .join(
            states.select("device_id", "available", "why", "plugged_in", "power_kw", "energy_kwh"),
            on="device_id",
        )
        .join(
            devices.select(
                "device_id",
                "controllable",
                "energy_capacity_kwh",
                is_charger=pl.col("device_type").cast(pl.String) == "ev_charger",
            ),
            on="device_id",
        )
        .with_columns(planned_kwh=begin_kwh + (pl.col("end_kwh") - begin_kwh) * elapsed)
        .sort("device_id")
    )


def _outages(plan: PlanInForce, facts: pl.DataFrame) -> list[Cause]:
    changed = facts.filter("controllable", pl.col("counted_on") != pl.col("available"))
    return [
        Cause("return", f"return:{device_id}:{plan.plan_id}", f"{device_id} answers again")
        if available
        else Cause("outage", f"outage:{device_id}:{plan.plan_id}", f"{device_id} is out: {why}")
        for device_id, available, why in changed.select("device_id", "available", "why").iter_rows()
    ]


def _sessions(plan: PlanInForce, facts: pl.DataFrame) -> list[Cause]:
    present_next = pl.col("present_next").fill_null(pl.col("present"))
    came = pl.col("plugged_in") & ~pl.col("present") & ~present_next
    away = ~pl.col("plugged_in") & pl.col("present") & present_next
    changed = facts.filter("is_charger", "available", came | away)
    return [
        Cause(
            "session",
            f"session:{device_id}:{'came' if plugged_in else 'away'}:{plan.plan_id}",
            f"{device_id}: a vehicle is there that was not expected"
            if plugged_in
            else f"{device_id}: the vehicle that was expected is not there",
        )
        for device_id, plugged_in in changed.select("device_id", "plugged_in").iter_rows()
    ]


def _stores(plan: PlanInForce, facts: pl.DataFrame, settings: DeviationSettings) -> list[Cause]:
    too_much_kwh = pl.max_horizontal(
        pl.lit(settings.store_floor_kwh), pl.col("energy_capacity_kwh") * settings.store_share
    )
    comparable = (
        pl.col("available")
        & pl.col("counted_on")
        & ~pl.col("session_start")
        & (~pl.col("is_charger") | (pl.col("plugged_in") & pl.col("present")))
    )
    changed = facts.filter(
        comparable, (pl.col("energy_kwh") - pl.col("planned_kwh")).abs() > too_much_kwh
    )
    return [
        Cause(
            "store",
            f"store:{device_id}:{plan.plan_id}",
            f"{device_id} holds {energy_kwh:.1f} kWh, {planned_kwh:.1f} kWh were planned",
        )
        for device_id, energy_kwh, planned_kwh in changed.select(
            "device_id", "energy_kwh", "planned_kwh"
        ).iter_rows()
    ]


def _fleet(
    plan: PlanInForce, facts: pl.DataFrame, now: datetime, settings: DeviationSettings
) -> list[Cause]:
    both = facts.filter(
        "available", pl.col("power_kw").is_finite(), pl.col("planned_kw").is_finite()
    )
    missed_kwh = float((both["power_kw"] - both["planned_kw"]).sum()) * STEP_H
    moved_kwh = float(both["planned_kw"].abs().sum()) * STEP_H
    if abs(missed_kwh) <= max(settings.fleet_floor_kwh, settings.fleet_share * moved_kwh):
        return []
    return [
        Cause(
            "fleet",
            f"fleet:{plan.plan_id}:{floor_interval(now):%Y%m%dT%H%MZ}",
            f"the fleet is on its way to miss the plan by {missed_kwh:+.1f} kWh this quarter-hour",
        )
    ]


def _prices(
    plan: PlanInForce, prices: pl.DataFrame, now: datetime, settings: DeviationSettings
) -> list[Cause]:
    ahead = prices.filter(
        pl.col("interval_start") >= floor_interval(now), pl.col("known_at") <= now
    ).join(plan.schedules.select("interval_start").unique(), on="interval_start", how="semi")
    was_known = pl.col("known_at") <= plan.as_of
    versions = (
        ahead.sort("known_at")
        .group_by("interval_start")
        .agg(
            newest=pl.col("price_eur_per_mwh").last(),
            planned_with=pl.col("price_eur_per_mwh").filter(was_known).last(),
            known_at=pl.col("known_at").last(),
        )
    )
    moved = (pl.col("newest") - pl.col("planned_with")).abs() >= settings.price_eur_per_mwh
    changed = versions.filter(pl.col("known_at") > plan.as_of, moved.fill_null(value=True))
    if changed.is_empty():
        return []
    newest = changed.select(pl.col("known_at").max()).item()
    return [
        Cause(
            "prices",
            f"prices:{newest:%Y%m%dT%H%M%SZ}",
            f"{changed.height} quarter-hours ahead have new prices",
        )
    ]
