"""What a group can do for certain, and back from its profile to its devices.

Belongs here: the inner envelopes of groups, and their disaggregation, both in closed form. Does
not: the outer bounds (`envelopes`, `sustained`), a device's part (`policies`), the cheapest way
to meet a target, or the nearest to one that can't be met (a plan's business).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.flexibility.policies import SUSTAIN_H, inner_policies
from vpp_pipeline.flexibility.schemas import InnerEnvelopes

if TYPE_CHECKING:
    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.flexibility.schemas import InnerPolicies
    from vpp_pipeline.flexibility.tubes import Floats

_TOLERANCE = 1e-6  # kW, hours of full signal: a small share magnifies rounding
_SUMS = ("nominal_kw", "passing_down_kw", "passing_up_kw", "share_kw")
_EFFICIENCIES = ("charge_efficiency", "discharge_efficiency")


class OutsideError(ValueError):
    """A profile that is not inside an inner envelope; the text names quarter-hour and value."""


def inner_envelopes(
    devices: dy.DataFrame[DeviceFrame], envelopes: pl.DataFrame, sustain_h: float = SUSTAIN_H
) -> dy.DataFrame[InnerEnvelopes]:
    """Return each group's inner bound from its devices' envelopes (`Envelopes`, in any order).

    All inside it keeps every device's envelope. Grid connections and the least powers of stores
    are not counted: where these bind, the devices may be able to do less. `sustain_h` are the
    hours of full signal that the group holds ready; see `inner_policies`, which tells the errors
    too.
    """
    members = (
        devices.select("device_id", group_id="groups")
        .explode("group_id", empty_as_null=False)
        .drop_nulls("group_id")
    )
    policies = inner_policies(devices, envelopes, sustain_h)
    return InnerEnvelopes.validate(_summed(members.join(policies, on="device_id"), sustain_h))


def _summed(policies: pl.DataFrame, sustain_h: float) -> pl.DataFrame:
    """Return (group_id, interval_start) sums, with the least efficiency of who takes part."""
    takes_part = pl.col("share_kw") > 0
    return (
        policies.group_by("group_id", "interval_start")
        .agg(
            pl.col(_SUMS).sum(),
            *(pl.col(e).filter(takes_part).min().fill_null(1.0) for e in _EFFICIENCIES),
        )
        .with_columns(
            pl.col(_EFFICIENCIES).min().over("group_id"),
            min_power_kw=pl.col("nominal_kw") + pl.col("passing_down_kw") - pl.col("share_kw"),
            max_power_kw=pl.col("nominal_kw") + pl.col("passing_up_kw") + pl.col("share_kw"),
            sustain_h=pl.lit(sustain_h),
        )
        .select(InnerEnvelopes.column_names())
        .sort("group_id", "interval_start")
    )


def disaggregate_inner(
    inner: dy.DataFrame[InnerEnvelopes],
    policies: dy.DataFrame[InnerPolicies],
    target: pl.DataFrame,
) -> pl.DataFrame:
    """Return (device_id, interval_start, power_kw) whose sum is the target, within every envelope.

    `inner` is one group's, `policies` its devices' (`inner_policies` with the same `sustain_h`),
    `target` is (interval_start, target_kw) over the same quarter-hours. Raises `OutsideError`
    where the target is not inside.
    """
    wanted = inner.join(target, on="interval_start", how="left", maintain_order="left")
    profile = wanted["target_kw"].fill_null(np.nan).to_numpy()
    unknown = np.flatnonzero(~np.isfinite(profile))
    if len(unknown):
        at = int(unknown[0])
        raise OutsideError(
            f"target: interval_start {inner['interval_start'][at]} has target_kw "
            f"{wanted['target_kw'][at]}: give a finite number for every quarter-hour"
        )
    passing, signal = _split(inner, profile)
    _refuse_outside(inner, profile, signal)
    down, up = inner["passing_down_kw"].to_numpy(), inner["passing_up_kw"].to_numpy()
    group = pl.DataFrame(
        {
            "interval_start": inner["interval_start"],
            "down_part": _ratio(np.minimum(passing, 0), down),
            "up_part": _ratio(np.maximum(passing, 0), up),
            "signal": signal,
        }
    )
    return policies.join(group, on="interval_start", maintain_order="left").select(
        "device_id",
        "interval_start",
        power_kw=pl.col("nominal_kw")
        + pl.col("passing_down_kw") * pl.col("down_part")
        + pl.col("passing_up_kw") * pl.col("up_part")
        + pl.col("share_kw") * pl.col("signal"),
    )


def _split(inner: pl.DataFrame, profile_kw: Floats) -> tuple[Floats, Floats]:
    """Return the passing part (T,) in kW, and the signal (T,) that the stores follow."""
    deviation = profile_kw - inner["nominal_kw"].to_numpy()
    passing = np.clip(
        deviation, inner["passing_down_kw"].to_numpy(), inner["passing_up_kw"].to_numpy()
    )
    share = inner["share_kw"].to_numpy()
    rest = deviation - passing
    # A group without stores has no signal: what is left over is infinitely far out.
    beyond = np.where(np.abs(rest) > _TOLERANCE, np.copysign(np.inf, rest), 0.0)
    return passing, np.divide(rest, share, out=beyond, where=share > 0)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)


def _refuse_outside(inner: pl.DataFrame, profile_kw: Floats, signal: Floats) -> None:
    sustain_h = inner["sustain_h"].to_numpy()
    given, taken = np.maximum(signal, 0), np.maximum(-signal, 0)
    fullest = STEP_H * np.cumsum(taken - given)
    emptiest = STEP_H * np.cumsum(
        taken * inner["charge_efficiency"].to_numpy()
        - given / inner["discharge_efficiency"].to_numpy()
    )
    for wrong, what in (
        (np.abs(signal) > 1 + _TOLERANCE, "is outside the power that is certain"),
        (fullest > sustain_h + _TOLERANCE, "comes when too much was drawn before"),
        (emptiest < -sustain_h - _TOLERANCE, "comes when too much was given before"),
    ):
        if wrong.any():
            at = int(np.argmax(wrong))
            row = inner.row(at, named=True)
            raise OutsideError(
                f"target: interval_start {row['interval_start']}, target_kw {profile_kw[at]} "
                f"{what} for group {row['group_id']!r} (power {row['min_power_kw']} to "
                f"{row['max_power_kw']} kW, {row['sustain_h']} h of full signal): ask for less, "
                "or plan the target, which finds the nearest that can be reached"
            )
