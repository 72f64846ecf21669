"""Envelopes as arrays: the shape that compiled code works on.

Belongs here: frames → device-major arrays, or an error that says what is missing. Does not: what
is computed from them (`sustained`, `policies`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame

Floats = NDArray[np.float64]


class TubeError(ValueError):
    """Envelopes that are not one row a device and quarter-hour; the text names device and time."""


@dataclass(frozen=True)
class Tubes:
    """N devices over T quarter-hours; arrays are (N, T) unless told. Positive power injects.

    Energies are at the quarter-hour's end and NaN where there is no store; `initial_kwh` is NaN
    but where a store begins.
    """

    device_ids: pl.Series
    intervals: pl.Series
    min_kw: Floats
    max_kw: Floats
    expected_kw: Floats
    low_kwh: Floats
    high_kwh: Floats
    initial_kwh: Floats
    drift_kwh: Floats
    retention: Floats  # (N,) and so on
    charge_efficiency: Floats
    discharge_efficiency: Floats

    def rows(self) -> dict[str, pl.Series]:
        """Return the columns device_id and interval_start of N·T rows, device by device."""
        count, steps = self.min_kw.shape
        return {
            "device_id": self.device_ids.gather(np.repeat(np.arange(count), steps)),
            "interval_start": self.intervals.gather(np.tile(np.arange(steps), count)),
        }


def tubes(devices: dy.DataFrame[DeviceFrame], envelopes: pl.DataFrame) -> Tubes:
    """Return the envelopes (`Envelopes`, in any order) of these devices, in the devices' order.

    Envelopes of other devices are not read. Raises `TubeError` where a device's quarter-hour is
    missing or doubled.
    """
    ids = devices["device_id"]
    intervals = envelopes["interval_start"].unique().sort()
    count, steps = len(ids), len(intervals)
    keys = pl.DataFrame(
        {
            "device_id": ids.gather(np.repeat(np.arange(count), steps)),
            "interval_start": intervals.gather(np.tile(np.arange(steps), count)),
        }
    )
    rows = envelopes
    if not rows.select(keys.columns).equals(keys):
        rows = (
            devices.select("device_id")
            .with_row_index("place")
            .join(envelopes, on="device_id")
            .sort("place", "interval_start")
        )
        if not rows.select(keys.columns).equals(keys):
            raise TubeError(_fault(keys, rows))

    def grid(column: str) -> Floats:
        values = rows[column].fill_null(np.nan) if rows[column].has_nulls() else rows[column]
        return np.ascontiguousarray(values.to_numpy().reshape(count, steps), dtype=np.float64)

    def efficiency(column: str) -> Floats:
        return devices[column].fill_null(1.0).to_numpy().astype(np.float64)

    return Tubes(
        device_ids=ids,
        intervals=intervals.alias("interval_start"),
        min_kw=grid("min_power_kw"),
        max_kw=grid("max_power_kw"),
        expected_kw=grid("expected_power_kw"),
        low_kwh=grid("min_energy_kwh"),
        high_kwh=grid("max_energy_kwh"),
        initial_kwh=grid("initial_energy_kwh"),
        drift_kwh=grid("drift_kwh"),
        retention=np.ascontiguousarray(grid("retention")[:, 0]),
        charge_efficiency=efficiency("charge_efficiency"),
        discharge_efficiency=efficiency("discharge_efficiency"),
    )


def _fault(keys: pl.DataFrame, rows: pl.DataFrame) -> str:
    missing = keys.join(rows, on=keys.columns, how="anti").head(1)
    doubled = rows.filter(pl.struct(keys.columns).is_duplicated()).head(1)
    row, what = (missing, "is missing") if missing.height else (doubled, "is there twice")
    return (
        f"envelopes: device_id {row['device_id'][0]!r}, interval_start "
        f"{row['interval_start'][0]} {what}: make the envelopes of this horizon again"
    )
