"""A fleet as one canonical JSON document, and the hash that names its content.

Belongs here: writing, reading back, hashing. Does not: keeping versions (`warehouse`), files
written by hand (`registry`).
"""

from __future__ import annotations

import hashlib
import json

from vpp_pipeline.fleet.model import Fleet


def to_document(fleet: Fleet) -> str:
    """Return the fleet as JSON: every field written, keys sorted, no blanks between.

    Equal fleets give equal documents; the order of sites, devices and groups is kept.
    """
    tree = fleet.model_dump(mode="json")
    return json.dumps(
        tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def from_document(document: str) -> Fleet:
    """Return the fleet of a document; raises pydantic.ValidationError if it is none."""
    return Fleet.model_validate_json(document)


def content_hash(fleet: Fleet) -> str:
    """Return the SHA-256 of the fleet's document, in hexadecimal."""
    return hashlib.sha256(to_document(fleet).encode()).hexdigest()
