"""What the fleet as a whole is asked for, out of frames.

Belongs here: the terms a plan can be given, their checks, and the `Portfolio` they make. Does
not: their mathematics (`model`), devices (`build`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from vpp_pipeline.optimization.aligned import aligned
from vpp_pipeline.optimization.problem import ProblemError, no_portfolio
from vpp_pipeline.optimization.uncertainty import hedged

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Portfolio

_REMEDY = "give one finite value for every quarter-hour of the horizon"
_EUR_PER_MWH = 1000.0


@dataclass(frozen=True)
class PortfolioTerms:
    """What a plan is to do for the fleet as a whole; all of it is optional.

    `quarter_hours` has `interval_start` and any of `COLUMNS`, for every quarter-hour of the
    horizon (further rows are not read). What is not there is as it is for one who sells all
    power at the market.
    """

    quarter_hours: pl.DataFrame | None = None
    peak_eur_per_kw: float = 0.0
    peak_free_kw: float = 0.0
    reserve_sustain_h: float = 4.0
    reserve_symmetric: bool = False


COLUMNS = {
    "position_kw": "sold at the market; the rest is imbalance",
    "surplus_eur_per_mwh": "paid for what is beyond the position",
    "shortage_eur_per_mwh": "cost of what is missing",
    "event_min_kw": "the fleet's power is to be at least this; null without an event",
    "event_max_kw": "and at most this",
    "event_eur_per_mwh": "cost of what is not kept to",
    "reserve_up_eur_per_mwh": "paid for a MW held ready over an hour",
    "reserve_down_eur_per_mwh": "likewise",
    "reserve_block": "the number of the product a quarter-hour belongs to",
    "lower_by_kw": "the fleet's power may be so much lower than planned: its p50 less its p10",
    "higher_by_kw": "or so much higher: its p90 less its p50",
}
_NO_LIMIT = {"event_min_kw": -np.inf, "event_max_kw": np.inf}
_UNCERTAIN = ("lower_by_kw", "higher_by_kw")
_NOT_NEGATIVE = (
    "event_eur_per_mwh",
    "reserve_up_eur_per_mwh",
    "reserve_down_eur_per_mwh",
    *_UNCERTAIN,
)


def portfolio_of(
    terms: PortfolioTerms | None, intervals: pl.Series, price_eur_per_kwh: Floats
) -> Portfolio:
    """Return the portfolio over the horizon (T,).

    Raises `ProblemError` for what is missing, doubled, misaligned, not finite, or makes no sense.
    """
    market = no_portfolio(price_eur_per_kwh)
    if terms is None:
        return market
    _check_scalars(terms)
    market = replace(
        market,
        peak_eur_per_kw=terms.peak_eur_per_kw,
        peak_free_kw=terms.peak_free_kw,
        reserve_sustain_h=terms.reserve_sustain_h,
        reserve_symmetric=terms.reserve_symmetric,
    )
    if terms.quarter_hours is None:
        return market
    rows = aligned(_known(terms.quarter_hours), intervals, "portfolio", _REMEDY)
    given: dict[str, Any] = {}
    for column in COLUMNS:
        if column in rows.columns:
            per_kwh = column.replace("_per_mwh", "_per_kwh")
            given[per_kwh] = _values(rows, column) / (_EUR_PER_MWH if per_kwh != column else 1)
    if "reserve_block" in given:
        given["reserve_block"] = given["reserve_block"].astype(np.int64)
    elif "reserve_up_eur_per_kwh" in given or "reserve_down_eur_per_kwh" in given:
        raise ProblemError(
            "portfolio: there are reserve prices without reserve_block: number the product that "
            "each quarter-hour belongs to, such as 0 to 5 for a day's blocks of four hours"
        )
    nothing = np.zeros(len(intervals))
    lower_kw, higher_kw = (given.pop(name, nothing) for name in _UNCERTAIN)
    portfolio = replace(market, **given)
    _check_order(rows, "surplus_eur_per_mwh", "shortage_eur_per_mwh", portfolio)
    _check_order(rows, "event_min_kw", "event_max_kw", portfolio)
    _check_no_event(rows, (lower_kw + higher_kw > 0) & (portfolio.event_eur_per_kwh > 0))
    return hedged(portfolio, lower_kw, higher_kw)


def _check_scalars(terms: PortfolioTerms) -> None:
    for name in ("peak_eur_per_kw", "peak_free_kw", "reserve_sustain_h"):
        value = getattr(terms, name)
        if not (np.isfinite(value) and value >= 0):
            raise ProblemError(f"portfolio: {name} is {value}: give a finite number, 0 or more")


def _known(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows; raises `ProblemError` for a column that means nothing."""
    unknown = set(rows.columns) - set(COLUMNS) - {"interval_start"}
    if unknown:
        raise ProblemError(
            f"portfolio: there is no field {min(unknown)!r}: name it one of {', '.join(COLUMNS)}"
        )
    return rows


def _values(rows: pl.DataFrame, column: str) -> Floats:
    """Return a column's numbers; a limit of an event that is not there is infinite."""
    values = rows[column].cast(pl.Float64)
    if column in _NO_LIMIT:
        values = values.fill_null(_NO_LIMIT[column])
    numbers = values.fill_null(np.nan).to_numpy()
    allowed = np.isfinite(numbers) | (numbers == _NO_LIMIT.get(column, np.nan))
    if column in _NOT_NEGATIVE:
        allowed &= numbers >= 0
    if not allowed.all():
        at = rows.row(int(np.argmin(allowed)), named=True)
        limit = ", 0 or more" if column in _NOT_NEGATIVE else ""
        raise ProblemError(
            f"portfolio row {at['row']}: {column} is {at[column]} at interval_start "
            f"{at['interval_start']}: give a finite number{limit}"
        )
    return numbers


def _check_order(rows: pl.DataFrame, lower: str, upper: str, portfolio: Portfolio) -> None:
    low, high = (
        getattr(portfolio, name.replace("_per_mwh", "_per_kwh")) for name in (lower, upper)
    )
    wrong = np.flatnonzero(low > high)
    if len(wrong):
        at = rows.row(int(wrong[0]), named=True)
        raise ProblemError(
            f"portfolio row {at['row']}: {lower} is above {upper} at interval_start "
            f"{at['interval_start']}, {_told(at, lower)} against {_told(at, upper)}: give "
            f"{lower} no higher than {upper}"
        )


def _check_no_event(rows: pl.DataFrame, both: Bools) -> None:
    if both.any():
        at = rows.row(int(np.argmax(both)), named=True)
        raise ProblemError(
            f"portfolio row {at['row']}: there is an event at interval_start "
            f"{at['interval_start']} and lower_by_kw or higher_by_kw is not 0: give 0 there, an "
            "event is kept to as planned"
        )


def _told(row: dict[str, object], column: str) -> object:
    return row.get(column, "the market's price")
