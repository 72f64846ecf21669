"""`vpp fleet check` names every error with its place and remedy."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from defs_plant import FLEET

from vpp_pipeline.cli import main
from vpp_pipeline.fleet.sample import sample_table
from vpp_pipeline.settings import DEMO_FLEET


def check(*arguments):
    return CliRunner().invoke(main, ["fleet", "check", *map(str, arguments)])


@pytest.fixture
def table(tmp_path):
    """A sound CSV registry, as a path and its lines."""
    path = tmp_path / "fleet.csv"
    frame = sample_table(6, seed=1)
    lists = [name for name, dtype in frame.schema.items() if str(dtype).startswith("List")]
    frame.with_columns(frame[name].list.join(";").alias(name) for name in lists).write_csv(path)
    return path


def test_the_demo_fleet_has_no_problems():
    result = check()
    assert result.exit_code == 0
    assert result.stderr == ""
    assert f"{DEMO_FLEET}: 53 devices at 12 sites, no problems" in result.stdout


def test_a_bad_yaml_is_told_by_line_field_value_and_remedy(tmp_path):
    path = tmp_path / "fleet.yaml"
    bad = FLEET.replace("max_power_kw: 8", "max_power_kw: -8")
    path.write_text(bad)
    line = next(n for n, text in enumerate(bad.splitlines(), 1) if "max_power_kw: -8" in text)
    result = check(path)
    assert result.exit_code == 1
    (problem, total) = result.stderr.splitlines()
    assert problem.startswith(f"{path}:{line}: ")
    assert "devices[2].max_power_kw -8 is not above 0; write a value above 0" in problem
    assert total == f"{path}: 1 problem"


def test_every_problem_of_a_file_is_told_at_once(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(
        FLEET.replace("max_power_kw: 8", "max_power_kw: -8")
        .replace("latitude: 39.74", "latitude: 139.74")
        .replace("type: pv", "type: pw")
    )
    result = check(path)
    assert result.exit_code == 1
    for part in ("max_power_kw", "latitude", "139.74", "'pw'"):
        assert part in result.stderr
    assert f"{path}: 3 problems" in result.stderr


def test_a_good_csv_passes(table):
    result = check(table)
    assert result.exit_code == 0, result.stderr
    assert "6 devices at 2 sites" in result.stdout


def test_a_bad_csv_is_told_by_row_field_value_and_remedy(table):
    header, *rows = table.read_text().splitlines()
    column = header.split(",").index("latitude")
    cells = rows[2].split(",")
    cells[column] = "north"
    rows[2] = ",".join(cells)
    table.write_text("\n".join([header, *rows]) + "\n")
    result = check(table)
    assert result.exit_code == 1
    problem = result.stderr.splitlines()[0]
    assert problem.startswith(f"{table}")
    for part in ("4", "latitude", "north", ";"):
        assert part in problem


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("absent.yaml", "name a file that exists and is readable"),
        ("fleet.toml", "name it .csv, .parquet, .yaml, .yml"),
    ],
)
def test_a_file_that_can_not_be_read_is_told_with_a_remedy(tmp_path, name, remedy):
    result = check(tmp_path / name)
    assert result.exit_code == 1
    assert name in result.stderr
    assert remedy in result.stderr


def test_a_capacity_in_watt_hours_is_warned_of_and_refused_by_nobody(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET.replace("energy_capacity_kwh: 10\n", "energy_capacity_kwh: 10000\n", 1))
    result = check(path)
    assert result.exit_code == 0
    assert result.stderr == (
        f"{path}: warning: alba-battery energy_capacity_kwh 10000 is 2000 h at its power; "
        "write energies in kWh and powers in kW (1,000 Wh are 1 kWh)\n"
    )
    assert "no problems, 1 warning" in result.stdout
