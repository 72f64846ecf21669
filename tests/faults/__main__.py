"""Run every fault scenario, print what came of them, and write docs/faults.md.

Run as `python -m tests.faults` in the repository. Belongs here: the tables. Does not: any scenario.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCUMENT = ROOT / "docs" / "faults.md"
FAMILIES = ("Transport", "Device", "MQTT", "HTTP", "OCPP", "Orchestration", "Data and time")
LEAST_SCENARIOS = 60

INVARIANTS = {
    1: "nothing outside the envelope is sent, judged again on fresh data",
    2: "every command ends by itself: validity and device timer",
    3: "a device without a timer is flagged and watched over",
    4: "plan version and sequence only grow",
    5: "an intent is stored first, and applied at most once",
    6: "a lost answer is read back before any resend",
    7: "verified means read back, and looked at again later",
    8: "kill switch > grid operator > local > override > plan",
    9: "grid limits survive; an unknown state is the failsafe",
    10: "the kill switch works with database and Dagster down",
    11: "a release is verified and leaves no stale enable",
    12: "a write is skipped only for a verified equal value; flash has a budget",
    13: "ramps and spread starts",
    14: "one writer a device; another's value is an alarm and no fight",
    15: "old, frozen or future telemetry is not used",
    16: "deadlines are monotonic; days have 92, 96 or 100 quarter-hours",
    17: "what was accepted is held against the plan",
    18: "only what is transient is tried again",
    19: "the audit is append-only and whole",
    20: "the simulated device refuses what a real one would",
    21: "no replay dispatches; what is read-only is never written",
}

ELSEWHERE = {
    "a queue that overflows at the broker": (
        "test_devices_mqtt_faults",
        "test_a_gateways_queue_at_the_broker_never_overflows",
    ),
    "a command that expires at the broker while its device is away": (
        "test_devices_mqtt_faults",
        "test_a_command_whose_validity_ends_while_the_device_is_offline_is_never_delivered",
    ),
    "the broker killed (-9) in a burst of commands": (
        "test_devices_mqtt_faults",
        "test_invariants_05_and_06_a_broker_killed_in_a_burst_loses_and_doubles_nothing",
    ),
    "the controller killed: every timer runs out": (
        "test_dispatch_failsafe",
        "test_invariant_02_with_the_controller_killed_every_device_with_a_timer_falls_back",
    ),
}
"""Faults of the list that are tried with real parts by tests of their own."""


@dataclass
class Outcome:
    """One scenario: what it was, and how it ended."""

    name: str
    told: dict[str, Any]
    passed: bool


@dataclass
class Outcomes:
    """Collects the scenarios' outcomes, from whichever process ran them."""

    outcomes: list[Outcome] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a scenario's end, and the failure of its plant to start."""
        if report.when == "call" or (report.when == "setup" and report.failed):
            told = dict(report.user_properties).get("scenario", {})
            if told or report.failed:
                self.outcomes.append(Outcome(sentence(report.nodeid), told, report.passed))


def sentence(nodeid: str) -> str:
    """Return a test's name as a sentence, with its parameters."""
    name, _, parameters = nodeid.rpartition("::")[2].partition("[")
    words = re.sub(r"^test_", "", name).replace("_", " ")
    told = f" ({parameters.rstrip(']')})" if parameters else ""
    return words + told


def invariant_tests() -> dict[int, list[str]]:
    """Return the tests whose names carry an invariant's number."""
    found: dict[int, list[str]] = defaultdict(list)
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            numbers = re.match(r"test_invariants?_(\d+)(?:_and_(\d+))?_", node.name)
            for number in numbers.groups() if numbers else ():
                if number is not None:
                    found[int(number)].append(f"{file.stem}::{node.name}")
    return found


def tests_elsewhere() -> list[str]:
    """Return the faults tried by other tests as a Markdown table. Raises where one is gone."""
    lines = ["| fault | test |", "| --- | --- |"]
    for fault, (module, name) in ELSEWHERE.items():
        (file,) = (ROOT / "tests").rglob(f"{module}.py")
        if f"def {name}(" not in file.read_text():
            raise LookupError(f"{file} has no {name}: name the test that tries {fault!r} now")
        lines.append(f"| {fault} | `{module}::{name}` |")
    return lines


