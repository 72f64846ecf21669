"""One file, one lock, one transaction."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone

import duckdb
import polars as pl
import pytest

from vpp_pipeline.warehouse import migrations
from vpp_pipeline.warehouse.errors import LockTimeoutError, WarehouseError
from vpp_pipeline.warehouse.store import Warehouse

T0 = datetime(2025, 3, 30, tzinfo=UTC)


def releases(*plans: str) -> pl.DataFrame:
    return pl.DataFrame({"plan_id": plans, "released_at": [T0] * len(plans)})


def prices(*known_at: datetime) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "market": pl.Series(["DE-LU"] * len(known_at), dtype=pl.Enum(["DE-LU"])),
            "interval_start": [T0] * len(known_at),
            "price_eur_per_mwh": [float(n) for n in range(len(known_at))],
            "resolution_minutes": [15] * len(known_at),
            "source": pl.Series(["test"] * len(known_at), dtype=pl.Categorical),
            "known_at": known_at,
        }
    )


def reading() -> pl.DataFrame:
    return pl.DataFrame(
        {"known_at": [T0], "status": ["ok"], "measured_at": [T0], "device_id": ["battery"]}
    )


def known_prices(warehouse: Warehouse) -> pl.DataFrame:
    with warehouse.read() as connection:
        return connection.frame(
            "warehouse_prices",
            market="DE-LU",
            start=T0,
            end_=T0 + timedelta(days=1),
            as_of=T0 + timedelta(days=1),
        )


def tables(warehouse: Warehouse) -> set[str]:
    with warehouse.read() as connection:
        return set(connection.frame("warehouse_tables")["table_name"])


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_reader_before_the_first_write_sees_an_empty_migrated_warehouse(tmp_path):
    warehouse = Warehouse(tmp_path / "not" / "there")

    assert known_prices(warehouse).is_empty()
    assert "telemetry" in tables(warehouse)


def test_a_write_is_kept_at_exit(tmp_path):
    with Warehouse(tmp_path).write() as connection:
        assert connection.append("prices", prices(T0, T0 + timedelta(hours=1))) == 2

    assert known_prices(Warehouse(tmp_path))["price_eur_per_mwh"].to_list() == [1.0]


def test_an_exception_undoes_the_whole_write(tmp_path):
    warehouse = Warehouse(tmp_path)

    def write_and_fail():
        with warehouse.write() as connection:
            connection.append("prices", prices(T0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()

    assert known_prices(warehouse).is_empty()


def test_a_row_that_breaks_the_tables_key_is_told_and_nothing_is_kept(tmp_path):
    warehouse = Warehouse(tmp_path)

    def write_twice():
        with warehouse.write() as connection:
            connection.append("prices", prices(T0 + timedelta(hours=1)))
            connection.append("plan_releases", releases("a", "a"))

    with pytest.raises(WarehouseError, match=r"append to plan_releases.*[Dd]uplicate"):
        write_twice()

    assert known_prices(warehouse).is_empty()


def test_only_known_tables_and_columns_are_appended_to(tmp_path):
    warehouse = Warehouse(tmp_path)

    with warehouse.write() as connection:
        for table in ("prices; DROP TABLE prices", "schema_migrations", "duckdb_tables"):
            with pytest.raises(
                WarehouseError, match=r"there is no table .*: one of .*, command_events, "
            ):
                connection.append(table, releases("a"))
    with warehouse.write() as connection, pytest.raises(WarehouseError, match="nonsense"):
        connection.append("plan_releases", releases("a").with_columns(nonsense=1))


def test_columns_are_matched_by_name_and_absent_ones_are_null(tmp_path):
    row = reading()
    warehouse = Warehouse(tmp_path)
    with warehouse.write() as connection:
        connection.append("telemetry", row)

    with warehouse.read() as connection:
        stored = connection.frame("warehouse_latest_telemetry", as_of=T0)

    assert stored.select(row.columns).rows() == row.rows()
    assert stored["power_kw"].to_list() == [None]


def test_instants_come_back_in_utc_whatever_zone_they_were_given_in(tmp_path):
    warehouse = Warehouse(tmp_path)
    with warehouse.write() as connection:
        connection.append(
            "plan_releases", releases("a").cast({"released_at": pl.Datetime("ns", "Asia/Tokyo")})
        )
        connection.append("prices", prices(T0.astimezone(timezone(timedelta(hours=5)))))

    stored = known_prices(warehouse)

    assert stored.schema["known_at"] == pl.Datetime("us", "UTC")
    assert stored["known_at"].to_list() == [T0]


def test_a_frame_can_be_joined_in_a_query(tmp_path):
    present = pl.DataFrame({"file_name": ["a", "b"]})
    warehouse = Warehouse(tmp_path)
    with warehouse.write() as connection:
        connection.append(
            "landed_files",
            pl.DataFrame(
                {
                    "file_name": ["a", "z"],
                    "kind": "telemetry",
                    "rows": 1,
                    "quarantined": 0,
                    "compacted_at": T0,
                }
            ),
        )

    with warehouse.read() as connection:
        assert connection.frame("warehouse_landed_files", {"present": present}).rows() == [
            ("a", False)
        ]


def test_an_unknown_query_and_a_missing_parameter_are_told_by_name(tmp_path):
    with Warehouse(tmp_path).read() as connection:
        with pytest.raises(WarehouseError, match=r"no query 'nonsense': write .*nonsense\.sql"):
            connection.frame("nonsense")
        with pytest.raises(WarehouseError, match=r"warehouse_fleet_at.*as_of"):
            connection.frame("warehouse_fleet_at")


def test_a_failed_query_that_is_remembered_does_not_keep_the_file_open(tmp_path):
    warehouse = Warehouse(tmp_path)
    with warehouse.write() as connection:
        connection.append("telemetry", reading())
    with warehouse.read() as connection, pytest.raises(WarehouseError) as remembered:
        connection.frame("warehouse_latest_telemetry", as_of="no time at all")

    with warehouse.write() as connection:
        assert connection.append("prices", prices(T0)) == 1
    assert remembered.value


def test_readers_stand_beside_each_other(tmp_path):
    first, second = Warehouse(tmp_path), Warehouse(tmp_path, lock_timeout_s=0.05)
    seen: list[set[str]] = []

    with first.read():
        other = threading.Thread(target=lambda: seen.append(tables(second)))
        other.start()
        other.join()

    assert "telemetry" in seen[0]


def waiting_in_a_thread(directory) -> str:
    """Try to write from another thread and return what the impatient one is told."""
    told: list[str] = []

    def write():
        try:
            with Warehouse(directory, lock_timeout_s=0.05).write():
                told.append("")
        except LockTimeoutError as error:
            told.append(str(error))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    return told[0]


def test_whoever_waits_too_long_is_told_who_holds_the_warehouse(tmp_path):
    with Warehouse(tmp_path).write("compaction of telemetry"):
        told = waiting_in_a_thread(tmp_path)
        holder = json.loads((tmp_path / "vpp.lock").read_text())

    assert f"process {holder['pid']} (compaction of telemetry)" in told


def test_a_writer_waits_for_readers_and_is_told_so(tmp_path):
    with Warehouse(tmp_path).read():
        told = waiting_in_a_thread(tmp_path)

    assert "held by readers" in told
    assert waiting_in_a_thread(tmp_path) == ""


def test_a_reader_inside_a_write_is_refused_at_once_instead_of_waiting_for_itself(tmp_path):
    warehouse = Warehouse(tmp_path)

    with (
        warehouse.write(),
        pytest.raises(WarehouseError, match="use the connection"),
        warehouse.read(),
    ):
        pass


def test_threads_of_one_process_read_and_write_without_losing_a_row(tmp_path):
    def work(number: int):
        warehouse = Warehouse(tmp_path)
        for step in range(3):
            with warehouse.write() as connection:
                connection.append("plan_releases", releases(f"{number}-{step}"))
            known_prices(warehouse)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with duckdb.connect(tmp_path / "vpp.duckdb") as session:
        assert session.sql("SELECT count(*) FROM plan_releases").fetchall() == [(12,)]


def test_the_holder_that_was_killed_gives_the_warehouse_back_without_its_write(tmp_path):
    killed = run(
        """
