"""Which migrations are due, and which databases are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.warehouse.errors import WarehouseError
from vpp_pipeline.warehouse.migrations import Migration, pending

STEPS = tuple(Migration(n, f"{n:04}_step.sql", f"SELECT {n}") for n in range(1, 5))


def done(upto: int) -> dict[int, str]:
    return {step.version: step.checksum for step in STEPS[:upto]}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, len(STEPS)))
def test_what_is_not_applied_yet_is_due_in_order(upto):
    assert pending(STEPS, done(upto)) == STEPS[upto:]


def test_an_applied_file_that_was_changed_is_refused_with_the_remedy():
    with pytest.raises(WarehouseError, match=r"0002_step.sql was changed .* new migration"):
        pending(STEPS, done(3) | {2: "another"})


def test_a_database_newer_than_the_code_is_refused_with_the_remedy():
    with pytest.raises(WarehouseError, match=r"schema 0009.*update the code"):
        pending(STEPS, done(4) | {9: "unknown"})


def test_a_database_that_skipped_a_migration_is_refused():
    applied = done(3)
    del applied[2]

    with pytest.raises(WarehouseError, match=r"never saw 0002_step.sql"):
        pending(STEPS, applied)
