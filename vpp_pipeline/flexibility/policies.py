"""Each device's part in what its group can do for certain: a path, and how far it may leave it.

Belongs here: the largest share of a common signal that a device can follow, whatever the signal.
Does not: the groups' sums, and going back from a group's profile to devices (`aggregate`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numba import njit

from vpp_pipeline.delivery_day import STEP, STEP_H
from vpp_pipeline.flexibility.schemas import InnerPolicies
from vpp_pipeline.flexibility.tubes import tubes

if TYPE_CHECKING:
    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.flexibility.tubes import Floats

SUSTAIN_H = 1.0

_LEAST_SHARE_KW = 1e-6  # less is rounding
_STEP_MINUTES = STEP.total_seconds() / 60


def inner_policies(
    devices: dy.DataFrame[DeviceFrame], envelopes: pl.DataFrame, sustain_h: float = SUSTAIN_H
) -> dy.DataFrame[InnerPolicies]:
    """Return one row a device and quarter-hour, in the devices' order.

    Each device's set of feasible powers contains its nominal path plus `share_kw` times every
    signal x of one common shape: |x| <= 1, and hours of full signal taken out within ±`sustain_h`
    all the while. Sets of one shape add up exactly (homothets: Zhao, Hu, Zhang, Kalsi, "Extracting
    flexibility of heterogeneous deferrable energy resources via polytopic projection
    approximation", 2016; cf. arXiv 2311.01614).

    - What has no store, no ramp and no least power may take any power at any time.
    - A store that may rest throughout (a battery) rests, and follows the signal both ways.
    - Another store goes straight, in energy, to the middle of what is viable at its stay's end,
      and follows the signal as far as it only charges faster or slower.

    Certain is what each device's envelope allows. The grid connections of the sites are not
    counted: behind a narrow one the devices can't all do their part at once. Least powers, ramps
    and on/off rules are no part of an envelope, nor of this: a device without a store that has
    such a rule stays at its expected power, but a store takes part below its least power too (a
    charger that can't draw less than 1.4 kW is taken to draw 0.5). A larger `sustain_h` gives
    less power for longer. Raises `TubeError` where an envelope is missing, ValueError where
    `sustain_h` is not above 0.
    """
    if not sustain_h > 0:
        raise ValueError(f"sustain_h is {sustain_h}: give the hours of full signal, above 0")
    of = tubes(devices, envelopes)
    has_store = ~np.isnan(of.low_kwh).all(axis=1)
    reach_kw = devices["ramp_kw_per_min"].fill_null(np.inf).to_numpy() * _STEP_MINUTES
    free = ~has_store & np.isinf(reach_kw) & (devices["min_active_kw"].to_numpy() == 0)
    nominal = np.clip(of.expected_kw, of.min_kw, of.max_kw)
    passing_down = np.where(free[:, None], of.min_kw - nominal, 0.0)
    passing_up = np.where(free[:, None], of.max_kw - nominal, 0.0)
    share = np.zeros_like(nominal)
    two_way = np.zeros(len(nominal), dtype=np.bool_)
    _follow(
        nominal,
        share,
        two_way,
        of.min_kw,
        of.max_kw,
        of.low_kwh,
        of.high_kwh,
        of.initial_kwh,
        of.drift_kwh,
        of.retention,
        STEP_H * of.charge_efficiency,
        STEP_H / of.discharge_efficiency,
        sustain_h,
    )
    steps = nominal.shape[1]
    # Not validated row by row: the keys come out of two checked lists, and there are millions.
    return InnerPolicies.cast(
        pl.DataFrame(
            {
                **of.rows(),
                "nominal_kw": nominal.ravel(),
                "passing_down_kw": passing_down.ravel(),
                "passing_up_kw": passing_up.ravel(),
                "share_kw": share.ravel(),
                "charge_efficiency": np.repeat(np.where(two_way, of.charge_efficiency, 1), steps),
                "discharge_efficiency": np.repeat(
                    np.where(two_way, of.discharge_efficiency, 1), steps
                ),
            }
        )
    )


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba tells no types
def _follow(  # noqa: PLR0917 - compiled code takes arrays
    nominal_kw: Floats,
    share_kw: Floats,
    two_way: Floats,
    min_kw: Floats,
    max_kw: Floats,
    low_kwh: Floats,
    high_kwh: Floats,
    initial_kwh: Floats,
    drift_kwh: Floats,
    retention: Floats,
    stored_h: Floats,
    taken_h: Floats,
    sustain_h: float,
) -> None:
    """Fill the stores' nominal powers and shares, stay by stay; see `inner_policies`."""
    count, steps = nominal_kw.shape
    for i in range(count):
        rests = _may_rest(min_kw[i], max_kw[i], low_kwh[i], high_kwh[i], initial_kwh[i])
        rests = rests and retention[i] == 1.0 and not drift_kwh[i].any()
        two_way[i] = rests
        first = 0
        while first < steps:
            if np.isnan(low_kwh[i, first]):
                first += 1
                continue
            end = first + 1
            while end < steps and not np.isnan(low_kwh[i, end]) and np.isnan(initial_kwh[i, end]):
                end += 1
            share = _share_of_stay(
                nominal_kw[i],
                first,
                end,
                rests,
                min_kw[i],
                max_kw[i],
                low_kwh[i],
                high_kwh[i],
                initial_kwh[i, first],
                drift_kwh[i],
                retention[i],
                stored_h[i],
                taken_h[i],
                sustain_h,
            )
            share_kw[i, first:end] = share
            first = end


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba tells no types
def _may_rest(
    min_kw: Floats, max_kw: Floats, low_kwh: Floats, high_kwh: Floats, initial_kwh: Floats
) -> bool:
    """Return whether a store can be left alone throughout, and discharge at some time."""
    gives = False
    energy = np.nan
    for t in range(len(low_kwh)):
        if np.isnan(low_kwh[t]):
            continue
        if not np.isnan(initial_kwh[t]):
            energy = initial_kwh[t]
        gives = gives or max_kw[t] > 0
        if energy < low_kwh[t] or energy > high_kwh[t] or min_kw[t] > 0 or max_kw[t] < 0:
            return False
    return gives


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator] # numba tells no types
def _share_of_stay(  # noqa: PLR0917 - compiled code takes arrays
    nominal_kw: Floats,
    first: int,
    end: int,
    rests: bool,
    min_kw: Floats,
    max_kw: Floats,
    low_kwh: Floats,
    high_kwh: Floats,
    initial_kwh: float,
    drift_kwh: Floats,
    retention: float,
    stored_h: float,
    taken_h: float,
    sustain_h: float,
) -> float:
    """Set one stay's nominal powers, and return the largest share of the signal it can follow.

    The hours of signal that a store feels since its stay began are at most those since then, and
    `sustain_h`, or twice that where the signal was somewhere before; a store that forgets
    (retention a < 1) may feel up to 2 - aⁿ⁻¹ times as much (summation by parts).
    """
    end_kwh = 0.5 * (low_kwh[end - 1] + high_kwh[end - 1])
    felt_h = sustain_h if first == 0 else 2 * sustain_h
    energy = initial_kwh
    share = np.inf
    for t in range(first, end):
        since = t - first + 1
        idle = retention * energy + drift_kwh[t]
        most_kw = max_kw[t]
        if rests:
            nominal_kw[t] = 0.0
            hours_in = min(since * stored_h, felt_h)
            hours_out = min(since * taken_h, felt_h)
        else:
            line = initial_kwh + (end_kwh - initial_kwh) * since / (end - first)
            least = max(low_kwh[t], idle - max(max_kw[t], 0.0) * taken_h)
            most = min(high_kwh[t], idle - min(min_kw[t], 0.0) * stored_h)
            energy = min(max(line, least), most)
            change = energy - idle
            power = -change / (stored_h if change > 0 else taken_h)
            nominal_kw[t] = min(max(power, min_kw[t]), max_kw[t])
            most_kw = min(most_kw, 0.0)
            hours = min(since * STEP_H, felt_h * (2 - retention ** (since - 1)))
            hours_in = hours_out = hours * stored_h / STEP_H
        share = min(
            share,
            nominal_kw[t] - min_kw[t],
            most_kw - nominal_kw[t],
            (high_kwh[t] - energy) / hours_in,
            (energy - low_kwh[t]) / hours_out,
        )
    return share if share > _LEAST_SHARE_KW else 0.0
