"""Ten batteries on days of negative prices: ours, the best known, and what the LP claims.

    python benchmarks/negative_prices.py --milp-seconds 60

Prices are DE-LU day-ahead (Bundesnetzagentur / SMARD.de, CC BY 4.0), an hour's for each of its
quarter-hours. The best known plan is the cheapest of ours, HiGHS on the mixed-integer model, and,
where no connection couples the batteries, the dynamic programme on a fine grid. Correctness is
asserted, time is told.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import click
import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP, STEP_H, intervals
from vpp_pipeline.optimization.bound import constant_eur
from vpp_pipeline.optimization.directions import best_directions
from vpp_pipeline.optimization.exact import solve_exact
from vpp_pipeline.optimization.integers import Settled, settled
from vpp_pipeline.optimization.problem import (
    Floats,
    Problem,
    Sites,
    Sources,
    Stores,
    at_sites,
    no_portfolio,
)
from vpp_pipeline.optimization.relaxed import SolverError, solve_relaxed
from vpp_pipeline.optimization.repair import track
from vpp_pipeline.optimization.room import room_at_sites
from vpp_pipeline.optimization.verify import verify

DAYS = {
    "2021-08-08": [16.02, 1.27, 0.67, 0.59, 0.07, 0.04, 0.04, -0.29, -0.17, -4.37, -9.96, -14.0,
                   -20.08, -43.3, -63.03, -52.43, -28.59, -4.34, 40.74, 62.0, 68.05, 65.9, 63.73,
                   56.58],
    "2020-04-13": [10.34, 0.07, 1.72, 0.77, 0.02, -0.09, -2.35, -5.0, -5.91, -4.94, -5.09, -19.91,
                   -55.62, -70.1, -78.0, -78.15, -74.97, -39.94, -1.77, 11.21, 9.76, 6.45, 9.29,
                   9.02],
}  # fmt: skip
BATTERIES = 10
FINE_GRID = 4_001
CLOSE = 0.002
CLOSE_BEHIND_A_TIGHT_LIMIT = 0.02  # where batteries best burn each other's energy; HiGHS wavers too
TIGHT = 0.6  # of what the batteries can draw together


def batteries(day: str, wear_eur_per_kwh: float, sites: int, limit_share: float) -> Problem:
    """Return ten unlike batteries; a connection carries a share of what stands behind it."""
    price = np.repeat(DAYS[day], 4) / 1000
    steps, rng = len(price), np.random.default_rng(7)
    power = rng.uniform(3, 10, BATTERIES).round(1)
    capacity = (power * rng.uniform(1.5, 3, BATTERIES)).round(1)
    at_site = np.arange(BATTERIES) % sites
    each = np.ones((steps, BATTERIES))
    none = np.zeros((steps, BATTERIES))
    starts = np.zeros((steps, BATTERIES), dtype=np.bool_)
    starts[0] = True
    stores = Stores(
        place=np.arange(BATTERIES),
        site=at_site,
        charge_min_kw=none,
        charge_max_kw=each * power,
        discharge_min_kw=none,
        discharge_max_kw=each * power,
        starts=starts,
        initial_kwh=each * 0.5 * capacity,
        present=each.astype(np.bool_),
        drift_kwh=none,
        floor_kwh=each * 0.1 * capacity,
        ceiling_kwh=each * 0.95 * capacity,
        wished_kwh=none,
        shortfall_eur_per_kwh=none,
        comfort_kwh=each * capacity,
        excess_eur_per_kwh=none,
        owed=none.astype(np.bool_),
        retention=np.ones(BATTERIES),
        charge_efficiency=rng.uniform(0.9, 0.96, BATTERIES).round(3),
        discharge_efficiency=rng.uniform(0.9, 0.96, BATTERIES).round(3),
        wear_eur_per_kwh=np.full(BATTERIES, wear_eur_per_kwh),
        end_value_eur_per_kwh=np.full(BATTERIES, max(float(np.median(price)), 0.0)),
        min_active_kw=np.zeros(BATTERIES),
        curvature_eur_per_kw2h=np.zeros(BATTERIES),
        kwh_per_c=np.full(BATTERIES, np.nan),
        unbroken=np.zeros(BATTERIES, dtype=np.bool_),
        reserve=np.zeros(BATTERIES, dtype=np.bool_),
    )
    nothing, nobody = np.zeros((steps, 0)), np.zeros(0)
    sources = Sources(
        place=np.zeros(0, dtype=np.int64),
        site=np.zeros(0, dtype=np.int64),
        curtailable=np.zeros(0, dtype=np.bool_),
        min_kw=nothing,
        max_kw=nothing,
        cost_eur_per_kwh=nobody,
        ramp_kw=nobody,
        min_active_kw=nobody,
        curvature_eur_per_kw2h=nobody,
        min_run_steps=np.zeros(0, dtype=np.int64),
        min_rest_steps=np.zeros(0, dtype=np.int64),
    )
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    limit = limit_share * np.bincount(at_site, power)
    return Problem(
        device_ids=pl.Series([f"battery-{n}" for n in range(BATTERIES)]),
        intervals=intervals(start, start + STEP * steps),
        price_eur_per_kwh=price,
        fixed_kw=none,
        curtailable_up_to_kw=np.full(BATTERIES, np.nan),
        stores=stores,
        sources=sources,
        sites=Sites(
            base_kw=np.zeros((steps, sites)),
            import_limit_kw=limit,
            export_limit_kw=limit,
            import_overload_kw=np.zeros((steps, sites)),
            export_overload_kw=np.zeros((steps, sites)),
        ),
        portfolio=no_portfolio(price),
        overload_eur_per_kwh=10.0,
    )


def ours(problem: Problem) -> tuple[Settled, float, float]:
    """Return our plan, what the convex model claims a plan costs, EUR, and our seconds."""
    began = time.perf_counter()
    relaxed = solve_relaxed(problem, "CLARABEL", 10.0)
    plan = settled(problem, relaxed, "CLARABEL", 10.0)
    seconds = time.perf_counter() - began
    stores = problem.stores
    price = problem.price_eur_per_kwh[:, None]
    wear = 0.5 * stores.wear_eur_per_kwh
    claimed = STEP_H * np.sum((price + wear) * relaxed.charge_kw)
    claimed += STEP_H * np.sum((wear - price) * relaxed.discharge_kw)
    claimed -= stores.end_value_eur_per_kwh @ relaxed.energy_kwh[-1]
    return plan, float(claimed) + constant_eur(problem), seconds


def by_milp(problem: Problem, time_limit_s: float) -> float:
    """Return the cost of HiGHS's plan, EUR, each connection solved by itself."""
    sites = len(problem.sites.import_limit_kw)
    total = 0.0
    for site in range(sites):
        part = at_sites(problem, np.arange(sites) == site)
        try:
            found = solve_exact(part, time_limit_s / sites, 1e-5)
        except SolverError:
            return np.inf
        total += verify(part, track(part, found.energy_kwh, found.source_kw)).objective_eur
    return total


