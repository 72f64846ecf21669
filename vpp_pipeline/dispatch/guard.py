"""The last look before the wire: no set-point outside what a device may do now gets through.

Belongs here: the one function between plan and wire. Does not: what telemetry is worth
(`evidence`), sharing a site's limit (`site_limits`), the plan's own limits (`optimization`),
storing or sending.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.dispatch.commands import CAPPED_TYPES
from vpp_pipeline.dispatch.evidence import evidence
from vpp_pipeline.dispatch.links import READ_ONLY
from vpp_pipeline.dispatch.orders import GRID_OPERATOR, KILL_SWITCH, OVERRIDE, PLAN
from vpp_pipeline.dispatch.schemas import GuardedCommands
from vpp_pipeline.dispatch.site_limits import within_site_limits

_PLAUSIBLE_OVERFILL = 1.02  # a meter's error; beyond it the reading is poisoned
_SHORTEST_H = 1 / 60  # the power a store allows over the rest of an interval stays finite
_HOUR_US = 3_600_000_000
_SLACK_KW = 1e-9  # float noise in a bound is no reason to report a change


@dataclass(frozen=True)
class GuardSettings:
    """`max_age`: how old telemetry may be; `max_clock_lead`: how far ahead a device's clock."""

    max_age: timedelta = timedelta(minutes=5)
    max_clock_lead: timedelta = timedelta(minutes=1)


def guard(  # noqa: PLR0917 - the one gate names every input it judges by
    commands: pl.DataFrame,
    devices: pl.DataFrame,
    states: pl.DataFrame,
    standing: pl.DataFrame,
    now: datetime,
    settings: GuardSettings,
) -> pl.DataFrame:
    """Return `commands` (columns of `Commands`) as `GuardedCommands`, in the same order.

    An override that `standing` (columns `orders.STANDING`) has for a device replaces the plan's
    wish. `setpoint_kw` is then brought within nameplate ∩ vehicle ∩ store ∩ reported power ∩
    grid limit ∩ ramp ∩ the site's limits; every one of these contains 0, so that a set-point only
    ever comes nearer to 0, and a power below the device's smallest active one becomes 0. A store
    can't discharge below its minimum nor charge above its maximum by the interval's end; before
    the interval has begun it may still move at nameplate power until it does. A ramp allows what
    can be reached from the measured power by the interval's end; towards 0 it holds nothing back.
    `guard_reason` names whatever changed the set-point; `authority` and `order_id` are of the
    highest order that did, or `plan`.

    Refused (set-point 0, `refused` true) is what may not be sent or can't be judged: a stopped
    device, one whose orders are unknown, one that is unknown, read-only or uncontrollable, a
    command that is over or not the only one of its device, no finite set-point, telemetry that is
    not `evidence`, a device that is local, faulty or offline, a store whose content is missing or
    impossible.

    `commands` are what is about to be sent, at most one a device. All else at a site counts as
    `site_limits.within_site_limits` tells: with its power in `states` and, where that is given,
    its `setpoint_kw` in force, which may not show in its power yet. `states` are telemetry rows
    known at `now`; of several a device the latest counts, and the earlier ones tell whether its
    heartbeat still moves.
    """
    plant = evidence(devices, states, now, settings.max_age, settings.max_clock_lead)
    facts = (
        commands.join(plant, on="device_id", how="left", maintain_order="left")
        .join(standing, on="device_id", how="left", maintain_order="left")
        .with_columns(
            wish_kw=pl.coalesce("override_kw", "setpoint_kw"),
            alone=pl.len().over("device_id") == 1,
        )
        .with_columns(
            refusal=_refusal(now),
            kw=pl.col("wish_kw"),
            reason=pl.col("override_words"),
        )
    )
    bounded = _bounded(facts, now).with_columns(
        refusal=pl.coalesce(
            "refusal",
            pl.when(~_within_nameplate()).then(pl.lit("the device's nameplate is not a number")),
        )
    )
    admitted = bounded.filter(pl.col("refusal").is_null())
    shared = within_site_limits(admitted, plant, standing)
    return (
        bounded.join(shared, on="command_id", how="left", maintain_order="left")
        .with_columns(
            refused=pl.col("refusal").is_not_null() | ~_finite("shared_kw"),
            **_authority(),
        )
        .with_columns(
            setpoint_kw=pl.when("refused").then(0.0).otherwise("shared_kw"),
            guard_reason=pl.when("refused")
            .then(pl.col("refusal").fill_null("the site's limits are not a number"))
            .otherwise(pl.concat_str("reason", "site_reason", separator="; ", ignore_nulls=True)),
        )
        .select(GuardedCommands.column_names())
    )


