"""Made-up fleets."""

import polars as pl
import pytest

from vpp_pipeline.fleet import screen
from vpp_pipeline.fleet.across import clashes
from vpp_pipeline.fleet.columns import DEVICE
from vpp_pipeline.fleet.frame import device_frame, frame_of
from vpp_pipeline.fleet.sample import sample_fleet, sample_table


def test_the_same_seed_gives_the_same_fleet_and_another_one_another():
    assert sample_fleet(20, seed=7) == sample_fleet(20, seed=7)
    assert sample_fleet(20, seed=7) != sample_fleet(20, seed=8)


@pytest.mark.parametrize("devices", [5, 6, 203])
def test_a_sample_has_as_many_devices_as_asked_for(devices):
    assert device_frame(sample_fleet(devices, seed=1)).height == devices


def test_a_large_sample_keeps_every_rule_of_the_registry_and_has_every_type():
    table = sample_table(5000, seed=1)
    assert not screen.refused(table).any()
    assert clashes(table.with_row_index("row")).is_empty()
    assert set(table["type"]) == set(DEVICE)


def test_the_quick_way_and_the_fleet_give_the_same_devices():
    assert frame_of(sample_table(60, seed=4)).equals(device_frame(sample_fleet(60, seed=4)))


def test_every_sampled_device_is_simulated():
    assert device_frame(sample_fleet(30, seed=1))["simulated"].all()


def test_a_connection_carries_less_than_all_devices_could_draw_at_once():
    devices = device_frame(sample_fleet(40, seed=1))
    sites = devices.group_by("site_id").agg(
        pl.col("max_draw_kw").sum(), pl.col("site_import_limit_kw").first()
    )
    assert (sites["site_import_limit_kw"] < sites["max_draw_kw"]).any()


def test_too_small_a_sample_is_refused_with_the_least_that_works():
    with pytest.raises(ValueError, match="5 or more"):
        sample_fleet(4, seed=1)
