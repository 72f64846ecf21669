"""Whatever a gateway answers, it is a body, a no, or nothing of use, in words that can be kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices.http_answers import (
    MOST_BYTES,
    Answer,
    NoAnswer,
    SaidNo,
    body_of,
    reason_of,
    retry_after_s,
)

BODIES = st.binary(max_size=80) | st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.just("reason"), inner)
).map(lambda document: json.dumps(document).encode())
DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@settings(deadline=None)
@given(st.integers(200, 599), BODIES, st.text(max_size=20))
def test_only_a_2xx_is_a_yes(status: int, body: bytes, location: str) -> None:
    answer = Answer(status, {"Location": location}, body)
    match status // 100:
        case 2:
            assert body_of(answer) == body
        case 3 | 4:
            with pytest.raises(SaidNo) as no:
                body_of(answer)
            assert str(no.value).encode()
        case _:
            with pytest.raises(NoAnswer) as none:
                body_of(answer)
            assert str(none.value).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"reason": "too hot"}', "too hot"),
        (b'{"reason": ""}', 'HTTP 422 {"reason": ""}'),
        (b'{"reason": "\\ud800"}', "?"),
        (b"[" * 100_000, "HTTP 422 " + "[" * 500),
        (b"", "HTTP 422"),
        (b"\xff", "HTTP 422 \ufffd"),
    ],
)
def test_a_reason_is_found_or_made_of_what_was_said(body: bytes, reason: str) -> None:
    assert reason_of(Answer(422, {}, body)) == reason


def test_a_redirect_is_named_without_its_query() -> None:
    with pytest.raises(SaidNo, match=r"^it redirects to http://10\.0\.0\.1/x, which"):
        body_of(Answer(302, {"Location": "http://10.0.0.1/x?token=secret"}, b""))


def test_an_answer_longer_than_is_read_is_none() -> None:
    with pytest.raises(NoAnswer, match="more than"):
        body_of(Answer(200, {}, b" " * (MOST_BYTES + 1)))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:29:30 GMT", "Date": DATE}, 90.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:27:00 GMT", "Date": DATE}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:29:30 -0000", "Date": DATE}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:29:30 GMT"}, 0.0),
        ({"Retry-After": "-7"}, 0.0),
        ({"Retry-After": "²"}, 0.0),
        ({"Retry-After": "9" * 5000}, float("inf")),
        ({}, 0.0),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_s(headers) == seconds


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_a_retry_after_of_any_text_is_some_seconds(value: str, date: str) -> None:
    assert retry_after_s({"Retry-After": value, "Date": date}) >= 0
