"""The judges of the fault scenarios: content with what is right, and with nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from faults_judgement import Bound, Evidence, judge
from faults_plant import Applied

START = datetime(2020, 8, 13, 6, 30, tzinfo=UTC)
UNTIL = START + timedelta(minutes=20)
APPLIED = Applied("modbus-1", 3.0, UNTIL, None, START, 50.0)
NAMED = Applied("mqtt-1", 3.0, UNTIL, "mqtt-1.v1.1", START, 50.0)


def events(*states, command_id="modbus-1.v1.1", **changes):
    return pl.DataFrame(
        [
            {
                "command_id": command_id,
                "device_id": command_id.partition(".")[0],
                "state": state,
                "at": START,
                "actor": "faults",
                "detail": "why",
                "sent": "00ff",
                "read_back": "00ff",
                "requested_kw": 3.0 if state == "SENT" else None,
                "valid_until": UNTIL,
                "clock_was_set": False,
            }
            | changes
            for state in states
        ],
        schema_overrides={"requested_kw": pl.Float64},
    )


def evidence(*record, told=None, bounds=()):
    told = events("PLANNED", "SENT", "ACKED", "VERIFIED") if told is None else told
    return Evidence(record, bounds, told.select("command_id").unique(), told)


pytestmark = pytest.mark.core


def test_the_judges_are_content_with_a_command_that_was_applied_and_verified():
    judge(evidence(APPLIED))


def named():
    return events("PLANNED", "SENT", "ACKED", "VERIFIED", command_id="mqtt-1.v1.1")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (evidence(replace(APPLIED, kw=10.5)), "outside the nameplate"),
        (evidence(replace(APPLIED, told_kwh=0.1)), "more than the store holds"),
        (evidence(APPLIED, bounds=[Bound(0, None, -1.0, 1.0)]), "is outside"),
        (evidence(APPLIED, bounds=[Bound(0, "modbus-1", 0.0, 0.0)]), "is outside"),
        (evidence(APPLIED, replace(APPLIED, until=UNTIL - timedelta(seconds=1))), "2 times"),
        (evidence(NAMED, NAMED, told=named()), "2 times"),
        (evidence(replace(APPLIED, until=UNTIL + timedelta(minutes=1))), "never sent"),
        (evidence(APPLIED, told=events("PLANNED", "SENT", "UNKNOWN")), "ended UNKNOWN"),
        (evidence(APPLIED, told=events("SENT", "ACKED", "VERIFIED")), "intent was not stored"),
        (evidence(told=events("PLANNED", "ACKED", "VERIFIED")), "without a send"),
        (
            evidence(APPLIED, told=events("PLANNED", "SENT", "UNKNOWN", "SENT", "VERIFIED")),
            "in doubt",
        ),
        (evidence(APPLIED, told=events("PLANNED", "SENT", "VERIFIED", sent="")), "not kept"),
        (evidence(APPLIED, told=events("PLANNED", "SENT", "VERIFIED", read_back="")), "read back"),
        (evidence(told=events("PLANNED", "REJECTED", detail="")), "without a word why"),
        (evidence(told=events("PLANNED", "REJECTED", actor="")), "nobody did"),
        (evidence(told=events("PLANNED", "SENT", "REJECTED", requested_kw=None)), "is not kept"),
        (evidence(NAMED), "not in the ledger"),
        (evidence(replace(APPLIED, at=START - timedelta(seconds=1))), "before any send"),
    ],
)
def test_the_judges_find(wrong, words):
    with pytest.raises(AssertionError, match=words):
        judge(wrong)
