"""Every compiled kernel made once and kept on disk, so that no plan waits: `make install` runs it.

Belongs here: the smallest fleets that need every kernel, in the types of a real plan. Does not:
the kernels.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date

import click
import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.fleet.frame import DeviceFrame, frame_of
from vpp_pipeline.fleet.sample import sample_table
from vpp_pipeline.flexibility.aggregate import inner_envelopes
from vpp_pipeline.flexibility.envelopes import device_envelopes
from vpp_pipeline.flexibility.schemas import States
from vpp_pipeline.flexibility.sustained import sustained_powers
from vpp_pipeline.forecasting.schemas import Forecasts, SessionForecasts
from vpp_pipeline.optimization.behind_meter import Batteries, Meters, plan_behind_meters
from vpp_pipeline.optimization.fallback import greedy
from vpp_pipeline.optimization.integers import Loose, patterned
from vpp_pipeline.optimization.sample import sample_problem
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import MONOLITH_AT_MOST, solve

_DEVICES = MONOLITH_AT_MOST + 10
_DAY = day_intervals(date(2026, 1, 15), "Europe/Berlin")


def warm_up() -> None:
    """Compile, or load, every kernel of envelopes and plans."""
    _envelopes()
    rng = np.random.default_rng(0)
    problem = sample_problem(_DEVICES, rng)
    for each in (problem, sample_problem(_DEVICES, rng, portfolio="reserve")):
        any_will_do = PlanSettings(gap_tolerance=1.0)
        solve(each, any_will_do, warm=solve(each, any_will_do).prices)

    stores, sources = problem.stores, problem.sources
    runs = replace(
        problem,
        stores=replace(stores, unbroken=stores.owed.any(axis=0) & (stores.min_active_kw == 0)),
        sources=replace(sources, min_run_steps=np.where(sources.curtailable, 0, 4)),
    )
    greedy(runs)  # whatever is wished, in runs
    every = Loose(np.ones_like(stores.unbroken), np.ones_like(sources.curtailable))
    sites = len(problem.sites.import_limit_kw)
    patterned(runs, every, np.repeat(problem.price_eur_per_kwh[:, None], sites, axis=1))
    _behind_meter()


def _behind_meter() -> None:
    one = np.ones(1)
    battery = Batteries(0 * one, one, one, one, one, one, one, one, one)
    plan_behind_meters(battery, Meters(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1, 1)), one))


def _envelopes() -> None:
    devices = DeviceFrame.cast(
        frame_of(sample_table(_DEVICES, 0)).filter(pl.col("device_type").cast(str) == "battery")
    )
    states = devices.select(
        "device_id",
        valid_at=pl.lit(_DAY[0]),
        energy_kwh=0.5 * pl.col("energy_capacity_kwh"),
        temperature_c=None,
        plugged_in=None,
        target_energy_kwh=None,
        deadline=None,
        power_kw=0.0,
        available=True,
        why=pl.lit(""),
    )
    envelopes = device_envelopes(
        devices,
        States.validate(states, cast=True),
        Forecasts.create_empty(),
        SessionForecasts.create_empty(),
        Forecasts.create_empty().select(
            "interval_start", site_id="subject_id", temperature_c="p50"
        ),
        _DAY,
        _DAY[0],
    )
    sustained_powers(devices, envelopes)
    inner_envelopes(devices, envelopes)


if __name__ == "__main__":
    started = time.perf_counter()
    warm_up()
    click.echo(f"compiled kernels are ready after {time.perf_counter() - started:.0f} s")
