"""What the fleet would have reported on past days with nobody steering it.

Belongs here: telemetry of an unmanaged fleet, for forecasts to learn from. Does not: the physics
(`machines`), what an unmanaged day would have cost (`settlement`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP, intervals
from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.simulation.machines import Machines

if TYPE_CHECKING:
    from datetime import datetime

    import dataframely as dy

    from vpp_pipeline.simulation.physics import Values
    from vpp_pipeline.simulation.world import World

_GLANCE = timedelta(seconds=1)


def unmanaged_history(
    devices: pl.DataFrame,
    world: World,
    start: datetime,
    end: datetime,
    rng: np.random.Generator,
) -> dy.DataFrame[Telemetry]:
    """Return one row a device and quarter-hour of [start, end), every device at its default.

    Power and available power are means over the quarter-hour; the rest is as it was at its
    start. A row is measured at the quarter-hour's start and known at its end. `start` and `end`
    are quarter-hours.
    """
    starts = intervals(start, end)
    machines = Machines(devices, world, start, rng)
    rows = [_quarter_hour(machines, at) for at in starts.to_list()]
    times = {"measured_at": starts, "known_at": starts + STEP}
    index = np.repeat(np.arange(len(starts)), len(devices))
    frame = pl.DataFrame(
        {
            "device_id": pl.Series(np.tile(np.arange(len(devices)), len(starts))),
            **{name: times[name].gather(index) for name in times},
            **{name: np.concatenate([row[name] for row in rows]) for name in rows[0]},
        }
    )
    return Telemetry.validate(
        frame.with_columns(pl.col(pl.Float64).fill_nan(None))
        .with_columns(
            device_id=devices["device_id"].gather(frame["device_id"]),
            setpoint_kw=pl.lit(None, pl.Float64),
            heartbeat=pl.lit(None, pl.Int64),
            status=pl.lit("ok"),
            plugged_in=pl.col("plugged_in").cast(pl.Boolean),
            deadline=pl.from_epoch("deadline_s", time_unit="s")
            .cast(pl.Datetime("us"))
            .dt.replace_time_zone("UTC"),
        )
        .select(Telemetry.column_names())
        .sort("device_id", "measured_at"),
        cast=True,
    )


def _quarter_hour(machines: Machines, at: datetime) -> dict[str, Values]:
    """Move one quarter-hour on and return its row."""
    n = len(machines.device_ids)
    machines.power(at, np.full(n, np.nan), np.zeros(n, bool), _GLANCE)
    row = {name: values.copy() for name, values in machines.report().items()}
    return {**row, "power_kw": machines.rest_of_quarter(at)}
