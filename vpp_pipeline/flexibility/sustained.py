"""For how much power a device can be relied on over a while: sustained power up and down.

Belongs here: the most that a device can keep up for a quarter-hour, an hour, four hours. Does
not: the envelopes themselves (`envelopes`), what many devices can do together for certain
(`aggregate`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numba import njit

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.flexibility.schemas import GroupSustainedPowers, SustainedPowers
from vpp_pipeline.flexibility.tubes import Floats, Tubes, tubes
from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame

DURATIONS_H = (0.25, 1.0, 4.0)

_CHUNK = 4096  # devices whose arrays stay in a core's cache
_TOLERANCE_KWH = 1e-9


def sustained_powers(
    devices: dy.DataFrame[DeviceFrame], envelopes: pl.DataFrame
) -> dy.DataFrame[SustainedPowers]:
    """Return a row a device, duration, and quarter-hour from which the duration is in the horizon.

    `envelopes` are `Envelopes`, in any order. Raises `TubeError` where one is missing.
    """
    of = tubes(devices, envelopes)
    count, horizon = of.min_kw.shape
    parts = []
    for duration_h in DURATIONS_H:
        steps = round(duration_h / STEP_H)
        begins = max(horizon - steps + 1, 0)
        up, down = held_kw(of, steps)
        parts.append(
            pl.DataFrame(
                {
                    "device_id": of.device_ids.gather(np.repeat(np.arange(count), begins)),
                    "interval_start": of.intervals.gather(np.tile(np.arange(begins), count)),
                    "duration_h": np.full(count * begins, duration_h),
                    "up_kw": up.ravel(),
                    "down_kw": down.ravel(),
                }
            )
        )
    # Not validated row by row: the keys come out of two checked lists, and there are millions.
    return SustainedPowers.cast(pl.concat(parts))


def group_sustained_powers(
    devices: dy.DataFrame[DeviceFrame], sustained: dy.DataFrame[SustainedPowers]
) -> dy.DataFrame[GroupSustainedPowers]:
    """Return each group's outer bound: the sum of what each of its devices can keep up."""
    return GroupSustainedPowers.validate(
        devices.select("device_id", group_id="groups")
        .explode("group_id", empty_as_null=False)
        .drop_nulls("group_id")
        .join(sustained, on="device_id")
        .group_by("group_id", "interval_start", "duration_h")
        .agg(pl.col("up_kw", "down_kw").sum())
        .sort("group_id", "duration_h", "interval_start"),
        cast=True,
    )


def held_kw(of: Tubes, steps: int) -> tuple[Floats, Floats]:
    """Return the powers up and down (N, T - steps + 1) that can be kept up for so many steps."""
    count, horizon = of.min_kw.shape
    up = np.empty((count, max(horizon - steps + 1, 0)))
    down = np.empty_like(up)
    stored_h = STEP_H * of.charge_efficiency
    taken_h = STEP_H / of.discharge_efficiency

    def fill(first: int) -> None:
        chunk = slice(first, first + _CHUNK)
        kept = of.retention[chunk]
        least, most = of.min_kw[chunk], of.max_kw[chunk]
        low, high = of.low_kwh[chunk], of.high_kwh[chunk]
        initial, drift = of.initial_kwh[chunk], of.drift_kwh[chunk]
        put, got = stored_h[chunk], taken_h[chunk]
        _most_held(up[chunk], steps, least, most, low, high, initial, drift, kept, got, put)
        # A store seen in a mirror: drawing is giving, full is empty.
        mirrored = (-most, -least, -high, -low, -initial, -drift, kept, put, got)
        _most_held(down[chunk], steps, *mirrored)
        np.negative(down[chunk], out=down[chunk])

    list(side_by_side(fill, range(0, count, _CHUNK)))
    return up, down


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba tells no types
def _most_held(  # noqa: C901, PLR0917 - one search, and arrays are what compiled code takes
    held: Floats,
    steps: int,
    least_kw: Floats,
    most_kw: Floats,
    low_kwh: Floats,
    high_kwh: Floats,
    initial_kwh: Floats,
    drift_kwh: Floats,
    retention: Floats,
    taken_h: Floats,
    stored_h: Floats,
) -> None:
    """Fill `held` with the most power below which a device need not fall for `steps`.

    Along the path that begins as full as it can be, and gives that power or its least, a store
    is clipped where it is full; where it is too empty, the power is lowered by just what the
    stretch since it was last clipped lacks. Each such cut leaves an upper bound of the answer, so
    the first power that passes is the answer.
    """
    for i in range(held.shape[0]):
        kept, taken, stored = retention[i], taken_h[i], stored_h[i]
        for first in range(held.shape[1]):
            power = most_kw[i, first]
            for t in range(first + 1, first + steps):
                power = min(power, most_kw[i, t])
            for _ in range(4 * steps):
                cut = 0.0
                weight = 0.0
                energy = high_kwh[i, first - 1] if first > 0 else np.nan
                for t in range(first, first + steps):
                    if np.isnan(low_kwh[i, t]):
                        continue
                    if not np.isnan(initial_kwh[i, t]):
                        energy = initial_kwh[i, t]
                        weight = 0.0
                    given = max(power, least_kw[i, t])
                    energy = kept * energy + drift_kwh[i, t]
                    energy -= given * (taken if given > 0 else stored)
                    weight *= kept
                    if power > least_kw[i, t]:
                        weight += 1.0
                    if energy >= high_kwh[i, t]:
                        energy = high_kwh[i, t]
                        weight = 0.0
                    lacking = low_kwh[i, t] - energy
                    if lacking > _TOLERANCE_KWH and weight > 0:
                        cut = max(cut, lacking / weight)
                if cut == 0.0:
                    break
                change = cut - power * (taken if power > 0 else stored)
                power = -change / (stored if change > 0 else taken)
            held[i, first] = power
