"""Whole days of the recorded data, settled from what the fleet told."""

from __future__ import annotations

from datetime import date, timedelta
from importlib.resources import as_file, files

import numpy as np
import polars as pl
import pytest

from vpp_pipeline.delivery_day import STEP, bounds, day_intervals
from vpp_pipeline.fleet import registry
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.forecasting.schemas import Forecasts
from vpp_pipeline.markets import recorded
from vpp_pipeline.markets.schemas import Weather
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.settlement.regret import regret
from vpp_pipeline.settlement.schemas import Commitment, Delivery
from vpp_pipeline.settlement.settle import Records, settle_day
from vpp_pipeline.simulation.history import unmanaged_history
from vpp_pipeline.simulation.world import recorded_world

TZ = recorded.MARKET_TZ
_UTC = pl.Datetime("us", "UTC")


def records(devices: pl.DataFrame, day: date) -> Records:
    """What stands in the warehouse after a day on which nobody steered."""
    start, end = bounds(day, TZ)
    rng = np.random.default_rng(7)
    world = recorded_world(devices, rng)
    history = unmanaged_history(devices, world, start - timedelta(days=1), end, rng)
    telemetry = history.rename({"measured_at": "interval_start"})
    weather = world.temperature(start, end).select(
        "site_id",
        "interval_start",
        "temperature_c",
        ghi_w_per_m2=pl.lit(None, pl.Float64),
        kind=pl.lit("observed"),
        source=pl.lit("recorded"),
        known_at=pl.col("interval_start") + STEP,
    )
    power = telemetry.select("device_id", "interval_start", "power_kw")
    return Records(
        telemetry=telemetry,
        prices=recorded.prices().select("interval_start", "price_eur_per_mwh"),
        weather=Weather.validate(weather, cast=True),
        forecasts=Forecasts.create_empty(),
        day_ahead=power,
        in_force=power.with_columns(limit_kw=pl.lit(None, pl.Float64)),
        commands=power.head(0).select(
            "device_id", "interval_start", setpoint_kw="power_kw", state="device_id"
        ),
        outages=pl.DataFrame(schema={"device_id": pl.String, "from": _UTC, "until": _UTC}),
    )


def demo_devices(sites):
    with as_file(files("vpp_pipeline.fleet") / "demo.yaml") as path:
        everyone = device_frame(registry.load(path))
    first = everyone["site_id"].unique(maintain_order=True)[:sites]
    return everyone.filter(pl.col("site_id").is_in(first.implode()))


def settled_on(devices, stored, day, commitment=None):
    return settle_day(
        devices,
        stored,
        PlanSettings(),
        intervals=day_intervals(day, TZ),
        delivery_day=day,
        settled_at=bounds(day, TZ)[1],
        commitment=commitment,
    )


@pytest.mark.parametrize(("day", "steps"), [(date(2020, 9, 10), 96), (date(2020, 10, 25), 100)])
def test_a_day_that_nobody_steered_costs_what_defaults_cost_and_foresight_saves(day, steps):
    devices = demo_devices(4)
    stored = records(devices, day)
    settled = settled_on(devices, stored, day)
    Delivery.validate(settled.delivery)
    assert settled.delivery.height == steps * devices.height
    assert settled.delivery_errors["absolute_error"].item() == 0.0
    assert settled.powers.height == steps

    managed, unmanaged = settled.managed.total_eur, settled.unmanaged.total_eur
    best = settled.perfect_foresight.total_eur
    volume_eur = (
        settled.powers.join(stored.prices, on="interval_start")
        .select((pl.col("unmanaged_kw") * pl.col("price_eur_per_mwh")).abs().sum() * 0.25 / 1000)
        .item()
    )
    assert managed == pytest.approx(unmanaged, abs=0.05 * volume_eur)
    assert settled.foresight_gap is not None
    slack = settled.foresight_gap * max(1.0, abs(best))
    assert best <= min(managed, unmanaged) + slack
    assert settled.unmanaged.unmet_eur == pytest.approx(0.0, abs=1e-6)

    costs = settled.costs(day, bounds(day, TZ)[1])
    assert costs["basis"].to_list() == ["managed", "as_planned", "unmanaged", "perfect_foresight"]
    parts = pl.sum_horizontal("energy_eur", "wear_eur", "fuel_eur", "unmet_eur", "inventory_eur")
    assert costs.select((parts - pl.col("total_eur")).abs().max()).item() < 1e-9


def test_every_way_to_run_a_sold_day_pays_the_spread_and_regret_still_adds_up():
    day, devices = date(2020, 9, 10), demo_devices(2)
    stored = records(devices, day)
    unsold = settled_on(devices, stored, day)
    position = unsold.powers.select("interval_start", position_kw=pl.col("unmanaged_kw") + 2.0)
    sold = settled_on(devices, stored, day, Commitment(position, spread_eur_per_mwh=100.0))
    for way in ("managed", "as_planned", "unmanaged"):
        off_kwh = (sold.powers[f"{way}_kw"] - position["position_kw"]).abs().sum() * 0.25
        charged = getattr(sold, way).total_eur - getattr(unsold, way).total_eur
        assert charged == pytest.approx(off_kwh * 100.0 / 1000)
    assert sold.perfect_foresight.total_eur <= sold.managed.total_eur
    costs = sold.costs(day, bounds(day, TZ)[1])
    plans = pl.DataFrame(
        {
            "delivery_day": [day],
            "objective_eur": [2.0],
            "bound_eur": [1.5],
            "in_force": [96],
            "quarter_hours": [96],
        }
    )
    lost = regret(costs, plans).row(0, named=True)
    parts = lost["solver_eur"] + lost["forecast_eur"] + lost["execution_eur"]
    assert abs(sold.perfect_foresight.total_eur + parts - sold.managed.total_eur) <= 1e-9
