"""Readings no device could have sent are told, withheld or repaired; all others are left alone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import flexibility_fleets as given
import numpy as np
import polars as pl
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.flexibility.states import usable_states
from vpp_pipeline.telemetry_quality.flags import broken_rules
from vpp_pipeline.telemetry_quality.repair import telemetry_flags, trusted
from vpp_pipeline.telemetry_quality.settings import QualitySettings

AT = given.utc(2025, 1, 15, 12)
RULES = QualitySettings()
LABELLED = Path(__file__).parents[2] / "benchmarks/data/telemetry_stale_labelled_15min.parquet"
DEVICES = given.frame(
    given.site("home", [given.battery("battery"), given.pv("roof"), given.load("load")])
)
CAPACITY = DEVICES.filter(pl.col("device_id") == "battery")["energy_capacity_kwh"][0]
SUN = DEVICES.filter(pl.col("device_id") == "roof")["max_inject_kw"][0]


def told(device, power, energy=None, step=timedelta(minutes=15)):
    """Readings of one device up to AT, one a step."""
    base = given.telemetry(DEVICES, AT).filter(pl.col("device_id") == device)
    count = len(power)
    times = pl.Series([AT - step * (count - 1 - n) for n in range(count)]).cast(
        pl.Datetime("us", "UTC")
    )
    return pl.concat([base] * count).with_columns(
        measured_at=times,
        known_at=times,
        power_kw=pl.Series(np.asarray(power, float)),
        energy_kwh=pl.Series(energy, dtype=pl.Float64) if energy is not None else None,
        available_power_kw=pl.lit(None, pl.Float64),
    )


def rules(readings):
    return set(broken_rules(readings, DEVICES, RULES)["rule"])


def test_labelled_stale_values_are_found_with_precision_and_recall_of_95_percent():
    stale = pl.read_parquet(LABELLED)
    roof = DEVICES.filter(pl.col("device_id") == "roof").with_columns(max_inject_kw=pl.lit(1.0))
    rows = stale.select(device_id=pl.lit("roof"), measured_at="ts_utc", power_kw="value_normalized")
    found = broken_rules(rows, roof, RULES)
    flagged = np.zeros(len(stale), bool)
    flagged[found["row"].to_numpy()] = True
    truth = stale["stale_data_mask"].to_numpy()
    assert (flagged & truth).sum() >= 0.95 * flagged.sum()
    assert (flagged & truth).sum() >= 0.95 * truth.sum()


@pytest.mark.parametrize(
    ("device", "power", "energy"),
    [
        ("roof", [0.0] * 30, None),
        ("load", [-0.01] * 30, None),
        ("battery", [0.0] * 30, [CAPACITY / 2] * 30),
    ],
)
def test_a_night_a_standby_and_a_rest_are_not_frozen(device, power, energy):
    assert rules(told(device, power, energy)) == set()


@pytest.mark.parametrize(
    ("device", "power", "energy", "rule"),
    [
        ("roof", [SUN / 2] * 30, None, "frozen"),
        ("roof", [SUN * 3], None, "spike"),
        ("roof", [-SUN / 2], None, "sign_flip"),
        ("battery", [-1.0] * 30, [CAPACITY / 2] * 30, "frozen"),
        ("battery", [0.0] * 5, [CAPACITY / 2] * 4 + [CAPACITY], "spike"),
    ],
)
def test_a_faulty_sensor_is_told_by_its_rule(device, power, energy, rule):
    step = timedelta(minutes=1) if rule == "spike" else timedelta(minutes=15)
    readings = told(device, power, energy, step)
    assert rule in rules(readings)
    last = trusted(readings, DEVICES, RULES).tail(1)
    signal = "energy_kwh" if energy else "power_kw"
    assert last[signal][0] != readings[signal][-1]


def test_a_battery_whose_content_is_not_believed_is_left_out_of_the_plan():
    jumped = told("battery", [0.0] * 5, [1.0] * 4 + [CAPACITY], timedelta(minutes=1))
    newest = trusted(jumped, DEVICES, RULES).tail(1)
    states = usable_states(DEVICES, newest, AT, timedelta(minutes=10))
    state = states.row(by_predicate=pl.col("device_id") == "battery", named=True)
    assert not state["available"]
    assert state["why"] == "not believed: energy_kwh spike"


def test_a_content_that_stays_where_it_jumped_is_told_and_kept():
    stepped = [CAPACITY / 2] * 4 + [CAPACITY] * 2
    readings = told("battery", [0.0] * 6, stepped, timedelta(minutes=1))
    assert rules(readings) == {"shifted"}
    assert trusted(readings, DEVICES, RULES)["energy_kwh"].to_list() == stepped


def test_of_readings_known_together_the_last_row_counts_and_is_the_one_that_is_judged():
    earlier = told("battery", [0.0] * 6, [CAPACITY / 2] * 6, timedelta(minutes=1))
    together = pl.concat([earlier, earlier.tail(1).with_columns(energy_kwh=pl.lit(0.0))])
    (flag,) = telemetry_flags(together, DEVICES, RULES, AT).filter(rule="spike").to_dicts()
    assert (flag["signal"], flag["raw_value"]) == ("energy_kwh", 0.0)
    assert trusted(together, DEVICES, RULES)["energy_kwh"].to_list() == [CAPACITY / 2] * 6 + [None]


@settings(max_examples=15, deadline=None)
@drawn(st.lists(st.floats(-20, 20) | st.just(3.0), min_size=1, max_size=30), st.randoms())
def test_order_does_not_matter_no_row_is_lost_and_the_raw_rows_stay(power, random):
    raw = told("roof", power)
    before = raw.clone()
    order = list(range(len(power)))
    random.shuffle(order)
    flags = telemetry_flags(raw, DEVICES, RULES, AT)
    assert flags.equals(telemetry_flags(raw[order], DEVICES, RULES, AT))
    assert flags.equals(telemetry_flags(raw, DEVICES, RULES, AT))
    assert raw.equals(before)
    out = trusted(raw, DEVICES, RULES)
    assert out.select("device_id", "measured_at").equals(raw.select("device_id", "measured_at"))


QUARTER = timedelta(minutes=15)
SIX_HOURS = timedelta(hours=6)


def arrived(*told_and_known):
    """A load's readings, of instants told and known at quarter-hours since the day before."""
    start = AT - timedelta(days=1)
    measured, known = (
        pl.Series([start + QUARTER * quarter for quarter in quarters]).cast(
            pl.Datetime("us", "UTC")
        )
        for quarters in zip(*told_and_known, strict=True)
    )
    power = -1.0 - 0.01 * np.arange(len(measured))
    return told("load", power, [None] * len(power)).with_columns(
        measured_at=measured, known_at=known
    )


