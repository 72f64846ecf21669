"""How long envelopes, sustained powers and group bounds take for a made-up fleet.

Run: `python benchmarks/flexibility.py --devices 10000`. Prints seconds, and of the groups' inner
band what share of the outer band it is.
"""

from __future__ import annotations

import time
from datetime import date, timedelta
from typing import TYPE_CHECKING, TypeVar

import click
import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.fleet.frame import frame_of
from vpp_pipeline.fleet.sample import sample_table
from vpp_pipeline.flexibility.aggregate import inner_envelopes
from vpp_pipeline.flexibility.envelopes import device_envelopes, group_envelopes
from vpp_pipeline.flexibility.schemas import States
from vpp_pipeline.flexibility.sustained import group_sustained_powers, sustained_powers

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

Result = TypeVar("Result")
_UTC = pl.Datetime("us", "UTC")
_DAY = day_intervals(date(2025, 1, 15), "Europe/Berlin")


def states(devices: pl.DataFrame, at: datetime, rng: np.random.Generator) -> pl.DataFrame:
    """Return a fresh state a device: stores part full, three vehicles in four plugged in."""
    kind = pl.col("device_type").cast(pl.String)
    plugged_in = (kind == "ev_charger") & pl.col("here")
    frame = devices.with_columns(
        share=rng.uniform(0.2, 0.8, devices.height), here=rng.random(devices.height) < 0.75
    ).select(
        "device_id",
        valid_at=pl.lit(at, _UTC),
        energy_kwh=pl.when(kind.is_in(["battery", "heat_pump"]) | plugged_in)
        .then(pl.col("share") * pl.col("energy_capacity_kwh"))
        .when(kind == "flexible_load")
        .then(0.0),
        temperature_c=None,
        plugged_in=plugged_in,
        target_energy_kwh=pl.when(plugged_in).then(0.9 * pl.col("energy_capacity_kwh")),
        deadline=pl.when(plugged_in).then(pl.lit(at + timedelta(hours=8), _UTC)),
        power_kw=0.0,
        available=True,
        why=pl.lit(""),
    )
    return States.validate(frame, cast=True)


def forecasts(devices: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """Return a flat forecast of loads and wind, and a bell of sun."""
    bell = np.sin(np.linspace(0, np.pi, len(_DAY))) ** 3
    clock = pl.DataFrame({"interval_start": _DAY, "bell": bell})
    kind = pl.col("device_type").cast(pl.String)
    of = devices.filter(kind.is_in(["load", "pv", "wind"])).select(
        target=kind,
        subject_id="device_id",
        draw="max_draw_kw",
        inject="max_inject_kw",
    )
    p50 = (
        pl.when(pl.col("target") == "pv")
        .then(pl.col("inject") * pl.col("bell"))
        .otherwise(0.3 * (pl.col("inject") - pl.col("draw")))
    )
    return of.join(clock, how="cross").select(
        "target", "subject_id", "interval_start", p50=p50, known_at=pl.lit(at, _UTC)
    )


def sessions(devices: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """Return one expected vehicle a charger, in the afternoon."""
    return devices.filter(pl.col("device_type").cast(pl.String) == "ev_charger").select(
        "device_id",
        **dict.fromkeys(("arrival_p50", "arrival_p90"), pl.lit(at + timedelta(hours=16), _UTC)),
        **dict.fromkeys(("departure_p10", "departure_p50"), pl.lit(at + timedelta(hours=30), _UTC)),
        **dict.fromkeys(("energy_p50_kwh", "energy_p90_kwh"), pl.lit(20.0)),
        probability=0.9,
        known_at=pl.lit(at, _UTC),
    )


def temperatures(devices: pl.DataFrame) -> pl.DataFrame:
    """Return a cold day for every site."""
    outdoor = 3 + 4 * np.sin(np.linspace(0, 2 * np.pi, len(_DAY)))
    clock = pl.DataFrame({"interval_start": _DAY, "temperature_c": outdoor})
    return devices.select("site_id").unique(maintain_order=True).join(clock, how="cross")


def width(bounds: pl.DataFrame) -> float:
    """Return how much room a band has, in kW summed over groups and quarter-hours."""
    return float((bounds["max_power_kw"] - bounds["min_power_kw"]).sum())


def timed(what: str, make: Callable[[], Result]) -> Result:
    """Print what a call took, and return its result."""
    started = time.perf_counter()
    result = make()
    print(f"{what:32} {time.perf_counter() - started:8.2f} s")
    return result


@click.command()
@click.option("--devices", "count", default=10_000, show_default=True, help="Size of the fleet.")
@click.option("--seed", default=0, show_default=True)
def main(count: int, seed: int) -> None:
    """Measure one delivery day of a made-up fleet."""
    rng = np.random.default_rng(seed)
    at = _DAY[0]
    devices = frame_of(sample_table(count, seed))
    given = (
        devices,
        states(devices, at, rng),
        forecasts(devices, at),
        sessions(devices, at),
        temperatures(devices),
        _DAY,
        at,
    )
    envelopes = timed("device envelopes", lambda: device_envelopes(*given))
    outer = timed("groups' outer bounds", lambda: group_envelopes(devices, envelopes))
    held = timed("sustained powers", lambda: sustained_powers(devices, envelopes))
    timed("groups' sustained powers", lambda: group_sustained_powers(devices, held))
    for sustain_h in (0.5, 1.0, 2.0):
        inner = timed(
            f"groups' inner bounds, {sustain_h} h",
            lambda hours=sustain_h: inner_envelopes(devices, envelopes, hours),
        )
        print(f"{'':34}{width(inner) / width(outer):7.1%} of the outer power band")


if __name__ == "__main__":
    main()
