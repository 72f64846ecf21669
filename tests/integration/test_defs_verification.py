"""A battery that holds its set-points and does half of them, over the real protocols."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import time, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from defs_plant import (
    TODAY,
    TOMORROW,
    check_of,
    copied,
    failure_of,
    market_time,
    open_plant,
    records,
)

from vpp_pipeline.collector import Collector
from vpp_pipeline.delivery_day import STEP, bounds
from vpp_pipeline.dispatch.commands import PlanRef, due_commands
from vpp_pipeline.dispatch.push import push
from vpp_pipeline.dispatch.why import explain
from vpp_pipeline.dispatch.why_words import markdown
from vpp_pipeline.planning.outlook import outlook, rest_of_day
from vpp_pipeline.settings import MARKET_TZ
from vpp_pipeline.simulation import machines
from vpp_pipeline.simulation.of_registry import open_fleet
from vpp_pipeline.simulation.physics import Batteries

if TYPE_CHECKING:
    from datetime import datetime

    import dagster as dg
    from defs_plant import Plant

START, END = bounds(TOMORROW, MARKET_TZ)
WEAK, NEVER_ASKED = "borgo-battery", "alba-battery"
LITTLE_KW, COUNTED_ON_KW = -1.2, -5.0
WEAK_QUARTER_HOURS = 2


@dataclass(frozen=True)
class Story:
    """What was known of the weak battery: when it did half, and when it did all again."""

    plant: Plant
    weak: dg.ExecuteInProcessResult
    derated: pl.DataFrame
    planned: pl.DataFrame
    honest: dg.ExecuteInProcessResult
    recovered: pl.DataFrame


@pytest.fixture(scope="module")
def story(planned_home, tmp_path_factory):
    """Commands of three quarter-hours; in the first two the weak battery does half of them."""
    strength = {WEAK: 0.5}

    class Weak(Batteries):
        def __init__(self, devices, rng):
            super().__init__(devices, rng)
            self._ids = devices["device_id"].to_list()

        def power(self, at_s, setpoint_kw, hours):
            share = [strength.get(name, 1.0) for name in self._ids]
            return super().power(at_s, setpoint_kw * share, hours)

    home = copied(planned_home, tmp_path_factory.mktemp("power") / "plant")
    with (
        pytest.MonkeyPatch.context() as patch,
        open_plant(home, market_time(TODAY, time(12, 58))) as plant,
    ):
        patch.setattr(machines, "Batteries", Weak)
        plant.clock.sleep_until(START - timedelta(minutes=1))
        fleet = open_fleet(plant.runtime)
        fleet.start(ticking=False)
        try:
            plant.clock.on_move = fleet.step
            with Collector(plant.runtime, timeout_s=5.0) as collector:
                collector.collect()
                run(plant, collector, range(WEAK_QUARTER_HOURS), LITTLE_KW)
                (weak,) = plant.daemon.ask("finished_interval")
                derated = envelopes(plant)
                made = plant.materialise(
                    "re_plan", TOMORROW, "flexibility_envelopes", "intraday_plan"
                )
                assert made.success, failure_of(made)
                newest = plant.frame(
                    "defs_newest_plan", delivery_day=TOMORROW, as_of=plant.clock.now()
                )["plan_id"][0]
                planned = plant.frame("warehouse_schedule", plan_id=newest)
                strength.clear()
                run(plant, collector, range(WEAK_QUARTER_HOURS, 3), COUNTED_ON_KW)
                (judged,) = plant.daemon.ask("finished_interval")
                assert judged.success, failure_of(judged)
                again(plant)
                honest = plant.daemon.launch("verify_power")
                assert honest.success, failure_of(honest)
                yield Story(plant, weak, derated, planned, honest, envelopes(plant))
        finally:
            fleet.stop()


def run(plant: Plant, collector: Collector, quarter_hours: range, asked_kw: float) -> None:
    """Push quarter-hours and read their telemetry, up to the moment they can be judged."""
    for n in quarter_hours:
        start = START + n * STEP
        plant.clock.sleep_until(max(plant.clock.now(), start))
        asyncio.run(told(plant, start, asked_kw))
        plant.clock.sleep_until(start + timedelta(minutes=10))
        collector.collect()
    plant.clock.sleep_until(start + STEP + timedelta(minutes=2))


def again(plant: Plant) -> None:
    """Add the last verdict for the next quarter-hour too: to push it takes a second."""
    last = plant.rows("power_verifications").sort("interval_start").tail(1)
    plant.clock.sleep_until(plant.clock.now() + timedelta(minutes=12))
    plant.append(
        "power_verifications",
        last.with_columns(
            pl.col("interval_start") + STEP,
            pl.format("{}-again", "command_id").alias("command_id"),
            judged_at=pl.lit(plant.clock.now()),
        ),
    )


async def told(plant: Plant, start: datetime, asked_kw: float) -> None:
    devices = plant.runtime.devices(plant.clock.now())
    plan = PlanRef("2020-10-25-r000-told", 1)
    schedule = pl.DataFrame(
        {
            "device_id": WEAK,
            "interval_start": start,
            "power_kw": asked_kw,
            "limit_kw": pl.Series([None], dtype=pl.Float64),
        }
    )
    async with plant.runtime.dispatching("test") as dispatcher:
        report = await push(
            dispatcher, plan, due_commands(plan, schedule, devices, start), devices, start
        )
    assert report.not_verified.is_empty(), report.not_verified


def envelopes(plant: Plant) -> pl.DataFrame:
    now = plant.clock.now()
    return outlook(plant.runtime, rest_of_day(now, END), now).envelopes


def of(frame: pl.DataFrame, device_id: str) -> pl.DataFrame:
    return frame.filter(pl.col("device_id") == device_id)


def test_invariant_07_a_verified_set_point_has_a_flag_of_its_own_for_the_power(story):
    ledger = story.plant.rows("dispatch_ledger")
    assert set(ledger["state"]) == {"VERIFIED"}
    in_order = ledger.sort("interval_start")
    assert in_order["power_verified"].to_list() == [False, False, True]
    words = in_order["power_reason"]
    assert "-0.6 kW measured, -1.2 kW commanded" in words[0]
    assert words[-1] == ""


def test_invariant_07_the_ui_tells_who_did_not_follow(story):
    assert story.weak.success, failure_of(story.weak)
    check = check_of(story.weak, "power_follows_set_points")
    assert not check.passed
    assert {row["device_id"] for row in records(check.metadata["not_verified"])} == {WEAK}


def test_why_tells_whether_the_power_followed(story):
    runtime = story.plant.runtime

    def told(quarter_hour: int) -> str:
        moment = START + quarter_hour * STEP + STEP / 2
        return markdown(explain(runtime.warehouse, runtime.settings, WEAK, moment))

    assert "The power did not follow: -0.6 kW measured, -1.2 kW commanded" in told(0)
    assert "The power followed: -5 kW measured." in told(WEAK_QUARTER_HOURS)


def test_the_scores_are_shown_with_a_picture_and_who_is_derated(story):
    (told,) = story.weak.asset_materializations_for_node("delivery_scores")
    (derated,) = records(told.metadata["derated"])
    assert derated["device_id"] == WEAK
    assert derated["down_share"] == pytest.approx(0.5, abs=0.02)
    assert "data:image/png" in told.metadata["picture"].value
    (told,) = story.honest.asset_materializations_for_node("delivery_scores")
    assert records(told.metadata["derated"]) == []


def test_two_quarter_hours_later_the_envelope_counts_on_what_is_delivered(story):
    weak = of(story.derated, WEAK)
    assert weak["min_power_kw"].to_list() == pytest.approx([-5.0] * weak.height, abs=0.2)
    assert set(weak["max_power_kw"]) == {10.0}
    assert weak["derated"].str.starts_with("down: delivers 50 %").all()
    unknown = of(story.derated, NEVER_ASKED)
    assert set(unknown["min_power_kw"]) == {-5.0}
    assert unknown["derated"].null_count() == unknown.height


def test_the_next_plan_asks_it_for_less(story):
    before = story.plant.frame("defs_day_ahead_schedule", delivery_day=TOMORROW)
    assert of(before, WEAK)["power_kw"].min() < -6
    assert of(story.planned, WEAK)["power_kw"].min() >= -5.2


def test_after_honest_quarter_hours_it_is_counted_on_again(story):
    weak = of(story.recovered, WEAK)
    assert set(weak["min_power_kw"]) == {-10.0}
    assert weak["derated"].null_count() == weak.height


def test_a_power_is_judged_once(story):
    verifications = story.plant.rows("power_verifications")
    assert verifications.height == 4
    assert story.plant.daemon.ask("finished_interval") == []
    assert story.plant.rows("power_verifications").equals(verifications)


def test_scores_may_be_made_twice_in_one_instant(story):
    scores = story.plant.count("delivery_scores")
    twice = story.plant.daemon.launch("verify_power")
    assert twice.success, failure_of(twice)
    assert story.plant.count("delivery_scores") == scores
