"""From a problem to the best plan that could be found and proven in time.

Belongs here: which method a fleet's size asks for, and the plan that is there before any. Does
not: the methods (`monolith`, `decomposition`), frames (`planner`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from vpp_pipeline.optimization.fallback import greedy
from vpp_pipeline.optimization.found import Found, Prices, market_prices
from vpp_pipeline.optimization.reserves import held
from vpp_pipeline.optimization.verify import verify

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Problem
    from vpp_pipeline.optimization.settings import PlanSettings

MONOLITH_AT_MOST = 50  # steered devices; above, the decomposition is the faster one


def solve(problem: Problem, settings: PlanSettings, warm: Prices | None = None) -> Found:
    """Return the best plan found within the time limit: never none.

    `warm` are the prices of a plan like this one, where there is one. The greedy plan stands
    where nothing better is found.
    """
    # cvxpy, SciPy and the kernels take two seconds to import: a push does without
    from vpp_pipeline.optimization.decomposition.coupled import CoupledError  # noqa: PLC0415
    from vpp_pipeline.optimization.decomposition.fleet import solve_fleet  # noqa: PLC0415
    from vpp_pipeline.optimization.monolith import solve_whole  # noqa: PLC0415

    deadline = time.perf_counter() + settings.time_limit_s
    devices = problem.steered
    complaint = ""
    if devices > MONOLITH_AT_MOST:
        try:
            return solve_fleet(problem, settings, deadline, warm)
        except CoupledError as error:
            complaint = str(error)
    setpoints = held(problem, greedy(problem))
    verdict = verify(problem, setpoints)
    best = Found(
        setpoints,
        verdict,
        "none",
        "greedy",
        "not solved",
        market_prices(problem),
        complaints=(complaint,) if complaint else (),
    )
    if not devices:
        return replace(
            best, solver="none", status="nothing to decide", bound_eur=verdict.objective_eur
        )
    return best if complaint else solve_whole(problem, settings, deadline, best)
