"""When vehicles will come and go, and what they will ask for.

Belongs here: the sessions expected of each charger, and how the one that has begun will end. Does
not: the sessions that were (`stays`), what is learned from them (`stay_model`), what a vehicle
that is there now can do (`flexibility`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.forecasting.rows import QUANTILES, ended_by, of_each_instant
from vpp_pipeline.forecasting.schemas import SessionForecasts
from vpp_pipeline.forecasting.stay_model import still_there
from vpp_pipeline.forecasting.stays import asked_kwh, past_sessions, words_and_outcomes

if TYPE_CHECKING:
    from datetime import date, datetime

    import dataframely as dy

    from vpp_pipeline.forecasting.stay_model import StayModel

_ENOUGH_DAYS = 3
_ENOUGH_FOR_TENTHS = 9
"""The least and the greatest of fewer are no p10 and p90 of the next one."""
_LEAST_PROBABILITY = 0.05
_SATURDAY = 6
WEEKEND = pl.col("day").dt.weekday() >= _SATURDAY
"""By `day`: workdays are alike, and so are the days of a weekend."""
WEEKDAY = pl.col("day").dt.weekday()
"""By `day`: Mondays are like Mondays alone."""
_TYPICAL = {
    "probability": 0.5,
    "arrival_p10": 16 * 60.0,
    "arrival_p50": 18 * 60.0,
    "arrival_p90": 21 * 60.0,
    "departure_p10": 30 * 60.0,
    "departure_p50": 31 * 60.0,
    "departure_p90": 33 * 60.0,
    "energy_p10_kwh": 4.0,
    "energy_p50_kwh": 10.0,
    "energy_p90_kwh": 25.0,
}
"""An evening at home, for a plant that has never seen a vehicle; minutes from midnight, kWh."""
_INSTANTS = [f"{event}_{name}" for event in ("arrival", "departure") for name in QUANTILES]
_ENERGIES = [f"energy_{name}_kwh" for name in QUANTILES]


def session_forecast(  # noqa: PLR0917 - what is known, what is asked, and when
    telemetry: pl.DataFrame,
    start: datetime,
    end: datetime,
    timezone: str,
    known_at: datetime,
    learned: StayModel | None = None,
    *,
    day_type: pl.Expr = WEEKEND,
) -> dy.DataFrame[SessionForecasts]:
    """Forecast the sessions, under way at `known_at` or still to come, that touch [start, end).

    `telemetry` holds the chargers' quarter-hours: `device_id`, `interval_start`, `power_kw`,
    `plugged_in`, `energy_kwh`, `target_energy_kwh`, `deadline`. The nth session of a day is
    expected as the nth ones of the days of its `day_type` were, in the last four weeks and by local
    clock time: `probability` is the share of days that had one (`own-days`). A charger with fewer
    than three days of the type answers as the whole fleet does (`fleet`), a fleet without a session
    as a typical household (`typical`). Sessions of one charger never overlap: what the present
    vehicle leaves no room for, by its deadline or by what is learned, or a session expected before,
    is dropped.

    A session under way has its arrival before `known_at`; its energy is what is still to be
    charged. It ends as the plant's sessions have taught (`learned`); where they were too few to
    (None), as the vehicle said (`stated`); where it said nothing either, it has no row.
    """
    chargers = telemetry.select(pl.col("device_id").unique().sort())
    known = ended_by(telemetry, known_at)
    here = _days_told(known, timezone).with_columns(day_type=day_type)
    zone = ZoneInfo(timezone)
    today = known_at.astimezone(zone).date()
    past = _local_day(past_sessions(known), "arrival", timezone, day_type).with_columns(
        pl.col("arrival", "departure")
        .dt.convert_time_zone(timezone)
        .dt.replace_time_zone(None)
        .name.suffix("_local"),
        nth=pl.col("arrival").rank("ordinal").over("device_id", "day").cast(pl.Int64),
    )
    came_today = past.filter(pl.col("day") == today).group_by("device_id").agg(came=pl.len())
    begun = _begun(words_and_outcomes(past), known_at, learned)
    there = (
        past.filter("ongoing")
        .join(begun, on="device_id", how="left")
        .select("device_id", there_until=pl.max_horizontal("deadline", "departure_p50"))
    )

    first_day = max(start.astimezone(zone).date() - timedelta(days=1), today)
    days = (
        pl.date_range(first_day, end.astimezone(zone).date(), eager=True)
        .alias("day")
        .to_frame()
        .with_columns(day_type=day_type)
    )
    expected = (
        _habits(chargers.join(days.select("day_type").unique(), how="cross"), here, past, today)
        .join(days, on="day_type")
        .join(came_today, on="device_id", how="left")
        .join(there, on="device_id", how="left")
        .filter((pl.col("day") > today) | (pl.col("nth") > pl.col("came").fill_null(0)))
        .with_columns(_instant(pl.col("day"), pl.col(name), timezone) for name in _INSTANTS)
        .filter(pl.col("arrival_p90") >= known_at)
        .with_columns(pl.col(f"arrival_{q}").clip(lower_bound=known_at) for q in QUANTILES)
        .with_columns(
            pl.max_horizontal(f"departure_{q}", pl.col(f"arrival_{q}") + STEP).alias(
                f"departure_{q}"
            )
            for q in QUANTILES
        )
        .filter(~(pl.col("arrival_p50") < pl.col("there_until")).fill_null(value=False))
        .sort("device_id", "arrival_p50", "nth")
    )
    ahead_until = pl.col("departure_p50").cum_max().shift(1).over("device_id")
    to_come = expected.filter((pl.col("arrival_p50") >= ahead_until).fill_null(value=True))
    answers = (
        pl.concat([begun, to_come], how="diagonal_relaxed")
        .filter(pl.col("departure_p50") > start, pl.col("arrival_p50") < end)
        .with_columns(known_at=pl.lit(known_at))
    )
    return SessionForecasts.validate(
        answers.select(SessionForecasts.column_names()).sort("device_id", "arrival_p50"), cast=True
    )


def day_forecast(
    chargers: pl.Series, start: datetime, end: datetime, known_at: datetime
) -> dy.DataFrame[SessionForecasts]:
    """Return a row a charger of probability 0: that [start, end) was forecast at `known_at`.

    Kept beside that forecast's sessions, it ends what was expected before, of a charger where
    nobody is expected any more too.
    """
    return SessionForecasts.validate(
        chargers.alias("device_id")
        .to_frame()
        .with_columns(
            *(pl.lit(start).alias(f"arrival_{q}") for q in QUANTILES),
            *(pl.lit(end).alias(f"departure_{q}") for q in QUANTILES),
            *(pl.lit(0.0).alias(name) for name in _ENERGIES),
            probability=pl.lit(0.0),
            model=pl.lit("day"),
            known_at=pl.lit(known_at),
        )
        .select(SessionForecasts.column_names()),
        cast=True,
    )


def _begun(sessions: pl.DataFrame, known_at: datetime, learned: StayModel | None) -> pl.DataFrame:
    """Return how the sessions under way will end: `SessionForecasts` without `known_at`."""
    ended, under_way = sessions.filter(~pl.col("ongoing")), sessions.filter("ongoing")
    if learned is None:
        words = under_way.filter(pl.col("stated_departure") > known_at)
        left_kwh = (pl.col("stated_kwh") - pl.col("charged_kwh").fill_null(0.0)).fill_null(0.0)
        return words.select(
            "device_id",
            *(pl.col("arrival").alias(f"arrival_{q}") for q in QUANTILES),
            *(pl.col("stated_departure").alias(f"departure_{q}") for q in QUANTILES),
            *(left_kwh.clip(lower_bound=0.0).alias(f"energy_{q}_kwh") for q in QUANTILES),
            probability=pl.lit(1.0),
            model=pl.lit("stated"),
        )
    said = learned.quantiles(ended, under_way)
    stays = still_there(said.with_columns(under_way["arrival"]), known_at)
    charged_by_now = pl.col("charged_kwh").fill_null(0.0)
    return (
        under_way.hstack(stays.drop("arrival"))
        .hstack(said.select(pl.col("^charged_kwh_.*$").name.map(lambda name: f"in_all_{name}")))
        .select(
            "device_id",
            *(pl.col("arrival").alias(f"arrival_{q}") for q in QUANTILES),
            *(
                pl.max_horizontal(
                    pl.col("arrival") + pl.duration(seconds=pl.col(f"stay_h_{q}") * 3600),
                    pl.lit(known_at + STEP),
                ).alias(f"departure_{q}")
                for q in QUANTILES
            ),
            *(
                (pl.col(f"in_all_charged_kwh_{q}") - charged_by_now)
                .clip(lower_bound=0.0)
                .alias(f"energy_{q}_kwh")
                for q in QUANTILES
            ),
            probability=pl.lit(1.0),
            model=pl.lit("learned"),
        )
    )


def _habits(
    asked: pl.DataFrame, here: pl.DataFrame, past: pl.DataFrame, today: date
) -> pl.DataFrame:
    """Return each charger's nth session of a day type: its probability and its quantiles.

    `asked` holds `device_id`, `day_type`.
    """
    before = past.filter(pl.col("day") < today)
    days = (
        here.filter(pl.col("day") < today)
        .group_by("device_id", "day_type")
        .agg(days=pl.col("day").n_unique())
    )
    fleet_days = days.group_by("day_type").agg(pl.col("days").sum())
    own = _shares(before, days, ["device_id", "day_type"])
    fleet = _shares(before, fleet_days, ["day_type"])
    typical = pl.DataFrame({"nth": [1], **{name: [value] for name, value in _TYPICAL.items()}})

    kinds = asked.join(days, on=["device_id", "day_type"], how="left").join(
        fleet_days, on="day_type", how="left", suffix="_fleet"
    )
    knows_itself = pl.col("days").fill_null(0) >= _ENOUGH_DAYS
    knows_fleet = ~knows_itself & (pl.col("days_fleet").fill_null(0) >= _ENOUGH_DAYS)
    columns = ["device_id", "day_type", "nth", "probability", *_INSTANTS, *_ENERGIES, "model"]
    return pl.concat(
        [
            kinds.filter(knows_itself)
            .join(own, on=["device_id", "day_type"])
            .join(fleet, on=["day_type", "nth"], how="left", suffix="_of_fleet")
            .with_columns(*_widened(), model=pl.lit("own-days"))
            .select(columns),
            kinds.filter(knows_fleet)
            .join(fleet, on="day_type")
            .with_columns(model=pl.lit("fleet"))
            .select(columns),
            kinds.filter(~knows_itself & ~knows_fleet)
            .join(typical.with_columns(pl.col("nth").cast(pl.Int64)), how="cross")
            .with_columns(model=pl.lit("typical"))
            .select(columns),
        ]
    ).filter(pl.col("probability") >= _LEAST_PROBABILITY)


def _shares(before: pl.DataFrame, days: pl.DataFrame, alike: list[str]) -> pl.DataFrame:
    midnight = pl.col("day").cast(pl.Datetime("us"))
    values = {
        "arrival_{}": (pl.col("arrival_local") - midnight).dt.total_minutes().cast(pl.Float64),
        "departure_{}": (pl.col("departure_local") - midnight).dt.total_minutes().cast(pl.Float64),
        "energy_{}_kwh": asked_kwh(),
    }
    return (
        before.group_by(*alike, "nth")
        .agg(
            pl.len().alias("sessions"),
            *(
                _next_quantile(value.drop_nulls(), q).alias(name.format(p))
                for name, value in values.items()
                for p, q in QUANTILES.items()
            ),
        )
        .join(days, on=alike)
        .with_columns(
            (pl.col("sessions") / pl.col("days")).clip(upper_bound=1.0).alias("probability"),
            *(pl.col(name).fill_null(_TYPICAL[name]) for name in _ENERGIES),
        )
    )


def _widened() -> list[pl.Expr]:
    """Return own outer quantiles, out to the fleet's where own sessions are too few to tell them."""
    few = pl.col("sessions") < _ENOUGH_FOR_TENTHS
    outer = {"p10": pl.min_horizontal, "p90": pl.max_horizontal}
    return [
        pl.when(few).then(outermost(name, f"{name}_of_fleet")).otherwise(name).alias(name)
        for quantile, outermost in outer.items()
        for name in (f"arrival_{quantile}", f"departure_{quantile}", f"energy_{quantile}_kwh")
    ]