import os, signal, sys
from pathlib import Path
import polars as pl
from datetime import UTC, datetime
from vpp_pipeline.warehouse.store import Warehouse
with Warehouse(Path(sys.argv[1])).write() as connection:
    connection.append("plan_releases", pl.DataFrame({"plan_id": ["a"], "released_at": [datetime.now(UTC)]}))
    os.kill(os.getpid(), signal.SIGKILL)
""",
        tmp_path,
    )
    assert killed.returncode == -9

    with Warehouse(tmp_path, lock_timeout_s=0.05).write() as connection:
        assert connection.append("plan_releases", releases("a")) == 1


def test_a_directory_that_cannot_be_written_is_told_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(WarehouseError, match=r"file/warehouse can't be made .* name a directory"),
        Warehouse(tmp_path / "file" / "warehouse").read(),
    ):
        pass


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000])
def test_a_damaged_file_is_told_with_the_remedy_and_left_as_it_is(tmp_path, content):
    (tmp_path / "vpp.duckdb").write_bytes(content)

    with (
        pytest.raises(WarehouseError, match="if it is damaged, put a published snapshot"),
        Warehouse(tmp_path).write(),
    ):
        pass

    assert (tmp_path / "vpp.duckdb").read_bytes() == content


def cut_off(content):
    return content[: len(content) * 9 // 10]


def changed(content):
    third = len(content) // 3
    return content[:third] + bytes(byte ^ 255 for byte in content[third:-third]) + content[-third:]


@pytest.mark.parametrize("damage", [cut_off, changed])
def test_a_file_found_damaged_when_it_is_read_is_told_as_damaged_and_not_as_a_full_disk(
    tmp_path, damage
):
    warehouse = Warehouse(tmp_path)
    many = range(199_999)
    text = pl.Series([str(n * 7919 % len(many)) for n in many])
    names = ["table_name", "source", "field", "value", "reason", "remedy", "row_json"]
    with warehouse.write() as connection:
        connection.append(
            "quarantine",
            pl.DataFrame({"row_number": many}).with_columns(
                *(text.alias(name) for name in names), known_at=pl.lit(T0)
            ),
        )
    with warehouse.at_rest() as file:
        content = file.read_bytes()
    file.write_bytes(damage(content))

    with (
        pytest.raises(WarehouseError, match="the database is damaged") as told,
        warehouse.read() as connection,
    ):
        connection.frame("defs_refused_of_files", folder="", since=T0 - timedelta(days=1), as_of=T0)

    assert "warehouse_snapshot" in str(told.value)
    assert "disk is full" not in str(told.value)


def test_a_full_disk_is_told_and_the_warehouse_stays_as_it_was(tmp_path):
    warehouse = Warehouse(tmp_path)
    with warehouse.write() as connection:
        connection.append("plan_releases", releases("before"))

    full = run(
        """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
