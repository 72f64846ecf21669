"""The four judgements that every scenario ends with, from the devices' own record and the ledger.

Belongs here: no command outside the envelope at any device, none applied twice, every command in a
final state, the ledger complete. Does not: what one scenario expects beside that.

Written from the specification and not from the code under test: the legal order of states is
spelled out here once more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl
from faults_plant import CAPACITY_KWH, POWER_KW, SITE_LIMIT_KW

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from faults_plant import Applied

FINAL = {"VERIFIED", "REJECTED", "EXPIRED", "OVERRIDDEN"}
SENT_BEFORE = {"SENT", "ACKED", "APPLIED", "VERIFIED", "UNKNOWN", "FAILED", "OVERRIDDEN"}
NEEDS_A_REASON = {"REJECTED", "FAILED", "UNKNOWN", "EXPIRED"}
NEEDS_A_READ_BACK = {"VERIFIED", "OVERRIDDEN"}
_WHOLE_SECONDS = timedelta(seconds=3)  # a Modbus timer has no fractions
_NOISE_KW = 0.0011  # a register's step
_SAME_KW = 0.02
_QUARTER_H = 0.25
_EFFICIENCY = 0.9


@dataclass(frozen=True)
class Bound:
    """From the `since`-th set-point on, `device_id` (None: the site in sum) stays within."""

    since: int
    device_id: str | None
    low_kw: float
    high_kw: float


@dataclass(frozen=True)
class Evidence:
    """What is judged: `commands` and `events` are the ledger's tables."""

    record: Sequence[Applied]
    bounds: Sequence[Bound]
    commands: pl.DataFrame
    events: pl.DataFrame


def judge(evidence: Evidence) -> None:
    """Raise AssertionError that names what was broken."""
    broken = [
        *_outside_the_envelope(evidence),
        *_applied_twice(evidence),
        *_unfinished(evidence),
        *_incomplete(evidence),
    ]
    assert not broken, "\n".join(broken)


def _outside_the_envelope(evidence: Evidence) -> list[str]:
    bounds = [Bound(0, None, -SITE_LIMIT_KW, SITE_LIMIT_KW), *evidence.bounds]
    broken = []
    for number, applied in enumerate(evidence.record):
        if applied.foreign:
            continue
        if abs(applied.kw) > POWER_KW + _NOISE_KW:
            broken.append(f"outside the nameplate: {applied}")
        if applied.told_kwh is not None and _drains(applied):
            broken.append(f"more than the store holds or takes: {applied}")
        standing = _standing(evidence.record[: number + 1], applied.at)
        for bound in bounds:
            if number < bound.since:
                continue
            if bound.device_id is None:
                kw = sum(standing.values())
            elif bound.device_id == applied.device_id:
                kw = applied.kw
            else:
                continue
            if not bound.low_kw - _NOISE_KW <= kw <= bound.high_kw + _NOISE_KW:
                broken.append(f"{kw} kW is outside {bound}: {applied}")
    return broken


def _drains(applied: Applied) -> bool:
    assert applied.told_kwh is not None
    left_h = min(_QUARTER_H, (applied.until - applied.at).total_seconds() / 3600)
    room = CAPACITY_KWH - applied.told_kwh
    return (
        applied.kw * left_h * _EFFICIENCY > applied.told_kwh + 0.01
        or -applied.kw * left_h * _EFFICIENCY > room + 0.01
    )


def _standing(record: Sequence[Applied], at: datetime) -> dict[str, float]:
    return {a.device_id: a.kw for a in record if a.until > at}


