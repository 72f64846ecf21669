"""The sparse program, solved by HiGHS (LP, MILP) or Clarabel (QP) without a modelling layer.

python -m benchmarks.peers.direct PROBLEM.npz ANSWER.npz ipx|hipo|simplex|milp|clarabel
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.instance import read_problem, write_answer
from benchmarks.peers.matrices import Program, program, schedule

_HIGHS = {
    "ipx": {"solver": "ipx", "run_crossover": "off"},
    "hipo": {"solver": "hipo", "run_crossover": "off"},
    "simplex": {"solver": "simplex"},
    "milp": {"mip_rel_gap": 1e-4},
}


def main(source: str, target: str, solver: str) -> None:
    problem = read_problem(Path(source))
    import_solver(solver)
    began = time.perf_counter()
    made = program(problem, curved=solver == "clarabel", switched=solver == "milp")
    built = time.perf_counter()
    status, x = clarabel(made) if solver == "clarabel" else highs(made, solver)
    ended = time.perf_counter()
    told = {"status": status, "build_s": built - began, "solve_s": ended - built}
    write_answer(Path(target), told, schedule(problem, made, x))


def import_solver(solver: str) -> None:
    """Import before the clock starts; HiPO is a plug-in that HiGHS does without in silence."""
    if solver == "clarabel":
        import clarabel  # noqa: F401, PLC0415

        return
    import highspy  # noqa: F401, PLC0415

    if solver == "hipo":
        import highspy_extras  # noqa: F401, PLC0415


def highs(made: Program, solver: str) -> tuple[str, np.ndarray]:
    import highspy  # noqa: PLC0415 - only where it is asked for

    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = made.rows.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = made.cost, made.floor, made.ceiling
    lp.row_lower_, lp.row_upper_ = made.low, made.high
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = made.rows.indptr
    lp.a_matrix_.index_ = made.rows.indices
    lp.a_matrix_.value_ = made.rows.data
    kind = highspy.HighsVarType
    lp.integrality_ = [kind.kInteger if whole else kind.kContinuous for whole in made.whole]
    solve = highspy.Highs()
    solve.setOptionValue("output_flag", False)
    for name, value in _HIGHS[solver].items():
        if solve.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise SystemExit(f"HiGHS knows no {name} = {value}: install highspy-extras")
    solve.passModel(lp)
    solve.run()
    return solve.modelStatusToString(solve.getModelStatus()), np.array(
        solve.getSolution().col_value
    )


def clarabel(made: Program) -> tuple[str, np.ndarray]:
    import clarabel as solver  # noqa: PLC0415 - only where it is asked for

    width = made.rows.shape[1]
    equal = made.low == made.high
    above, below = np.isfinite(made.high) & ~equal, np.isfinite(made.low) & ~equal
    capped, floored = np.isfinite(made.ceiling), np.isfinite(made.floor)
    each, rows = sp.eye_array(width, format="csr"), made.rows.tocsr()
    laws = sp.vstack(
        [rows[equal], rows[above], -rows[below], each[capped], -each[floored]], format="csc"
    )
    limits = np.concatenate(
        [
            made.low[equal],
            made.high[above],
            -made.low[below],
            made.ceiling[capped],
            -made.floor[floored],
        ]
    )
    settings = solver.DefaultSettings()
    settings.verbose = False
    cones = [
        solver.ZeroConeT(int(equal.sum())),
        solver.NonnegativeConeT(len(limits) - int(equal.sum())),
    ]
    square = sp.diags_array(made.square, format="csc")
    answer = solver.DefaultSolver(
        sp.csc_matrix(square), made.cost, sp.csc_matrix(laws), limits, cones, settings
    ).solve()
    return str(answer.status), np.array(answer.x)


if __name__ == "__main__":
    main(*sys.argv[1:])
