"""No plan sees a row from its future: not in a query, not in a table, not in what it decides."""

from __future__ import annotations

import re
from datetime import time, timedelta

import polars as pl
import pytest
from bitemporal_poison import (
    END,
    KNOWN_BY,
    LATER,
    PARTS_OF_A_PLAN,
    START,
    catalogue,
    poison,
)
from defs_plant import TODAY, TOMORROW, copied, failure_of, market_time, open_plant
from polars.testing import assert_frame_equal

from vpp_pipeline.planning import forecasts, inputs
from vpp_pipeline.planning.outlook import Expected, outlook_on
from vpp_pipeline.planning.plans import PlanInputs
from vpp_pipeline.settings import MARKET
from vpp_pipeline.warehouse import landing
from vpp_pipeline.warehouse.statements import MIGRATIONS

QUERIES = MIGRATIONS.parent / "queries"
NOW = market_time(TODAY, time(11))
NEXT_MORNING = START + timedelta(hours=9, minutes=3)
AFTER = LATER + timedelta(seconds=1)

LEDGER = "dispatch asks its own ledger of now, which only dispatch writes, in order"
NAMED = "reads what its caller names by a key that it was given as of a moment"
NUMBERS = "gives the next free number, so it has to see all that are taken"
PAST = "tells of a day that is over, to people or to its settlement; no plan reads it"
STORE = "tells the store of itself: what is loaded or applied"

NO_MOMENT = {
    "defs_command_counts": PAST,
    "defs_commands_of_day": PAST,
    "defs_day_ahead_forecasts": PAST,
    "defs_day_ahead_schedule": PAST,
    "defs_delivery": PAST,
    "defs_delivery_error": PAST,
    "defs_forecast_errors": PAST,
    "defs_known_orders": STORE,
    "defs_new_telemetry_flags": STORE,
    "defs_newest_release": LEDGER,
    "defs_next_plan": NUMBERS,
    "defs_plan_churn": PAST,
    "defs_plans_of_day": PAST,
    "defs_regret": PAST,
    "defs_released_plan": NAMED,
    "defs_schedule_at_start": PAST,
    "defs_schedule_before": NAMED,
    "defs_scored_forecasts": STORE,
    "defs_settlement": PAST,
    "defs_unverified_commands": PAST,
    "dispatch_append_events": LEDGER,
    "dispatch_claims": LEDGER,
    "dispatch_fleet_version": NAMED,
    "dispatch_history": PAST,
    "dispatch_known_commands": LEDGER,
    "dispatch_last_states": LEDGER,
    "dispatch_newest_commands": LEDGER,
    "dispatch_newest_over": LEDGER,
    "dispatch_next_version": NUMBERS,
    "dispatch_overdue": LEDGER,
    "dispatch_plan": NAMED,
    "dispatch_schedule_row": NAMED,
    "dispatch_standing": LEDGER,
    "dispatch_states": LEDGER,
    "dispatch_superseded": LEDGER,
    "dispatch_unmeasured_commands": LEDGER,
    "planning_challenger_forecasts": PAST,
    "planning_plan_of_inputs": NAMED,
    "planning_replays_of_day": PAST,
    "planning_same_replays": NAMED,
    "warehouse_applied_migrations": STORE,
    "warehouse_landed_files": STORE,
    "warehouse_made_at": STORE,
    "warehouse_record_migration": STORE,
    "warehouse_schedule": NAMED,
    "warehouse_schema_migrations": STORE,
    "warehouse_tables": STORE,
}
"""Queries that are asked as of no moment, and why that is right."""

MOMENT = sorted({path.stem for path in QUERIES.glob("*.sql")} - set(NO_MOMENT))
PARAMS = {
    "delivery_day": TOMORROW,
    "device_id": "alba-battery",
    "end_": END,
    "folder": "",
    "from_day": TOMORROW,
    "to_day": TOMORROW,
    "gate_closure": AFTER,
    "interval_start": START,
    "market": MARKET,
    "moment": START,
    "since": START - timedelta(hours=36),
    "start": START - timedelta(hours=36),
}
ONLY_OF_THE_FUTURE = {
    "planning_issued_forecasts": {"start": AFTER},
    "planning_issued_sessions": {"start": AFTER},
}
FETCHED = {"defs_new_prices": "prices", "defs_new_market_forecasts": "market_forecasts"}


@pytest.fixture(scope="module")
def bases(seeded_home, tmp_path_factory):
    """Two copies of a plant before its first plan: as it was, and with rows of the future."""
    homes = [copied(seeded_home, tmp_path_factory.mktemp(name) / "plant") for name in "ab"]
    with open_plant(homes[0], NOW) as clean, open_plant(homes[1], NOW) as poisoned:
        tables = catalogue(clean.runtime.settings.warehouse_dir / "vpp.duckdb")
        rows = {table.name: poison(table) for table in tables}
        with poisoned.runtime.warehouse.write() as connection:
            for name, frame in rows.items():
                connection.append(name, frame)
        landing.land(
            poisoned.runtime.settings.landing_dir, "telemetry", rows["telemetry"].head(500), LATER
        )
        yield clean, poisoned, tables, rows


def test_every_table_tells_when_its_rows_were_known(bases):
    _, _, tables, _ = bases
    assert {table.name for table in tables} >= set(KNOWN_BY) | PARTS_OF_A_PLAN
    unknown = [
        table.name
        for table in tables
        if table.known_by not in table.columns and table.name not in PARTS_OF_A_PLAN
    ]
    assert unknown == [], "give it known_at, or name what tells it in bitemporal_poison.KNOWN_BY"


