import subprocess
import sys

_PLANS_AFTER_WARM_UP = """
import sys
from dataclasses import replace

import numpy as np
from numba.core.dispatcher import Dispatcher

from vpp_pipeline.optimization.sample import sample_problem
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve
from vpp_pipeline.optimization.warm_up import warm_up


def compiled():
    return {
        (kernel.py_func.__qualname__, signature)
        for name, module in list(sys.modules.items())
        if name.startswith("vpp_pipeline")
        for kernel in vars(module).values()
        if isinstance(kernel, Dispatcher)
        for signature in kernel.signatures
    }


warm_up()
before = compiled()
assert before
for devices, portfolio in ((70, "position"), (120, "reserve")):
    problem = sample_problem(devices, np.random.default_rng(devices), portfolio=portfolio)
    stores, sources = problem.stores, problem.sources
    problem = replace(
        problem,
        stores=replace(stores, unbroken=stores.owed.any(axis=0) & (stores.min_active_kw == 0)),
        sources=replace(sources, min_rest_steps=np.where(sources.curtailable, 0, 3)),
    )
    found = solve(problem, PlanSettings(time_limit_s=2))
    solve(problem, PlanSettings(time_limit_s=2), warm=found.prices)
print(sorted(compiled() - before))
"""


def test_a_plan_after_the_warm_up_compiles_nothing():
    """In a process of its own: other tests leave their kernels behind."""
    ran = subprocess.run(
        [sys.executable, "-c", _PLANS_AFTER_WARM_UP], capture_output=True, text=True, check=False
    )
    assert ran.stderr == ""
    assert ran.stdout == "[]\n"
