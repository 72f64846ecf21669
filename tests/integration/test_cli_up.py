"""`vpp up` refuses to start where it can't, says what to do, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import psutil
import pytest
from click.testing import CliRunner

from vpp_pipeline import up
from vpp_pipeline.cli import main
from vpp_pipeline.settings import Settings


@pytest.fixture
def vpp_up(tmp_path, monkeypatch):
    """Call `vpp up`, which must refuse: by exit code, without a trace, and with nothing begun."""
    for name in ("VPP_HOME", "VPP_PRICES"):  # so that what the command sets is undone
        monkeypatch.setenv(name, "")

    def called(port, dagster_home):
        monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
        before = psutil.Process().children()
        result = CliRunner().invoke(
            main, ["up", "--port", str(port), "--home", str(tmp_path / "up")]
        )
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        assert psutil.Process().children() == before
        assert not (tmp_path / "up").exists()
        return result.stderr

    return called


def test_up_with_its_port_in_use_says_so_and_starts_nothing(vpp_up, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = vpp_up(port, tmp_path / "dagster")
    assert f"port {port} is in use" in told
    assert "choose another with --port" in told


def test_up_with_a_dagster_home_that_can_not_be_written_says_so(vpp_up, tmp_path, free_port):
    in_its_place = tmp_path / "dagster"
    in_its_place.write_text("a file, not a directory")
    told = vpp_up(free_port, in_its_place)
    assert f"DAGSTER_HOME {in_its_place} can't be written" in told
    assert "set DAGSTER_HOME to an absolute path" in told


def test_a_dagster_home_gets_the_measured_settings_and_keeps_its_own(tmp_path):
    home = tmp_path / "dagster"
    up.prepare_dagster_home(home)
    shipped = (up.REPOSITORY / "dagster_home" / "dagster.yaml").read_text()
    assert (home / "dagster.yaml").read_text() == shipped
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    up.prepare_dagster_home(home)
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]


def test_up_on_tables_that_dagster_can_not_read_says_so_and_starts_nothing(
    vpp_up, tmp_path, free_port
):
    home = tmp_path / "dagster"
    (home / "schedules").mkdir(parents=True)
    (home / "schedules" / "schedules.db").write_text("no database")
    told = vpp_up(free_port, home)
    assert f"Dagster can't use DAGSTER_HOME {home}" in told
    assert "move its folders history and schedules away" in told


def test_a_second_up_on_the_same_dagster_home_names_the_first_and_touches_none_of_its_runs(
    vpp_up, tmp_path, free_port
):
    home = tmp_path / "dagster"
    with up.alone(home / "vpp-up.lock", "vpp up with its UI at port 3000"):
        told = vpp_up(free_port, home)
    assert f"{home} is in use by vpp up with its UI at port 3000 (pid {os.getpid()})" in told
    assert "stop that one first, or give this one a --home and a DAGSTER_HOME of its own" in told
    assert sorted(path.name for path in home.iterdir()) == ["dagster.yaml", "vpp-up.lock"]


@pytest.mark.parametrize("command", [["dagster", "dev"], ["-m", "dagster_daemon", "run"]])
def test_up_beside_another_dagster_on_the_same_dagster_home_names_it_and_touches_none_of_its_runs(
    vpp_up, tmp_path, free_port, command
):
    home = tmp_path / "home"
    for name in ("dagster", "dagster_daemon.py"):
        (tmp_path / name).write_text("import sys\nprint('runs', flush=True)\nsys.stdin.read()\n")
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "DAGSTER_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "runs\n"
        told = vpp_up(free_port, home)
        other.communicate()
    assert f"{home} is in use by `" in told
    assert f"{' '.join(command)}` (pid {other.pid})" in told
    assert "stop that one first, or give this one a DAGSTER_HOME of its own" in told


def test_a_killed_holder_leaves_the_directory_to_the_next(tmp_path):
    claim = tmp_path / "vpp-up.lock"
    hold = "import sys, time; from pathlib import Path; from vpp_pipeline import up\n"
    hold += (
        "with up.alone(Path(sys.argv[1]), 'the first'): print('held', flush=True), time.sleep(300)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(claim)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        refused = rf"{tmp_path} is in use by the first \(pid {first.pid}\)"
        with pytest.raises(up.StartError, match=refused), up.alone(claim, "the second"):
            pass
        first.kill()
    with up.alone(claim, "the second"):
        assert claim.read_text() == f"the second (pid {os.getpid()})\n"


FIRST_START = datetime(2020, 9, 14, 4, 0, tzinfo=UTC)
RUN = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from vpp_pipeline import up
from vpp_pipeline.settings import Settings

settings = Settings(Path(sys.argv[1]), Path(sys.argv[1]), "recorded", "")
up.resume_clock(settings, datetime(2020, 9, 14, 4, 0, tzinfo=UTC), 10.0)
child = "import subprocess, sys; subprocess.Popen(['sleep', '300']);"
parts = [
    up.Part("one", [sys.executable, "-c", child + sys.argv[2]]),
    up.Part("two", ["sleep", "300"]),
]
print("running", flush=True)
sys.exit(up.run(settings, {}, parts))
"""


@contextmanager
def started(tmp_path, then):
    """Run two parts, of which one has a child of its own and then does `then`."""
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path), then],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "running\n"
            yield process
        finally:
            process.terminate()  # which ends the parts too


def children_of(process, count):
    """Wait until so many processes are below this one, and return them."""
    while len(found := psutil.Process(process.pid).children(recursive=True)) < count:
        assert process.poll() is None
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_every_process_and_remembers_the_clock(tmp_path, number):
    with started(tmp_path, "import time; time.sleep(300)") as process:
        below = children_of(process, 3)
        process.send_signal(number)
        process.communicate(timeout=90)
    assert process.returncode == 0
    assert not any(child.is_running() for child in below)
    settings = Settings(tmp_path, tmp_path, "recorded", "")
    running_on = settings.clock().now()
    up.resume_clock(settings, FIRST_START, 1.0)
    assert FIRST_START < settings.clock().now() < running_on


def test_when_one_part_ends_by_itself_all_end_and_its_log_is_named(tmp_path):
    with started(tmp_path, "sys.exit('out of luck')") as process:
        _, stderr = process.communicate(timeout=90)
    assert process.returncode == 1
    log = tmp_path / "logs" / "one.log"
    assert f"one ended by itself; its last words are in {log}" in stderr
    assert "out of luck" in log.read_text()
    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
    assert left == []