def live(first, end, late=0.0):
    return [(quarter, quarter + late) for quarter in range(first, end)]


def behind(readings):
    found = broken_rules(readings, DEVICES, RULES).filter(pl.col("rule") == "clock_behind")
    return set(found["row"])


def test_a_clock_that_was_set_back_is_not_believed_as_long_as_it_runs_behind():
    came = [*live(0, 40), *((quarter - 24, quarter) for quarter in range(40, 90)), *live(90, 96)]
    readings = arrived(*came)
    assert behind(readings) == set(range(40, 90))
    believed = trusted(readings, DEVICES, RULES)
    assert believed["power_kw"][40:90].null_count() == 50
    assert "power_kw clock_behind" in believed["doubt"][89]  # long after no instant is told again
    assert believed["doubt"][:24].null_count() == 24


def test_a_clock_that_runs_behind_by_ever_more_is_not_believed_either():
    jitter = np.random.default_rng(3).uniform(0, 0.4, 60)
    more = [
        (quarter - 24 - quarter // 30, quarter + jitter[quarter - 40]) for quarter in range(40, 96)
    ]
    assert behind(arrived(*live(0, 40), *more)) == set(range(40, 96))


@pytest.mark.parametrize(
    "came",
    [
        [*live(0, 96, late=8)],
        [*live(0, 40), (50, 50.0), *((quarter, 50.5) for quarter in range(40, 50)), *live(51, 96)],
        [*live(0, 40), (70, 70.0), *((quarter, 70.5) for quarter in range(40, 70))],
        [*live(0, 40), (60, 60.0)]
        + [(quarter, 60.0 + (quarter - 39) * 0.05) for quarter in range(40, 60)],
        [*live(0, 40), *live(40, 88, late=8)],
        [*live(0, 40), *((quarter + 24, quarter) for quarter in range(40, 60)), *live(60, 96)],
        [*live(0, 60), *((quarter, quarter + 20.5) for quarter in range(10, 76)), *live(75, 96)],
        [*live(20, 60), *((quarter, 60.5) for quarter in range(60)), *live(61, 96)],
        [*live(0, 50), (20, 50.5), (21, 51.5), *live(52, 96)],
    ],
    ids=[
        "late by habit",
        "a backlog at once, between live readings",
        "a backlog at once, and nothing more",
        "a backlog one by one, faster than it was measured",
        "readings that wait on their way",
        "a clock that ran ahead, set right",
        "corrections while the device itself was silent",
        "an import of what was known already",
        "two stragglers",
    ],
)
def test_what_is_late_for_another_reason_is_no_clock_that_runs_behind(came):
    assert behind(arrived(*came)) == set()
