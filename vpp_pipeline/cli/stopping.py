"""How a resident command is told to end.

Belongs here: the signals. Does not: any command.
"""

from __future__ import annotations

from signal import SIGINT, SIGTERM, signal
from threading import Event


def until_stopped() -> Event:
    """Return an event that SIGINT or SIGTERM sets."""
    stopped = Event()
    for number in (SIGINT, SIGTERM):
        signal(number, lambda *_: stopped.set())
    return stopped
