"""The landing zone: readings land as small Parquet files and are loaded exactly once.

Belongs here: landing a file, what has landed, compacting it into the warehouse. Does not:
taking readings (`devices`), reading the files (`landed_files`), the lock (`store`).

A file is loaded in the same transaction that writes its name into `landed_files`, and leaves the
zone only after that commit: whatever is killed, a file whose name is there is never read again,
and any other is whole and still to come.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from io import BytesIO
from typing import TYPE_CHECKING
from uuid import uuid4

import polars as pl
import polars.selectors as cs

from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.durable import replace_durably
from vpp_pipeline.warehouse.landed_files import read_files
from vpp_pipeline.warehouse.quarantine import from_failures, from_unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import dataframely as dy

    from vpp_pipeline.warehouse.store import Warehouse

SCHEMAS: Mapping[str, type[dy.Schema]] = {"telemetry": Telemetry}
"""What lands, by kind."""

_BATCH_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class CompactionReport:
    """What one compaction loaded: files settled, rows in, rows and whole files refused."""

    files: int
    rows: int
    quarantined: int


def land(directory: Path, kind: str, frame: pl.DataFrame, known_at: datetime) -> Path:
    """Write the frame as one file of `directory/kind`, whole or not at all, and return its path.

    Names sort by `known_at` (aware) and are never used twice. Rows are not checked here. Raises
    `OSError` where the disk can't take it; then nothing has landed.
    """
    folder = directory / kind
    folder.mkdir(parents=True, exist_ok=True)
    stamp = known_at.astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    path = folder / f"{stamp}-{uuid4().hex}.parquet"
    content = BytesIO()
    frame.with_columns((cs.enum() | cs.categorical()).cast(pl.String)).write_parquet(content)
    with replace_durably(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    return path


def waiting(directory: Path, kind: str) -> list[Path]:
    """Return the files that wait for compaction, by the moment they were known."""
    return sorted((directory / kind).glob("*.parquet"))


def landed(directory: Path, kind: str) -> pl.LazyFrame:
    """Return the good rows that have landed and not left the zone, of the kind's schema's types.

    For a whole picture read it BEFORE the warehouse and drop doubles: a file that is compacted in
    between is then seen twice, in the other order not at all. Raises `KeyError` for a kind that
    is not in `SCHEMAS`.
    """
    schema = SCHEMAS[kind]
    rows = read_files(waiting(directory, kind), schema).good
    return rows.select(schema.column_names()).lazy()


def compact(  # noqa: PLR0917 - one load is named by all of these, and each is told in its type
    warehouse: Warehouse,
    directory: Path,
    kind: str,
    schema: type[dy.Schema],
    table: str,
    now: datetime,
) -> CompactionReport:
    """Load what has landed in `directory/kind` into `table`, each file exactly once.

    Bad rows go into quarantine; a file that can't be read, or has other columns, moves to
    `directory/rejected` and is told there too. `table` must have no key of its own: a doubled
    reading stands beside the first. Raises `WarehouseError`; what isn't loaded then still waits.
    """
    load = _Load(kind, schema, table, directory / "rejected", now)
    reports = [
        _compact_batch(warehouse, files, load) for files in _batches(waiting(directory, kind))
    ]
    return CompactionReport(
        files=sum(report.files for report in reports),
        rows=sum(report.rows for report in reports),
        quarantined=sum(report.quarantined for report in reports),
    )


@dataclass(frozen=True)
class _Load:
    kind: str
    schema: type[dy.Schema]
    table: str
    rejected: Path
    now: datetime


def _compact_batch(warehouse: Warehouse, files: Sequence[Path], load: _Load) -> CompactionReport:
    present = pl.DataFrame({"file_name": [path.name for path in files]})
    with warehouse.write(f"compaction of {load.kind}") as connection:
        settled = connection.frame("warehouse_landed_files", {"present": present})
        known = set(settled["file_name"])
        # a file may have been compacted and removed by another process since it was listed
        fresh = [path for path in files if path.name not in known and path.exists()]
        rows = read_files(fresh, load.schema)
        refused = pl.concat(
            [
                from_failures(load.schema, rows.failures, load.table, load.now),
                from_unreadable(rows.unreadable, load.rejected, load.table, load.now),
            ]
        )
        ledger = _ledger(fresh, rows.good, refused).with_columns(
            kind=pl.lit(load.kind), compacted_at=pl.lit(load.now)
        )
        connection.append(load.table, rows.good.select(load.schema.column_names()))
        connection.append("quarantine", refused)
        connection.append("landed_files", ledger)
    unreadable = {*settled.filter("rejected")["file_name"], *rows.unreadable}
    for path in files:
        if path.name in unreadable:
            _move(path, load.rejected)
        else:
            path.unlink(missing_ok=True)
    return CompactionReport(len(fresh), rows.good.height, int(ledger["quarantined"].sum()))


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Cut a backlog so that one transaction's rows fit into memory."""
    batch: list[Path] = []
    size = 0
    for path in files:
        batch.append(path)
        with suppress(FileNotFoundError):
            size += path.stat().st_size
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _ledger(files: Sequence[Path], good: pl.DataFrame, refused: pl.DataFrame) -> pl.DataFrame:
    """One row a file: `file_name`, `rows` loaded and rows `quarantined`."""
    names = pl.DataFrame({"file_name": [path.name for path in files]}, {"file_name": pl.String})
    loaded = good.group_by("file_name").agg(rows=pl.len())
    quarantined = refused.group_by(file_name="source").agg(
        quarantined=pl.col("row_number").n_unique()
    )
    return (
        names.join(loaded, on="file_name", how="left")
        .join(quarantined, on="file_name", how="left")
        .with_columns(pl.col("rows", "quarantined").fill_null(0).cast(pl.Int64))
    )


def _move(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.replace(folder / path.name)
