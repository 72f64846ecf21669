"""Whoever reads the published warehouse sees the plant and keeps nobody waiting."""

from __future__ import annotations

import duckdb
import polars as pl
from defs_plant import TODAY, failure_of


def test_a_reader_of_the_snapshot_sees_the_plans_and_blocks_no_writer(planned_plant):
    result = planned_plant.materialise("settle", TODAY, "warehouse_snapshot")
    assert result.success, failure_of(result)
    snapshot = planned_plant.runtime.settings.snapshot_file
    (materialised,) = result.asset_materializations_for_node("warehouse_snapshot")
    assert materialised.metadata["snapshot"].value == str(snapshot)
    with duckdb.connect(snapshot, read_only=True) as reader:
        plans = reader.sql("SELECT plan_id FROM plans").pl()
        planned_plant.append(
            "plan_releases",
            pl.DataFrame({"plan_id": "another", "released_at": planned_plant.clock.now()}),
        )
    assert plans.equals(planned_plant.rows("plans").select("plan_id"))
    assert "another" in planned_plant.rows("plan_releases")["plan_id"]
