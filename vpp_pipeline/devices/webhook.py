"""Signed completions that a gateway posts: is one genuine, fresh, expected, and the first?

Belongs here: signing, verifying, and who waits for what. Does not: the server that they arrive
at (`webhook_receiver`), commands and polling (`http`).

The signature is the HMAC-SHA256 (RFC 2104) of `<timestamp>.<body>`, the timestamp in whole
seconds since the epoch by the plant's clock. The body names device and command, so that a
captured message can't be replayed for another one.
"""

from __future__ import annotations

import hmac
import threading
from collections import Counter
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from vpp_pipeline.devices.wire import CommandReport, MalformedMessage, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

    from vpp_pipeline.clock import Clock

TIMESTAMP = "X-VPP-Timestamp"
SIGNATURE = "X-VPP-Signature"
FRESH = timedelta(minutes=5)
"""How far a timestamp may be from our clock, either way; a faster clock has as much more."""


class Acceptance(CommandReport):
    """A gateway's answer to a command; with `notifies` it will post a `Completion`."""

    notifies: bool = False


class Completion(CommandReport):
    """How a command ended: what `CommandReport` tells, and of whom."""

    device_id: str
    state: Literal["applied", "rejected", "expired"]


class Verdict(StrEnum):
    """What became of one delivery."""

    TAKEN = "taken"
    DUPLICATE = "duplicate"  # the same was taken before
    LATE = "late"  # genuine, but nobody waits for it any more
    UNKNOWN = "unknown"  # of a command that nobody ever waited for
    FORGED = "forged"
    STALE = "stale"  # genuine, but too old or from the future: a replay
    MALFORMED = "malformed"  # genuine, but no completion of that command


def signed_headers(secret: SecretStr, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers that go with a completion's body."""
    timestamp = str(int(at.timestamp()))
    return {TIMESTAMP: timestamp, SIGNATURE: _signature(secret, timestamp, body)}


def is_genuine(headers: Mapping[str, str], body: bytes, secret: SecretStr) -> bool:
    """Tell whether whoever signed timestamp and body knows the secret; in constant time."""
    expected = _signature(secret, headers.get(TIMESTAMP, ""), body)
    shown = headers.get(SIGNATURE, "")
    return hmac.compare_digest(expected.encode(), shown.encode(errors="replace"))


def is_fresh(headers: Mapping[str, str], now: datetime, fresh: timedelta = FRESH) -> bool:
    """Tell whether the timestamp is within `fresh` of `now`."""
    timestamp = headers.get(TIMESTAMP, "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):  # noqa: PLR2004 - beyond any calendar
        return False
    return abs(int(timestamp) - now.timestamp()) <= fresh.total_seconds()


@dataclass
class _Expected:
    secret: SecretStr
    until: datetime  # remembered at least
    future: Future[Completion]
    taken: Completion | None = None

    def take(self, completion: Completion) -> Verdict:
        """Hand a genuine completion to who waits."""
        if completion == self.taken:
            return Verdict.DUPLICATE
        try:
            self.future.set_result(completion)
        except InvalidStateError:  # given up, or ended otherwise before
            return Verdict.LATE
        self.taken = completion
        return Verdict.TAKEN


class Completions:
    """Who waits for the completion of which command; safe to call from any thread."""

    def __init__(self, clock: Clock) -> None:
        self.counts: Counter[Verdict] = Counter()
        self._clock = clock
        self._fresh = FRESH * max(clock.rate, 1.0)
        self._lock = threading.Lock()
        self._expected: dict[tuple[str, str], _Expected] = {}

    def expect(self, device_id: str, command_id: str, secret: SecretStr) -> Future[Completion]:
        """Return what will hold the completion that is signed with `secret`; cancel it to give up."""
        now = self._clock.now()
        with self._lock:
            for key in [key for key, known in self._expected.items() if known.until < now]:
                del self._expected[key]
            # A message is refused as stale before its command is forgotten.
            entry = _Expected(secret, now + 2 * self._fresh, Future())
            self._expected[device_id, command_id] = entry
        return entry.future

    def receive(
        self, device_id: str, command_id: str, headers: Mapping[str, str], body: bytes
    ) -> Verdict:
        """Judge one delivery, count it, and hand it to who waits for it."""
        with self._lock:
            verdict = self._judge(device_id, command_id, headers, body)
            self.counts[verdict] += 1
        return verdict

    def _judge(
        self, device_id: str, command_id: str, headers: Mapping[str, str], body: bytes
    ) -> Verdict:
        expected = self._expected.get((device_id, command_id))
        if expected is None:
            return Verdict.UNKNOWN
        if not is_genuine(headers, body, expected.secret):
            return Verdict.FORGED
        if not is_fresh(headers, self._clock.now(), self._fresh):
            return Verdict.STALE
        completion = _completion(device_id, command_id, body)
        return expected.take(completion) if completion else Verdict.MALFORMED


def _completion(device_id: str, command_id: str, body: bytes) -> Completion | None:
    """Return what `body` tells of a command; None where it does not."""
    try:
        told = parse(Completion, body)
    except MalformedMessage:
        return None
    return told if (told.device_id, told.command_id) == (device_id, command_id) else None


def _signature(secret: SecretStr, timestamp: str, body: bytes) -> str:
    key = secret.get_secret_value().encode()
    signed = timestamp.encode(errors="replace") + b"." + body
    return f"sha256={hmac.new(key, signed, 'sha256').hexdigest()}"
