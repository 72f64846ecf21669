"""The registry's files on disk, the demo fleet among them."""

from importlib.resources import as_file, files

import polars as pl
import pytest

from vpp_pipeline.fleet import registry
from vpp_pipeline.fleet.frame import device_frame, frame_of
from vpp_pipeline.fleet.registry import RegistryError
from vpp_pipeline.fleet.sample import sample_fleet, sample_table


@pytest.fixture
def demo():
    with as_file(files("vpp_pipeline.fleet") / "demo.yaml") as path:
        yield path


def written(path, table):
    if path.suffix == ".parquet":
        table.write_parquet(path)
    else:
        lists = pl.selectors.by_dtype(pl.List(pl.String))
        table.with_columns(lists.list.join(";")).write_csv(path)
    return path


def test_the_demo_fleet_is_sound_and_has_every_type_on_its_usual_protocol(demo):
    assert registry.check(demo) == []
    devices = registry.read_devices(demo)
    counts = devices.group_by("device_type", "protocol").len()
    assert set(counts.rows()) == {
        ("battery", "modbus", 12),
        ("pv", "modbus", 9),
        ("ev_charger", "mqtt", 8),
        ("heat_pump", "http", 4),
        ("heat_pump", "mqtt", 2),
        ("flexible_load", "http", 2),
        ("flexible_load", "mqtt", 2),
        ("chp", "modbus", 1),
        ("wind", "modbus", 1),
        ("load", "mqtt", 12),
    }
    assert devices["simulated"].all()
    two_way = devices.filter(device_type="ev_charger").filter(pl.col("max_inject_kw") > 0)
    assert two_way.height == 2


def test_the_demo_has_twelve_sites_and_a_connection_that_is_too_small_for_its_devices(demo):
    devices = registry.read_devices(demo)
    sites = devices.group_by("site_id").agg(
        pl.col("max_draw_kw").sum(), pl.col("site_import_limit_kw").first()
    )
    assert sites.height == 12
    bakery = sites.row(by_predicate=pl.col("site_id") == "bakery", named=True)
    assert bakery["site_import_limit_kw"] < bakery["max_draw_kw"] / 1.5


def test_the_demos_groups_have_members(demo):
    fleet = registry.load(demo)
    members = set(device_frame(fleet).explode("groups")["groups"].drop_nulls())
    assert members == {group.group_id for group in fleet.groups}


@pytest.mark.parametrize("name", ["fleet.csv", "fleet.parquet", "FLEET.CSV"])
def test_a_table_on_disk_gives_the_same_fleet_and_devices(tmp_path, name):
    path = written(tmp_path / name, sample_table(50, seed=9))
    assert registry.check(path) == []
    assert registry.load(path) == sample_fleet(50, seed=9)
    assert registry.read_devices(path).equals(frame_of(sample_table(50, seed=9)))


def test_a_large_table_is_read_as_devices(tmp_path):
    path = written(tmp_path / "fleet.parquet", sample_table(20_000, seed=9))
    assert registry.read_devices(path).height == 20_000


@pytest.mark.parametrize("read", [registry.load, registry.read_devices])
def test_a_file_with_problems_is_refused_with_all_of_them(tmp_path, read):
    table = sample_table(10, seed=9).with_columns(longitude=pl.lit(999.0))
    path = written(tmp_path / "fleet.csv", table)
    with pytest.raises(RegistryError) as refusal:
        read(path)
    assert list(refusal.value.problems) == registry.check(path)
    assert [p.row for p in refusal.value.problems] == list(range(1, 11))
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.yaml", "can't be read (No such file or directory)"),
        ("folder.csv", "can't be read (Is a directory)"),
        ("fleet.txt", "has no known suffix ('.txt')"),
        ("fleet", "has no known suffix ('')"),
    ],
)
def test_a_path_that_is_no_registry_is_a_problem_with_a_remedy(tmp_path, name, said):
    (tmp_path / "folder.csv").mkdir()
    (problem,) = registry.check(tmp_path / name)
    assert said in problem.reason
    assert problem.remedy
