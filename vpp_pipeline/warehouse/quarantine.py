"""Refused rows, kept whole with why and what to do.

Belongs here: turning broken rules, unreadable files and a feed's rejects into quarantine rows.
Does not: deciding what is refused (the schemas, the feeds), writing it (`store`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from vpp_pipeline.warehouse.schemas import Quarantine

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    import dataframely as dy

    from vpp_pipeline.markets.feeds import FeedError, FeedResult

WHOLE_FILE = 0
"""The row number of a file that was refused as a whole."""

_EXPLAINED = {
    "nullability": ("is missing", "send a value: this field may not be empty"),
    "nan": ("is not a number", "send a finite number, or nothing where none was measured"),
    "inf": ("is infinite", "send a finite number, or nothing where none was measured"),
    "min": ("is below what is possible", "check the unit and the sign at the source"),
    "max": ("is above what is possible", "check the unit and the sign at the source"),
}
_UNEXPLAINED = ("breaks the rule", "correct the row at its source and send it again")


def from_failures(
    schema: type[dy.Schema], failures: Iterable[pl.DataFrame], table: str, known_at: datetime
) -> pl.DataFrame:
    """Turn the failures that `validated` found into `Quarantine` rows, in their files' order."""
    records = [
        _broken(rule, schema, details, table, known_at)
        for details in failures
        for rule in details.columns
        if rule not in {*schema.column_names(), "file_name", "row_number"}
        and "invalid" in details[rule]
    ]
    return _as_quarantine(records).sort("source", "row_number", maintain_order=True)


def from_feed(table: str, result: FeedResult[Any], known_at: datetime) -> pl.DataFrame:
    """Turn what a feed refused for `table` into `Quarantine` rows."""
    return _as_quarantine(
        [
            result.rejected.with_columns(
                table_name=pl.lit(table),
                source=pl.lit(result.source),
                known_at=pl.lit(known_at),
            )
        ]
    )


def from_unreadable(
    reasons: Mapping[str, str], folder: Path, table: str, known_at: datetime
) -> pl.DataFrame:
    """Turn files of which nothing could be read, their reasons by name, into `Quarantine` rows.

    `folder` is where they are kept.
    """
    files = pl.DataFrame(
        {"source": list(reasons), "reason": list(reasons.values())},
        {"source": pl.String, "reason": pl.String},
    )
    remedy = f"the file is kept in {folder}: correct it and land its rows anew"
    return _whole_files(files, remedy, table, known_at)


def from_refused_file(error: FeedError, kept: Path, table: str, known_at: datetime) -> pl.DataFrame:
    """Turn a dropped file that was refused, and is now `kept`, into a `Quarantine` row."""
    file = pl.DataFrame({"source": [error.source], "reason": [error.reason]})
    remedy = f"{error.remedy}; the file is kept as {kept}: correct it and drop it anew"
    return _whole_files(file, remedy, table, known_at)


def _whole_files(files: pl.DataFrame, remedy: str, table: str, known_at: datetime) -> pl.DataFrame:
    """One record for each file: (source, reason)."""
    return _as_quarantine(
        [
            files.select(
                "source",
                "reason",
                table_name=pl.lit(table),
                row_number=pl.lit(WHOLE_FILE),
                field=pl.lit("file"),
                value="source",
                remedy=pl.lit(remedy),
                row_json=pl.lit("{}"),
                known_at=pl.lit(known_at),
            )
        ]
    )


def _broken(
    rule: str, schema: type[dy.Schema], details: pl.DataFrame, table: str, known_at: datetime
) -> pl.DataFrame:
    """One record for each row that breaks the rule: `<field>|<kind>`, or a name of its own."""
    name, _, kind = rule.partition("|")
    of_field = name in schema.column_names()
    reason, remedy = _EXPLAINED.get(kind, _UNEXPLAINED)
    if kind == "dtype":
        reason = "is not of the field's type"
        remedy = f"send it as {schema.create_empty().schema[name]}"
    return details.filter(pl.col(rule) == "invalid").select(
        table_name=pl.lit(table),
        source="file_name",
        row_number="row_number",
        field=pl.lit(name if of_field else "row"),
        value=pl.col(name).cast(pl.String) if of_field else pl.lit(None),
        reason=pl.lit(f"{name} {reason} ({schema.__name__}: {kind or name})"),
        remedy=pl.lit(remedy),
        row_json=pl.struct(schema.column_names()).struct.json_encode(),
        known_at=pl.lit(known_at),
    )


def _as_quarantine(records: Iterable[pl.DataFrame]) -> pl.DataFrame:
    columns = Quarantine.column_names()
    return pl.concat(
        [
            Quarantine.create_empty(),
            *(Quarantine.validate(record.select(columns), cast=True) for record in records),
        ]
    )