def _refusal(now: datetime) -> pl.Expr:
    """Why a row may not be sent or can't be judged, with the remedy; null where it can."""
    battery = pl.col("device_type") == "battery"
    charger = pl.col("device_type") == "ev_charger"
    full = pl.col("energy_capacity_kwh") * _PLAUSIBLE_OVERFILL
    impossible = ~pl.col("held_kwh").is_between(0.0, full).fill_null(value=False)
    return (
        pl.when(pl.col("device_type").is_null())
        .then(pl.lit("the device is not in the registry: add it there or plan again"))
        .when(pl.col("stopped").is_null())
        .then(pl.lit("nothing is known of the orders for the device: read the order book"))
        .when("stopped")
        .then(pl.col("stop_words").fill_null(KILL_SWITCH))
        .when(~pl.col("controllable"))
        .then(pl.lit("the device can't be controlled: take it out of the plan"))
        .when(~pl.col("writable").fill_null(value=False))
        .then(pl.lit(READ_ONLY))
        .when(~pl.col("alone"))
        .then(pl.lit("several commands for one device: plan again"))
        .when((pl.col("valid_until") <= now).fill_null(value=True))
        .then(pl.lit("the command is over: plan again"))
        .when(~_finite("wish_kw"))
        .then(pl.lit("the set-point is not a finite number: plan again"))
        .when(pl.col("doubt").is_not_null())
        .then("doubt")
        .when(pl.col("status") == "local")
        .then(pl.lit("local control at the device: wait until it is given back"))
        .when(pl.col("status").ne_missing("ok"))
        .then(
            pl.format(
                "the device reports {}: look at it on site", pl.col("status").fill_null("no status")
            )
        )
        .when(battery & pl.col("held_kwh").is_null())
        .then(pl.lit("the state of charge is missing: check the battery's telemetry"))
        .when(battery & impossible)
        .then(pl.format("a content of {} kWh is impossible: check the battery's meter", "held_kwh"))
        .when(charger & pl.col("plugged_in").is_null())
        .then(pl.lit("the charger does not tell whether a vehicle is there: check its telemetry"))
        .when(charger & pl.col("plugged_in") & (pl.col("wish_kw") > 0) & impossible)
        .then(pl.lit("the vehicle's state of charge is missing: only charging can be commanded"))
    )


