"""The jobs that sensors and schedules launch.

Belongs here: which assets run together, and in which lane. Does not: when (`sensors`).
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from vpp_pipeline.defs import (
    cancelling,
    dispatch,
    envelopes,
    forecasts,
    group,
    market,
    orders,
    planning,
    plant,
    regret,
    replay,
    report,
    settlement,
    skill,
    snapshot,
    telemetry_quality,
    verification,
)

LANE = "vpp/lane"
URGENCY = "dagster/priority"  # in its queue: the higher goes first
CAUSE = "vpp/cause"
CAUSE_KIND = "vpp/cause_kind"

_FORECASTS = [
    forecasts.load_forecast,
    forecasts.generation_forecast,
    forecasts.temperature_forecast,
    forecasts.ev_forecast,
]

day_ahead = dg.define_asset_job(
    "day_ahead",
    selection=[
        plant.fleet,
        plant.telemetry,
        telemetry_quality.telemetry_flags,
        market.day_ahead_prices,
        market.market_forecasts,
        market.weather,
        *_FORECASTS,
        forecasts.price_forecast,
        envelopes.flexibility_envelopes,
        planning.day_ahead_plan,
        planning.device_schedules,
    ],
    tags={LANE: "plan"},
    description="Make the delivery day's plan from what is known now, and release it.",
)

register_fleet = dg.define_asset_job(
    "register_fleet",
    selection=[plant.fleet],
    tags={LANE: "fleet"},
    description="Read the registry and store it as a new version, if it is one.",
)

re_plan = dg.define_asset_job(
    "re_plan",
    selection=[
        plant.telemetry,
        market.weather,
        *_FORECASTS,
        envelopes.flexibility_envelopes,
        planning.intraday_plan,
        planning.device_schedules,
    ],
    tags={LANE: "plan"},
    description="Plan what is left of the delivery day again, because the picture has changed.",
)

push_interval = dg.define_asset_job(
    "push_interval",
    selection=[dispatch.dispatch_ledger],
    tags={LANE: "dispatch"},
    description="Push one quarter-hour's commands and verify them.",
)

recheck_interval = dg.define_asset_job(
    "recheck_interval",
    selection=[dispatch.dispatch_recheck],
    tags={LANE: "dispatch"},
    description="Read the running quarter-hour's set-points back again, and follow new orders.",
)

verify_power = dg.define_asset_job(
    "verify_power",
    selection=[plant.telemetry, verification.power_verification, verification.delivery_scores],
    tags={LANE: "verification"},
    description="Hold the measured power against the set-points of quarter-hours that are over.",
)

dispatch_group = dg.define_asset_job(
    "dispatch_group",
    selection=[group.group_dispatch],
    tags={LANE: "dispatch"},
    description="Share a group's target out over its devices, and send it at once.",
)

show_orders = dg.define_asset_job(
    "show_orders",
    selection=[orders.orders],
    tags={LANE: "fleet"},
    description="Show the orders in force, and keep them and what was released in the ledger.",
)

collect_prices = dg.define_asset_job(
    "collect_prices",
    selection=[market.day_ahead_prices],
    tags={LANE: "market"},
    description="Fetch the delivery day's auction prices.",
)

collect_dropped_prices = dg.define_asset_job(
    "collect_dropped_prices",
    selection=[market.dropped_prices],
    tags={LANE: "market"},
    description="Load the prices and market forecasts that were dropped as files.",
)

compact = dg.define_asset_job(
    "compact",
    selection=[plant.telemetry],
    tags={LANE: "telemetry"},
    description="Load landed telemetry into the warehouse, exactly once.",
)

settle = dg.define_asset_job(
    "settle",
    selection=[
        plant.telemetry,
        telemetry_quality.telemetry_flags,
        market.weather,
        settlement.settlement,
        settlement.forecast_errors,
        regret.regret,
        regret.plan_churn,
        report.plan_report,
        snapshot.warehouse_snapshot,
    ],
    tags={LANE: "settlement"},
    description="Say what the day was worth, write its report, publish the warehouse to readers.",
)

judge_forecasts = dg.define_asset_job(
    "judge_forecasts",
    selection=[skill.challenger_forecasts, skill.forecast_skill],
    tags={LANE: "skill"},
    description="Ask a settled day's challengers, and score every candidate in euros.",
)

replay_days = dg.define_asset_job(
    "replay_days",
    selection=[replay.replayed_plan],
    tags={LANE: "replay"},
    description="Plan past days again on what was known then; backfill it. Nothing is sent.",
)

ALL: list[Any] = [  # the type of an asset job is private to Dagster
    register_fleet,
    day_ahead,
    re_plan,
    push_interval,
    recheck_interval,
    verify_power,
    dispatch_group,
    cancelling.cancel_order,
    show_orders,
    collect_prices,
    collect_dropped_prices,
    compact,
    settle,
    judge_forecasts,
    replay_days,
]