def by_fine_grid(problem: Problem) -> float:
    """Return the cost of the dynamic programme's own plan, EUR; none where batteries couple."""
    sites = len(problem.sites.import_limit_kw)
    if sites < BATTERIES:
        return np.inf
    everyone: Floats = np.arange(BATTERIES)
    price = np.repeat(problem.price_eur_per_kwh[:, None], BATTERIES, axis=1)
    room = room_at_sites(problem, np.zeros(BATTERIES, dtype=np.bool_))
    found = best_directions(problem, everyone, price, room, FINE_GRID)
    return float(found.cost_eur.sum()) + constant_eur(problem)


def compared(
    day: str, wear: float, sites: int, limit_share: float, milp_seconds: float
) -> dict[str, object]:
    """Plan one instance every way; raise AssertionError where ours is not good enough."""
    problem = batteries(day, wear, sites, limit_share)
    plan, claimed, seconds = ours(problem)
    verdict = plan.verdict
    assert verdict.simultaneous_steps == 0
    assert max(verdict.worst_violation_kw, verdict.worst_violation_kwh) <= 1e-6
    assert plan.bound_eur <= verdict.objective_eur + 1e-9
    milp, grid = by_milp(problem, milp_seconds), by_fine_grid(problem)
    best = min(milp, grid, verdict.objective_eur)
    behind = (verdict.objective_eur - best) / abs(best)
    close = CLOSE if limit_share >= 1 else CLOSE_BEHIND_A_TIGHT_LIMIT
    assert behind <= close, f"{day}, wear {wear}, {sites} connections: {behind:.2%} behind"
    return {
        "day": day,
        "negative": int((problem.price_eur_per_kwh < 0).sum()),
        "wear": wear,
        "connections": sites,
        "limit %": round(100 * limit_share),
        "LP claims": claimed,
        "bound": plan.bound_eur,
        "ours": verdict.objective_eur,
        "MILP": milp,
        "fine grid": grid,
        "behind %": 100 * behind,
        "seconds": seconds,
    }


@click.command()
@click.option("--milp-seconds", default=60.0, help="For HiGHS, an instance.")
def main(milp_seconds: float) -> None:
    """Plan every day, wear cost and connection; print costs in EUR."""
    ours(batteries("2021-08-08", 0.0, 1, TIGHT))  # loads what is compiled
    rows = [
        compared(day, wear, sites, limit_share, milp_seconds)
        for day in DAYS
        for wear in (0.0, 0.02)
        for sites, limit_share in ((BATTERIES, 1.0), (1, 1.0), (1, TIGHT))
    ]
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=160, float_precision=4):
        print(pl.DataFrame(rows))


if __name__ == "__main__":
    main()
