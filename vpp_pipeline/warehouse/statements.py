"""Where the SQL files stand, and their text.

Belongs here: finding a statement by its name. Does not: running it (`store`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from vpp_pipeline.warehouse.errors import WarehouseError

_SQL = Path(__file__).resolve().parents[2] / "sql"
MIGRATIONS = _SQL / "migrations"
_QUERIES = _SQL / "queries"


@cache
def statement(name: str) -> str:
    """Return the text of `sql/queries/<name>.sql`; `WarehouseError` where there is none."""
    path = _QUERIES / f"{name}.sql"
    if not path.is_file():
        raise WarehouseError(f"there is no query {name!r}: write {path}")
    return path.read_text("utf-8")
