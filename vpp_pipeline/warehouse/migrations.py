"""The store's schema moves forward, one numbered file after the other.

Belongs here: which migrations there are, which are due, applying them. Does not: their SQL
(`sql/migrations`), opening the database (`store`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import duckdb

from vpp_pipeline.warehouse.errors import WarehouseError
from vpp_pipeline.warehouse.statements import MIGRATIONS, statement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_FILE_NAME = re.compile(r"^(?P<version>\d{4})_[a-z0-9_]+\.sql$")


@dataclass(frozen=True)
class Migration:
    """One step: `NNNN_name.sql`, counted from 1."""

    version: int
    name: str
    sql: str

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the file's text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@cache
def known(folder: Path = MIGRATIONS) -> tuple[Migration, ...]:
    """Read the migrations that this code knows, in order.

    Raises `WarehouseError` for a file that isn't named NNNN_name.sql, a gap or a doubled number.
    """
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.match(path.name)
        if match is None:
            raise WarehouseError(f"{path}: rename it to NNNN_name.sql, a number and lower case")
        found.append(Migration(int(match["version"]), path.name, path.read_text("utf-8")))
    for expected, migration in enumerate(found, start=1):
        if migration.version != expected:
            raise WarehouseError(
                f"{folder / migration.name}: number {expected:04} is expected here; "
                "migrations count from 0001 without a gap or a double"
            )
    return tuple(found)


def pending(migrations: Sequence[Migration], applied: Mapping[int, str]) -> tuple[Migration, ...]:
    """Return what is still to be applied, given the checksums already applied by version.

    Raises `WarehouseError` where the database is newer than the code, a version was left out, or
    an applied file was changed since.
    """
    newest = max(applied, default=0)
    if newest > len(migrations):
        raise WarehouseError(
            f"the warehouse is at schema {newest:04}, this code knows {len(migrations):04}: "
            "update the code, or give it a warehouse directory of its own"
        )
    for migration in migrations[:newest]:
        checksum = applied.get(migration.version)
        if checksum is None:
            raise WarehouseError(
                f"the warehouse is at schema {newest:04} but never saw {migration.name}: "
                "restore the warehouse from a snapshot"
            )
        if checksum != migration.checksum:
            raise WarehouseError(
                f"{migration.name} was changed after it was applied: restore the file and put "
                "the change into a new migration"
            )
    return tuple(migrations[newest:])


def applied(session: duckdb.DuckDBPyConnection) -> dict[int, str]:
    """Return the checksums of the applied migrations by version; empty for a new database."""
    try:
        rows = session.sql(statement("warehouse_applied_migrations")).fetchall()
    except duckdb.CatalogException:
        return {}
    return dict(rows)


def apply(session: duckdb.DuckDBPyConnection, due: Sequence[Migration]) -> None:
    """Apply each migration in a transaction of its own and record it.

    Raises `WarehouseError` naming the file whose SQL failed; those before it stay applied.
    """
    session.execute(statement("warehouse_schema_migrations"))
    for migration in due:
        session.begin()
        try:
            session.execute(migration.sql)
            session.execute(
                statement("warehouse_record_migration"),
                {
                    "version": migration.version,
                    "name": migration.name,
                    "checksum": migration.checksum,
                },
            )
        except duckdb.Error as error:
            session.rollback()
            raise WarehouseError(
                f"{migration.name} failed and left nothing behind: {error}; correct the file"
            ) from error
        session.commit()
