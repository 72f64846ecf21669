"""Plans of growing fleets, ours beside what others would do with the same problem.

python -m benchmarks.optimization --sizes 10,100,1000 --python PEERS/bin/python

Belongs here: which programs run on which problems, and the checks that make their figures
comparable. Does not: formulating (`peers`), running (`race`), judging (`judge`), printing
(`report`).
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from benchmarks import report
from benchmarks.judge import Judgement, judge
from benchmarks.peers.instance import read_problem, write_problem
from benchmarks.race import OVER, Run, run
from benchmarks.recipe import Recipe
from benchmarks.report import Row

if TYPE_CHECKING:
    from types import SimpleNamespace

_RESERVE_DEVICES, _RESERVE_GAP, _RESERVE_S = 1_000, 1e-3, 5.0
_INTRADAY_DEVICES, _INTRADAY_INSTANCES, _INTRADAY_GAP, _INTRADAY_S = 10_000, 100, 5e-4, 5.0
_TO_START_S = 60.0  # allowed for the interpreter and for reading the problem
_TO_WARM_UP_S = 180.0  # allowed to ours for drawing the problem and for warming up
_FEASIBLE = 1e-4  # kW, kWh: a schedule that breaks more than that is not compared
_SAME = 2e-4  # objectives of solvers at their usual tolerances, relative


@dataclass(frozen=True)
class Peer:
    """A program, and which problem it solves: quadratic cost (QP), without (LP), with switches (MILP)."""

    name: str
    module: str
    solver: str
    model: str
    extra: bool = False  # needs the extra `benchmarks`
    core_only: bool = False  # knows site limits and the peak charge, nothing more


PEERS = (
    Peer("cvxpy + Clarabel", "benchmarks.peers.modelled", "CLARABEL", "QP"),
    Peer("cvxpy + OSQP 1e-5", "benchmarks.peers.modelled", "OSQP", "QP"),
    Peer("cvxpy + HiGHS", "benchmarks.peers.modelled", "HIGHS", "LP"),
    Peer("Clarabel", "benchmarks.peers.direct", "clarabel", "QP"),
    Peer("HiGHS IPX", "benchmarks.peers.direct", "ipx", "LP"),
    Peer("HiGHS HiPO", "benchmarks.peers.direct", "hipo", "LP", extra=True),
    Peer("HiGHS simplex", "benchmarks.peers.direct", "simplex", "LP"),
    Peer("HiGHS MILP", "benchmarks.peers.direct", "milp", "MILP"),
    Peer("PyPSA + HiGHS", "benchmarks.peers.pypsa_highs", "", "LP", extra=True, core_only=True),
)


@click.command()
@click.option("--sizes", default="10,100,1000", show_default=True, help="Devices, with commas.")
@click.option("--time-limit", default=300.0, show_default=True, help="For every program, s.")
@click.option("--python", default=sys.executable, help="Where the extra `benchmarks` is installed.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/benchmarks"))
@click.option("--alone", is_flag=True, help="Only ours.")
@click.option("--beside", default="", help="Only these of the peers, with commas.")
@click.option("--reserve", is_flag=True, help="Instead: 1,000 devices with event and reserve.")
@click.option("--intraday", is_flag=True, help="Instead: 100 re-plans of 10,000 devices.")
@click.option("--switches", is_flag=True, help="Devices have a least power, for who knows it.")
@click.option("--linear", is_flag=True, help="With --intraday: without the quadratic cost.")
def main(
    *,
    sizes: str,
    time_limit: float,
    python: str,
    out: Path,
    alone: bool,
    beside: str,
    reserve: bool,
    intraday: bool,
    switches: bool,
    linear: bool,
) -> None:
    """Measure plans side by side, check them, and write a table and a plot."""
    out.mkdir(parents=True, exist_ok=True)
    if intraday:
        sys.exit(_intraday(linear=linear))
    recipes = (
        [Recipe(_RESERVE_DEVICES, "reserve")]
        if reserve
        else [Recipe(int(size), "peak", switches=switches) for size in sizes.split(",")]
    )
    rows: list[Row] = []
    faults: list[str] = []
    chosen = {name.strip() for name in beside.split(",") if name.strip()}
    late = {peer.name for peer in PEERS if alone or (chosen and peer.name not in chosen)}
    for recipe in recipes:
        of_size = measured(recipe, python, time_limit, late)
        late |= {row.planner for row in of_size if row.status.startswith(OVER)}
        rows += of_size
        faults += [f"{recipe.devices:,} devices: {fault}" for fault in faults_of(of_size)]
        print(report.table(of_size), flush=True)
    name = "reserve" if reserve else "switches" if switches else "optimization"
    _save(rows, out, name, time_limit)
    for fault in faults:
        print("CHECK FAILED:", fault)
    sys.exit(bool(faults))


def measured(recipe: Recipe, python: str, limit_s: float, late: set[str]) -> list[Row]:
    """Run ours, then every peer that was in time at the sizes before."""
    with tempfile.TemporaryDirectory() as folder:
        answer, instance = Path(folder, "answer.npz"), Path(folder, "problem.npz")
        ours = run(
            sys.executable,
            "benchmarks.ours",
            [recipe.text(), str(answer), str(limit_s)],
            answer,
            limit_s + _TO_START_S + _TO_WARM_UP_S,
        )
        peers = [p for p in PEERS if p.name not in late]
        peers = [p for p in peers if not (p.core_only and recipe.portfolio != "peak")]
        judged = bool(peers or ours.answer)
        if judged:
            write_problem(recipe.problem(), instance)
        problem = read_problem(instance) if judged else None
        first = _our_row(recipe, ours, problem)
        rows = [first]
        for peer in peers:
            whole = peer.module.endswith("modelled")
            came = run(
                python if peer.extra else sys.executable,
                peer.module,
                [recipe.text() if whole else str(instance), str(answer)]
                + ([peer.solver] if peer.solver else []),
                answer,
                limit_s + _TO_START_S,
            )
            rows.append(_peer_row(recipe, peer, came, problem, first))
    return rows


def _our_row(recipe: Recipe, ours: Run, problem: SimpleNamespace | None) -> Row:
    told = ours.told
    if "solve_s" not in told:
        return Row(recipe.devices, "ours", "QP", told["status"], peak_gb=ours.peak_gb)
    own = judge(problem, ours.answer) if ours.answer else None
    return Row(
        recipe.devices,
        "ours",
        "QP",
        told["status"],
        build_s=told["build_s"],
        solve_s=told["solve_s"],
        ratio=1.0,
        objective_eur=told["objective_eur"],
        linear_eur=_linear(own),
        bound_eur=told["bound_eur"],
        gap=told["gap"],
        violation_kw=max(told["violation_kw"], own.violation_kw if own else 0.0),
        violation_kwh=max(told["violation_kwh"], own.violation_kwh if own else 0.0),
        peak_gb=ours.peak_gb,
        first_call_s=told["first_call_s"],
    )


def _peer_row(
    recipe: Recipe, peer: Peer, came: Run, problem: SimpleNamespace | None, ours: Row
) -> Row:
    told = came.told
    if "solve_s" not in told:
        return Row(recipe.devices, peer.name, peer.model, told["status"], peak_gb=came.peak_gb)
    own = judge(problem, came.answer)
    seconds = told["build_s"] + told["solve_s"]
    gap = None
    if ours.bound_eur is not None:
        gap = (own.objective_eur - ours.bound_eur) / max(1.0, abs(own.objective_eur))
    return Row(
        recipe.devices,
        peer.name,
        peer.model,
        told["status"],
        build_s=told["build_s"],
        solve_s=told["solve_s"],
        ratio=seconds / ours.seconds if ours.seconds else None,
        objective_eur=own.objective_eur,
        linear_eur=_linear(own),
        gap=gap,
        violation_kw=own.violation_kw,
        violation_kwh=own.violation_kwh,
        peak_gb=came.peak_gb,
    )


def _linear(judged: Judgement | None) -> float | None:
    return judged.objective_eur - judged.fairness_eur if judged else None


def faults_of(rows: list[Row]) -> list[str]:
    """Return what contradicts: what keeps switches is above our bound, like problems cost alike.

    A peer without switches may be cheaper than our bound, which knows them; never dearer than our
    plan by more than its tolerance. The linear optimum is below every schedule's linear cost.
    """
    ours = rows[0]
    if ours.objective_eur is None or ours.bound_eur is None:
        return ["ours gave no plan with a bound"]
    faults = []
    if max(ours.violation_kw or 0, ours.violation_kwh or 0) > 1e-6:
        faults.append(f"ours breaks a law by {ours.violation_kw} kW, {ours.violation_kwh} kWh")
    scale = max(1.0, abs(ours.objective_eur))
    sound = [
        row
        for row in rows[1:]
        if row.objective_eur is not None
        and row.linear_eur is not None
        and max(row.violation_kw or 0, row.violation_kwh or 0) <= _FEASIBLE
    ]
    linear = [row.linear_eur for row in sound if row.model == "LP" and row.linear_eur is not None]
    for row in sound:
        above = (row.objective_eur or 0) - ours.bound_eur
        if row.model == "MILP" and above < -1e-6 * scale:
            faults.append(f"{row.planner} is {-above:.6f} EUR below our bound")
        if row.model == "QP" and (row.objective_eur or 0) > ours.objective_eur + _SAME * scale:
            faults.append(f"{row.planner} is worse than ours by more than its tolerance")
    if linear and max(linear) - min(linear) > _SAME * scale:
        faults.append(f"the linear optima differ: {sorted(linear)}")
    if linear and ours.linear_eur is not None and min(linear) > ours.linear_eur + _SAME * scale:
        faults.append("the linear optimum is above the linear cost of our plan")
    return faults


def _save(rows: list[Row], out: Path, name: str, limit_s: float) -> None:
    planners = dict.fromkeys(row.planner for row in rows)
    growth = {p: b for p in planners if (b := report.exponent(rows, p)) is not None}
    grown = "\n".join(f"- {p}: seconds ~ devices^{b:.2f}" for p, b in growth.items())
    first = [f"{r.first_call_s:.2f}" for r in rows if r.first_call_s is not None]
    text = (
        f"{report.table(rows)}\n\nTime limit: {limit_s:g} s. What the first call in "
        f"a fresh process costs more than the next: {', '.join(first)} s.\n\n{grown}\n"
    )
    out.joinpath(f"{name}.md").write_text(text)
    report.write_csv(rows, out / f"{name}.csv")
    report.plot(rows, out / f"{name}.png", limit_s)
    print(grown)
    if name == "reserve":
        ours = rows[0]
        kept = (ours.gap or 1) <= _RESERVE_GAP and (ours.seconds or np.inf) <= _RESERVE_S
        print(f"gap <= {_RESERVE_GAP:g} in {_RESERVE_S:g} s: {'kept' if kept else 'NOT KEPT'}")


def _intraday(*, linear: bool) -> bool:
    """Print how many re-plans were proven and in time; return whether one was not."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.npz")
        arguments = [str(_INTRADAY_DEVICES), str(_INTRADAY_INSTANCES), str(answer), "60"]
        came = run(
            sys.executable,
            "benchmarks.intraday",
            arguments + ["linear"] * linear,
            answer,
            _INTRADAY_INSTANCES * 60,
        )
    if not came.answer:
        print(came.told["status"])
        return True
    seconds, gap, violation = (came.answer[name] for name in ("seconds", "gap", "violation"))
    kept = (seconds <= _INTRADAY_S) & (gap <= _INTRADAY_GAP) & (violation <= 1e-6)
    print(
        f"{int(kept.sum())} of {len(kept)} within {_INTRADAY_GAP:g} and {_INTRADAY_S:g} s; "
        f"seconds: median {np.median(seconds):.2f}, most {seconds.max():.2f}; gap: median "
        f"{np.median(gap):.1e}, most {gap.max():.1e}; worst violation {violation.max():.0e}; "
        f"{came.peak_gb:.2f} GB"
    )
    return not kept.all()


if __name__ == "__main__":
    main()
