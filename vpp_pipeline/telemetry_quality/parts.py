"""A large fleet's readings some devices at a time, for a rule looks at one device only.

Belongs here: the cut, and a task on each part. Does not: what is judged (`flags`), what stands in for it (`repair`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROWS_AT_ONCE = 300_000
"""Judging takes many times the memory of the readings. Columns of this length are small enough for
the allocator to keep from one part to the next: longer ones are taken from the system anew each
time, which takes as long as judging them."""


def in_parts(readings: pl.DataFrame, task: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """Return what a task makes of readings that are in order of `device_id`, part by part."""
    return pl.concat(side_by_side(task, parts(readings)))


def parts(readings: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield readings that are in order of `device_id`, some whole devices at a time; at least once.

    Nothing is copied.
    """
    device = pl.col("device_id")
    begins = readings.select(
        (device != device.shift()).fill_null(value=True).arg_true()
    ).to_series()
    nth = begins // _ROWS_AT_ONCE
    cuts = begins.filter((nth != nth.shift()).fill_null(value=True))
    if readings.is_empty():
        yield readings
    for start, end in pairwise([*cuts, readings.height]):
        yield readings.slice(start, end - start)
