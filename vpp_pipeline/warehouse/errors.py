"""What can go wrong between the pipeline and its store.

Belongs here: the warehouse's exceptions. Does not: bad rows (`quarantine`), which are kept.
"""

from __future__ import annotations


class WarehouseError(RuntimeError):
    """The store can't do what was asked; the message names the file and the remedy."""


class LockTimeoutError(WarehouseError):
    """Another process or thread kept the warehouse for longer than the caller would wait."""