def _applied_twice(evidence: Evidence) -> list[str]:
    """A device that is told no id (Modbus, OCPP) tells commands apart by value and end."""
    ours = [a for a in evidence.record if not a.foreign]
    named = Counter(a.command_id for a in ours if a.command_id)
    broken = [f"{id_} was applied {n} times" for id_, n in named.items() if n > 1]
    sent = (
        evidence.events.filter(pl.col("state") == "SENT")
        .unique("command_id", maintain_order=True)
        .select("command_id", "device_id", "requested_kw", "valid_until")
        .rows()
    )
    applications: Counter[tuple[str, ...]] = Counter()
    for applied in ours:
        if applied.command_id is None:
            ends_so = {
                command_id: kw
                for command_id, device_id, kw, until in sent
                if device_id == applied.device_id
                and abs(until - applied.until) <= _WHOLE_SECONDS + _clock_slack(evidence)
            }
            equal = [id_ for id_, kw in ends_so.items() if abs(kw - applied.kw) < _SAME_KW]
            told = equal or list(ends_so)  # none is equal where the device clamps in silence
            if not told:
                broken.append(f"applied, and never sent: {applied}")
            applications[tuple(told)] += 1
    broken += [
        f"{' and '.join(told)} applied {times} times"
        for told, times in applications.items()
        if told and times > len(told)
    ]
    return broken


def _unfinished(evidence: Evidence) -> list[str]:
    last = evidence.events.group_by("command_id", maintain_order=True).last()
    open_ = last.filter(~pl.col("state").is_in(list(FINAL)))
    return [f"{id_} ended {state}" for id_, state in open_.select("command_id", "state").rows()]


def _incomplete(evidence: Evidence) -> list[str]:
    known = set(evidence.commands["command_id"])
    broken = [
        f"{a.command_id} was applied and is not in the ledger"
        for a in evidence.record
        if not a.foreign and a.command_id and a.command_id not in known
    ]
    for (command_id,), of_one in evidence.events.group_by("command_id", maintain_order=True):
        told = f"{command_id} {' '.join(of_one['state'])}"
        broken += [f"{told}: {what}" for what in (*_disordered(of_one), *_wordless(of_one))]
    missing = known - set(evidence.events["command_id"])
    broken += [f"{id_} has no event" for id_ in sorted(missing)]
    sent_first = dict(
        evidence.events.filter(pl.col("state") == "SENT")
        .group_by("device_id")
        .agg(pl.col("at").min())
        .iter_rows()
    )
    for applied in evidence.record:
        first = sent_first.get(applied.device_id)
        if not applied.foreign and (first is None or first > applied.at + _clock_slack(evidence)):
            broken.append(f"applied before any send was stored: {applied}")
    return broken


def _disordered(of_one: pl.DataFrame) -> list[str]:
    """What may not follow in one command's events."""
    states = of_one["state"].to_list()
    broken = []
    if states[0] != "PLANNED" or states.count("PLANNED") > 1:
        broken.append("the intent was not stored first, and once")
    for number, state in enumerate(states):
        if state in SENT_BEFORE and state != "SENT" and "SENT" not in states[:number]:
            broken.append(f"{state} without a send")
        if state == "SENT" and states[number - 1] not in {"PLANNED", "FAILED"}:
            broken.append("sent again while in doubt")
    if not of_one["at"].is_sorted() and not of_one["clock_was_set"].any():
        broken.append("its times go backwards")
    return broken


def _wordless(of_one: pl.DataFrame) -> list[str]:
    """What is not told in one command's events."""
    broken = []
    states = set(of_one["state"])
    taken = (
        states & {"ACKED", "VERIFIED"} and "UNKNOWN" not in states
    )  # then nobody was left to tell
    if taken and not of_one["sent"].str.len_bytes().sum():
        broken.append("taken by the device, and what was sent is not kept")
    if of_one.filter(pl.col("state") == "SENT")["requested_kw"].null_count():
        broken.append("sent, and the set-point is not kept")
    for event in of_one.iter_rows(named=True):
        state, detail = event["state"], event["detail"]
        if not event["actor"]:
            broken.append(f"nobody did {state}")
        if state in NEEDS_A_READ_BACK and not (event["read_back"] or "superseded" in detail):
            broken.append(f"{state} without what was read back")
        if state in NEEDS_A_REASON and not detail:
            broken.append(f"{state} without a word why")
    return broken


def _clock_slack(evidence: Evidence) -> timedelta:
    return timedelta(hours=2) if evidence.events["clock_was_set"].any() else timedelta(0)
