"""The life of a command, as an explicit machine.

Belongs here: the states and which may follow which. Does not: who writes them down (`ledger`),
what brings them about (`push`).
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What is known of a command."""

    PLANNED = "PLANNED"  # the intent stands in the ledger; nothing has been sent
    SENT = "SENT"  # stored just before the send: it may have reached the device
    ACKED = "ACKED"  # the device said yes
    APPLIED = "APPLIED"  # the device names this command as the one it obeys, at another value
    VERIFIED = "VERIFIED"  # read back, and equal
    REJECTED = "REJECTED"  # refused by the guard, the dispatcher or the device
    FAILED = "FAILED"  # it did not reach the device: certain, or read back as not there
    EXPIRED = "EXPIRED"  # its interval ended first
    OVERRIDDEN = "OVERRIDDEN"  # another set-point stands, by other hands
    UNKNOWN = "UNKNOWN"  # it may have reached the device: read back before any resend


FINAL = frozenset({State.VERIFIED, State.REJECTED, State.EXPIRED, State.OVERRIDDEN})
"""Nothing more is sent for a command in one of these."""

SENDABLE = frozenset({State.PLANNED, State.FAILED})
"""From these a command may be sent. From UNKNOWN it may not: a read-back makes it FAILED first."""

_AFTER_SEND = frozenset(
    {
        State.ACKED,
        State.APPLIED,
        State.VERIFIED,
        State.REJECTED,
        State.FAILED,
        State.EXPIRED,
        State.OVERRIDDEN,
        State.UNKNOWN,
    }
)

TRANSITIONS: dict[State | None, frozenset[State]] = {
    None: frozenset({State.PLANNED}),
    State.PLANNED: frozenset({State.SENT, State.REJECTED, State.EXPIRED}),
    State.SENT: _AFTER_SEND,
    State.UNKNOWN: _AFTER_SEND,
    State.FAILED: frozenset({State.SENT, State.REJECTED, State.EXPIRED}),
    State.ACKED: _AFTER_SEND - {State.FAILED, State.UNKNOWN},
    State.APPLIED: frozenset({State.APPLIED, State.VERIFIED, State.EXPIRED, State.OVERRIDDEN}),
    State.VERIFIED: frozenset({State.VERIFIED, State.OVERRIDDEN}),  # found by a later re-check
    State.REJECTED: frozenset(),
    State.EXPIRED: frozenset(),
    State.OVERRIDDEN: frozenset(),
}
"""Which states may follow; the key None is a command the ledger does not know.

ACKED, APPLIED, UNKNOWN and VERIFIED may repeat: a later look that found nothing else, with its
words. SENT may not, so that marking a command as SENT is a claim only one run can make. A
set-point found gone is OVERRIDDEN; what is sent in its place is a new command.
"""

PROVEN_BY_READ_BACK = frozenset(
    {
        (before, State.VERIFIED)
        for before, afters in TRANSITIONS.items()
        if before is not None
        if State.VERIFIED in afters
    }
) | {(State.UNKNOWN, State.FAILED)}
"""Of the pairs above, those whose event must carry what was read back."""


def is_legal(before: State | None, after: State) -> bool:
    """Tell whether a command in state `before` may enter state `after`."""
    return after in TRANSITIONS[before]
