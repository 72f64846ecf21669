"""A simulated gateway's post office: signed completions, on their way in a thread.

Belongs here: signing and posting. Does not: which command has ended (`http_devices`).
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import quote

import requests

from vpp_pipeline.devices.webhook import signed_headers

if TYPE_CHECKING:
    from pydantic import SecretStr

    from vpp_pipeline.clock import Clock
    from vpp_pipeline.devices.webhook import Completion

_LOG = logging.getLogger(__name__)
_PATIENCE_S = 5.0


class CompletionSender:
    """Posts completions to the webhook at a base URL, in the order they are given.

    What is not taken is not posted again: commands are asked after as well.
    """

    def __init__(self, url: str, secret: SecretStr, clock: Clock) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock
        self._session = requests.Session()
        self._session.trust_env = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="http-completions")

    def send(self, completion: Completion) -> None:
        """Post a completion soon."""
        self._thread.submit(self._post, completion)

    def stop(self) -> None:
        """Post what was given, and end. May be called twice."""
        self._thread.shutdown()
        self._session.close()

    def _post(self, completion: Completion) -> None:
        body = completion.model_dump_json().encode()
        names = (completion.device_id, completion.command_id)
        place = "/".join(quote(name, safe="") for name in ("completions", *names))
        try:
            self._session.post(
                f"{self._url}/{place}",
                data=body,
                headers=signed_headers(self._secret, self._clock.now(), body),
                timeout=_PATIENCE_S,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            _LOG.warning("a completion was not posted: %s", error)
