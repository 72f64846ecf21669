"""What the UI shows of schedules: each device's day, and what a re-plan moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from vpp_pipeline.defs.schedule_figures import schedule_figures

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DEVICES = pl.DataFrame(
    {
        "device_id": ["battery", "load", "pv"],
        "device_type": ["battery", "load", "pv"],
        "controllable": [True, False, True],
        "max_inject_kw": [5.0, 0.0, 8.0],
        "max_draw_kw": [5.0, 6.0, 0.0],
    }
)


def schedule(**powers_kw: list[float]) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame(
            {
                "device_id": name,
                "interval_start": [NOON + n * timedelta(minutes=15) for n in range(len(powers))],
                "power_kw": powers,
                "limit_kw": 8.0 if name == "pv" else None,
            },
            schema_overrides={
                "interval_start": pl.Datetime("us", "UTC"),
                "limit_kw": pl.Float64,
            },
        )
        for name, powers in powers_kw.items()
    )


BEFORE = schedule(battery=[-4.0, 0.0, 4.0], load=[-1.0, -1.0, -1.0], pv=[3.0, 2.0, 1.0])
NOW = schedule(battery=[-4.0, -2.0, 0.0], load=[-3.0, -3.0, -3.0], pv=[3.0, 5.0, 1.0])


def records(value):
    return [record.data for record in value.records]


def test_every_steered_device_tells_its_energy_and_its_widest_powers():
    shown = records(schedule_figures(NOW, BEFORE, DEVICES)["by_device"])
    assert [row["device_id"] for row in shown] == ["battery", "pv"]
    battery = shown[0]
    assert battery["draws_kwh"] == pytest.approx(1.5)
    assert (battery["injects_kwh"], battery["lowest_kw"], battery["highest_kw"]) == (0, -4, 0)


def test_a_re_plan_tells_whom_it_moved_where_and_from_what_to_what():
    (moved,) = records(schedule_figures(NOW, BEFORE, DEVICES)["moved_most"])
    assert moved["device_id"] == "battery"
    assert moved["moved_kwh"] == pytest.approx(1.5)
    assert moved["most_at"] == "2026-01-31 12:30:00 UTC"
    assert (moved["before_kw"], moved["now_kw"]) == (4, 0)


def test_a_days_first_plan_moved_nothing_and_is_pictured_all_the_same():
    shown = schedule_figures(NOW, BEFORE.clear(), DEVICES)
    assert "moved_most" not in shown
    assert "data:image/png" in shown["set_points"].value


def test_a_fleet_that_nobody_steers_is_told_without_a_picture():
    shown = schedule_figures(NOW, BEFORE, DEVICES.with_columns(controllable=pl.lit(False)))
    assert shown["by_device"].records == []
    assert "set_points" not in shown
