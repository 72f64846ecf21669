"""What an HTTP answer says, whoever gave it: taken, no, busy, or nothing of use.

Belongs here: statuses, headers and the reason in a body. Does not: sending (`http_exchange`),
what a 2xx body means for a device (`http`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_BYTES = 1 << 20
"""A longer answer is not taken."""

BUSY = frozenset({429, 503})
ABSENT = frozenset({502, 504})
_MOST_TOLD = 500  # characters of a reason


class NotSent(ConnectionError):  # noqa: N818 - names what is known
    """The request certainly did not reach the device."""


class NoAnswer(ConnectionError):  # noqa: N818 - names what is known
    """The request may have reached the device; no usable answer came."""


class SaidNo(Exception):  # noqa: N818 - an answer, not a failure
    """What stands at the address refused for good; the text is its reason."""

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.answer = answer


@dataclass(frozen=True)
class Answer:
    """An answer as it came, cut off after `MOST_BYTES` and one."""

    status: int
    headers: Mapping[str, str]
    content: bytes


def body_of(answer: Answer) -> bytes:
    """Return the body of a 2xx answer.

    Raises `SaidNo` on a 4xx, and on a redirect, which it names; `NoAnswer` on all others.
    """
    if len(answer.content) > MOST_BYTES:
        raise NoAnswer(f"HTTP {answer.status} with more than {MOST_BYTES:,} bytes")
    match answer.status // 100:
        case 2:
            return answer.content
        case 3:
            aim = answer.headers.get("Location", "nowhere").partition("?")[0][:_MOST_TOLD]
            raise SaidNo(f"it redirects to {aim}, which is not followed; mend the registry's URL")
        case 4:
            raise SaidNo(reason_of(answer), answer.content)
        case _:
            raise NoAnswer(f"HTTP {answer.status}: {reason_of(answer)}")


def reason_of(answer: Answer) -> str:
    """Return the answer's `reason`, else the beginning of what it says."""
    try:
        document = json.loads(answer.content)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and document.get("reason"):
        told = str(document["reason"])[:_MOST_TOLD]
        return told.encode(errors="replace").decode()  # JSON may hold half a character
    text = answer.content[:_MOST_TOLD].decode(errors="replace")
    return f"HTTP {answer.status} {text}".strip()


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds a Retry-After asks for (RFC 9110, 10.2.3); 0 where it says nothing.

    A date is measured from the answer's own Date, so that clocks need not agree.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        then, now = (parsedate_to_datetime(text) for text in (value, headers.get("Date", "")))
        return max((then - now).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return 0.0
