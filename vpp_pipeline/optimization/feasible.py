"""Bounds that can always be kept, whatever was measured or wished.

Belongs here: the loosening of stores' and sources' bounds to what is possible at all, on arrays.
Does not: what the bounds mean (`build`), a site's limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats

_LEAST_RETENTION = 1e-9  # below it nothing of a quarter-hour's start is left at its end


def resting(starts: Bools, initial_kwh: Floats, retention: Floats, drift_kwh: Floats) -> Floats:
    """Return the energies (T, S) of stores that are never charged nor discharged.

    Bounds that these keep are feasible together with any site's limits.
    """
    energy = np.empty_like(drift_kwh)
    for t in range(len(drift_kwh)):
        before = np.where(starts[t], initial_kwh[t], energy[t - 1])
        energy[t] = retention * before + drift_kwh[t]
    return energy


def viable(  # noqa: PLR0917 - the bounds and the physics of one store
    floor_kwh: Floats,
    ceiling_kwh: Floats,
    starts: Bools,
    retention: Floats,
    gain_kwh: Floats,
    loss_kwh: Floats,
) -> tuple[Floats, Floats]:
    """Return the bounds (T, S) from within which every later bound can still be kept.

    `gain_kwh` and `loss_kwh` are the most a quarter-hour adds and takes, drift included. No path
    within the bounds is lost, so bounds that can be kept stay so.
    """
    floor, ceiling = floor_kwh.copy(), ceiling_kwh.copy()
    kept = np.maximum(retention, _LEAST_RETENTION)
    for t in range(len(floor) - 1, 0, -1):
        apart = starts[t] | (retention < kept)
        need = np.where(apart, -np.inf, (floor[t] - gain_kwh[t]) / kept)
        room = np.where(apart, np.inf, (ceiling[t] + loss_kwh[t]) / kept)
        floor[t - 1] = np.maximum(floor[t - 1], need)
        ceiling[t - 1] = np.minimum(ceiling[t - 1], room)
    return floor, np.maximum(floor, ceiling)


def within_ramps(min_kw: Floats, max_kw: Floats, ramp_kw: Floats) -> Floats:
    """Return the least powers (T, G) that some output within its most and its ramps keeps.

    A least that no ramp gets to in time is lowered; one that a ramp must prepare for is raised
    before. Then an output at the returned least is feasible, and every feasible one is above it.
    """
    most = _ramped(max_kw, ramp_kw)
    least: Floats = -_ramped(-np.minimum(min_kw, most), ramp_kw)
    return np.minimum(least, max_kw)


def _ramped(most_kw: Floats, ramp_kw: Floats) -> Floats:
    """Return the highest output below `most_kw` that changes by at most the ramp."""
    highest = most_kw.copy()
    for t in range(1, len(highest)):
        highest[t] = np.minimum(highest[t], highest[t - 1] + ramp_kw)
    for t in range(len(highest) - 2, -1, -1):
        highest[t] = np.minimum(highest[t], highest[t + 1] + ramp_kw)
    return highest
