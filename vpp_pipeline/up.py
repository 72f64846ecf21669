"""The live plant on one machine: simulator, residents and Dagster as one tree of processes.

Belongs here: starting, watching and stopping processes, and the clock they share. Does not: what
any of them does.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from vpp_pipeline.claim import Claimed, claimed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from vpp_pipeline.settings import Settings

REPOSITORY = Path(__file__).parents[1]
_PR_SET_CHILD_SUBREAPER = 36
_STOP_PATIENCE_S = 8.0
_WORDS_AT_MOST = 120


class StartError(RuntimeError):
    """Something stands in the way of starting; the text names the remedy."""


@dataclass(frozen=True)
class Part:
    """One process of the plant."""

    name: str
    command: Sequence[str]


def parts(ui_port: int) -> list[Part]:
    """Return the processes of a live plant: simulator, central system, collector and watchdog first."""
    vpp = [sys.executable, "-m", "vpp_pipeline.cli"]
    workspace = str(REPOSITORY / "workspace.yaml")
    scripts = Path(sys.executable).parent
    return [
        Part("simulator", [*vpp, "simulate"]),
        Part("charge-points", [*vpp, "charge-points"]),
        Part("collector", [*vpp, "collect"]),
        Part("watchdog", [*vpp, "watchdog"]),
        Part(
            "dagster-webserver",
            [
                str(scripts / "dagster-webserver"),
                "-w",
                workspace,
                "-h",
                "127.0.0.1",
                "-p",
                str(ui_port),
            ],
        ),
        Part("dagster-daemon", [str(scripts / "dagster-daemon"), "run", "-w", workspace]),
    ]


def prepare_dagster_home(home: Path) -> None:
    """Make `home` a usable DAGSTER_HOME with the measured `dagster.yaml`; errors name the remedy."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / ".writable"
        probe.write_text("")
        probe.unlink()
        if not (home / "dagster.yaml").exists():
            shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home / "dagster.yaml")
    except OSError as error:
        raise StartError(
            f"DAGSTER_HOME {home} can't be written ({error.strerror}): "
            "make it writable, or set DAGSTER_HOME to an absolute path that is"
        ) from error


@contextmanager
def alone(claim: Path, words: str) -> Iterator[None]:
    """Hold the file `claim` for as long as this process needs its directory for itself.

    A second plant would call the first one's runs failed and set its clock back. Raises
    `StartError` with the holder's `words`.
    """
    claim.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(claimed(claim, words))
        except Claimed as error:
            raise StartError(
                f"{claim.parent} is in use by {str(error) or 'another vpp up'}: "
                "stop that one first, or give this one a --home and a DAGSTER_HOME of its own"
            ) from error
        yield


def check_no_other_dagster(home: Path) -> None:
    """Raise `StartError` while another Dagster, such as `dagster dev`, works on this DAGSTER_HOME.

    Two daemons take runs from one queue: each would run some of the other's, on its own plant.
    """
    for process in psutil.process_iter():
        try:
            command, its_home = process.cmdline(), process.environ().get("DAGSTER_HOME", "")
        except (psutil.Error, OSError):  # another user's, or it has just ended
            continue
        if _is_dagster(command) and its_home and Path(its_home).resolve() == home:
            raise StartError(
                f"{home} is in use by `{' '.join(command)[:_WORDS_AT_MOST]}` (pid {process.pid}): "
                "stop that one first, or give this one a DAGSTER_HOME of its own"
            )


def _is_dagster(command: Sequence[str]) -> bool:
    """Return whether Python runs a script or module of Dagster's."""
    runs = command[2:3] if command[1:2] == ["-m"] else command[1:2]
    return any(Path(name).name.startswith("dagster") for name in runs)


def prepare_dagster_store(home: Path) -> None:
    """Let one process alone make what Dagster stores runs in, and end what was left running there.

    Web server and daemon begin at the same time, and on a first start would both make the tables:
    what they leave then, no Dagster process reads again. Raises `StartError` where it can't.
    """
    made = subprocess.run(
        [sys.executable, "-m", "vpp_pipeline.defs.left_runs"],
        env={**os.environ, "DAGSTER_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        told = made.stderr.strip().splitlines() or ["it told nothing"]
        raise StartError(
            f"Dagster can't use DAGSTER_HOME {home} ({told[-1]}): "
            "move its folders history and schedules away, or set DAGSTER_HOME to another path"
        )


def check_port_is_free(port: int) -> None:
    """Raise StartError if something listens on the loopback port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StartError(
                f"port {port} is in use ({error.strerror}): stop what listens there, "
                "or choose another with --port"
            ) from error


def resume_clock(settings: Settings, first_start: datetime, rate: float) -> None:
    """Write the shared clock: from where it stood at the last stop, else from `first_start`."""
    path = settings.clock_file
    path.parent.mkdir(parents=True, exist_ok=True)
    start = (
        datetime.fromisoformat(json.loads(path.read_text())["stood_at"])
        if path.exists()
        else first_start
    )
    _write_clock(path, start, rate, start)


def mark_clock(settings: Settings) -> None:
    """Note where the clock stands, so that a later start goes on from here."""
    path = settings.clock_file
    stored = json.loads(path.read_text())
    stored["stood_at"] = settings.clock().now().isoformat()
    _replace(path, stored)


def _write_clock(path: Path, start: datetime, rate: float, stood_at: datetime) -> None:
    _replace(
        path,
        {
            "start": start.isoformat(),
            "anchor_epoch_s": time.time(),
            "rate": rate,
            "stood_at": stood_at.isoformat(),
        },
    )


def _replace(path: Path, content: Mapping[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def run(settings: Settings, environment: Mapping[str, str], to_run: Sequence[Part]) -> int:
    """Run the parts until one ends, or SIGINT or SIGTERM comes; leave no process behind.

    Returns 0 after a requested stop, 1 when a part ended by itself.
    """
    _adopt_orphans()
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with _stop_signals() as stopped:
        running = {part.name: _start(part, environment, logs) for part in to_run}
        ended = None
        try:
            while not stopped and ended is None:
                time.sleep(1.0)
                mark_clock(settings)
                ended = next(
                    (name for name, process in running.items() if process.poll() is not None), None
                )
        finally:
            print("stopping …", flush=True)  # noqa: T201 - the console is this command's surface
            mark_clock(settings)
            stop_descendants()
    if ended is not None:
        print(  # noqa: T201 - the console is this command's surface
            f"{ended} ended by itself; its last words are in {logs / f'{ended}.log'}",
            file=sys.stderr,
        )
        return 1
    return 0


def stop_descendants() -> None:
    """Ask every process below this one to stop, then end those that do not; all are reaped."""
    below = psutil.Process().children(recursive=True)
    for process in below:
        _send(process, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_PATIENCE_S
    psutil.wait_procs(below, timeout=max(0.0, deadline - time.monotonic()))
    while left := psutil.Process().children(recursive=True):
        for process in left:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1.0)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _start(part: Part, environment: Mapping[str, str], logs: Path) -> subprocess.Popen[bytes]:
    with (logs / f"{part.name}.log").open("ab") as log:
        return subprocess.Popen(
            part.command,
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to us alone, and we stop the parts in order
        )


def _adopt_orphans() -> None:
    """Make this process the parent of what its children leave behind (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
