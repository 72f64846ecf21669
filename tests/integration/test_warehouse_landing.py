"""What lands is loaded exactly once, and what is bad is told."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.warehouse import landing
from vpp_pipeline.warehouse.landing import CompactionReport
from vpp_pipeline.warehouse.store import Warehouse

T0 = datetime(2025, 3, 30, tzinfo=UTC)
NOW = T0 + timedelta(hours=1)


def readings(*devices: str, minute: int = 0) -> pl.DataFrame:
    return Telemetry.validate(
        pl.DataFrame({"device_id": devices}, {"device_id": pl.String}).with_columns(
            *(
                pl.lit(None).alias(name)
                for name in Telemetry.column_names()
                if name not in {"device_id", "measured_at", "power_kw", "status", "known_at"}
            ),
            measured_at=pl.lit(T0 + timedelta(minutes=minute)),
            power_kw=pl.lit(1.5),
            status=pl.lit("ok"),
            known_at=pl.lit(T0 + timedelta(minutes=minute)),
        ),
        cast=True,
    )


@pytest.fixture
def warehouse(tmp_path):
    return Warehouse(tmp_path / "warehouse")


@pytest.fixture
def zone(tmp_path):
    return tmp_path / "landing"


def compact(warehouse: Warehouse, zone) -> CompactionReport:
    return landing.compact(warehouse, zone, "telemetry", Telemetry, "telemetry", NOW)


def rows(warehouse: Warehouse, query: str) -> list[tuple[object, ...]]:
    with duckdb.connect(warehouse.directory / "vpp.duckdb") as session:
        return session.sql(query).fetchall()


def in_zone(zone) -> list[str]:
    return sorted(path.name for path in (zone / "telemetry").iterdir())


def test_what_landed_is_loaded_once_and_leaves_the_zone(warehouse, zone):
    names = [
        landing.land(zone, "telemetry", readings("a", "b", minute=minute), T0).name
        for minute in range(3)
    ]

    assert compact(warehouse, zone) == CompactionReport(files=3, rows=6, quarantined=0)
    assert compact(warehouse, zone) == CompactionReport(files=0, rows=0, quarantined=0)
    assert in_zone(zone) == []
    assert rows(warehouse, "SELECT count(*), count(DISTINCT measured_at) FROM telemetry") == [
        (6, 3)
    ]
    assert rows(
        warehouse, "SELECT file_name, kind, rows, quarantined FROM landed_files ORDER BY ALL"
    ) == [(name, "telemetry", 2, 0) for name in sorted(names)]


def test_names_sort_by_the_moment_they_were_known_and_never_meet(zone):
    late = landing.land(zone, "telemetry", readings("a"), T0 + timedelta(microseconds=1))
    early = [landing.land(zone, "telemetry", readings("a"), T0) for _ in range(3)]

    assert len({late, *early}) == 4
    assert max(late, *early) == late


def test_landed_readings_can_be_read_before_they_are_compacted(warehouse, zone):
    assert landing.landed(zone, "telemetry").collect().schema == Telemetry.create_empty().schema

    landing.land(zone, "telemetry", readings("a", "b"), T0)
    (zone / "telemetry" / "damaged.parquet").write_bytes(b"PAR1")

    assert landing.landed(zone, "telemetry").collect().equals(readings("a", "b"))

    compact(warehouse, zone)
    assert landing.landed(zone, "telemetry").collect().is_empty()


def test_a_file_already_loaded_is_removed_and_not_loaded_again(warehouse, zone):
    path = landing.land(zone, "telemetry", readings("a"), T0)
    content = path.read_bytes()
    compact(warehouse, zone)
    path.write_bytes(content)

    assert compact(warehouse, zone) == CompactionReport(files=0, rows=0, quarantined=0)
    assert in_zone(zone) == []
    assert rows(warehouse, "SELECT count(*) FROM telemetry") == [(1,)]


def test_bad_rows_are_quarantined_with_file_row_and_field_and_good_ones_go_on(warehouse, zone):
    bad = readings("a", "b", "c", "d").with_columns(
        power_kw=pl.Series([1.0, float("nan"), 1.0, float("inf")]),
        status=pl.Series(["ok", "ok", "asleep", "asleep"]),
    )
    landing.land(zone, "telemetry", readings("x"), T0)
    path = landing.land(zone, "telemetry", bad, T0 + timedelta(minutes=1))

    assert compact(warehouse, zone) == CompactionReport(files=2, rows=2, quarantined=3)
    assert rows(warehouse, "SELECT device_id FROM telemetry ORDER BY ALL") == [("a",), ("x",)]
    told = rows(
        warehouse, "SELECT table_name, source, row_number, field FROM quarantine ORDER BY 3, 4"
    )
    # a value that can't be cast is told first: rules over values wait until it can
    assert told == [
        ("telemetry", path.name, 2, "power_kw"),
        ("telemetry", path.name, 3, "status"),
        ("telemetry", path.name, 4, "status"),
    ]
    assert rows(
        warehouse, f"SELECT rows, quarantined FROM landed_files WHERE file_name = '{path.name}'"
    ) == [(1, 3)]


def test_a_file_with_other_types_is_cast_row_by_row(warehouse, zone):
    odd = readings("a", "b").with_columns(
        power_kw=pl.Series(["1.25", "much"]), heartbeat=pl.Series([7, 8], dtype=pl.Int16)
    )
    landing.land(zone, "telemetry", odd, T0)

    assert compact(warehouse, zone) == CompactionReport(files=1, rows=1, quarantined=1)
    assert rows(warehouse, "SELECT power_kw, heartbeat FROM telemetry") == [(1.25, 7)]
    assert rows(warehouse, "SELECT field, value FROM quarantine") == [("power_kw", "much")]


def damaged(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    return {
        "empty": b"",
        "truncated": content[:middle],
        "not Parquet": b"device_id,measured_at\n" * 50,
        "headless": content[middle:],
    }[how]


@pytest.mark.parametrize("how", ["empty", "truncated", "not Parquet", "headless"])
def test_a_file_that_cannot_be_read_is_set_aside_and_told_and_the_others_go_on(
    warehouse, zone, how
):
    for minute in range(3):
        landing.land(zone, "telemetry", readings("a", minute=minute), T0)
    broken = landing.land(zone, "telemetry", readings("lost"), T0)
    broken.write_bytes(content := damaged(broken.read_bytes(), how))

    assert compact(warehouse, zone) == CompactionReport(files=4, rows=3, quarantined=1)
    assert in_zone(zone) == []
    assert (zone / "rejected" / broken.name).read_bytes() == content
    assert rows(warehouse, "SELECT source, row_number, field FROM quarantine") == [
        (broken.name, 0, "file")
    ]


@pytest.mark.parametrize("change", [lambda f: f.drop("status"), lambda f: f.with_columns(new=1)])
def test_a_file_with_other_columns_is_set_aside_and_told(warehouse, zone, change):
    path = landing.land(zone, "telemetry", change(readings("a")), T0)

    assert compact(warehouse, zone) == CompactionReport(files=1, rows=0, quarantined=1)
    assert (zone / "rejected" / path.name).exists()
    ((reason,),) = rows(warehouse, "SELECT reason FROM quarantine")
    assert "status" in reason or "new" in reason


def test_an_unreadable_file_that_was_told_but_not_moved_is_moved_later(warehouse, zone):
    path = landing.land(zone, "telemetry", readings("a"), T0)
    path.write_bytes(b"")
    compact(warehouse, zone)
    (zone / "rejected" / path.name).replace(path)  # as a kill between commit and move leaves it

    assert compact(warehouse, zone) == CompactionReport(files=0, rows=0, quarantined=0)
    assert (zone / "rejected" / path.name).exists()
    assert in_zone(zone) == []


def test_an_empty_file_and_a_half_written_one_do_no_harm(warehouse, zone):
    landing.land(zone, "telemetry", readings(), T0)
    (zone / "telemetry" / "killed.parquet.0.tmp").write_bytes(b"half")

    assert compact(warehouse, zone) == CompactionReport(files=1, rows=0, quarantined=0)
    assert in_zone(zone) == ["killed.parquet.0.tmp"]


def test_a_correction_stands_beside_what_it_corrects(warehouse, zone):
    first = readings("a")
    correction = first.with_columns(
        power_kw=pl.lit(9.0), known_at=pl.col("known_at") + timedelta(minutes=5)
    )
    landing.land(zone, "telemetry", pl.concat([first, correction]), T0)
    compact(warehouse, zone)

    assert rows(warehouse, "SELECT power_kw FROM telemetry ORDER BY known_at") == [(1.5,), (9.0,)]


def test_a_backlog_too_big_for_one_transaction_is_loaded_in_several(warehouse, zone, monkeypatch):
    monkeypatch.setattr(landing, "_BATCH_BYTES", 1)
    for minute in range(3):
        landing.land(zone, "telemetry", readings("a", minute=minute), T0)

    assert compact(warehouse, zone) == CompactionReport(files=3, rows=3, quarantined=0)
    assert rows(warehouse, "SELECT count(*) FROM telemetry") == [(3,)]


def test_two_compactions_at_once_load_every_file_once(warehouse, zone):
    for minute in range(40):
        landing.land(zone, "telemetry", readings("a", minute=minute), T0)
    reports: list[CompactionReport] = []
    threads = [
        threading.Thread(
            target=lambda: reports.append(compact(Warehouse(warehouse.directory), zone))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(report.rows for report in reports) == 40
    assert rows(warehouse, "SELECT count(*), count(DISTINCT measured_at) FROM telemetry") == [
        (40, 40)
    ]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_damage_to_one_file_never_costs_another_file_a_row(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("damage")
    zone = root / "landing"
    for minute in range(2):
        landing.land(zone, "telemetry", readings("whole", minute=minute), T0)
    victim = landing.land(zone, "telemetry", readings("victim", minute=9), T0)
    content = bytearray(victim.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    victim.write_bytes(content)

    survived = landing.landed(zone, "telemetry").collect()

    assert survived.filter(pl.col("device_id") == "whole").height == 2
