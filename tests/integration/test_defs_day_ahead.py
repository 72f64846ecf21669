"""The day-ahead run makes whole plans, on days of 92 and 100 quarter-hours too."""

from __future__ import annotations

import json
from datetime import date, time, timedelta

import polars as pl
import pytest
from defs_plant import DEVICES, TOMORROW, check_of, market_time, open_plant, records, seed

from vpp_pipeline.delivery_day import STEP, bounds, day_intervals, gate_closure
from vpp_pipeline.markets import recorded
from vpp_pipeline.settings import MARKET_TZ

SPRING = date(2021, 3, 28)
WEEKS_FROM_AUTUMN = timedelta(weeks=22)


def assert_whole(plant, day, quarter_hours):
    (plan,) = plant.rows("plans").filter(pl.col("delivery_day") == day).to_dicts()
    schedule = plant.frame("warehouse_schedule", plan_id=plan["plan_id"])
    wanted = day_intervals(day, MARKET_TZ)
    assert wanted.len() == quarter_hours
    per_device = schedule.group_by("device_id").agg(pl.col("interval_start").sort())
    assert per_device.height == DEVICES
    assert all(starts.to_list() == wanted.to_list() for starts in per_device["interval_start"])
    assert schedule["power_kw"].is_finite().all()
    assert plan["worst_violation_kw"] <= 1e-3
    assert plan["worst_violation_kwh"] <= 1e-3
    assert plan["simultaneous_steps"] == 0
    assert (plan["horizon_start"], plan["horizon_end"]) == bounds(day, MARKET_TZ)
    assert plan["as_of"] < gate_closure(day, MARKET_TZ)
    assert plant.rows("plan_releases")["plan_id"].to_list() == [plan["plan_id"]]
    return schedule


def test_the_day_the_clocks_go_back_is_planned_in_100_quarter_hours(planned_plant):
    assert_whole(planned_plant, TOMORROW, 100)


def test_a_plan_moves_energy_to_dearer_hours(planned_plant):
    power = planned_plant.rows("schedules").filter(pl.col("device_id").str.ends_with("battery"))[
        "power_kw"
    ]
    assert power.min() < -1
    assert power.max() > 1


def test_a_plan_tells_what_it_stands_on(planned_plant):
    (plan,) = planned_plant.rows("plans").to_dicts()
    assert plan["kind"] == "day_ahead"
    assert plan["cause"] == "gate closure"
    assert plan["fleet_version"] == 1
    assert len(plan["input_hash"]) == 64
    assert plan["input_hash"].startswith(plan["plan_id"].rpartition("-")[2])


def test_before_the_auction_the_plan_stands_on_forecast_prices(planned_plant):
    start, end = bounds(TOMORROW, MARKET_TZ)
    prices = planned_plant.rows("prices").filter(pl.col("interval_start").is_between(start, end))
    forecast = planned_plant.rows("forecasts").filter(pl.col("target") == "price")
    assert prices.filter(pl.col("interval_start") < end).is_empty()
    assert forecast["interval_start"].n_unique() == 100
    assert forecast["model"].unique().to_list() == ["lear"]


@pytest.fixture(scope="module")
def spring_plant(tmp_path_factory):
    """A plant in March 2021: autumn's history moved by whole weeks, prices dropped as a file."""
    home = tmp_path_factory.mktemp("spring") / "plant"
    now = market_time(SPRING - timedelta(days=1), time(10, 30))
    seed(home, now, shift=WEEKS_FROM_AUTUMN)
    with open_plant(home, now) as plant:
        weather = recorded.temperature().with_columns(pl.col("interval_start") + WEEKS_FROM_AUTUMN)
        sites = pl.DataFrame({"site_id": ["alba", "borgo"]})
        plant.append(
            "weather",
            sites.join(weather.filter(pl.col("interval_start") + STEP <= now), how="cross").select(
                "site_id",
                "interval_start",
                "temperature_c",
                kind=pl.lit("observed"),
                source=pl.lit("test"),
                known_at=pl.col("interval_start") + STEP,
            ),
        )
        drop = plant.runtime.settings.drop_dir
        drop.mkdir()
        hours = pl.datetime_range(
            *bounds(SPRING, MARKET_TZ), "1h", closed="left", time_zone="UTC", eager=True
        )
        pl.DataFrame({"start": hours}).select(
            pl.lit("DE-LU").alias("market"),
            pl.col("start").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            price_eur_per_mwh=40 + 25 * (pl.col("start").dt.hour().cast(pl.Float64) / 4).sin(),
            resolution_minutes=60,
        ).write_csv(drop / "spring.csv")
        (loaded,) = plant.daemon.ask("dropped_price_files")
        assert loaded.success
        plant.clock.sleep_until(market_time(SPRING - timedelta(days=1), time(11)))
        plant.tell()
        (result,) = plant.daemon.fire("before_gate_closure")
        assert result.success, plant.daemon.failures
        yield plant, result


def test_the_day_the_clocks_go_forward_is_planned_in_92_quarter_hours(spring_plant):
    plant, result = spring_plant
    assert_whole(plant, SPRING, 92)
    assert check_of(result, "day_ahead_plan_is_feasible").passed


def test_dropped_prices_serve_the_plan_where_the_feed_has_none(spring_plant):
    _, result = spring_plant
    published = check_of(result, "prices_are_published")
    assert published.passed
    assert published.metadata["published"].value == 92


def test_a_plan_shows_its_certificate_and_where_its_seconds_went(spring_plant):
    _, result = spring_plant
    (materialised,) = result.asset_materializations_for_node("day_ahead_plan")
    told = {row["figure"]: row["value"] for row in records(materialised.metadata["certificate"])}
    assert told["label"]
    assert float(told["worst_violation_kw"]) <= 1e-3
    assert any(figure.startswith("seconds in ") for figure in told)
    assert "stage_seconds" not in told


def test_a_plan_tells_who_is_owed_what_it_can_not_deliver(spring_plant):
    plant, result = spring_plant
    (materialised,) = result.asset_materializations_for_node("day_ahead_plan")
    unmet = records(materialised.metadata["unmet"])
    (plan,) = plant.rows("plans").to_dicts()
    assert sum(row["unmet_kwh"] for row in unmet) == pytest.approx(plan["unmet_kwh"], abs=0.01)
    assert json.loads(plan["stage_seconds"])
