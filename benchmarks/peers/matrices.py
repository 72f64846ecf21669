"""The planning problem as one sparse program: ½x'Px + q'x, low <= Ax <= high, floor <= x <= ceiling.

Belongs here: its columns and rows, written without `vpp_pipeline`, so that it is a second opinion.
Does not: solvers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from benchmarks.peers.instance import STEP_H, limit_cells, products

if TYPE_CHECKING:
    from types import SimpleNamespace

    _Numbers = np.ndarray | float


@dataclass(frozen=True)
class Program:
    """The sparse program, and where the schedule lies in its columns."""

    square: np.ndarray  # the diagonal of P
    cost: np.ndarray
    rows: sp.csc_array
    low: np.ndarray
    high: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray
    whole: np.ndarray  # the columns that are 0 or 1
    columns: dict[str, tuple[int, tuple[int, ...]]]  # first column and shape

    def of(self, name: str, x: np.ndarray) -> np.ndarray:
        """Return one variable's values."""
        first, shape = self.columns[name]
        return x[first : first + int(np.prod(shape))].reshape(shape)


class _Draft:
    """Columns and rows as they are added."""

    def __init__(self) -> None:
        self.columns: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.switches: list[np.ndarray] = []
        self.of_columns: list[tuple[np.ndarray, ...]] = []
        self.blocks: list[tuple[int, int, sp.coo_array]] = []
        self.of_rows: list[tuple[np.ndarray, np.ndarray]] = []
        self.width = self.height = 0

    def add(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        floor: _Numbers,
        ceiling: _Numbers,
        cost: _Numbers = 0.0,
        square: _Numbers = 0.0,
    ) -> None:
        """Add a variable."""
        full = [np.broadcast_to(v, shape).ravel() for v in (floor, ceiling, cost, square)]
        self.columns[name] = (self.width, shape)
        self.of_columns.append(tuple(full))
        self.width += int(np.prod(shape))

    def switch(self, name: str, shape: tuple[int, ...]) -> None:
        """Add a variable that is 0 or 1."""
        self.add(name, shape, floor=0.0, ceiling=1.0)
        self.switches.append(np.arange(self.columns[name][0], self.width))

    def law(self, terms: dict[str, Any], low: _Numbers, high: _Numbers) -> None:
        """Add rows: low <= the sum of matrix · variable <= high."""
        count = next(iter(terms.values())).shape[0]
        for name, matrix in terms.items():
            self.blocks.append((self.height, self.columns[name][0], sp.coo_array(matrix)))
        self.of_rows.append(
            (np.broadcast_to(low, count).ravel(), np.broadcast_to(high, count).ravel())
        )
        self.height += count

    def program(self) -> Program:
        row = np.concatenate([m.row + top for top, _, m in self.blocks])
        column = np.concatenate([m.col + left for _, left, m in self.blocks])
        value = np.concatenate([m.data for _, _, m in self.blocks])
        floor, ceiling, cost, square = (
            np.concatenate(v) for v in zip(*self.of_columns, strict=True)
        )
        low, high = (np.concatenate(v) for v in zip(*self.of_rows, strict=True))
        rows = sp.csc_array((value, (row, column)), (self.height, self.width))
        whole = np.zeros(self.width, dtype=np.bool_)
        whole[np.concatenate([*self.switches, np.zeros(0, dtype=np.int64)])] = True
        return Program(square, cost, rows, low, high, floor, ceiling, whole, self.columns)


