"""The answer to "why" as an operator reads it, top to bottom, in Markdown.

Belongs here: words and their order. Does not: finding the chain (`why`).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from vpp_pipeline.dispatch.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vpp_pipeline.dispatch.why import Answer
    from vpp_pipeline.dispatch.why_grounds import Row

_DEFAULTS = {
    "battery": "it rests at 0 kW",
    "pv": "it injects all it can",
    "wind": "it injects all it can",
    "ev_charger": "it charges its vehicle at once",
    "heat_pump": "it follows its thermostat",
    "flexible_load": "it runs as early as it may",
    "chp": "it stands still",
    "load": "it draws what it needs",
}

_ENDS = {
    State.PLANNED: "it was never sent",
    State.SENT: "it was sent, and its answer is not known yet",
    State.ACKED: "the device said yes, but was not seen to obey",
    State.APPLIED: "the device obeyed it at another value",
    State.VERIFIED: "read back, and equal",
    State.REJECTED: "it was refused",
    State.FAILED: "it did not reach the device",
    State.EXPIRED: "its time ended before it was verified",
    State.OVERRIDDEN: "another set-point took its place",
    State.UNKNOWN: "it may have reached the device, which could not be read back",
}


def summary(answer: Answer) -> str:
    """Return the answer in a sentence or two."""
    when = f"{answer.moment:%Y-%m-%d %H:%M:%S} UTC"
    if answer.command is None:
        return (
            f"At {when} {answer.device_id} had no command: {_why_none(answer)}. {_default(answer)}"
        )
    command, last = answer.command, answer.events[-1]
    end = _ENDS[State(last["state"])]
    words = f"; {last['detail']}" if last["detail"] else ""
    if command["kind"] == "release":
        return (
            f"At {when} {answer.device_id} was released to its own default"
            f" by authority of {_authority(answer)}: {last['state']}, {end}{words}. {_default(answer)}"
        )
    told = _last(answer.events, "requested_kw")
    what = _kw(command["setpoint_kw"] if told is None else told)
    span = f"{command['interval_start']:%H:%M} UTC, valid until {command['valid_until']:%H:%M},"
    verb = "was to be told" if told is None else "was told"
    return (
        f"At {when} {answer.device_id} {verb} {what} for {span} by authority of "
        f"{_authority(answer)}: "
        f"{last['state']}, {end}{words}."
    )


def markdown(answer: Answer) -> str:
    """Return the whole chain, from what was done back to what it stood on."""
    parts = [
        f"# {answer.device_id} at {_text(answer.moment)}",
        summary(answer),
        *_command(answer),
        *_orders(answer),
        *_schedule(answer),
        *_plan(answer),
        *_inputs(answer),
    ]
    return "\n\n".join(parts) + "\n"


def _command(answer: Answer) -> list[str]:
    parts = []
    if answer.command is not None:
        command = answer.command
        guard = command["guard_reason"] or "the guard changed nothing"
        steps = [
            f"planned {_kw(command['planned_kw'])}",
            f"{_kw(command['setpoint_kw'])} after the guard ({guard})",
        ]
        parts = [
            f"## Command {command['command_id']}",
            "a release" if command["kind"] == "release" else ", ".join(steps),
            *_power(command),
            _table(
                answer.events,
                {
                    "at": "at",
                    "state": "state",
                    "actor": "who",
                    "authority": "by authority of",
                    "detail": "why",
                    "old_kw": "old kW",
                    "requested_kw": "requested kW",
                    "sent": "sent",
                    "acknowledged": "acknowledged",
                    "read_back": "read back",
                    "fence": "lease",
                },
            ),
        ]
    if answer.others:
        parts += [
            "## Other commands for the moment",
            _table(
                answer.others,
                {
                    "command_id": "command",
                    "kind": "kind",
                    "setpoint_kw": "set-point kW",
                    "valid_until": "valid until",
                    "state": "state",
                    "detail": "why",
                },
            ),
        ]
    return parts


def _power(command: Row) -> list[str]:
    """Say whether the power followed, once that was judged."""
    if command["power_reason"] is None:
        return []
    if command["power_verified"]:
        return [f"The power followed: {_kw(command['measured_kw'])} measured."]
    judged = "was not judged" if command["power_verified"] is None else "did not follow"
    return [f"The power {judged}: {command['power_reason']}."]


def _orders(answer: Answer) -> list[str]:
    stood = [value for name, value in answer.standing.items() if name.endswith("_words") and value]
    lines = [f"- stood at the moment: {words}" for words in dict.fromkeys(stood)]
    lines += [
        f"- {order['order_id']}: {order['kind']} for {order['scope']} by {order['who']}, given "
        f"{_text(order['given_at'])}: {order['why']}"
        for order in answer.orders
    ]
    return ["## Orders", "\n".join(lines)] if lines else []


def _schedule(answer: Answer) -> list[str]:
    if answer.schedule is None:
        return []
    return [
        "## Schedule row",
        _list(
            answer.schedule,
            [
                "interval_start",
                "power_kw",
                "limit_kw",
                "energy_kwh",
                "energy_eur_per_kwh",
                "peak_eur_per_kw",
            ],
        ),
    ]


def _plan(answer: Answer) -> list[str]:
    if answer.plan is None:
        return []
    fleet = answer.fleet or {}
    return [
        f"## Plan {answer.plan['plan_id']}",
        _list(
            answer.plan,
            [
                "plan_version",
                "kind",
                "cause",
                "as_of",
                "released_at",
                "label",
                "method",
                "solver",
                "objective_eur",
                "bound_eur",
                "gap",
                "worst_violation_kw",
                "worst_violation_kwh",
                "fleet_version",
                "input_hash",
                "code_version",
            ],
        ),
        "## Fleet that the plan stands on",
        _list(fleet, ["fleet_version", "source", "known_at", "content_hash"]),
    ]


def _inputs(answer: Answer) -> list[str]:
    parts = []
    if answer.envelope is not None:
        parts += [
            f"## Envelope, known {_text(answer.envelope['known_at'])}",
            _list(
                answer.envelope,
                [
                    "min_power_kw",
                    "max_power_kw",
                    "expected_power_kw",
                    "min_energy_kwh",
                    "max_energy_kwh",
                    "initial_energy_kwh",
                    "required_end_kwh",
                    "available",
                    "derated",
                ],
            ),
        ]
    tables: list[tuple[str, list[Row], Sequence[str]]] = [
        (
            "Forecasts behind the envelope",
            answer.forecasts,
            ["target", "subject_id", "p10", "p50", "p90", "model", "known_at"],
        ),
        (
            "Vehicles expected",
            answer.sessions,
            ["arrival_p50", "departure_p50", "energy_p50_kwh", "probability", "model", "known_at"],
        ),
        (
            "Price the plan knew",
            answer.prices,
            ["interval_start", "price_eur_per_mwh", "basis", "known_at"],
        ),
        (
            "Readings",
            answer.readings,
            [
                "used_for",
                "measured_at",
                "power_kw",
                "setpoint_kw",
                "energy_kwh",
                "temperature_c",
                "plugged_in",
                "status",
                "known_at",
            ],
        ),
    ]
    for title, rows, columns in tables:
        if rows:
            parts += [f"## {title}", _table(rows, {name: name for name in columns})]
    return parts


def _why_none(answer: Answer) -> str:
    if not answer.device["controllable"]:
        return "it can't be controlled"
    if answer.standing["stopped"]:
        return str(answer.standing["stop_words"])
    if answer.plan is None:
        return "no released plan covers the moment"
    if answer.schedule is None:
        return f"plan {answer.plan['plan_id']} has no row for it"
    return (
        f"plan {answer.plan['plan_id']} was in force and has a row for it, but no push of the "
        "quarter-hour stored an intent"
    )


def _default(answer: Answer) -> str:
    words = f"Its default: {_DEFAULTS[answer.device['device_type']]}."
    if not answer.readings:
        return f"{words} No reading of the day before tells what it did."
    newest = answer.readings[-1]
    power = "no power" if newest["power_kw"] is None else _kw(newest["power_kw"])
    obeyed = newest["setpoint_kw"]
    obeys = "no set-point" if obeyed is None else f"a set-point of {_kw(obeyed)}"
    return f"{words} It measured {power} under {obeys} at {_text(newest['measured_at'])}."


def _authority(answer: Answer) -> str:
    sends = [event for event in answer.events if event["state"] == State.SENT]
    return str((sends or answer.events)[-1]["authority"])


def _last(rows: Sequence[Row], name: str) -> Any:
    told = [row[name] for row in rows if row[name] is not None]
    return told[-1] if told else None


def _list(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    told = [name for name in columns if row.get(name) is not None]
    return "\n".join(f"- {name}: {_text(row[name])}" for name in told)


def _table(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """Return a table of the columns in which at least one row has something to tell."""
    told = [name for name in titles if any(row.get(name) not in {None, ""} for row in rows)]
    lines = [
        [titles[name] for name in told],
        ["---"] * len(told),
        *([_text(row.get(name)).replace("|", "\\|") for name in told] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _kw(value: float | None) -> str:
    return "unknown kW" if value is None else f"{_text(value)} kW"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(str(value).split())
