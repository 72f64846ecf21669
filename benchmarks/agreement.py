"""Our plans beside HiGHS's optimum on hundreds of made-up linear problems.

python -m benchmarks.agreement --instances 200

Belongs here: drawing fleets and markets without quadratic cost and least powers, planning them
both ways, and the checks. Does not: formulating for HiGHS (`peers`), judging (`judge`), seconds
(`optimization`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import click
import numpy as np
import polars as pl

from benchmarks.judge import judge
from benchmarks.ours import schedule
from benchmarks.peers.direct import highs
from benchmarks.peers.matrices import program
from benchmarks.peers.matrices import schedule as schedule_of
from benchmarks.recipe import without_fairness, without_switches
from vpp_pipeline.optimization.sample import Market, sample_problem
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.optimization.solve import solve

FEWEST, MOST = 5, 200  # devices
CLOSE = 1e-4  # of the optimum, but at least of a euro
KEPT = 1e-6  # kW and kWh
_SETTINGS = PlanSettings(gap_tolerance=CLOSE / 2, time_limit_s=60.0)


@dataclass(frozen=True)
class Compared:
    """One instance's figures."""

    instance: int
    market: str
    devices: int
    method: str
    solver: str
    ours_eur: float
    highs_eur: float
    difference: float  # of max(1, the optimum); above 0 where ours costs more
    gap: float
    violation_kw: float
    violation_kwh: float


def compared(instance: int, seed: int) -> Compared:
    """Plan one instance both ways; the cost of ours is after its repair, to whole milliwatts."""
    rng = np.random.default_rng([seed, instance])
    market: Market = get_args(Market)[instance % len(get_args(Market))]
    devices = round(float(np.exp(rng.uniform(np.log(FEWEST), np.log(MOST)))))
    drawn = sample_problem(devices, rng, portfolio=market)
    problem = without_fairness(without_switches(drawn))
    made = program(problem, curved=False)
    status, x = highs(made, "simplex")
    assert status == "Optimal", f"instance {instance}: HiGHS ended {status}"
    optimum_eur = judge(problem, schedule_of(problem, made, x)).objective_eur
    plan = solve(problem, _SETTINGS)
    judged = judge(problem, schedule(plan.setpoints))
    verdict = plan.verdict
    return Compared(
        instance,
        market,
        devices,
        plan.method,
        plan.solver,
        judged.objective_eur,
        optimum_eur,
        (judged.objective_eur - optimum_eur) / max(1.0, abs(optimum_eur)),
        np.inf if plan.gap is None else plan.gap,
        max(judged.violation_kw, verdict.worst_violation_kw),
        max(judged.violation_kwh, verdict.worst_violation_kwh),
    )


@click.command()
@click.option("--instances", default=200, help="How many.")
@click.option("--seed", default=0, help="Others are drawn from another seed.")
def main(instances: int, seed: int) -> None:
    """Compare; print the worst of every market; fail where one is worse than it may be."""
    each = pl.DataFrame([compared(instance, seed) for instance in range(instances)])
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=160):
        print(each.sort(pl.col("difference").abs(), descending=True).head(10))
        print(
            each.group_by("market", "method").agg(
                pl.len().alias("instances"),
                pl.col("difference").abs().max().alias("worst difference"),
                pl.col("gap").max().alias("worst gap"),
                pl.max_horizontal("violation_kw", "violation_kwh").max().alias("worst violation"),
            )
        )
    far = each.filter(pl.col("difference").abs() > CLOSE)
    assert far.is_empty(), f"instances {far['instance'].to_list()} differ by more than {CLOSE}"
    broken = each.filter(pl.max_horizontal("violation_kw", "violation_kwh") > KEPT)
    assert broken.is_empty(), f"instances {broken['instance'].to_list()} break laws"


if __name__ == "__main__":
    main()