def _bounded(facts: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Bring `kw` within each bound in turn, and add to `reason` those that changed it."""
    words = pl.lit("beyond the nameplate")
    for bound in (
        (-pl.col("max_draw_kw"), pl.col("max_inject_kw"), words, words),
        *_live_bounds(now),
        _ramp_bound(now),
    ):
        facts = _within(facts, bound)
    limit = (pl.col("low_kw"), pl.col("high_kw"), pl.col("low_words"), pl.col("high_words"))
    return _changed(
        _within(facts.with_columns(unlimited_kw="kw"), limit),
        pl.when(pl.col("kw").abs() < pl.col("min_active_kw")).then(0.0),
        pl.format("below the smallest active power of {} kW", "min_active_kw"),
    )


def _authority() -> dict[str, pl.Expr]:
    """The highest authority that had a part in the set-point, and its order; else the plan."""
    lifted = pl.col("unlimited_kw") < pl.col("low_kw")
    lowered = pl.col("unlimited_kw") > pl.col("high_kw")
    by_site = pl.col("site_authority").is_not_null()
    overridden = pl.col("override_kw").is_not_null()
    return {
        "authority": pl.when("stopped")
        .then(pl.lit(KILL_SWITCH))
        .when(by_site)
        .then("site_authority")
        .when(lifted | lowered)
        .then(pl.lit(GRID_OPERATOR))
        .when(overridden)
        .then(pl.lit(OVERRIDE))
        .otherwise(pl.lit(PLAN)),
        "order_id": pl.when("stopped")
        .then("stop_id")
        .when(by_site)
        .then("site_order_id")
        .when(lifted)
        .then("low_id")
        .when(lowered)
        .then("high_id")
        .when(overridden)
        .then("override_id"),
    }


def _within(facts: pl.DataFrame, bound: _Bound) -> pl.DataFrame:
    """Bring `kw` within a bound; a null does not bind, and NaN allows 0 only."""
    low, high, low_words, high_words = bound
    least, most = low.fill_nan(0.0), high.fill_nan(0.0)
    return _changed(
        facts,
        pl.when(pl.col("kw") < least).then(least).when(pl.col("kw") > most).then(most),
        pl.when(pl.col("kw") < least).then(low_words).otherwise(high_words),
    )


def _changed(facts: pl.DataFrame, kw: pl.Expr, words: pl.Expr) -> pl.DataFrame:
    """Set `kw` where it is not null, and tell it in `words` where that is more than noise."""
    changed_kw = facts.select(pl.coalesce(kw, "kw")).to_series()
    is_told = (changed_kw - facts["kw"]).abs() > _SLACK_KW
    if is_told.any():  # mostly not, and words are most of what a bound costs
        told = pl.concat_str(
            "reason", pl.when(is_told).then(words), separator="; ", ignore_nulls=True
        )
        facts = facts.with_columns(reason=told.replace("", None))
    return facts.with_columns(kw=changed_kw)


_Bound = tuple[pl.Expr, pl.Expr, pl.Expr, pl.Expr]


def _live_bounds(now: datetime) -> list[_Bound]:
    """Vehicle, store and reported power. A null does not bind."""
    kind = pl.col("device_type")
    store = kind.is_in(["battery", "ev_charger"])
    absent = (kind == "ev_charger") & ~pl.col("plugged_in")
    start = pl.max_horizontal(pl.col("interval_start"), pl.lit(now).cast(pl.Datetime("us", "UTC")))
    rest_h = _rest_h(start)
    until_start_h = _hours(start - pl.lit(now))
    charge_efficiency = pl.col("charge_efficiency")
    discharge_efficiency = pl.col("discharge_efficiency")
    most_kwh = pl.col("held_kwh") + pl.col("max_draw_kw") * charge_efficiency * until_start_h
    least_kwh = pl.col("held_kwh") - pl.col("max_inject_kw") / discharge_efficiency * until_start_h
    out_kw = (most_kwh - pl.col("min_energy_kwh")).clip(0) * discharge_efficiency / rest_h
    in_kw = (pl.col("max_energy_kwh") - least_kwh).clip(0) / charge_efficiency / rest_h
    holds = pl.format(
        "holds {} kWh of {} to {}",
        pl.col("held_kwh").round(3),
        "min_energy_kwh",
        "max_energy_kwh",
    )
    vehicle = pl.lit("no vehicle is plugged in")
    nothing = pl.when(absent).then(0.0)
    able_kw = pl.when(~kind.is_in(CAPPED_TYPES)).then("available_kw")
    able = pl.format("the device can give or take at most {} kW", pl.col("available_kw").round(3))
    return [
        (nothing, nothing, vehicle, vehicle),
        (pl.when(store).then(-in_kw), pl.when(store).then(out_kw), holds, holds),
        (-able_kw, able_kw, able, able),
    ]


def _ramp_bound(now: datetime) -> _Bound:
    """What can be reached by the interval's end from the measured power, unknown taken as 0."""
    from_kw = pl.col("measured_kw").fill_null(0.0)
    reach_kw = pl.col("ramp_kw_per_min") * _rest_h(pl.lit(now)) * 60
    words = pl.format("ramps {} kW a minute from {} kW", "ramp_kw_per_min", from_kw.round(3))
    return (from_kw - reach_kw).clip(None, 0), (from_kw + reach_kw).clip(0), words, words


def _rest_h(start: pl.Expr) -> pl.Expr:
    return _hours(pl.col("interval_start") + STEP - start).clip(_SHORTEST_H)


def _within_nameplate() -> pl.Expr:
    """Whatever came before, nothing leaves that is no number within numbers around 0."""
    low, high = -pl.col("max_draw_kw"), pl.col("max_inject_kw")
    numbers = _finite("kw") & _finite("max_draw_kw") & _finite("max_inject_kw")
    return numbers & pl.col("kw").is_between(low, high) & (low <= 0) & (high >= 0)


def _finite(column: str) -> pl.Expr:
    return pl.col(column).is_finite().fill_null(value=False)


def _hours(duration: pl.Expr) -> pl.Expr:
    return duration.dt.total_microseconds() / _HOUR_US
