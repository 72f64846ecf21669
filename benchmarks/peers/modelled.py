"""Our own mathematics (`optimization.model`), handed to a solver by cvxpy as a whole.

python -m benchmarks.peers.modelled RECIPE ANSWER.npz CLARABEL|OSQP|HIGHS

HiGHS solves it without the quadratic cost: the easier, linear problem.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import cvxpy as cp
import numpy as np

from benchmarks.ours import schedule
from benchmarks.peers.instance import write_answer
from benchmarks.recipe import Recipe, without_fairness
from vpp_pipeline.optimization.model import formulate
from vpp_pipeline.optimization.repair import Setpoints
from vpp_pipeline.optimization.reserves import held

_OPTIONS = {
    "CLARABEL": {},
    "HIGHS": {},
    "OSQP": {"eps_abs": 1e-5, "eps_rel": 1e-5, "max_iter": 10**6},
}


def main(recipe: str, target: str, solver: str) -> None:
    problem = Recipe.read(recipe).problem()
    if solver == "HIGHS":
        problem = without_fairness(problem)
    began = time.perf_counter()
    model = formulate(problem)
    whole = cp.Problem(cp.Minimize(model.cost_eur), model.laws.all())
    built = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an inexact answer shows in its judgement
        whole.solve(solver=solver, canon_backend="COO", **_OPTIONS[solver])
    ended = time.perf_counter()
    told = {"status": whole.status, "build_s": built - began, "solve_s": ended - built}
    power_kw = model.discharge_of_all() - model.charge_kw.value
    setpoints = Setpoints(power_kw, model.energy_kwh.value, np.asarray(model.source_kw.value))
    answer = schedule(held(problem, setpoints))
    answer["charge_kw"], answer["discharge_kw"] = model.charge_kw.value, model.discharge_of_all()
    write_answer(Path(target), told, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
