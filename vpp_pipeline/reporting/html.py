"""The day's report: one self-contained HTML page that opens without a network.

Belongs here: filling the template. Does not: any figure (they come in frames), drawing
(`pictures`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl
from jinja2 import Environment
from markupsafe import Markup

from vpp_pipeline.reporting import pictures

if TYPE_CHECKING:
    from datetime import date, datetime

_LONG = 40
"""Letters; a text beyond them is broken into lines."""


@dataclass(frozen=True)
class Day:
    """Everything the report shows of one delivery day.

    `costs`: (basis, energy_eur … total_eur); `errors`: one row of `delivery_errors`; `plans`:
    rows of `plans`; `commands`: (state, commands); `unverified`: (device_id, interval_start,
    state, detail); `schedule`: (device_type, interval_start, power_kw); `prices`:
    (interval_start, price_eur_per_mwh); `delivery`: rows of `delivery`; `stored_planned` and
    `stored_measured`: (interval_start, energy_kwh); `regret`: one row of that table; `churn`:
    (revision, cause_kind, cause, moved_kwh, devices, devices_moved, share_moved);
    `forecast_errors`: rows of that table, aggregated by target.
    """

    delivery_day: date
    market: str
    timezone: str
    made_at: datetime
    devices: int
    costs: pl.DataFrame
    errors: pl.DataFrame
    plans: pl.DataFrame
    commands: pl.DataFrame
    unverified: pl.DataFrame
    schedule: pl.DataFrame
    prices: pl.DataFrame
    delivery: pl.DataFrame
    stored_planned: pl.DataFrame
    stored_measured: pl.DataFrame
    regret: pl.DataFrame
    churn: pl.DataFrame
    forecast_errors: pl.DataFrame


def render(day: Day) -> str:
    """Return the report as one HTML document with its pictures inside."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["table"] = partial(_table, timezone=day.timezone)
    template = environment.from_string(
        files("vpp_pipeline.reporting").joinpath("day.html.j2").read_text(encoding="utf-8")
    )
    totals = dict(day.costs.select("basis", "total_eur").iter_rows())
    return template.render(
        day=day,
        made_at=day.made_at.astimezone(ZoneInfo(day.timezone)),
        totals=totals,
        error=day.errors.row(0, named=True),
        regret=day.regret.row(0, named=True),
        pictures={
            "costs": _inline(
                pictures.costs({name.replace("_", " "): total for name, total in totals.items()})
            ),
            "regret": _inline(pictures.regret(day.regret)),
            **({"churn": _inline(pictures.churn(day.churn))} if day.churn.height else {}),
            "plan": _inline(pictures.prices_and_plan(day.schedule, day.prices, day.timezone)),
            "stored": _inline(
                pictures.stored_energy(day.stored_planned, day.stored_measured, day.timezone)
            ),
            "delivered": _inline(pictures.delivered(day.delivery, day.timezone)),
        },
    )


def _inline(svg: bytes) -> Markup:
    text = svg.decode()
    return Markup(text[text.index("<svg") :])  # noqa: S704 - drawn by ourselves from numbers


def _table(frame: pl.DataFrame, timezone: str) -> Markup:
    local = pl.selectors.datetime().dt.convert_time_zone(timezone)
    shown = frame.with_columns(pl.selectors.float().round(3), local.dt.strftime("%Y-%m-%d %H:%M"))
    head = Markup("").join(Markup("<th>{}</th>").format(_words(name)) for name in shown.columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(_cell(cell) for cell in row))
        for row in shown.iter_rows()
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body)


def _cell(value: object) -> Markup:
    if isinstance(value, str) and len(value) > _LONG:
        return Markup('<td class="words">{}</td>').format(value)
    return Markup("<td>{}</td>").format("" if value is None else value)


def _words(name: str) -> str:
    return name.replace("_eur_per_mwh", " (EUR/MWh)").replace("_eur", " (EUR)").replace("_", " ")
