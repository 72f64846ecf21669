"""Forecast skill in Dagster: champions and challengers of a day, scored in euros.

Belongs here: the assets that ask the challengers and score every candidate, and the check on the
champions. Does not: asking and scoring (`planning`), any measure (`forecasting`, `settlement`).
"""

from datetime import date, timedelta

import dagster as dg
import polars as pl

from vpp_pipeline.defs.forecasts import (
    ev_forecast,
    generation_forecast,
    load_forecast,
    price_forecast,
    temperature_forecast,
)
from vpp_pipeline.defs.metadata import column_schema, owners, picture, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.settlement import settlement
from vpp_pipeline.forecasting.champions import WINDOW_DAYS
from vpp_pipeline.forecasting.schemas import ChallengerForecasts, ForecastSkill
from vpp_pipeline.planning.candidates import CANDIDATES
from vpp_pipeline.planning.champions import challenges, election, session_challenges
from vpp_pipeline.planning.scoring import day_skill
from vpp_pipeline.reporting import pictures
from vpp_pipeline.runtime import Runtime

_FORECASTS = [
    load_forecast,
    generation_forecast,
    temperature_forecast,
    price_forecast,
    ev_forecast,
]


@dg.asset(
    group_name="forecasts",
    partitions_def=delivery_days,
    deps=_FORECASTS,
    kinds={"polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(ChallengerForecasts),
)
def challenger_forecasts(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """What the day's other candidates would have said when the champions spoke.

    Made after the day from what was known then, so that no plan waits for them, and kept apart:
    no plan reads them. What they would have said of vehicles stands in `challenger_sessions`.
    """
    day, now = delivery_day(context), runtime.clock.now()
    said, sessions = challenges(runtime, day, now), session_challenges(runtime, day, now)
    with runtime.warehouse.write() as connection:
        connection.append("challenger_forecasts", said)
        connection.append("challenger_sessions", sessions)
    columns = ["target", "forecaster", "model", "known_at"]
    both = pl.concat(
        [
            said.with_columns(pl.col("target").cast(pl.String)).select(columns),
            sessions.with_columns(target=pl.lit("sessions")).select(columns),
        ]
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": both.height,
            "challengers": table(
                both.group_by("target", "forecaster", "model")
                .agg(rows=pl.len(), known_at=pl.col("known_at").max())
                .sort("target", "forecaster", "model")
            ),
            "sessions": table(sessions),
        }
    )


@dg.asset(
    group_name="settlement",
    partitions_def=delivery_days,
    deps=[challenger_forecasts, settlement],
    kinds={"cvxpy", "polars", "duckdb"},
    owners=owners(),
    metadata=column_schema(ForecastSkill),
)
def forecast_skill(
    context: dg.AssetExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.MaterializeResult[None]:
    """How good each candidate's forecast of the day was, down to the euros that it lost.

    Euros lost: the day planned on that one forecast, all else foreseen, less the day with
    everything foreseen. Who lost the fewest in the last weeks answers from now on.
    """
    now = runtime.clock.now()
    day = delivery_day(context)
    scored = day_skill(runtime, day, now)
    with runtime.warehouse.write() as connection:
        connection.append("forecast_skill", scored)
    elected = pl.DataFrame(
        [(target, *vars(election(runtime, target, now)).values()) for target in CANDIDATES],
        ["target", "champion", "why", "days"],
        orient="row",
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": scored.height,
            "skill": table(scored, rows=50),
            "champions_from_now_on": table(elected),
            "picture": picture(
                pictures.forecast_skill(_lately(runtime, day), "png"), "forecast skill"
            ),
        }
    )


@dg.asset_check(asset=forecast_skill)
def champions_beat_the_naive_rule(
    context: dg.AssetCheckExecutionContext, runtime: dg.ResourceParam[Runtime]
) -> dg.AssetCheckResult:
    """Over the last weeks no champion's error was above that of yesterday's and last week's value.

    Until there is a model that does better, the rule itself would be the better forecast.
    """
    standing = (
        _lately(runtime, delivery_day(context))
        .filter("champion")
        .group_by("target")
        .agg(
            forecasters=pl.col("forecaster").unique().sort().str.join(", "),
            days=pl.len(),
            rmae=pl.col("rmae").mean(),
            euros_lost=pl.col("euros_lost").mean(),
        )
        .sort("target")
    )
    worse = standing.filter(pl.col("rmae") > 1.0)
    return dg.AssetCheckResult(
        passed=worse.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "worse_than_naive": worse["target"].to_list(),
            "champions": table(standing),
            "of_the_last_days": WINDOW_DAYS,
        },
    )


def _lately(runtime: Runtime, day: date) -> pl.DataFrame:
    since = day - timedelta(days=WINDOW_DAYS - 1)
    with runtime.warehouse.read() as connection:
        return connection.frame(
            "defs_skill_of_days", from_day=since, to_day=day, as_of=runtime.clock.now()
        )
