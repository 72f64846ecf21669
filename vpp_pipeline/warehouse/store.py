"""DuckDB behind one `read()` and one `write()`.

Belongs here: the lock, opening, the transaction, frames in and out. Does not: SQL
(`sql/queries`), what a table means (the stages), landing files (`landing`).

Measured: with several processes on one DuckDB file only a lock beside it keeps every waiter
below a second, so nothing opens the file but this module. Compute outside `read()` and `write()`:
whoever holds a connection makes others wait.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import duckdb

from vpp_pipeline.warehouse import migrations
from vpp_pipeline.warehouse.errors import WarehouseError
from vpp_pipeline.warehouse.file_lock import Mode, held
from vpp_pipeline.warehouse.statements import statement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import polars as pl


_FOREIGN_LOCK_PAUSE_S = 0.05
_OF_DAMAGE = ("Could not read enough bytes", "Corrupt database file")
"""What DuckDB says of a file that was cut off or changed."""
_RESTORE = (
    "the database is damaged: move it and its .wal aside, and put the last snapshot that the asset "
    "`warehouse_snapshot` published in its place, or begin anew"
)


_OF_THREAD = threading.local()


def _instance() -> duckdb.DuckDBPyConnection:
    """Return this thread's DuckDB: to start one takes 17 ms, to attach a file to it 1.4 ms."""
    if not hasattr(_OF_THREAD, "session"):
        _OF_THREAD.session = duckdb.connect()
        _OF_THREAD.session.execute("SET TimeZone = 'UTC'")
    session: duckdb.DuckDBPyConnection = _OF_THREAD.session
    return session


def _is_damaged(error: duckdb.Error) -> bool:
    return any(words in str(error) for words in _OF_DAMAGE)


class Connection:
    """An open session of the warehouse: named statements in, frames out.

    It is good inside the `with` block that gave it, in the thread that opened it. Instants come
    back as `Datetime("us", "UTC")`.
    """

    def __init__(self, session: duckdb.DuckDBPyConnection) -> None:
        self._session = session

    def frame(
        self, name: str, /, frames: Mapping[str, pl.DataFrame] | None = None, **params: object
    ) -> pl.DataFrame:
        """Run the query `sql/queries/<name>.sql` with its `$params`; `frames` are its tables.

        Raises `WarehouseError` naming the query.
        """
        with self._told_as(f"query {name}"), self._with_tables(frames or {}):
            rows: pl.DataFrame = self._session.sql(statement(name), params=params or None).pl()
            return rows

    def execute(
        self, name: str, /, frames: Mapping[str, pl.DataFrame] | None = None, **params: object
    ) -> int:
        """Run the statement `sql/queries/<name>.sql` and return how many rows it changed.

        Raises `WarehouseError` naming the statement.
        """
        with self._told_as(f"statement {name}"), self._with_tables(frames or {}):
            changed = self._session.execute(statement(name), params or None).fetchone()
        return int(changed[0]) if changed else 0

    def append(self, table: str, frame: pl.DataFrame) -> int:
        """Insert the frame's rows by column name and return their number.

        A column the frame doesn't have is null. Raises `WarehouseError` for a table or column
        that isn't there, and for a row that breaks the table's rules; then no row is inserted.
        """
        tables = self.frame("warehouse_tables")["table_name"].to_list()
        if table not in tables:
            raise WarehouseError(f"there is no table {table!r}: one of {', '.join(tables)}")
        insert = f"INSERT INTO {table} BY NAME SELECT * FROM incoming"  # noqa: S608 - a table's own name, checked above
        with self._told_as(f"append to {table}"), self._with_tables({"incoming": frame}):
            inserted = self._session.execute(insert).fetchone()
        return int(inserted[0]) if inserted else 0

    @contextmanager
    def _with_tables(self, frames: Mapping[str, pl.DataFrame]) -> Iterator[None]:
        for name, frame in frames.items():
            self._session.register(name, frame)
        try:
            yield
        finally:
            with suppress(duckdb.Error):  # a failed statement's transaction drops them by itself
                for name in frames:
                    self._session.unregister(name)

    @contextmanager
    def _told_as(self, what: str) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            if _is_damaged(error):
                raise WarehouseError(f"{what}: {error}; {_RESTORE}") from error
            full = "; if the disk is full, free space and do it again"
            remedy = full if isinstance(error, duckdb.IOException) else ""
            raise WarehouseError(f"{what}: {error}{remedy}") from error


