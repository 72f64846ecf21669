"""Rows that become known only later, for any table of the warehouse: absurd, and of the same keys.

Belongs here: the catalogue of tables, when a row of each is known, and making such rows. Does
not: any promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from typing import TYPE_CHECKING

import duckdb
import polars as pl
from defs_plant import TOMORROW

from vpp_pipeline.delivery_day import bounds, intervals
from vpp_pipeline.settings import MARKET, MARKET_TZ

if TYPE_CHECKING:
    from pathlib import Path

START, END = bounds(TOMORROW, MARKET_TZ)
LATER = START + timedelta(hours=12)
"""When all of it becomes known: after the moments at which plans are made."""

KNOWN_BY = {
    "commands": "created_at",
    "command_events": "at",
    "delivery": "settled_at",
    "delivery_errors": "settled_at",
    "landed_files": "compacted_at",
    "orders": "given_at",
    "plan_churn": "settled_at",
    "plan_releases": "released_at",
    "plans": "as_of",
    "power_verifications": "judged_at",
    "regret": "settled_at",
    "replays": "replayed_at",
    "settlements": "settled_at",
}
"""The column that tells when a row became known, where it is not `known_at`."""

PARTS_OF_A_PLAN = {"schedules", "plan_prices", "replay_schedules"}
"""Known with their plan: no query that decides reads them but through one it may know."""

_ABSURD = 987_654.0
_DEVICES = ["alba-battery", "alba-pv", "alba-heat-pump", "alba-load", "borgo-battery"]
_DEVICES += ["borgo-charger", "borgo-load"]
_SITES = ["alba", "borgo"]
_PAST = timedelta(days=2)
_QUARTER_HOURS = intervals(START - _PAST, END).to_list()
_VALUES = {
    "delivery_day": [TOMORROW],
    "device_id": _DEVICES,
    "direction": ["up", "down"],
    "heartbeat": [7],
    "horizon_end": [END],
    "horizon_start": [START],
    "interval_start": _QUARTER_HOURS,
    "market": [MARKET],
    "measured_at": intervals(START - _PAST, LATER).to_list(),
    "plan_id": ["of the future"],
    "resolution_minutes": [15],
    "score": [0.0],
    "site_id": _SITES,
    "status": ["ok", "offline"],
    "subject_id": [*_DEVICES, *_SITES, MARKET],
    "target": ["load", "pv", "wind", "temperature", "price"],
}
_LATE_TOO = {"deadline", "last_interval", "reading_known_at"}
_KINDS = {"plans": "day_ahead", "weather": "observed"}


@dataclass(frozen=True)
class Table:
    """A table of the catalogue: its columns' types by name."""

    name: str
    columns: dict[str, str]

    @property
    def known_by(self) -> str:
        """The column that tells when a row became known."""
        return KNOWN_BY.get(self.name, "known_at")


def catalogue(file: Path) -> list[Table]:
    """Return every table that rows may be appended to, as the database itself tells."""
    with duckdb.connect(file, read_only=True) as session:
        columns = session.sql(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() "
            "WHERE NOT internal AND table_name IN (SELECT table_name FROM duckdb_tables()) "
            "AND table_name <> 'schema_migrations' ORDER BY table_name, column_index"
        ).fetchall()
    names = sorted({name for name, _, _ in columns})
    return [Table(name, {c: kind for t, c, kind in columns if t == name}) for name in names]


def poison(table: Table, later: datetime = LATER) -> pl.DataFrame:
    """Return rows that are known `later`: one for each value that a key may have."""
    given = [name for name in table.columns if name in _VALUES and name != table.known_by]
    keys = [pl.DataFrame({name: _VALUES[name]}) for name in given]
    rows = reduce(lambda left, right: left.join(right, how="cross"), keys, _one())
    number = pl.int_range(pl.len())
    rest = {
        name: _of(table, name, kind, later, number)
        for name, kind in table.columns.items()
        if name not in given
    }
    return rows.with_columns(**rest).select(list(table.columns))


def _one() -> pl.DataFrame:
    return pl.DataFrame({"_": [0]})


def _of(table: Table, name: str, kind: str, later: datetime, number: pl.Expr) -> pl.Expr:
    """Return a value that nobody would plan on, and that no other row has where it is a name."""
    if name == table.known_by or name in _LATE_TOO:
        return pl.lit(later)
    if name == "kind":
        return pl.lit(_KINDS.get(table.name, "set_point"))
    by_kind = {
        "BIGINT": 900_000 + number,
        "BOOLEAN": pl.lit(value=True),
        "DATE": pl.lit(TOMORROW),
        "DOUBLE": pl.lit(_ABSURD),
        "VARCHAR": pl.format("future {}", number),
        "TIMESTAMP WITH TIME ZONE": pl.lit(_moment(name, later)),
    }
    return by_kind[kind]


def _moment(name: str, later: datetime) -> datetime:
    """Return a moment of the poisoned day; vehicles come after they are told of, and before it ends."""
    if name.startswith("departure"):
        return END
    return later + timedelta(hours=1) if name.startswith("arrival") else START