def program(problem: SimpleNamespace, *, curved: bool, switched: bool = False) -> Program:
    """Write the problem down; not `curved`, without its quadratic cost.

    `switched` keeps devices from charging and discharging at once and from running below their
    least power; times on and off, and loads that may not be interrupted, are left out.
    """
    draft = _Draft()
    stores, sources = problem.stores, problem.sources
    steps, count = stores.drift_kwh.shape
    two_way = np.flatnonzero((stores.discharge_max_kw > 0).any(axis=0))
    paid = problem.portfolio.surplus_eur_per_kwh[:, None] * STEP_H
    wear = 0.5 * STEP_H * stores.wear_eur_per_kwh
    bend = STEP_H * float(curved)
    end_value = np.zeros((steps, count))
    end_value[-1] = -stores.end_value_eur_per_kwh
    draft.add(
        "charge",
        (steps, count),
        floor=stores.charge_min_kw,
        ceiling=stores.charge_max_kw,
        cost=paid + wear,
        square=bend * stores.curvature_eur_per_kw2h,
    )
    draft.add(
        "discharge",
        (steps, len(two_way)),
        floor=stores.discharge_min_kw[:, two_way],
        ceiling=stores.discharge_max_kw[:, two_way],
        cost=wear[two_way] - paid,
        square=bend * stores.curvature_eur_per_kw2h[two_way],
    )
    draft.add(
        "energy",
        (steps, count),
        floor=stores.floor_kwh,
        ceiling=stores.ceiling_kwh,
        cost=end_value,
    )
    # ½w(max - x)² = ½wx² - w·max·x + a constant
    sources_bend = bend * sources.curvature_eur_per_kw2h
    draft.add(
        "source",
        sources.max_kw.shape,
        floor=sources.min_kw,
        ceiling=sources.max_kw,
        cost=sources.cost_eur_per_kwh * STEP_H
        - paid
        - np.where(sources.curtailable, sources_bend, 0.0) * sources.max_kw,
        square=sources_bend,
    )
    _store_law(draft, problem, two_way)
    _soft_energies(draft, problem)
    _ramps(draft, problem)
    ready = _reserve(draft, problem, two_way)
    _site_limits(draft, problem, two_way, ready)
    _fleet(draft, problem, two_way)
    if switched:
        _switches(draft, problem, two_way)
    return draft.program()


def _over_time(steps: int, matrix: sp.sparray) -> sp.coo_array:
    return sp.kron(sp.eye_array(steps), matrix, format="coo")


def _chosen(mask: np.ndarray) -> sp.csr_array:
    return sp.eye_array(mask.size, format="csr")[np.flatnonzero(mask)]


def _store_law(draft: _Draft, problem: SimpleNamespace, two_way: np.ndarray) -> None:
    stores = problem.stores
    steps, count = stores.drift_kwh.shape
    keeps = np.where(stores.starts, 0.0, stores.retention)
    begins = np.where(stores.starts, stores.retention * stores.initial_kwh, 0.0)
    before = sp.diags_array([keeps[1:].ravel()], offsets=[-count], shape=(steps * count,) * 2)
    lost = sp.diags_array(STEP_H / stores.discharge_efficiency, format="csc")[:, two_way]
    given = (begins + stores.drift_kwh).ravel()
    draft.law(
        {
            "energy": sp.eye_array(steps * count) - before,
            "charge": _over_time(steps, sp.diags_array(-STEP_H * stores.charge_efficiency)),
            "discharge": _over_time(steps, lost),
        },
        given,
        given,
    )


def _soft_energies(draft: _Draft, problem: SimpleNamespace) -> None:
    stores = problem.stores
    for name, penalty, sign, wish in (
        ("short", stores.shortfall_eur_per_kwh, 1, stores.wished_kwh),
        ("above", stores.excess_eur_per_kwh, -1, stores.comfort_kwh),
    ):
        mask = penalty > 0
        count = int(mask.sum())
        draft.add(name, (count,), floor=0.0, ceiling=np.inf, cost=penalty[mask])
        low, high = (wish[mask], np.inf) if sign > 0 else (-np.inf, wish[mask])
        draft.law({"energy": _chosen(mask), name: sign * sp.eye_array(count)}, low, high)


def _ramps(draft: _Draft, problem: SimpleNamespace) -> None:
    sources = problem.sources
    steps, count = sources.max_kw.shape
    ramped = np.flatnonzero(np.isfinite(sources.ramp_kw))
    own = sp.eye_array(count, format="csr")[ramped]
    change = sp.eye_array(steps - 1, steps, k=1) - sp.eye_array(steps - 1, steps)
    limit = np.tile(sources.ramp_kw[ramped], steps - 1)
    draft.law({"source": sp.kron(change, own)}, -limit, limit)


