"""What the Dagster UI shows of a plan: its certificate, what it leaves unmet, its pictures.

Belongs here: a plan as metadata. Does not: making or judging it (`planning`).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import polars as pl

from vpp_pipeline.defs.metadata import figures, picture, table
from vpp_pipeline.optimization.planner import Plan
from vpp_pipeline.optimization.schemas import Certificate
from vpp_pipeline.reporting import pictures
from vpp_pipeline.settings import MARKET_TZ


def plan_figures(made: Plan, devices: pl.DataFrame, market: pl.DataFrame) -> dict[str, Any]:
    """Return a plan's metadata; `market` are its prices, with their `origin`."""
    typed = made.schedules.join(devices.select("device_id", "device_type"), on="device_id")
    stored = (
        typed.filter(pl.col("device_type") == "battery")
        .group_by("interval_start")
        .agg(pl.col("energy_kwh").sum())
    )
    certificate = made.certificate
    return {
        "dagster/row_count": made.schedules.height,
        "label": certificate.label,
        **figures(
            {
                "objective_eur": certificate.objective_eur,
                "gap": certificate.gap,
                "unmet_kwh": certificate.unmet_kwh,
                "solve_seconds": certificate.solve_seconds,
            }
        ),
        "prices_and_plan": picture(
            pictures.prices_and_plan(typed, market, MARKET_TZ, "png"), "prices and plan"
        ),
        "stored_energy": picture(
            pictures.stored_energy(stored, stored.clear(), MARKET_TZ, "png"), "stored energy"
        ),
        "certificate": table(_told(certificate), rows=100),
        "unmet": table(made.unmet.sort("unmet_kwh", "device_id", descending=[True, False])),
        "worth_of_fleet_power": table(made.prices, rows=100),
    }


def _told(certificate: Certificate) -> pl.DataFrame:
    """Return the certificate as a table, each stage's seconds as a row of its own."""
    told = asdict(certificate)
    stages = told.pop("stage_seconds")
    told = figures(told | {f"seconds in {stage}": seconds for stage, seconds in stages.items()})
    return pl.DataFrame({"figure": list(told), "value": [str(value) for value in told.values()]})
