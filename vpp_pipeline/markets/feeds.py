"""What every feed about a market gives: good rows, refused rows with why, or an error with a remedy.

Belongs here: the result, the error, and the judgement that all feeds share. Does not: any one
source's format (`energy_charts`, `price_file`, `forecast_file`), asking for it (`web`), storing (`warehouse`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, TypeVar

import dataframely as dy
import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.markets.schemas import MarketForecasts, Prices

if TYPE_CHECKING:
    from collections.abc import Sequence

CANDIDATES = {
    "row_number": pl.Int64(),
    "row_json": pl.String(),
    "market": pl.String(),
    "start": pl.Datetime("us", "UTC"),
    "start_text": pl.String(),
    "price_eur_per_mwh": pl.Float64(),
    "price_text": pl.String(),
    "resolution_minutes": pl.Int64(),
}
RESOLUTIONS_MINUTES = (15, 30, 60)

_LOWEST, _HIGHEST = -5000.0, 20000.0
_STEP_MINUTES = int(STEP.total_seconds()) // 60


class RejectedRows(dy.Schema):
    """One row a refused row of a source: what was wrong first, and the row as it came."""

    row_number = dy.Int64(primary_key=True, min=1)
    field = dy.String()
    value = dy.String(nullable=True)
    reason = dy.String()
    remedy = dy.String()
    row_json = dy.String()


Told = TypeVar("Told", Prices, MarketForecasts)


@dataclass(frozen=True)
class FeedResult(Generic[Told]):
    """What a source gave: quarter-hours of what it tells, and the rows of it that were refused."""

    rows: dy.DataFrame[Told]
    rejected: dy.DataFrame[RejectedRows]
    source: str
    fetched_at: datetime


class FeedError(RuntimeError):
    """A source that gave nothing usable; `remedy` says what to do."""

    def __init__(self, source: str, reason: str, remedy: str) -> None:
        self.source, self.reason, self.remedy = source, reason, remedy
        super().__init__(f"{source}: {reason}; {remedy}")


@dataclass(frozen=True)
class Rule:
    """Something that refuses a row: `broken` (null: no), with the field and value to show."""

    broken: pl.Expr
    field: str
    value: pl.Expr
    reason: str
    remedy: str


def sift(
    candidates: pl.DataFrame, rules: list[Rule]
) -> tuple[pl.DataFrame, dy.DataFrame[RejectedRows]]:
    """Split rows into those that keep all rules and those refused by the first they break.

    `candidates` has `row_number`, `row_json` and what the rules look at.
    """
    verdict = pl.coalesce(
        *(pl.when(rule.broken.fill_null(value=False)).then(i) for i, rule in enumerate(rules)),
        pl.lit(None, dtype=pl.Int32),
    )
    judged = candidates.with_columns(broken_rule=verdict)
    refused = judged.filter(pl.col("broken_rule").is_not_null())
    told = [
        refused.filter(pl.col("broken_rule") == i).select(
            "row_number",
            "row_json",
            field=pl.lit(rule.field),
            value=rule.value.cast(pl.String),
            reason=pl.lit(rule.reason),
            remedy=pl.lit(rule.remedy),
        )
        for i, rule in enumerate(rules)
    ]
    good = judged.filter(pl.col("broken_rule").is_null()).drop("broken_rule")
    return good, RejectedRows.validate(pl.concat(told).sort("row_number"), cast=True)


def judge(
    candidates: pl.DataFrame, own_rules: list[Rule], source: str, known_at: datetime, name: str
) -> FeedResult[Prices]:
    """Return a source's rows (`CANDIDATES`) as a result: good or refused, none lost.

    `own_rules` are the format's own and come first. `source` is where the rows came from and
    `name` what the prices keep of it. A price stands on each quarter-hour of its interval. Of
    rows that say the same of a quarter-hour the first is kept; rows that contradict each other
    are all refused. Raises ValueError for a naive `known_at`.
    """
    if known_at.tzinfo is None:
        raise ValueError(f"known_at {known_at} has no time zone; pass an aware instant")
    sound, malformed = sift(candidates, [*own_rules, off_boundary(), *_price_rules()])
    single, repeated = without_overlaps(sound, ("price_eur_per_mwh",), pl.col("price_text"))
    known = pl.lit(known_at.astimezone(UTC), dtype=pl.Datetime("us", "UTC"))
    rows = on_quarter_hours(single).select(
        "market",
        "interval_start",
        "price_eur_per_mwh",
        "resolution_minutes",
        source=pl.lit(name),
        known_at=known,
    )
    rejected = pl.concat([malformed, repeated]).sort("row_number")
    return FeedResult(
        rows=Prices.validate(rows.sort("market", "interval_start"), cast=True),
        rejected=RejectedRows.validate(rejected),
        source=source,
        fetched_at=known_at.astimezone(UTC),
    )


def gaps(rows: dy.DataFrame[Prices]) -> pl.DataFrame:
    """Return the quarter-hours without a price between each market's first and last.

    Columns `market` and `interval_start`.
    """
    every = rows.group_by("market").agg(
        interval_start=pl.datetime_range(
            pl.col("interval_start").min(), pl.col("interval_start").max(), STEP
        )
    )
    return (
        every.explode("interval_start")
        .join(rows, on=["market", "interval_start"], how="anti")
        .sort("market", "interval_start")
    )


def off_boundary() -> Rule:
    """Return the rule that an interval starts where its resolution lets it."""
    return Rule(
        pl.col("start").dt.epoch("us") % (pl.col("resolution_minutes") * 60_000_000) != 0,
        "start",
        pl.col("start_text"),
        "does not stand on a boundary of its resolution",
        "give the interval's start: :00, :15, :30 or :45, and :00 for hours",
    )


def _price_rules() -> list[Rule]:
    price = pl.col("price_eur_per_mwh")
    return [
        Rule(
            pl.col("price_text").is_null(),
            "price_eur_per_mwh",
            pl.lit(None, dtype=pl.String),
            "has no price",
            "fetch it again once it is published (day-ahead: about 13:00 market time)",
        ),
        Rule(
            price.is_null() | ~price.is_finite(),
            "price_eur_per_mwh",
            pl.col("price_text"),
            "is no finite number",
            "write a number with a point for its decimals",
        ),
        Rule(
            ~price.is_between(_LOWEST, _HIGHEST),
            "price_eur_per_mwh",
            pl.col("price_text"),
            f"is outside {_LOWEST:g} to {_HIGHEST:g} EUR/MWh",
            "check its unit and its decimal point",
        ),
    ]


def on_quarter_hours(rows: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each quarter-hour of a row's interval, with its `interval_start`."""
    steps = pl.int_ranges(0, pl.col("resolution_minutes") // _STEP_MINUTES)
    return (
        rows.with_columns(step=steps)
        .explode("step")
        .with_columns(interval_start=pl.col("start") + pl.col("step") * pl.lit(STEP))
    )


def without_overlaps(
    rows: pl.DataFrame, values: Sequence[str], shown: pl.Expr
) -> tuple[pl.DataFrame, dy.DataFrame[RejectedRows]]:
    """Split rows into the first for their quarter-hours and those refused.

    Rows whose `values` contradict each other are all refused, and of the first value `shown` is
    told; one that says the same as an earlier row is refused alone.
    """
    same = ["market", "interval_start"]
    overlaps = (
        on_quarter_hours(rows)
        .select(
            "row_number",
            answers=pl.struct(values).n_unique().over(same),
            first_row=pl.col("row_number").min().over(same),
        )
        .group_by("row_number")
        .agg(pl.col("answers").max(), pl.col("first_row").min())
    )
    told = values[0].partition("_")[0]
    rules = [
        Rule(
            pl.col("answers") > 1,
            values[0],
            shown,
            f"is not the only {told} given for its time",
            f"leave one {told} for each quarter-hour and market",
        ),
        Rule(
            pl.col("first_row") != pl.col("row_number"),
            "start",
            pl.col("start_text"),
            "repeats an earlier row",
            "give each quarter-hour of a market once",
        ),
    ]
    return sift(rows.join(overlaps, on="row_number", how="left", maintain_order="left"), rules)