class Warehouse:
    """The DuckDB file `vpp.duckdb` in a directory, shared by all processes of one machine."""

    def __init__(self, directory: Path, lock_timeout_s: float = 60.0) -> None:
        self.directory = directory
        self._file = directory / "vpp.duckdb"
        self._log = directory / "vpp.duckdb.wal"
        self._lock_timeout_s = lock_timeout_s

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open the warehouse read-only, beside other readers; what is seen does not change.

        The first use creates and migrates the database. Raises `LockTimeoutError` and
        `WarehouseError`.
        """
        while True:
            with self._locked("shared", "read"):
                if self._file.exists():
                    with self._opened(self._file, read_only=True) as session:
                        if not self._due(session):
                            yield Connection(session)
                            return
            with self.write("migration"):
                pass

    @contextmanager
    def write(self, purpose: str = "write") -> Iterator[Connection]:
        """Open the warehouse alone, in ONE transaction: kept at exit, undone by an exception.

        `purpose` is what others are told while they wait. Raises `LockTimeoutError` and
        `WarehouseError`.
        """
        with self._locked("exclusive", purpose):
            if not self._file.exists():
                self._create()
            with self._opened(self._file, read_only=False) as session:
                migrations.apply(session, self._due(session))
                session.begin()
                try:
                    yield Connection(session)
                except BaseException:
                    with suppress(duckdb.Error):  # the failure that led here is the one to tell
                        session.rollback()
                    raise
                try:
                    session.commit()
                except duckdb.Error as error:
                    raise WarehouseError(
                        f"{self._file}: nothing of this write was kept: {error}; if the disk is "
                        f"full, free space in {self.directory} and write again"
                    ) from error

    @contextmanager
    def at_rest(self) -> Iterator[Path]:
        """Give the database file with every commit inside it, unchanging, beside other readers.

        Raises `LockTimeoutError` and `WarehouseError`.
        """
        while True:
            with self._locked("shared", "snapshot"):
                if self._file.exists() and not self._log.exists():
                    yield self._file
                    return
            with self.write("checkpoint"):
                pass

    @contextmanager
    def _locked(self, mode: Mode, purpose: str) -> Iterator[None]:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WarehouseError(
                f"{self.directory} can't be made ({error.strerror}): name a directory for the "
                "warehouse that this user may write in"
            ) from error
        with held(self.directory.resolve() / "vpp.lock", mode, purpose, self._lock_timeout_s):
            yield

    @contextmanager
    def _opened(self, file: Path, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        session = _instance()
        try:
            self._attach(session, file, read_only=read_only)
        except duckdb.Error as error:
            if _is_damaged(error):
                raise WarehouseError(f"{file} can't be opened: {error}; {_RESTORE}") from error
            raise WarehouseError(
                f"{file} can't be opened: {error}; close any other program that has it open, "
                "free space if the disk is full; if it is damaged, put a published snapshot in "
                "its place, or move it and its .wal aside to begin anew"
            ) from error
        try:
            session.execute("USE warehouse")
            yield session
        finally:
            session.execute("USE memory")
            session.execute("DETACH warehouse")

    def _attach(self, session: duckdb.DuckDBPyConnection, file: Path, *, read_only: bool) -> None:
        """Attach, waiting for a program that has the file open and knows nothing of our lock."""
        deadline = time.monotonic() + self._lock_timeout_s
        quoted = str(file).replace("'", "''")  # ATTACH takes no parameters
        while True:
            try:
                session.execute(
                    f"ATTACH '{quoted}' AS warehouse ({'READ_ONLY' if read_only else 'READ_WRITE'})"
                )
            except duckdb.IOException as error:
                if "lock" not in str(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(_FOREIGN_LOCK_PAUSE_S)
            else:
                return

    def _create(self) -> None:
        """Make the database beside its place: a half-made file never stands there."""
        new = self.directory / "vpp.new.duckdb"
        for leftover in (new, self.directory / "vpp.new.duckdb.wal"):
            leftover.unlink(missing_ok=True)
        with self._opened(new, read_only=False) as session:
            migrations.apply(session, self._due(session))
        new.replace(self._file)

    def _due(self, session: duckdb.DuckDBPyConnection) -> tuple[migrations.Migration, ...]:
        try:
            return migrations.pending(migrations.known(), migrations.applied(session))
        except duckdb.Error as error:
            raise WarehouseError(f"{self._file} can't be read: {error}") from error
