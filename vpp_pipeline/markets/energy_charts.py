"""Day-ahead prices from Energy-Charts (Fraunhofer ISE), `GET /price?bzn=…&start=…&end=…`.

Belongs here: asking for them and reading the answer. Does not: what all feeds share (`feeds`).

The answer has `unix_seconds` (interval starts), `price` and `unit`. Delivery days up to
2025-09-30 are hourly, later ones quarter-hourly (single day-ahead coupling).
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import requests

from vpp_pipeline.markets.feeds import FeedError, FeedResult, Rule, judge
from vpp_pipeline.markets.web import LATER, ask, json_of

if TYPE_CHECKING:
    from vpp_pipeline.markets.schemas import Prices

MARKET_TIMEZONE = "Europe/Berlin"  # the coupled auction's delivery day, in all its bidding zones

_NAME = "energy_charts"
_LATEST_UNIX_S = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())


def fetch_day_ahead(  # noqa: PLR0917 - one question, asked in the order of its parts
    session: requests.Session,
    base_url: str,
    bidding_zone: str,
    start: date,
    end: date,
    known_at: datetime,
    timeout_s: float = 20.0,
) -> FeedResult[Prices]:
    """Return the day-ahead prices of the delivery days from `start` to `end`, both included.

    A day that is not published yet gives no rows. The session is kept from following redirects
    and from taking proxies or credentials out of the environment. `timeout_s` limits connecting
    and each wait for data. Raises FeedError if there is no usable answer, ValueError for a range
    that ends before it starts.
    """
    if end < start:
        raise ValueError(f"the range ends on {end}, before it starts on {start}")
    url = f"{base_url.rstrip('/')}/price"
    asked = {"bzn": bidding_zone, "start": start.isoformat(), "end": end.isoformat()}
    source = f"{url}?bzn={bidding_zone}&start={start}&end={end}"
    response = ask(session, url, asked, timeout_s, source, _remedy)
    candidates = _candidates(_answer(response, source), bidding_zone)
    return judge(candidates, _own_rules(), source, known_at, _NAME)


def _remedy(response: requests.Response) -> str:
    if response.is_redirect:
        return f"set the address it moved to: {response.headers['location']}"
    if response.status_code == requests.codes.not_found:
        return "check the bidding zone, or try again once the day is published"
    if requests.codes.bad_request <= response.status_code < requests.codes.too_many_requests:
        return "check the bidding zone and the dates"
    return LATER


def _answer(response: requests.Response, source: str) -> dict[str, list[Any]]:
    """Return the answer's two lists; raises FeedError if it isn't what Energy-Charts writes."""
    remedy = "check that the address is the Energy-Charts API; its format may have changed"
    answer = json_of(response, source, remedy)
    if not isinstance(answer, dict):
        raise FeedError(source, "answered with JSON that is no object", remedy)
    stamps, prices, unit = (answer.get(key) for key in ("unix_seconds", "price", "unit"))
    if not isinstance(stamps, list) or not isinstance(prices, list):
        raise FeedError(source, "answered without the lists unix_seconds and price", remedy)
    if len(stamps) != len(prices):
        reason = f"gave {len(stamps)} times but {len(prices)} prices"
        raise FeedError(source, reason, LATER)
    if stamps and str(unit).replace(" ", "") != "EUR/MWh":
        reason = f"gave prices in {unit!r}, not in EUR / MWh"
        raise FeedError(source, reason, "choose a bidding zone that is priced in EUR")
    return {"unix_seconds": stamps, "price": prices}


def _candidates(answer: dict[str, list[Any]], bidding_zone: str) -> pl.DataFrame:
    texts = {name: [json.dumps(value) for value in values] for name, values in answer.items()}
    stamp = pl.col("unix_seconds").cast(pl.Int64, strict=False)
    frame = pl.DataFrame(texts, schema={"unix_seconds": pl.String, "price": pl.String})
    return (
        frame.with_row_index("row_number", offset=1)
        .select(
            pl.col("row_number").cast(pl.Int64),
            row_json=pl.concat_str(
                pl.lit('{"unix_seconds": '),
                "unix_seconds",
                pl.lit(', "price": '),
                "price",
                pl.lit("}"),
            ),
            market=pl.lit(bidding_zone),
            start=pl.from_epoch(pl.when(stamp.is_between(0, _LATEST_UNIX_S)).then(stamp))
            .cast(pl.Datetime("us"))
            .dt.replace_time_zone("UTC"),
            start_text=pl.col("unix_seconds"),
            price_eur_per_mwh=pl.col("price").cast(pl.Float64, strict=False),
            price_text=pl.col("price").replace("null", None),
        )
        .with_columns(resolution_minutes=_resolution_minutes())
    )


def _resolution_minutes() -> pl.Expr:
    """Return the resolution of a row's delivery day: the finest that its starts tell of."""
    day = pl.col("start").dt.convert_time_zone(MARKET_TIMEZONE).dt.date()
    minute = pl.col("start").dt.minute()
    finest = (
        pl.when(minute.is_in([15, 45])).then(15).when(minute == 30).then(30).otherwise(60)  # noqa: PLR2004 - minutes of the hour
    )
    return finest.min().over(day).cast(pl.Int64)


def _own_rules() -> list[Rule]:
    return [
        Rule(
            pl.col("start").is_null(),
            "unix_seconds",
            pl.col("start_text"),
            "is no time",
            "give whole seconds since 1970, in UTC",
        )
    ]
