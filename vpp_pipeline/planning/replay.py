"""A past day planned again, on what was known at one moment of it or before.

Belongs here: forecasts, envelopes and plan of a day gone by, by the path the assets take. Does
not: storing it (`replay_store`), what is changed in a variant (`variants`), its cost (`judged`).

Nothing here is stored, released or sent, and no driver is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.flexibility.envelopes import EnvelopeError
from vpp_pipeline.forecasting import groups
from vpp_pipeline.optimization import inputs as plan_inputs
from vpp_pipeline.optimization.planner import ProblemError
from vpp_pipeline.planning import forecasts
from vpp_pipeline.planning.candidates import CANDIDATES
from vpp_pipeline.planning.inputs import (
    DayOverError,
    commitment,
    committed_position,
    horizon_left,
    imbalance_terms,
    market_prices_on,
    newest_values,
)
from vpp_pipeline.planning.judged import judged
from vpp_pipeline.planning.outlook import Expected, outlook_on
from vpp_pipeline.planning.plans import PlanInputs, planned
from vpp_pipeline.planning.records import day_records
from vpp_pipeline.planning.variants import (
    AS_IT_WAS,
    UNHURRIED_S,
    Target,
    Variant,
    VariantError,
    within_capacity,
)
from vpp_pipeline.settings import MARKET, MARKET_TZ
from vpp_pipeline.settlement.schemas import SettlementError
from vpp_pipeline.warehouse.validate import input_hash

if TYPE_CHECKING:
    from datetime import date, datetime

    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.optimization.planner import Plan
    from vpp_pipeline.optimization.schemas import Certificate
    from vpp_pipeline.planning.judged import Judged
    from vpp_pipeline.runtime import Runtime

_LEAST_SHARE_S = UNHURRIED_S / 14
"""No solver is given less of a replay's time, but one that solves a single site of a large fleet."""
_SITE_S = 5.0
"""What that one is given."""


class ReplayError(ValueError):
    """A day that can't be planned again; the text names the table, what it lacks and the remedy."""


@dataclass(frozen=True)
class Replay:
    """A past day's plan, and what it would have cost."""

    variant: Variant
    day: date
    as_of: datetime
    kind: Literal["day_ahead", "intraday"]
    inputs: PlanInputs
    plan: Plan
    input_hash: str
    schedule_hash: str
    unhurried: bool
    """No time limit can have cut a solver short: the same inputs give the same plan again."""
    judged: Judged | None
    not_judged: str
    """Why it could not be; empty where it was."""


def replay_day(
    runtime: Runtime, day: date, as_of: datetime, variant: Variant = AS_IT_WAS
) -> Replay:
    """Plan `day` on what was known at `as_of`, and judge it by what is known of it now.

    Up to its gate closure a day is planned as a whole; from then on what was left of it, on the
    position that was committed. Raises `ReplayError` and `VariantError`.
    """
    kind: Literal["day_ahead", "intraday"] = (
        "day_ahead" if as_of <= market_day.gate_closure(day, MARKET_TZ) else "intraday"
    )
    try:
        inputs = _inputs(runtime, variant, day, kind, as_of)
        plan = planned(inputs, variant.settings)
    except (DayOverError, EnvelopeError, ProblemError, ReplayError) as error:
        raise ReplayError(f"{day} as known at {as_of:%Y-%m-%d %H:%M} UTC: {error}") from error
    verdict, why = None, ""
    try:
        verdict = _judged(runtime, variant, inputs.devices, plan, day=day, kind=kind, as_of=as_of)
    except SettlementError as error:
        why = str(error)
    return Replay(
        variant=variant,
        day=day,
        as_of=as_of,
        kind=kind,
        inputs=inputs,
        plan=plan,
        input_hash=inputs.fingerprint(),
        schedule_hash=schedule_hash(plan.schedules),
        unhurried=unhurried(plan.certificate),
        judged=verdict,
        not_judged=why,
    )


def schedule_hash(schedules: pl.DataFrame) -> str:
    """Return the SHA-256 of `Schedules`, to the last bit of every power."""
    columns = ["device_id", "interval_start", "power_kw", "limit_kw", "energy_kwh"]
    return input_hash({"schedules": schedules.select(columns)})


def unhurried(certificate: Certificate) -> bool:
    """Tell whether no stage took as long as any limit of time in it."""
    limits = {"sites": _SITE_S}
    return all(
        seconds < limits.get(stage, _LEAST_SHARE_S)
        for stage, seconds in certificate.stage_seconds.items()
    )


