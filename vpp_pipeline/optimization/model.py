"""The planning problem in cvxpy: its mathematics, and nothing but.

Belongs here: variables, objective, constraints. Does not: solvers and their tuning (`relaxed`,
`exact`), making a solution fit for devices (`repair`), judging it (`verify`).

    minimise    -price·energy + wear + marginal cost + shortfall + excess + overload - end value
    subject to  e = retention·e' + eta_c·charge·h - discharge·h/eta_d + drift
                floor <= e <= ceiling,  -import <= a site's power <= export,  ramps

It is a relaxation: a device may charge and discharge at once, and run below its least power;
`exact` adds the switches that forbid it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from vpp_pipeline.delivery_day import STEP_H

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem


@dataclass(frozen=True)
class Laws:
    """The constraints, and which quarter-hours, sites and sources have one at all."""

    first: cp.Constraint  # the stores' equation in the first quarter-hour, (S,)
    store: cp.Constraint  # in all others, (T-1, S)
    over_export: cp.Constraint
    may_export: Bools  # (T, K)
    over_import: cp.Constraint
    may_import: Bools  # (T, K)
    ramp_up: cp.Constraint
    ramp_down: cp.Constraint
    ramped: Bools  # (T-1, G)

    def all(self) -> list[cp.Constraint]:
        """Return the constraints alone."""
        return [
            self.first,
            self.store,
            self.over_export,
            self.over_import,
            self.ramp_up,
            self.ramp_down,
        ]


@dataclass(frozen=True)
class Model:
    """Variables, cost and laws of one problem."""

    charge_kw: cp.Variable  # (T, S)
    discharge_kw: cp.Variable  # (T, stores that can)
    energy_kwh: cp.Variable  # (T, S)
    source_kw: cp.Variable  # (T, G)
    two_way: Bools  # (S,) stores that can discharge
    cost_eur: cp.Expression  # without `bound.constant_eur`
    laws: Laws

    def discharge_of_all(self) -> Floats:
        """Return the solved discharge of every store (T, S)."""
        of_all = np.zeros(self.charge_kw.shape)
        of_all[:, self.two_way] = self.discharge_kw.value
        return of_all


def formulate(problem: Problem) -> Model:
    """Write the problem down, whole fleets at a time."""
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    price = problem.price_eur_per_kwh[:, None] * STEP_H  # EUR for a kW over a quarter-hour
    two_way = stores.discharge_max_kw.max(axis=0, initial=0.0) > 0

    charge = _between(stores.charge_min_kw, stores.charge_max_kw)
    discharge = _between(stores.discharge_min_kw[:, two_way], stores.discharge_max_kw[:, two_way])
    energy = _between(stores.floor_kwh, stores.ceiling_kwh)
    source = _between(sources.min_kw, sources.max_kw)
    to_store = sp.eye_array(len(two_way), format="csr")[two_way]
    given = discharge @ to_store

    gain_kwh = (
        charge @ sp.diags_array(stores.charge_efficiency * STEP_H)
        - given @ sp.diags_array(STEP_H / stores.discharge_efficiency)
        + stores.drift_kwh
    )
    begins = np.where(stores.starts, stores.retention * stores.initial_kwh, 0.0)
    keeps = np.where(stores.starts, 0.0, stores.retention)
    first_law = energy[0] == begins[0] + gain_kwh[0]
    store_law = energy[1:] == cp.multiply(keeps[1:], energy[:-1]) + begins[1:] + gain_kwh[1:]

    site_kw = (
        sites.base_kw
        + (given - charge) @ _membership(stores.site, problem)
        + source @ _membership(sources.site, problem)
    )
    # Only where a limit can bind at all: most sites' devices can't reach theirs.
    most_kw, least_kw = _site_extremes(problem)
    may_export, may_import = most_kw > sites.export_limit_kw, least_kw < -sites.import_limit_kw
    over_kw = _between(np.zeros(may_export.sum()), sites.export_overload_kw[may_export])
    under_kw = _between(np.zeros(may_import.sum()), sites.import_overload_kw[may_import])
    export_kw = np.broadcast_to(sites.export_limit_kw, may_export.shape)[may_export]
    import_kw = np.broadcast_to(sites.import_limit_kw, may_import.shape)[may_import]
    over_export = _at(site_kw, may_export) - over_kw <= export_kw
    over_import = -_at(site_kw, may_import) - under_kw <= import_kw

    ramped = np.isfinite(sources.ramp_kw)
    change = source[1:][:, ramped] - source[:-1][:, ramped]
    limit = np.broadcast_to(sources.ramp_kw[ramped], change.shape)

    wear = 0.5 * STEP_H * stores.wear_eur_per_kwh
    short, above = stores.shortfall_eur_per_kwh > 0, stores.excess_eur_per_kwh > 0
    cost = (
        cp.sum(cp.multiply(price + wear, charge))
        + cp.sum(cp.multiply(wear[two_way] - price, discharge))
        + cp.sum(cp.multiply(sources.cost_eur_per_kwh * STEP_H - price, source))
        + stores.shortfall_eur_per_kwh[short]
        @ cp.pos(stores.wished_kwh[short] - _at(energy, short))
        + stores.excess_eur_per_kwh[above] @ cp.pos(_at(energy, above) - stores.comfort_kwh[above])
        - stores.end_value_eur_per_kwh @ energy[-1]
        + problem.overload_eur_per_kwh * STEP_H * (cp.sum(over_kw) + cp.sum(under_kw))
    )
    laws = Laws(
        first=first_law,
        store=store_law,
        over_export=over_export,
        may_export=may_export,
        over_import=over_import,
        may_import=may_import,
        ramp_up=change <= limit,
        ramp_down=-change <= limit,
        ramped=np.broadcast_to(ramped, sources.max_kw[1:].shape),
    )
    return Model(charge, discharge, energy, source, two_way, cost, laws)


def _between(low: Floats, high: Floats) -> cp.Variable:
    return cp.Variable(low.shape, bounds=[low, high])


def _at(expression: cp.Expression, mask: Bools) -> cp.Expression:
    return expression.flatten(order="C")[np.flatnonzero(mask)]


def _membership(site: Places, problem: Problem) -> sp.csr_array:
    sites = len(problem.sites.import_limit_kw)
    return sp.csr_array((np.ones(len(site)), (np.arange(len(site)), site)), (len(site), sites))


def _site_extremes(problem: Problem) -> tuple[Floats, Floats]:
    """Return the most and the least power each site's devices could add up to (T, K)."""
    stores, sources = problem.stores, problem.sources
    by_store, by_source = (_membership(fleet.site, problem) for fleet in (stores, sources))
    base_kw = problem.sites.base_kw
    return (
        base_kw + stores.discharge_max_kw @ by_store + sources.max_kw @ by_source,
        base_kw - stores.charge_max_kw @ by_store + sources.min_kw @ by_source,
    )
