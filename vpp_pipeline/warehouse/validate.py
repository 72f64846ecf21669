"""What came in, against what it should be.

Belongs here: sorting landed rows into good and refused, and the fingerprint of inputs. Does
not: the schemas (each stage's own), the wording of a refusal (`quarantine`).
"""

from __future__ import annotations

import hashlib
import types
from functools import cache
from typing import TYPE_CHECKING

import dataframely as dy
import polars as pl
import polars.selectors as cs

if TYPE_CHECKING:
    from collections.abc import Mapping

_SLICE_ROWS = 500_000


def validated(schema: type[dy.Schema], rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Sort rows into good ones, of the types of `by_place(schema)`, and failures.

    Failures are the refused rows as they came, with a column for each rule: "valid", "invalid"
    or "unknown". `rows` has the columns of `by_place(schema)`, cast where needed. Raises
    `dataframely.exc.ValidationError` where a column is missing.
    """
    good, failure = by_place(schema).filter(rows, cast=True)
    return good, failure.details()


@cache
def by_place(schema: type[dy.Schema]) -> type[dy.Schema]:
    """Return the schema with `file_name` and `row_number` (from 1) added to its key.

    So a correction, or a reading that came twice, stands beside the first.
    """
    place = {
        "file_name": dy.String(primary_key=True),
        "row_number": dy.Int64(primary_key=True),
    }
    return types.new_class(
        f"{schema.__name__}ByPlace", (schema,), exec_body=lambda n: n.update(place)
    )


def input_hash(frames: Mapping[str, pl.DataFrame]) -> str:
    """Return the SHA-256 of named frames, whatever the order of their rows and columns.

    An enum counts as its text, so that a frame has the same hash before it was stored and after.
    """
    digest = hashlib.sha256()
    for name in sorted(frames):
        frame = frames[name]
        plain = (
            frame.select(sorted(frame.columns))
            .with_columns((cs.enum() | cs.categorical()).cast(pl.String))
            .with_columns(cs.nested().map_batches(_as_json, return_dtype=pl.String))
        )
        digest.update(f"{name}:{plain.height}:{plain.columns}\n".encode())
        for part in plain.sort(pl.all()).iter_slices(_SLICE_ROWS):
            digest.update(part.write_csv(include_header=False).encode())
    return digest.hexdigest()


def _as_json(values: pl.Series) -> pl.Series:
    return values.to_frame("value").select(pl.struct("value").struct.json_encode()).to_series()
