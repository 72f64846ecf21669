"""Many series side by side on one clock: frames → a matrix, a row a series and a column a step.

Belongs here: the matrix, its clock, and running sums over it. Does not: what a model reads from it
(`regressors`).

The clock is the local one, so a habit stays in its column of the day when the clocks change: the
hour that is skipped in spring is a gap, and of the hour that comes twice the second pass counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.forecasting.rows import of_each_instant

if TYPE_CHECKING:
    from datetime import datetime

Array: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]

_DAY = timedelta(days=1)
_HABIT_DAYS = 28


@dataclass(frozen=True, eq=False)
class Panel:
    """Series (rows) by steps of local time (columns) from a midnight on; NaN is not known."""

    subjects: pl.Series
    values: Array
    first_day: int
    """The local date of the first column, in days since 1970-01-01 (a Thursday)."""
    step: timedelta
    timezone: str

    @property
    def steps_per_day(self) -> int:
        """How many columns a day has."""
        return _DAY // self.step

    @property
    def steps_per_hour(self) -> int:
        """How many columns an hour has, at least one."""
        return max(timedelta(hours=1) // self.step, 1)

    def place(self, starts: pl.Series) -> Places:
        """Return the columns of UTC instants; one that is not a step's start is in its step."""
        step_us = self.step // timedelta.resolution

        def column(instants: pl.Series) -> pl.Series:
            local = instants.dt.convert_time_zone(self.timezone).dt.replace_time_zone(None)
            return local.to_physical() // step_us - self.first_day * self.steps_per_day

        return of_each_instant(starts, column, min(self.step, STEP)).to_numpy()

    @cached_property
    def habit(self) -> Array:
        """The mean of the same time of day over the four weeks before each step's day."""
        series, steps = self.values.shape
        days = -(-steps // self.steps_per_day)
        whole = np.full((series, days * self.steps_per_day), np.nan)
        whole[:, :steps] = self.values
        by_day = whole.reshape(series, days, self.steps_per_day)
        total, count = running_sums(by_day)
        until = np.arange(days)
        since = np.maximum(until - _HABIT_DAYS, 0)
        mean = _ratio(total[:, until] - total[:, since], count[:, until] - count[:, since])
        return mean.reshape(series, -1)[:, :steps]

    @cached_property
    def value_sums(self) -> tuple[Array, Array]:
        """Running sums of the values."""
        return running_sums(self.values)

    @cached_property
    def departure_sums(self) -> tuple[Array, Array]:
        """Running sums of what each step departed from its `habit`."""
        return running_sums(self.values - self.habit)

    def until(self, column: int) -> Panel:
        """Return the panel as it was known when `column` began: of the same width."""
        known = self.values.copy()
        known[:, max(column, 0) :] = np.nan
        return Panel(self.subjects, known, self.first_day, self.step, self.timezone)


def running_sums(values: Array) -> tuple[Array, Array]:
    """Return sums and counts of all known values before each place of the second axis."""
    known = np.isfinite(values)
    nothing = np.zeros_like(values[:, :1])
    total = np.concatenate([nothing, np.cumsum(np.where(known, values, 0.0), axis=1)], axis=1)
    return total, np.concatenate([nothing, np.cumsum(known, axis=1)], axis=1)


def mean_before(sums: tuple[Array, Array], series: Places, end: Places, steps: int) -> Array:
    """Return each series' mean over the `steps` columns before `end`; NaN where none is known."""
    start = np.maximum(end - steps, 0)
    total, count = (both[series, end] - both[series, start] for both in sums)
    return _ratio(total, count)


def panel_of(  # noqa: PLR0917 - which series, over which span, on which clock
    rows: pl.DataFrame,
    subjects: pl.Series,
    start: datetime,
    end: datetime,
    step: timedelta,
    timezone: str,
) -> Panel:
    """Return the `value`s of `rows` (subject_id, interval_start, value) over local days.

    The columns go from the midnight before `start` to the midnight after `end`. Rows of other
    subjects or times are left out. `rows` are sorted by time within a subject.
    """
    bounds = pl.Series([start, end]).dt.convert_time_zone(timezone).dt.date().to_physical()
    first, last = (int(day) for day in bounds)
    steps = (last - first + 1) * (_DAY // step)
    named = subjects.rename("subject_id").unique().sort()
    panel = Panel(named, np.full((named.len(), steps), np.nan), first, step, timezone)
    run = rows.select(subject=pl.col("subject_id").rle()).unnest("subject")
    of_run = run.select(pl.col("value").replace_strict(named, np.arange(named.len()), default=-1))
    series = np.repeat(of_run.to_series().to_numpy(), run["len"].to_numpy())
    column = panel.place(rows["interval_start"])
    inside = (series >= 0) & (column >= 0) & (column < steps)
    panel.values[series[inside], column[inside]] = rows["value"].to_numpy()[inside]
    return panel


def _ratio(total: Array, count: Array) -> Array:
    ratio: Array = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return ratio