def _inputs(
    runtime: Runtime,
    variant: Variant,
    day: date,
    kind: Literal["day_ahead", "intraday"],
    as_of: datetime,
) -> PlanInputs:
    horizon = horizon_left(runtime, day, as_of)
    _require_rows(runtime, as_of)
    fleet = runtime.fleet(as_of)
    devices = variant.fleet(fleet)
    readings = within_capacity(runtime.believed_telemetry(as_of), AS_IT_WAS.fleet(fleet), devices)
    expected = _expected(runtime, variant, day, horizon, as_of)
    known = outlook_on(runtime, devices, readings, expected, horizon, as_of)
    envelopes = known.envelopes.sort("device_id", "interval_start")
    price = _forecast(runtime, variant, "price", day, as_of)
    market = variant.prices(market_prices_on(runtime, horizon, price, as_of))
    _require_sound(runtime, devices, envelopes, market, horizon=horizon, as_of=as_of)
    spread = _spread(runtime, variant)
    settled = None
    if kind == "intraday" and spread > 0:
        settled = imbalance_terms(
            runtime, day, market, expected.profiles, as_of, spread_eur_per_mwh=spread
        )
    # a plan made at this very moment is what is planned again: it began from those before
    warm = newest_values(runtime, day, as_of - timedelta.resolution)
    return PlanInputs(devices, envelopes, market, settled, warm)


def _spread(runtime: Runtime, variant: Variant) -> float:
    spread = variant.imbalance_spread_eur_per_mwh
    return runtime.settings.imbalance_spread_eur_per_mwh if spread is None else spread


def _expected(
    runtime: Runtime, variant: Variant, day: date, horizon: pl.Series, as_of: datetime
) -> Expected:
    """Return the forecasts that would have been made, of the horizon alone."""
    start, end = horizon[0], horizon[-1] + market_day.STEP
    within = pl.col("interval_start").is_between(start, end, closed="left")

    def forecast(target: Target) -> pl.DataFrame:
        return _forecast(runtime, variant, target, day, as_of).filter(within)

    sessions = forecasts.sessions(runtime, day, as_of)
    of_devices = ~pl.col("target").cast(pl.String).is_in(groups.TARGETS)
    return Expected(
        profiles=pl.concat([forecast("load").filter(of_devices), forecast("generation")]),
        temperatures=forecast("temperature"),
        sessions=sessions.filter(pl.col("departure_p90") > start, pl.col("arrival_p10") < end).sort(
            "device_id", "arrival_p50"
        ),
    )


def _forecast(
    runtime: Runtime, variant: Variant, target: Target, day: date, as_of: datetime
) -> pl.DataFrame:
    name = variant.forecasts.get(target)
    if name is None:
        made: pl.DataFrame = getattr(forecasts, target)(runtime, day, as_of)
        return made
    models = CANDIDATES[target]
    if name not in models:
        raise VariantError(
            f"variant {variant.name}: forecasts.{target} is {name!r}: one of {', '.join(models)}"
        )
    return models[name](runtime, day, as_of)


def _require_rows(runtime: Runtime, as_of: datetime) -> None:
    with runtime.warehouse.read() as connection:
        fleet = connection.frame("warehouse_fleet_at", as_of=as_of)
        price = connection.frame("defs_newest_price", market=MARKET, as_of=as_of)["known_at"][0]
    remedy = "choose a later day, or load what was known then with its known_at"
    if fleet.is_empty():
        raise ReplayError(f"fleet_versions: no fleet was known yet: {remedy}")
    if price is None:
        raise ReplayError(f"prices: none of {MARKET} was known yet: {remedy}")
    if runtime.latest_telemetry(as_of).is_empty():
        raise ReplayError(f"telemetry: no reading of the day before was known yet: {remedy}")


def _require_sound(
    runtime: Runtime,
    devices: pl.DataFrame,
    envelopes: pl.DataFrame,
    market: pl.DataFrame,
    *,
    horizon: pl.Series,
    as_of: datetime,
) -> None:
    """Hold a replay to what blocks a plan of the day itself."""
    with runtime.warehouse.read() as connection:
        newest = connection.frame("defs_newest_price", market=MARKET, as_of=as_of)["known_at"][0]
    found = plan_inputs.problems(
        devices, envelopes, market, horizon, newest_price_known_at=newest, as_of=as_of
    )
    if found.height:
        first = found.row(0, named=True)
        table = "prices" if first["subject"] == "market" else "telemetry"
        raise ReplayError(
            f"{table}: {first['subject']}, {first['field']} {first['value']}: {first['problem']} "
            f"({found.height} problems)"
        )


def _judged(
    runtime: Runtime,
    variant: Variant,
    devices: dy.DataFrame[DeviceFrame],
    plan: Plan,
    *,
    day: date,
    kind: Literal["day_ahead", "intraday"],
    as_of: datetime,
) -> Judged:
    fleet = AS_IT_WAS.fleet(runtime.fleet(as_of))
    records = day_records(runtime, fleet, day, runtime.clock.now())
    spread = _spread(runtime, variant)
    real = commitment(committed_position(runtime, day, runtime.clock.now()), spread)
    sold = real
    if kind == "day_ahead":  # it would have been sold as it is planned
        own = plan.schedules.group_by("interval_start").agg(position_kw=pl.col("power_kw").sum())
        sold = commitment(own, spread)
    return judged(
        fleet,
        variant,
        devices,
        plan,
        records=records,
        day=day,
        settings=AS_IT_WAS.settings,
        commitment=sold,
        real_commitment=real,
    )