def scenario_table(outcomes: list[Outcome]) -> list[str]:
    """Return the scenarios as a Markdown table."""
    lines = ["| # | fault | scenario | invariants | result | what the ledger said |"]
    lines.append("| ---: | --- | --- | --- | --- | --- |")
    by_family = sorted(
        outcomes,
        key=lambda o: (FAMILIES.index(o.told["family"]) if o.told else len(FAMILIES), o.name),
    )
    for number, outcome in enumerate(by_family, start=1):
        told = outcome.told
        cells = [
            str(number),
            f"{told.get('family', '?')}: {told.get('fault', '?')}",
            outcome.name,
            ", ".join(str(n) for n in told.get("invariants", ())),
            "held" if outcome.passed else "**BROKEN**",
            told.get("ledger", ""),
        ]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return lines


def invariant_table(found: dict[int, list[str]], outcomes: list[Outcome]) -> list[str]:
    """Return the invariants with their tests as a Markdown table."""
    lines = ["| # | invariant | tests that carry its number | scenarios | such as |"]
    lines.append("| ---: | --- | ---: | ---: | --- |")
    for number, what in INVARIANTS.items():
        tests = found.get(number, [])
        scenarios = sum(number in outcome.told.get("invariants", ()) for outcome in outcomes)
        first = f"`{tests[0]}`" if tests else "**NONE**"
        lines.append(f"| {number} | {what} | {len(tests)} | {scenarios} | {first} |")
    return lines


_HEAD = """\
# Faults survived

Made by `python -m tests.faults`; do not edit. A scenario drives a small plant of simulated devices
on their real protocols (Modbus/SunSpec, MQTT on mosquitto, HTTP, OCPP), with a real DuckDB ledger
and the real push, through an interval or two with a fault in between. Device 1 of each protocol
stands behind a proxy that spoils what passes, device 2 does not. Each ends with the same four
judgements, read from the devices' own record and the ledger:

1. no command outside the envelope took effect at any device,
2. none was applied twice,
3. every command is in a final state,
4. the ledger is complete: the intent before the send, the send before its effect, and a reason for
   all that was not verified.
"""


def document(outcomes: list[Outcome], found: dict[int, list[str]]) -> str:
    """Return the whole document."""
    held = sum(outcome.passed for outcome in outcomes)
    covered = sum(bool(found.get(number)) for number in INVARIANTS)
    scenarios = len({outcome.name.partition(" (")[0] for outcome in outcomes})
    summary = (
        f"**{scenarios} scenarios in {len(outcomes)} cases: {held} held, {len(outcomes) - held}"
        f" broken. {covered} of {len(INVARIANTS)} invariants have tests that carry their number.**"
    )
    return "\n".join(
        [
            _HEAD,
            summary,
            "",
            "## Scenarios",
            "",
            *scenario_table(outcomes),
            "",
            "## Tried by tests of their own",
            "",
            *tests_elsewhere(),
            "",
            "## Invariants",
            "",
            *invariant_table(found, outcomes),
            "",
        ]
    )


def main() -> int:
    """Run, print, write; return 0 if every scenario held and every invariant has a test."""
    os.environ["VPP_FAULTS"] = "all"
    collected = Outcomes()
    ended = pytest.main(
        [str(HERE), "-q", "--dist", "load", "--no-header", "--tb=short"], plugins=[collected]
    )
    found = invariant_tests()
    text = document(collected.outcomes, found)
    DOCUMENT.write_text(text)
    print(text)  # noqa: T201 - the table is what the command is for
    missing = [number for number in INVARIANTS if not found.get(number)]
    too_few = len({o.name.partition(" (")[0] for o in collected.outcomes}) < LEAST_SCENARIOS
    return int(ended != pytest.ExitCode.OK or bool(missing) or too_few)


if __name__ == "__main__":
    sys.exit(main())
