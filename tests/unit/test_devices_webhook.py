"""Which deliveries of a gateway count, on a clock that the test moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from vpp_pipeline.clock import ManualClock
from vpp_pipeline.devices.webhook import (
    FRESH,
    SIGNATURE,
    TIMESTAMP,
    Completion,
    Completions,
    Verdict,
    is_fresh,
    signed_headers,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = SecretStr("a gateway's own")
BODY = b'{"device_id":"b-1","command_id":"c-1","state":"applied","setpoint_kw":2.0}'


class Desk:
    """Completions of one expected command, b-1's c-1."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOON)
        self.completions = Completions(self.clock)
        self.waiting: Future[Completion] = self.completions.expect("b-1", "c-1", SECRET)

    def take(self, body: bytes = BODY, *, at: datetime = NOON, **changes: str) -> Verdict:
        headers = signed_headers(SECRET, at, body) | changes
        return self.completions.receive("b-1", "c-1", headers, body)


def test_a_genuine_completion_reaches_who_waits_for_it() -> None:
    desk = Desk()
    assert desk.take() is Verdict.TAKEN
    told = desk.waiting.result(0)
    assert (told.device_id, told.command_id, told.state) == ("b-1", "c-1", "applied")
    assert told.setpoint_kw == 2.0


def test_the_signature_is_the_hmac_of_timestamp_and_body() -> None:
    # openssl: printf '1772366400.{}' | openssl dgst -sha256 -hmac "a gateway's own"
    headers = signed_headers(SECRET, NOON, b"{}")
    assert headers == {
        TIMESTAMP: "1772366400",
        SIGNATURE: "sha256=32437a765cac2470fc33f43a34195b15f8a3dff87dcaba701e29adb6b31a24b0",
    }


@settings(deadline=None)
@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_a_body_changed_in_any_byte_is_forged(place: int, flip: int) -> None:
    desk = Desk()
    headers = signed_headers(SECRET, NOON, BODY)
    forged = bytes([*BODY[:place], BODY[place] ^ flip, *BODY[place + 1 :]])
    assert desk.completions.receive("b-1", "c-1", headers, forged) is Verdict.FORGED
    assert not desk.waiting.done()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {TIMESTAMP: "1772366400"},
        {SIGNATURE: ""},
        {TIMESTAMP: "1772366401", SIGNATURE: signed_headers(SECRET, NOON, BODY)[SIGNATURE]},
        signed_headers(SecretStr("another gateway's"), NOON, BODY),
        {TIMESTAMP: "1772366400", SIGNATURE: "sha256=ü"},
        {TIMESTAMP: "\ud800", SIGNATURE: "\ud800"},
    ],
)
def test_who_does_not_know_the_secret_is_refused(headers: dict[str, str]) -> None:
    desk = Desk()
    assert desk.completions.receive("b-1", "c-1", headers, BODY) is Verdict.FORGED
    assert not desk.waiting.done()


@pytest.mark.parametrize("off", [FRESH + timedelta(seconds=1), -FRESH - timedelta(seconds=1)])
def test_a_message_from_long_ago_or_from_the_future_is_stale(off: timedelta) -> None:
    desk = Desk()
    assert desk.take(at=NOON + off) is Verdict.STALE
    assert not desk.waiting.done()


@pytest.mark.parametrize("timestamp", ["", "-1", "1.5", "\u0661", "9" * 400, "1772366400 "])
def test_a_timestamp_that_is_none_is_never_fresh(timestamp: str) -> None:
    assert not is_fresh({TIMESTAMP: timestamp}, NOON)


def test_a_duplicate_is_known_and_changes_nothing() -> None:
    desk = Desk()
    assert [desk.take() for _ in range(3)] == [Verdict.TAKEN, Verdict.DUPLICATE, Verdict.DUPLICATE]
    changed = BODY.replace(b"applied", b"expired")
    assert desk.take(changed) is Verdict.LATE
    assert desk.waiting.result(0).state == "applied"


def test_what_comes_after_the_wait_is_late_and_ignored() -> None:
    desk = Desk()
    desk.waiting.cancel()
    assert [desk.take(), desk.take()] == [Verdict.LATE, Verdict.LATE]


def test_a_captured_message_is_of_no_use_for_another_command() -> None:
    desk = Desk()
    other = desk.completions.expect("b-1", "c-2", SECRET)
    stranger = desk.completions.expect("b-2", "c-1", SECRET)
    headers = signed_headers(SECRET, NOON, BODY)
    for device_id, command_id in [("b-1", "c-2"), ("b-2", "c-1")]:
        verdict = desk.completions.receive(device_id, command_id, headers, BODY)
        assert verdict is Verdict.MALFORMED
    assert not other.done()
    assert not stranger.done()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        BODY.replace(b"applied", b"accepted"),
        BODY.replace(b"2.0", b"NaN"),
        BODY.replace(b'"b-1"', b"1"),
        b"\xff",
    ],
)
def test_a_genuine_message_that_is_no_completion_is_malformed(body: bytes) -> None:
    desk = Desk()
    assert desk.take(body) is Verdict.MALFORMED
    assert not desk.waiting.done()


def test_nobody_waits_for_an_unknown_command_and_a_replay_never_outlives_its_freshness() -> None:
    desk = Desk()
    headers = signed_headers(SECRET, NOON, BODY)
    verdicts: list[Any] = [desk.completions.receive("b-1", "c-9", headers, BODY), desk.take()]
    for minutes in range(1, 30):
        desk.clock.sleep_until(NOON + timedelta(minutes=minutes))
        desk.completions.expect("b-9", f"c-{minutes}", SECRET)
        verdicts.append(desk.completions.receive("b-1", "c-1", headers, BODY))
    counted = [*dict.fromkeys(verdicts)]
    assert counted == [Verdict.UNKNOWN, Verdict.TAKEN, Verdict.DUPLICATE, Verdict.STALE]
    assert verdicts[-1] is Verdict.UNKNOWN
    assert desk.completions.counts.total() == len(verdicts)
    assert desk.completions.counts[Verdict.TAKEN] == 1


def test_a_fast_clock_has_as_much_more_time_for_a_message_on_its_way() -> None:
    desk = Desk()
    desk.clock.rate = 600.0
    completions = Completions(desk.clock)
    waiting = completions.expect("b-1", "c-1", SECRET)
    headers = signed_headers(SECRET, NOON - timedelta(minutes=30), BODY)
    assert completions.receive("b-1", "c-1", headers, BODY) is Verdict.TAKEN
    assert waiting.done()
