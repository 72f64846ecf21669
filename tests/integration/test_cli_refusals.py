"""What a person can put right is told in a line with its remedy, never as a traceback."""

from __future__ import annotations

import signal

import pytest
from click.testing import CliRunner
from watchdog_plant import write_plant

from vpp_pipeline.cli import main

RESIDENTS = ["charge-points", "collect", "simulate", "watchdog"]
TARGET = ["dispatch", "site:alba", "1", "--for", "30m", "--why", "trial"]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    settings = write_plant(tmp_path / "home", rate=1.0)
    monkeypatch.setenv("VPP_PRICES", "recorded")  # `vpp up` sets it: so that it is undone
    monkeypatch.setenv("VPP_HOME", str(settings.home))
    monkeypatch.setenv("VPP_FLEET", str(settings.fleet_file))
    return settings


@pytest.fixture
def refused(settings):
    """Call `vpp`, which must refuse in a line of its own; return what it told."""

    def called(*words):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit), result.exc_info
        assert result.stderr.startswith("Error: ")
        return result.stderr

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield called
    for number, handler in before.items():
        signal.signal(number, handler)


def damage(settings):
    settings.warehouse_dir.mkdir()
    (settings.warehouse_dir / "vpp.duckdb").write_bytes(b"no database" * 1000)


@pytest.mark.parametrize("words", [TARGET, ["why", "alba-battery"], ["replay", "2020-10-01"]])
def test_a_damaged_database_is_told_with_its_remedy(settings, refused, words):
    damage(settings)
    told = refused(*words)
    assert f"{settings.warehouse_dir / 'vpp.duckdb'} can't be opened" in told
    assert "put a published snapshot in its place" in told


@pytest.mark.parametrize("command", [*RESIDENTS, "orders", "up"])
def test_a_wrong_setting_is_told_with_its_remedy(refused, monkeypatch, command):
    monkeypatch.setenv("VPP_FLEET_RAMP", "0")
    told = refused(command)
    assert "VPP_FLEET_RAMP is '0'" in told
    assert "set it to kW/min above 0" in told


def test_an_unknown_source_of_prices_is_told_with_its_remedy(refused, monkeypatch):
    monkeypatch.setenv("VPP_PRICES", "foo")
    assert "set it to energy-charts (live) or recorded" in refused("collect")


@pytest.mark.parametrize("command", RESIDENTS)
def test_a_damaged_clock_is_told_with_its_remedy(settings, refused, command):
    settings.clock_file.write_text("{")
    told = refused(command)
    assert f"{settings.clock_file} tells no clock" in told
    assert "put a copy of it back" in told


@pytest.mark.parametrize("command", ["charge-points", "collect"])
def test_credentials_that_can_not_be_read_are_told_with_their_remedy(
    refused, monkeypatch, tmp_path, command
):
    absent = tmp_path / "absent.toml"
    monkeypatch.setenv("VPP_CREDENTIALS_FILE", str(absent))
    told = refused(command)
    assert f"{absent} can't be read" in told
    assert "correct VPP_CREDENTIALS_FILE" in told


def test_a_registry_that_can_not_be_read_is_told_with_its_remedy(refused, monkeypatch, tmp_path):
    absent = tmp_path / "absent.yaml"
    monkeypatch.setenv("VPP_FLEET", str(absent))
    assert f"{absent}: can't be read" in refused("simulate")


@pytest.mark.parametrize("command", RESIDENTS)
def test_a_home_that_is_a_file_is_told_with_its_remedy(refused, monkeypatch, tmp_path, command):
    in_its_place = tmp_path / "file"
    in_its_place.write_text("a file, not a directory")
    monkeypatch.setenv("VPP_HOME", str(in_its_place))
    told = refused(command)
    assert str(in_its_place) in told
    assert "name a" in told


def test_a_defect_keeps_its_traceback(settings, monkeypatch):
    def broken(*_):
        raise ValueError("a defect")

    monkeypatch.setattr("vpp_pipeline.cli.orders.in_force", broken)
    result = CliRunner().invoke(main, ["orders"])
    assert isinstance(result.exception, ValueError)