def test_every_query_names_its_moment_or_why_it_needs_none():
    told = {path.stem: path.read_text(encoding="utf-8") for path in QUERIES.glob("*.sql")}
    assert set(NO_MOMENT) <= set(told)
    without = [query for query in MOMENT if "$as_of" not in told[query]]
    assert without == [], "filter by $as_of, or say in NO_MOMENT why not"


@pytest.mark.parametrize("query", MOMENT)
def test_rows_that_decide_come_in_an_order(query):
    text = (QUERIES / f"{query}.sql").read_text(encoding="utf-8")
    outermost = re.sub(r"--.*", "", text)
    while (without := re.sub(r"\([^()]*\)", "", outermost)) != outermost:
        outermost = without
    assert "ORDER BY" in outermost or text.startswith("-- One row"), (
        "DuckDB answers in any order: add ORDER BY, or begin its comment with One row"
    )


@pytest.mark.parametrize("query", MOMENT)
def test_a_query_answers_the_same_whatever_became_known_after_its_moment(bases, query):
    clean, poisoned, _, rows = bases
    text = (QUERIES / f"{query}.sql").read_text(encoding="utf-8")
    params = PARAMS | ONLY_OF_THE_FUTURE.get(query, {})
    asked = {name: params[name] for name in re.findall(r"\$(\w+)", text) if name in params}
    frames = {
        "devices": rows["telemetry"].select("device_id").unique(),
        "sites": rows["weather"].select("site_id").unique(),
    }
    if query in FETCHED:
        frames["fetched"] = rows[FETCHED[query]]
    targets = rows["forecasts"]["target"].unique().to_list() if "$target" in text else [None]
    for target in targets:
        given = asked if target is None else {**asked, "target": target}

        def answer(plant, as_of, given=given):
            with plant.runtime.warehouse.read() as connection:
                return connection.frame(query, frames, **given, as_of=as_of)

        assert_frame_equal(answer(clean, NOW), answer(poisoned, NOW))
        assert not answer(clean, AFTER).equals(answer(poisoned, AFTER)), "the poison has no bite"


DECIDED = {
    "forecasts": ["target", "subject_id", "interval_start"],
    "session_forecasts": ["device_id", "arrival_p50"],
    "envelopes": ["device_id", "interval_start"],
    "weather": ["site_id", "interval_start"],
    "schedules": ["device_id", "interval_start"],
    "plan_prices": ["interval_start"],
    "plans": [],
    "plan_releases": [],
}
NUMBERED = ["plan_id", "plan_version", "revision", "solve_seconds", "stage_seconds"]


def test_what_is_decided_is_bit_identical_whatever_became_known_later(
    bases, planned_home, tmp_path
):
    _, poisoned, _, rows = bases
    result = poisoned.plan_tomorrow()
    assert result.success, failure_of(result)
    with open_plant(copied(planned_home, tmp_path / "plant"), NOW) as planned:
        for table, key in DECIDED.items():
            expected = planned.rows(table).drop(NUMBERED, strict=False).sort(key)
            everything = poisoned.rows(table)
            made = everything.join(rows[table], on=everything.columns, how="anti", nulls_equal=True)
            assert expected.height > 0
            assert_frame_equal(
                made.drop(NUMBERED, strict=False).sort(key), expected, check_exact=True
            )
        for plant in (poisoned, planned):
            plant.clock.sleep_until(NEXT_MORNING)
            plant.tell()
        assert fingerprint(poisoned, NEXT_MORNING) == fingerprint(planned, NEXT_MORNING)


def test_a_reading_that_comes_late_changes_later_plans_and_no_earlier_one(planned_plant):
    plant = planned_plant
    late = NOW + timedelta(minutes=30)
    noon = NOW + timedelta(hours=1)
    before = [fingerprint(plant, NOW)]
    plant.clock.sleep_until(noon)
    plant.tell()
    before.append(fingerprint(plant, noon))
    readings = plant.rows("telemetry").filter(
        pl.col("device_id") == "alba-load", pl.col("measured_at") > NOW - timedelta(days=7)
    )
    assert readings.height > 0
    corrected = readings.with_columns(pl.col("power_kw") * 0.5, known_at=pl.lit(late))
    plant.append("telemetry", corrected)
    after = [fingerprint(plant, moment) for moment in (NOW, noon)]
    assert after[0] == before[0]
    assert after[1] != before[1]


def fingerprint(plant, as_of):
    """All that a plan of tomorrow stands on, forecasts made anew, as it is known at a moment."""
    runtime = plant.runtime
    devices = runtime.devices(as_of)
    horizon = inputs.horizon_left(runtime, TOMORROW, as_of)
    expected = Expected(
        profiles=pl.concat(
            [
                forecasts.load(runtime, TOMORROW, as_of),
                forecasts.generation(runtime, TOMORROW, as_of),
            ]
        ),
        temperatures=forecasts.temperature(runtime, TOMORROW, as_of),
        sessions=forecasts.sessions(runtime, TOMORROW, as_of),
    )
    market = inputs.market_prices_on(
        runtime, horizon, forecasts.price(runtime, TOMORROW, as_of), as_of
    )
    readings = runtime.believed_telemetry(as_of)
    return PlanInputs(
        devices,
        outlook_on(runtime, devices, readings, expected, horizon, as_of).envelopes,
        market,
        inputs.imbalance_terms(
            runtime, TOMORROW, market, expected.profiles, as_of, spread_eur_per_mwh=50.0
        ),
        inputs.newest_values(runtime, TOMORROW, as_of),
    ).fingerprint()
