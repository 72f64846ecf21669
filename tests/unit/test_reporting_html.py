"""The day's report: whole, self-contained, and safe whatever the data say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from importlib.resources import files

import polars as pl
import pytest

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.reporting import html, pictures

DAY, TZ = date(2020, 10, 25), "Europe/Berlin"
QUARTER_HOURS = day_intervals(DAY, TZ)
UNKIND = "<script>alert('x')</script> & \"more\""
VOID = {"meta", "link", "img", "br", "hr", "input", "base", "source", "col"}
LOADING = {"src", "srcset", "poster", "data", "action", "background", "formaction", "ping"}


class Page(HTMLParser):
    """What of a page matters here: its tags, tables, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.tables, self.headings, self.styles = [], [], [], [], []
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        for name, value in attrs:
            if name in LOADING or (name in {"href", "xlink:href"}):
                self.loads.append(value)
            if name == "style":
                self.styles.append(value)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        if not self._open:
            return
        if self._open[-1] in {"td", "th"}:
            self.tables[-1][-1][-1] += text
        if self._open[-1] in {"h1", "h2", "h3"}:
            self.headings.append(text)
        if self._open[-1] == "style":
            self.styles.append(text)


def power(**columns):
    return pl.DataFrame({"interval_start": QUARTER_HOURS}).with_columns(**columns)


@pytest.fixture(scope="module")
def day():
    return html.Day(
        delivery_day=DAY,
        market="DE-LU",
        timezone=TZ,
        made_at=datetime(2020, 10, 26, 0, 31, tzinfo=UTC),
        devices=7,
        costs=pl.DataFrame(
            {
                "basis": ["unmanaged", "managed", "perfect_foresight"],
                "energy_eur": [10.0, 5.0, 4.0],
                "total_eur": [12.5, 7.25, 6.125],
            }
        ),
        errors=pl.DataFrame({"net_error": [0.0123], "excluded_intervals": [3]}),
        plans=pl.DataFrame(
            {
                "revision": [0],
                "cause": [UNKIND],
                "as_of": [datetime(2020, 10, 24, 9, tzinfo=UTC)],
                "gap": [None],
            },
            schema_overrides={"as_of": pl.Datetime("us", "UTC"), "gap": pl.Float64},
        ),
        commands=pl.DataFrame({"state": ["VERIFIED", "REJECTED"], "commands": [475, 5]}),
        unverified=pl.DataFrame(
            {
                "device_id": [UNKIND],
                "interval_start": [QUARTER_HOURS[0]],
                "state": ["REJECTED"],
                "detail": [UNKIND],
            }
        ),
        schedule=pl.concat(
            [
                power(device_type=pl.lit("battery"), power_kw=pl.lit(-2.0)),
                power(device_type=pl.lit("pv"), power_kw=pl.lit(3.0)),
            ]
        ),
        prices=power(price_eur_per_mwh=pl.lit(40.0)),
        delivery=power(day_ahead_kw=pl.lit(1.0), planned_kw=pl.lit(1.0), measured_kw=pl.lit(1.0)),
        stored_planned=power(energy_kwh=pl.lit(5.0)),
        stored_measured=power(energy_kwh=pl.lit(5.0)),
        regret=pl.DataFrame(
            {
                "unmanaged_eur": [12.5],
                "perfect_foresight_eur": [6.125],
                "as_planned_eur": [7.0],
                "managed_eur": [7.25],
                "solver_eur": [0.125],
                "forecast_eur": [0.75],
                "execution_eur": [0.25],
                "unproven_quarter_hours": [0],
            }
        ),
        churn=pl.DataFrame(
            {
                "revision": [1],
                "cause_kind": ["outage"],
                "cause": [UNKIND],
                "moved_kwh": [31.5],
                "devices": [5],
                "devices_moved": [4],
                "share_moved": [0.8],
            }
        ),
        forecast_errors=pl.DataFrame({"target": ["load"], "model": ["similar-day"], "mae": [0.5]}),
    )


@pytest.fixture(scope="module")
def text(day):
    return html.render(day)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_report_loads_nothing_from_a_network(page):
    assert [load for load in page.loads if not load.startswith("#")] == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not any("@import" in style or "url(http" in style for style in page.styles)


def test_the_report_shows_one_picture_each_and_every_table(page):
    assert page.tags.count("svg") == 6
    assert [table[0][0] for table in page.tables] == [
        "basis",
        "state",
        "device id",
        "revision",
        "revision",
        "target",
    ]
    for heading in ("Prices and plan", "Stored energy", "Planned against delivered", "Commands"):
        assert heading in page.headings


def test_the_report_tells_the_days_figures(text):
    for figure in ("7.25 EUR", "12.50 EUR", "6.12 EUR", "1.23 %", "3 device-quarter-hours"):
        assert figure in text


def test_text_from_data_is_shown_as_it_is_and_never_as_markup(page, text):
    assert UNKIND not in text
    _, _, unverified, plans, churn, _ = page.tables
    assert unverified[1] == [UNKIND, "2020-10-25 00:00", "REJECTED", UNKIND]
    assert plans[1] == ["0", UNKIND, "2020-10-24 11:00", ""]
    assert churn[1] == ["1", "outage", UNKIND, "31.5", "5", "4", "0.8"]


def test_where_every_command_was_verified_no_table_of_others_is_shown(day):
    page = Page(html.render(replace(day, unverified=day.unverified.clear())))
    assert len(page.tables) == 5
    assert "Not verified, and why" not in page.headings


def test_the_report_tells_where_money_was_lost(text):
    for loss in ("0.12 EUR", "0.75 EUR", "0.25 EUR"):
        assert loss in text
    assert "without a proven bound" not in text


def test_the_report_tells_of_plans_whose_solver_loss_is_unknown(day):
    unproven = day.regret.with_columns(unproven_quarter_hours=pl.lit(7))
    page = html.render(replace(day, regret=unproven))
    assert "In 7 quarter-hours a plan without a proven bound was in force" in page


def test_a_day_that_was_planned_once_shows_no_churn(day):
    page = html.render(replace(day, churn=day.churn.clear()))
    assert "The day was not planned again." in page
    assert Page(page).tags.count("svg") == 5


def test_the_same_day_makes_the_same_page(day, text):
    assert html.render(day) == text


def test_a_day_on_which_nothing_was_stored_still_has_its_pictures(day):
    bare = replace(
        day, stored_planned=day.stored_planned.clear(), stored_measured=day.stored_measured.clear()
    )
    assert Page(html.render(bare)).tags.count("svg") == 6


@pytest.mark.parametrize("form", ["svg", "png"])
def test_a_picture_comes_in_the_form_that_was_asked_for(day, form):
    drawn = pictures.prices_and_plan(day.schedule, day.prices, TZ, form)
    assert drawn.startswith(b"\x89PNG") if form == "png" else b"<svg" in drawn


def test_the_sources_of_the_data_are_named(text):
    assert "SMARD.de, CC BY 4.0" in text
    assert files("vpp_pipeline.markets").joinpath("recorded", "SOURCES.md").is_file()
