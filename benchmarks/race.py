"""One program on one problem, in a process with a time limit; its time, memory and answer.

Belongs here: starting, watching and ending the process. Does not: which programs there are
(`optimization`), judging the answer (`judge`).
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.peers.instance import read_answer

if TYPE_CHECKING:
    import numpy as np

_ROOT = Path(__file__).parent.parent
_LOOK_EVERY_S = 0.05
_LAST_LINES = 3
OVER = "over the time limit"  # so begins the status of one that was ended


@dataclass(frozen=True)
class Run:
    """What came of it: without an answer, `told` has only a status."""

    told: dict[str, Any]
    answer: dict[str, np.ndarray]
    peak_gb: float
    wall_s: float  # start of the interpreter, reading and writing included


def run(python: str, module: str, arguments: list[str], answer: Path, limit_s: float) -> Run:
    """Run a module that writes `answer`; end it when it takes longer than the limit."""
    answer.unlink(missing_ok=True)
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [python, "-W", "ignore", "-m", module, *arguments],
            cwd=_ROOT,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        peak_gb = _watch(process, began + limit_s)
        wall_s = time.perf_counter() - began
        said.seek(0)
        complaint = said.read()
    if wall_s > limit_s:
        return Run({"status": f"{OVER} {limit_s:g} s"}, {}, peak_gb, wall_s)
    if process.returncode or not answer.exists():
        last = " ".join(complaint.strip().splitlines()[-_LAST_LINES:])
        return Run({"status": f"failed: {last}"}, {}, peak_gb, wall_s)
    told, arrays = read_answer(answer)
    return Run(told, arrays, peak_gb, wall_s)


def _watch(process: subprocess.Popen[bytes], deadline: float) -> float:
    """Return the most memory the process had, GB; kill it at the deadline."""
    peak = 0
    try:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, watched.memory_info().rss)
            if time.perf_counter() > deadline:
                process.kill()
                break
            time.sleep(_LOOK_EVERY_S)
    except psutil.NoSuchProcess:
        pass
    process.wait()
    return peak / 1e9
