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
NEEDS_A_READ_BACK = {"VERIFIED", "OVERRIDDEN"}
_WHOLE_SECONDS = timedelta(seconds=3)  # a Modbus timer has no fractions
_NOISE_KW = 0.0011  # a register's step
_SAME_KW = 0.02
_RESERVE_KWH = 0.0
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
    content = applied.told_kwh - _RESERVE_KWH
    room = CAPACITY_KWH - applied.told_kwh
    return (
        applied.kw * left_h * _EFFICIENCY > content + 0.01
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
        .select("device_id", "requested_kw", "valid_until")
        .rows()
    )
    nameless: Counter[tuple[str, float, datetime]] = Counter(
        (a.device_id, round(a.kw, 2), a.until) for a in ours if not a.command_id
    )
    for (device_id, kw, until), times in nameless.items():
        ends_so = [
            asked
            for name, asked, end in sent
            if name == device_id and abs(end - until) <= _WHOLE_SECONDS
        ]
        equal = [asked for asked in ends_so if abs(asked - kw) < _SAME_KW]
        if times > len(equal or ends_so):  # none is equal where the device clamps in silence
            broken.append(
                f"{kw} kW until {until} was applied {times} times by {device_id}, told so in"
                f" {len(equal or ends_so)} commands"
            )
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
        states = of_one["state"].to_list()
        told = f"{command_id} {' '.join(states)}"
        if states[0] != "PLANNED" or states.count("PLANNED") > 1:
            broken.append(f"{told}: the intent was not stored first, and once")
        for number, state in enumerate(states):
            if state in SENT_BEFORE and state != "SENT" and "SENT" not in states[:number]:
                broken.append(f"{told}: {state} without a send")
            if state == "SENT" and states[number - 1] not in {"PLANNED", "FAILED"}:
                broken.append(f"{told}: sent again while in doubt")
        if not of_one["at"].is_sorted() and not of_one["clock_was_set"].any():
            broken.append(f"{told}: its times go backwards")
        if "ACKED" in states and not of_one["sent"].str.len_bytes().sum():
            broken.append(f"{told}: acknowledged, and what was sent is not kept")
        for event in of_one.iter_rows(named=True):
            if not event["actor"]:
                broken.append(f"{told}: nobody did {event['state']}")
            if event["state"] in NEEDS_A_READ_BACK and not (
                event["read_back"] or "superseded" in event["detail"]
            ):
                broken.append(f"{told}: {event['state']} without what was read back")
            if (
                event["state"] in {"REJECTED", "FAILED", "UNKNOWN", "EXPIRED"}
                and not event["detail"]
            ):
                broken.append(f"{told}: {event['state']} without a word why")
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


def _clock_slack(evidence: Evidence) -> timedelta:
    return timedelta(hours=2) if evidence.events["clock_was_set"].any() else timedelta(0)