def _next_quantile(values: pl.Expr, q: float) -> pl.Expr:
    """Return below what the next value lies with probability `q`, if it is like those before.

    Of n values it is as likely in any of the n + 1 gaps around them (split conformal prediction),
    so the quantile is the (n + 1)q-th of them, between two as far as there are such.
    """
    ordered, count = values.sort(), values.len().cast(pl.Int64)
    place = ((count + 1) * q - 1).clip(0, count - 1)
    below = place.floor().cast(pl.Int64)
    low, high = (ordered.get(at, null_on_oob=True) for at in (below, place.ceil().cast(pl.Int64)))
    return low + (place - below) * (high - low)


def _days_told(known: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """Return `device_id` and the local `day` of quarter-hours, each day once if they are in order."""
    days = of_each_instant(
        known["interval_start"], lambda starts: starts.dt.convert_time_zone(timezone).dt.date()
    )
    device, day = pl.col("device_id"), pl.col("day")
    another = (device != device.shift()) | (day != day.shift())
    return known.select("device_id", day=days).filter(another.fill_null(value=True))


def _local_day(rows: pl.DataFrame, instant: str, timezone: str, day_type: pl.Expr) -> pl.DataFrame:
    local = pl.col(instant).dt.convert_time_zone(timezone)
    return rows.with_columns(day=local.dt.date()).with_columns(day_type=day_type)


def _instant(day: pl.Expr, minutes: pl.Expr, timezone: str) -> pl.Expr:
    """Return the UTC instant of a wall-clock time; one the clocks skip is an hour later."""
    wall = day.cast(pl.Datetime("us")) + pl.duration(minutes=minutes.round().cast(pl.Int64))

    def utc(clock: pl.Expr) -> pl.Expr:
        placed = clock.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
        return placed.dt.convert_time_zone("UTC")

    later = utc(wall + pl.duration(hours=1))
    return pl.coalesce(utc(wall), later).alias(minutes.meta.output_name())
