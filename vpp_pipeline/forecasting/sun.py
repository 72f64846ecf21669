"""What each PV plant would give under a clear sky, by what it gave.

Belongs here: planes fitted to a plant's own measurements, and its clear-sky power on a panel's
clock. Does not: clouds (`pv_model`), the sky itself (`clear_sky`).

A plant of any tilt and azimuth gives nearly a sum of what a few fixed planes get, with shares that
are not negative: fitting them fits orientation, rating, losses and a neighbour's shadow on one side
at once. They are fitted to the upper edge of the measurements (asymmetric least squares, Newey and
Powell 1987), which is where the sky was clear.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import intervals
from vpp_pipeline.forecasting.clear_sky import clear_sky

if TYPE_CHECKING:
    from datetime import datetime

    from vpp_pipeline.forecasting.panel import Array, Panel

_PLANES = pl.DataFrame(
    {
        "plane": [0, 1, 2, 3, 4],
        "tilt_deg": [0.0, 35.0, 35.0, 35.0, 75.0],
        "facing": [180.0, 90.0, 180.0, 270.0, 180.0],  # towards the equator in the north
    }
)
_CELL_DEG = 0.25
"""Plants this near to each other share a sky: it moves sunrise by a minute."""
_SIDE = 0.95
"""A step above the fitted edge counts 19 times as much as one below it."""
_SWEEPS = 8
_PRIOR = 0.02
"""How much the registered plane counts beside what was measured."""
_LEAST = 1e-9
_W_PER_KW = 1000.0
_TILT_DEG, _AZIMUTH_DEG = 30.0, 180.0


def clear_power(panel: Panel, plants: pl.DataFrame, start: datetime, end: datetime) -> Array:
    """Return (series, columns): each plant's power in kW under a clear sky, 0 outside [start, end).

    `plants` holds `subject_id`, `latitude`, `longitude`, `tilt_deg`, `azimuth_deg`, `rated_kw`.
    All that the panel knows is learnt from; a plant that has told nothing is taken as the
    registry has it.
    """
    located = panel.subjects.to_frame().join(
        plants, on="subject_id", how="left", maintain_order="left"
    )
    cells = located.with_row_index("series").with_columns(
        (pl.col("latitude", "longitude") / _CELL_DEG).round() * _CELL_DEG
    )
    power = np.zeros(panel.values.shape)
    for _, members in cells.group_by("latitude", "longitude", maintain_order=True):
        sky = _on_clock(panel, _sky(_planes(members), start, end))
        series = members["series"].to_numpy()
        shares = _fitted(panel.values[series], sky, _registered(members, end))
        power[series] = np.maximum(shares @ sky.T, 0.0)
    return power


def irradiance_clear(panel: Panel, plants: pl.DataFrame, start: datetime, end: datetime) -> Array:
    """Return (series, columns): the clear sky's irradiance on the flat at each plant, W/m2."""
    cells = panel.subjects.to_frame().join(
        plants.select(
            "subject_id", (pl.col("latitude", "longitude") / _CELL_DEG).round() * _CELL_DEG
        ),
        on="subject_id",
        how="left",
        maintain_order="left",
    )
    flat = np.zeros(panel.values.shape)
    numbered = cells.with_row_index("series")
    for _, members in numbered.group_by("latitude", "longitude", maintain_order=True):
        sky = _on_clock(panel, _sky(_planes(members).head(1), start, end))
        flat[members["series"].to_numpy()] = sky[:, 0] * _W_PER_KW
    return flat


def _planes(members: pl.DataFrame) -> pl.DataFrame:
    """Return the fixed planes at the members' cell, facing the equator's side."""
    turned = pl.when(pl.col("latitude") < 0).then(180.0).otherwise(0.0)
    return (
        members.select("latitude", "longitude")
        .head(1)
        .join(_PLANES, how="cross")
        .with_columns(azimuth_deg=(pl.col("facing") + turned) % 360.0)
        .drop("facing")
    )


def _sky(planes: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """Return what each plane gets: `plane`, `interval_start`, `poa_clear_w_per_m2`."""
    return clear_sky(intervals(start, end).to_frame().join(planes, how="cross")).select(
        "plane", "interval_start", "poa_clear_w_per_m2"
    )


def _on_clock(panel: Panel, sky: pl.DataFrame) -> Array:
    """Return (columns, planes): the sky in kW/m2, means over the panel's steps."""
    columns = panel.values.shape[1]
    at = panel.place(sky["interval_start"])
    plane = sky["plane"].to_numpy()
    total = np.zeros((columns, int(plane.max()) + 1))
    count = np.zeros_like(total)
    inside = (at >= 0) & (at < columns)
    np.add.at(total, (at[inside], plane[inside]), sky["poa_clear_w_per_m2"].to_numpy()[inside])
    np.add.at(count, (at[inside], plane[inside]), 1.0)
    return np.asarray(total / np.maximum(count, 1.0) / _W_PER_KW)


def _registered(members: pl.DataFrame, end: datetime) -> Array:
    """Return (plants, planes): the shares that come nearest to the registered plane and rating."""
    day = intervals(end - timedelta(days=1), end).to_frame()
    planes = _sky(_planes(members), day["interval_start"][0], end)
    basis = planes.sort("plane", "interval_start")["poa_clear_w_per_m2"].to_numpy()
    basis = basis.reshape(_PLANES.height, day.height).T
    own = clear_sky(
        day.join(
            members.with_columns(
                pl.col("tilt_deg").fill_null(_TILT_DEG),
                pl.col("azimuth_deg").fill_null(_AZIMUTH_DEG),
            ),
            how="cross",
        )
    ).sort("series", "interval_start")
    wanted = own["poa_clear_w_per_m2"].to_numpy().reshape(members.height, day.height)
    rated = members.sort("series")["rated_kw"].to_numpy()
    shares: Array = np.array([_shares(basis, plane) for plane in wanted]) * rated[:, None]
    return shares


def _fitted(values: Array, sky: Array, prior: Array) -> Array:
    """Return (plants, planes): the shares of the upper edge of `values`, none below nothing."""
    lit = np.flatnonzero(sky.sum(axis=1) > 0)
    sky, values = sky[lit], values[:, lit]
    planes = sky.shape[1]
    known = np.isfinite(values)
    given = np.where(known, values, 0.0)
    squares = (sky[:, :, None] * sky[:, None, :]).reshape(len(lit), -1)
    shares = prior
    for _ in range(_SWEEPS):
        above = given > shares @ sky.T
        weight = known * np.where(above, _SIDE, 1.0 - _SIDE)
        gram = (weight @ squares).reshape(-1, planes, planes)
        pull = _PRIOR * np.trace(gram, axis1=1, axis2=2) / planes + _LEAST
        gram += pull[:, None, None] * np.eye(planes)
        wanted = (weight * given) @ sky + pull[:, None] * prior
        root = np.linalg.cholesky(gram)
        target = np.linalg.solve(root, wanted[:, :, None])[:, :, 0]
        shares = np.array(
            [_shares(one.T, of) for one, of in zip(root, target, strict=True)]
        ).reshape(-1, planes)
    return shares


def _shares(planes: Array, power: Array) -> Array:
    """Return the shares of the planes (columns), none below nothing, that come nearest to a power."""
    from scipy.optimize import nnls  # noqa: PLC0415 - slow; a push does without

    shares: Array = nnls(planes, power)[0]
    return shares