import numpy as np
import polars as pl
from vpp_pipeline.warehouse import landing
from vpp_pipeline.warehouse.errors import WarehouseError
from vpp_pipeline.warehouse.store import Warehouse
directory = Path(sys.argv[1])
now = datetime.now(UTC)
many = pl.DataFrame({
    "device_id": "d", "measured_at": now, "status": "ok", "known_at": now,
    "power_kw": np.random.default_rng(1).normal(size=300_000),
})
room = (directory / "vpp.duckdb").stat().st_size + 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
    with Warehouse(directory).write() as connection:
        connection.append("telemetry", many)
except WarehouseError as error:
    print("write:", str(error).replace(chr(10), " "))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, room))
try:
    landing.land(directory / "landing", "telemetry", many, now)
except OSError as error:
    print("land:", error)
""",
        tmp_path,
    )

    assert "write:" in full.stdout, full.stderr
    assert "free space" in full.stdout
    assert "land:" in full.stdout, full.stderr
    assert list((tmp_path / "landing" / "telemetry").iterdir()) == []
    with warehouse.read() as connection:
        assert connection.frame("warehouse_latest_telemetry", as_of=datetime.now(UTC)).is_empty()
    with warehouse.write() as connection, pytest.raises(WarehouseError, match=r"[Dd]uplicate"):
        connection.append("plan_releases", releases("before"))


def test_a_database_of_a_newer_code_is_refused_by_readers_and_writers(tmp_path):
    warehouse = Warehouse(tmp_path)
    tables(warehouse)
    with duckdb.connect(tmp_path / "vpp.duckdb") as session:
        session.execute("INSERT INTO schema_migrations VALUES (9999, 'x', 'x', now())")

    for use in (warehouse.read, warehouse.write):
        with pytest.raises(WarehouseError, match=r"schema 9999.*update the code"), use():
            pass


def test_a_migration_that_came_later_is_applied_by_whoever_comes_first(tmp_path, monkeypatch):
    later = migrations.Migration(
        len(migrations.known()) + 1, "9999_later.sql", "CREATE TABLE later (x BIGINT)"
    )
    warehouse = Warehouse(tmp_path)
    with warehouse.write() as connection:
        connection.append("prices", prices(T0))
    every = (*migrations.known(), later)
    monkeypatch.setattr(migrations, "known", lambda: every)

    assert "later" in tables(warehouse)
    assert known_prices(warehouse).height == 1


def test_a_migration_that_fails_leaves_nothing_behind_and_is_named():
    with duckdb.connect() as session:
        good = migrations.Migration(1, "0001_good.sql", "CREATE TABLE good (x BIGINT)")
        bad = migrations.Migration(2, "0002_bad.sql", "CREATE TABLE bad (x BIGINT); SELECT oops")

        with pytest.raises(WarehouseError, match=r"0002_bad\.sql failed"):
            migrations.apply(session, [good, bad])

        assert migrations.applied(session) == {1: good.checksum}
        assert session.sql("SHOW TABLES").fetchall() == [("good",), ("schema_migrations",)]


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (["0001_a.sql", "0003_c.sql"], "0002 is expected"),
        (["0001_a.sql", "0001_b.sql"], "0002 is expected"),
        (["1_a.sql"], "rename it to NNNN_name.sql"),
    ],
)
def test_a_gap_a_double_and_a_wrong_name_among_the_files_are_refused(tmp_path, names, remedy):
    for name in names:
        (tmp_path / name).write_text("SELECT 1")

    with pytest.raises(WarehouseError, match=remedy):
        migrations.known(tmp_path)
