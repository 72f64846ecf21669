"""Planning again through the day, from a measured state, on a committed position; one process.

python -m benchmarks.intraday DEVICES INSTANCES ANSWER.npz TIME_LIMIT_S [linear]

The position is what was planned the day before; every instance is the problem a little changed,
solved warm from the one before.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.ours import timed
from benchmarks.peers.instance import write_answer
from benchmarks.recipe import Recipe, without_fairness
from vpp_pipeline.optimization.sample import committed, perturbed
from vpp_pipeline.optimization.settings import PlanSettings

_GAP = 5e-4


def main(devices: str, instances: str, target: str, time_limit_s: str, *linear: str) -> None:
    rng = np.random.default_rng(7)
    settings = PlanSettings(time_limit_s=float(time_limit_s), gap_tolerance=_GAP)
    problem = Recipe(int(devices), "none").problem()
    if linear:
        problem = without_fairness(problem)
    _, day_ahead = timed(problem, settings)
    setpoints = day_ahead.setpoints
    position_kw = (
        problem.sites.base_kw.sum(axis=1)
        + setpoints.store_kw.sum(axis=1)
        + setpoints.source_kw.sum(axis=1)
    )
    problem = committed(problem, position_kw, rng)
    measured, warm = [], day_ahead.prices
    for _ in range(int(instances)):
        seconds, found = timed(perturbed(problem, rng), settings, warm)
        warm = found.prices
        verdict = found.verdict
        gap = np.inf if found.gap is None else found.gap
        worst = max(verdict.worst_violation_kw, verdict.worst_violation_kwh)
        measured.append((seconds, gap, worst))
    seconds, gaps, worst = np.array(measured).T
    write_answer(Path(target), {}, {"seconds": seconds, "gap": gaps, "violation": worst})


if __name__ == "__main__":
    main(*sys.argv[1:])
