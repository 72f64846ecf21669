"""A large fleet's readings are judged some devices at a time, and no device's are torn apart."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.telemetry_quality.parts import parts


def readings(counts):
    """Return rows of as many devices as there are counts, each with so many readings."""
    names = np.repeat([f"device-{n:05}" for n in range(len(counts))], counts)
    return pl.DataFrame({"device_id": pl.Series(names, dtype=pl.String)}).with_row_index()


@given(st.lists(st.integers(1, 250_000), max_size=6))
@settings(max_examples=10, deadline=None)
def test_every_reading_is_in_one_part_in_its_order(counts):
    whole = readings(counts)

    assert pl.concat(parts(whole)).equals(whole)


def test_a_devices_readings_stay_together_and_a_fleets_do_not():
    cut = list(parts(readings([1_000] * 703)))

    names = [set(part["device_id"].unique()) for part in cut]
    assert len(names) > 2
    assert sum(len(some) for some in names) == 703


def test_however_often_a_device_tells_a_part_is_as_long():
    often, seldom = (
        max(part.height for part in parts(readings([count] * (900_000 // count))))
        for count in (10_000, 100)
    )

    assert abs(often - seldom) <= 10_000


def test_no_reading_is_one_empty_part():
    assert [part.height for part in parts(readings([]))] == [0]
