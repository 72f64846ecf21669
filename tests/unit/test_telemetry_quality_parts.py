"""A large fleet's readings are judged some devices at a time, and no device's are torn apart."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.telemetry_quality.parts import parts


def readings(counts):
    """Return rows of as many devices as there are counts, each with so many readings."""
    names = [f"device-{n:05}" for n, count in enumerate(counts) for _ in range(count)]
    return pl.DataFrame(
        {"device_id": names, "row": range(len(names))},
        {"device_id": pl.String, "row": pl.Int64},
    )


@given(st.lists(st.integers(1, 3), max_size=1_300))
@settings(max_examples=20, deadline=None)
def test_every_reading_is_in_one_part_in_its_order(counts):
    whole = readings(counts)

    assert pl.concat(parts(whole)).equals(whole)


def test_a_devices_readings_stay_together_and_a_fleets_do_not():
    cut = list(parts(readings([2] * 1_203)))

    names = [set(part["device_id"]) for part in cut]
    assert len(names) > 2
    assert sum(len(some) for some in names) == 1_203


def test_no_reading_is_one_empty_part():
    assert [part.height for part in parts(readings([]))] == [0]