def _membership(site: np.ndarray, sites: int) -> sp.csr_array:
    return sp.csr_array((np.ones(len(site)), (site, np.arange(len(site)))), (sites, len(site)))


def _site_limits(
    draft: _Draft, problem: SimpleNamespace, two_way: np.ndarray, ready: np.ndarray
) -> None:
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    steps, count = sites.base_kw.shape
    power = {
        "charge": _over_time(steps, -_membership(stores.site, count)),
        "discharge": _over_time(steps, _membership(stores.site[two_way], count)),
        "source": _over_time(steps, _membership(sources.site, count)),
    }
    may_export, may_import = limit_cells(problem)
    for name, may, sign, limit, overload in (
        ("over", may_export, 1, sites.export_limit_kw, sites.export_overload_kw),
        ("under", may_import, -1, sites.import_limit_kw, sites.import_overload_kw),
    ):
        rows = _chosen(may)
        cells = int(may.sum())
        draft.add(
            name,
            (cells,),
            floor=0.0,
            ceiling=overload[may],
            cost=problem.overload_eur_per_kwh * STEP_H,
        )
        terms = {of: sign * (rows @ matrix.tocsc()) for of, matrix in power.items()}
        terms[name] = -sp.eye_array(cells)
        if len(ready):
            held = _over_time(steps, _membership(stores.site[ready], count)).tocsc()
            terms["up" if sign > 0 else "down"] = rows @ held
        room = (np.broadcast_to(limit, may.shape) - sign * sites.base_kw)[may]
        draft.law(terms, -np.inf, room)


def _fleet(draft: _Draft, problem: SimpleNamespace, two_way: np.ndarray) -> None:
    portfolio, stores = problem.portfolio, problem.stores
    steps, base_kw = len(problem.price_eur_per_kwh), problem.sites.base_kw.sum(axis=1)
    missing = portfolio.shortage_eur_per_kwh - portfolio.surplus_eur_per_kwh
    penalty = portfolio.event_eur_per_kwh
    if not (missing.any() or penalty.any() or portfolio.peak_eur_per_kw):
        return
    each = sp.eye_array(steps, format="csr")

    def summed(count: int) -> sp.coo_array:
        return _over_time(steps, sp.csr_array(np.ones((1, count))))

    draft.add("total", (steps,), floor=-np.inf, ceiling=np.inf)
    draft.law(
        {
            "total": each,
            "charge": summed(len(stores.place)),
            "discharge": -summed(len(two_way)),
            "source": -summed(len(problem.sources.place)),
        },
        base_kw,
        base_kw,
    )
    draft.add("missing", (steps,), floor=0.0, ceiling=np.inf, cost=STEP_H * missing)
    draft.law({"total": each, "missing": each}, portfolio.position_kw, np.inf)
    draft.add("peak", (1,), floor=0.0, ceiling=np.inf, cost=portfolio.peak_eur_per_kw)
    draft.law({"total": each, "peak": np.ones((steps, 1))}, -portfolio.peak_free_kw, np.inf)
    draft.add("outside", (steps,), floor=0.0, ceiling=np.inf, cost=STEP_H * penalty)
    draft.law({"total": each, "outside": each}, portfolio.event_min_kw, np.inf)
    draft.law({"total": each, "outside": -each}, -np.inf, portfolio.event_max_kw)


