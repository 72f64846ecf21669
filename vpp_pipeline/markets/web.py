"""One question to a web service, and its answer or an error with a remedy.

Belongs here: asking, and reading JSON. Does not: what any one service is asked or answers
(`energy_charts`, `open_meteo`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests

from vpp_pipeline.markets.feeds import FeedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LATER = "try again in a few minutes"


def ask(  # noqa: PLR0917 - one question, asked in the order of its parts
    session: requests.Session,
    url: str,
    asked: Mapping[str, str | int],
    timeout_s: float,
    source: str,
    remedy: Callable[[requests.Response], str],
) -> requests.Response:
    """Return the answer to a GET; `remedy` says what to do about one that is not OK.

    The session is kept from following redirects and from taking proxies or credentials out of the
    environment; `timeout_s` limits connecting and each wait for data. Raises `FeedError`, which
    names `source`.
    """
    session.trust_env = False
    try:
        response = session.get(url, params=asked, timeout=timeout_s, allow_redirects=False)
    except requests.Timeout as error:
        raise FeedError(source, f"no answer within {timeout_s:g} s", LATER) from error
    except requests.RequestException as error:
        raise FeedError(
            source, f"can't be asked ({error})", "check the address and network"
        ) from error
    if response.status_code != requests.codes.ok:
        raise FeedError(source, f"answered {response.status_code}", remedy(response))
    return response


def json_of(response: requests.Response, source: str, remedy: str) -> Any:
    """Return the JSON of an answer. Raises `FeedError` where it is none."""
    try:
        return response.json()
    except (requests.RequestException, ValueError, RecursionError) as error:
        raise FeedError(source, "answered with something that is no JSON", remedy) from error