def _reserve(draft: _Draft, problem: SimpleNamespace, two_way: np.ndarray) -> np.ndarray:
    """Add the power held ready; return by which stores."""
    portfolio, stores = problem.portfolio, problem.stores
    steps, count = stores.drift_kwh.shape
    pays = (portfolio.reserve_up_eur_per_kwh, portfolio.reserve_down_eur_per_kwh)
    ready = np.flatnonzero(stores.reserve)
    if not (any(pay.any() for pay in pays) and len(ready)):
        return np.zeros(0, dtype=np.int64)
    product = products(portfolio)
    paid = np.bincount(product, pays[0] + pays[1]) > 0
    most_kw = np.where(paid[product, None], np.inf, 0.0)
    own = sp.eye_array(count, format="csr")[ready]
    charge, energy = _over_time(steps, own), _over_time(steps, own)
    given = _over_time(steps, sp.eye_array(count, format="csr")[ready][:, two_way])
    held = sp.eye_array(steps * len(ready))
    sustained = portfolio.reserve_sustain_h
    per_up = _over_time(steps, sp.diags_array(sustained / stores.discharge_efficiency[ready]))
    per_down = _over_time(steps, sp.diags_array(sustained * stores.charge_efficiency[ready]))
    for name, sold, pay in (("up", "sold_up", pays[0]), ("down", "sold_down", pays[1])):
        draft.add(name, (steps, len(ready)), floor=0.0, ceiling=most_kw)
        earned = -STEP_H * np.bincount(product, pay)
        draft.add(sold, (len(paid),), floor=0.0, ceiling=np.where(paid, np.inf, 0), cost=earned)
        which = sp.eye_array(len(paid), format="csr")[product]
        offered = _over_time(steps, sp.csr_array(np.ones((1, len(ready)))))
        draft.law({name: offered, sold: -which}, 0.0, np.inf)
    if portfolio.reserve_symmetric:
        same = sp.eye_array(len(paid))
        draft.law({"sold_up": same, "sold_down": -same}, 0.0, 0.0)

    def at(values: np.ndarray) -> np.ndarray:
        return values[:, ready].ravel()

    draft.law(
        {"discharge": given, "charge": -charge, "up": held}, -np.inf, at(stores.discharge_max_kw)
    )
    draft.law(
        {"charge": charge, "discharge": -given, "down": held}, -np.inf, at(stores.charge_max_kw)
    )
    draft.law({"energy": energy, "up": -per_up}, at(stores.floor_kwh), np.inf)
    draft.law({"energy": energy, "down": per_down}, -np.inf, at(stores.ceiling_kwh))
    return ready


def _switches(draft: _Draft, problem: SimpleNamespace, two_way: np.ndarray) -> None:
    stores, sources = problem.stores, problem.sources
    steps, count = stores.drift_kwh.shape
    one_way = np.setdiff1d(np.arange(count), two_way)
    stepping = one_way[stores.min_active_kw[one_way] > 0]
    runs = np.flatnonzero(sources.min_active_kw > 0)
    gives = np.arange(len(two_way))
    for name, of, column, most_kw, least_kw in (
        ("draws", "charge", two_way, stores.charge_max_kw, stores.min_active_kw),
        ("draws alone", "charge", stepping, stores.charge_max_kw, stores.min_active_kw),
        (
            "gives",
            "discharge",
            gives,
            stores.discharge_max_kw[:, two_way],
            stores.min_active_kw[two_way],
        ),
        ("runs", "source", runs, sources.max_kw, sources.min_active_kw),
    ):
        draft.switch(name, (steps, len(column)))
        power = _over_time(steps, sp.eye_array(most_kw.shape[1], format="csr")[column])
        most = sp.diags_array(most_kw[:, column].ravel())
        draft.law({of: power, name: -most}, -np.inf, 0.0)
        least = _over_time(steps, sp.diags_array(least_kw[column]))
        draft.law({of: power, name: -least}, 0.0, np.inf)
    each = sp.eye_array(steps * len(two_way))
    draft.law({"draws": each, "gives": each}, -np.inf, 1.0)


def schedule(problem: SimpleNamespace, made: Program, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return the answer's arrays."""
    stores = problem.stores
    discharge = np.zeros(stores.drift_kwh.shape)
    discharge[:, (stores.discharge_max_kw > 0).any(axis=0)] = made.of("discharge", x)
    answer = {
        "charge_kw": made.of("charge", x),
        "discharge_kw": discharge,
        "energy_kwh": made.of("energy", x),
        "source_kw": made.of("source", x),
    }
    held = {f"reserve_{way}_kw": made.of(way, x) for way in ("up", "down") if way in made.columns}
    return answer | held
