"""The planning problem in cvxpy: its mathematics, and nothing but.

Belongs here: variables, objective, constraints. Does not: solvers and their tuning (`relaxed`,
`exact`), making a solution fit for devices (`repair`), judging it (`verify`).

    minimise    wear + marginal cost + shortfall + excess + overload - end value
                + h·½·curvature·(charge² + discharge² + CHP² + curtailed²)
                - h·(price·position + surplus·(P - position)⁺ - shortage·(position - P)⁺)
                + peak price·(max -P - free)⁺ + event·h·(kW outside it) - h·reserve price·R
    subject to  e = retention·e' + eta_c·charge·h - discharge·h/eta_d + drift
                floor <= e <= ceiling,  ramps
                -import <= a site's power - r_down,  a site's power + r_up <= export
                P = base + stores' power + sources' power,  R <= sum of r over every quarter-hour
                power + r_up <= discharge max,  r_down - power <= charge max
                floor <= e - r_up·sustained/eta_d,  e + r_down·sustained·eta_c <= ceiling

It is a relaxation: a device may charge and discharge at once, run below its least power or too
short, and be interrupted; `integers` and `exact` forbid it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.reserves import asked, products, ready_stores

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Bools, Floats, Places, Problem

_TANGENTS = 9  # of a square over 0 to full power, for a linear solver: off by 1/256 at most


@dataclass(frozen=True)
class FleetLaws:
    """What ties the fleet together: its summed power, and its highest draw."""

    total: cp.Constraint
    counted: Bools  # (T,) the quarter-hours whose sum matters
    peak: cp.Constraint


@dataclass(frozen=True)
class ReserveLaws:
    """What power held ready takes, in the quarter-hours asked for it."""

    asked: Bools  # (T,)
    offered_up: cp.Constraint  # (asked,)
    offered_down: cp.Constraint
    power_up: cp.Constraint  # (asked, R)
    power_down: cp.Constraint
    energy_up: cp.Constraint
    energy_down: cp.Constraint


@dataclass(frozen=True)
class Laws:
    """The constraints, and which quarter-hours, sites and sources have one at all."""

    store: cp.Constraint  # the stores' equation (T, S)
    over_export: cp.Constraint
    may_export: Bools  # (T, K)
    over_import: cp.Constraint
    may_import: Bools  # (T, K)
    ramp_up: cp.Constraint
    ramp_down: cp.Constraint
    ramped: Bools  # (T-1, G)
    fleet: FleetLaws | None  # None where all power is sold at one price a quarter-hour
    reserve: ReserveLaws | None

    def all(self) -> list[cp.Constraint]:
        """Return the constraints alone."""
        parts = (self, self.fleet, self.reserve)
        return [law for part in parts if part for law in vars(part).values() if _is_constraint(law)]


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


def formulate(problem: Problem, *, linear: bool = False) -> Model:
    """Write the problem down, whole fleets at a time; `linear` puts tangents for squares."""
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    paid = problem.portfolio.surplus_eur_per_kwh[:, None] * STEP_H  # EUR for a kW
    two_way = stores.discharge_max_kw.max(axis=0, initial=0.0) > 0

    charge = _between(stores.charge_min_kw, stores.charge_max_kw)
    discharge = _between(stores.discharge_min_kw[:, two_way], stores.discharge_max_kw[:, two_way])
    energy = _between(stores.floor_kwh, stores.ceiling_kwh)
    source = _between(sources.min_kw, sources.max_kw)
    given = discharge @ sp.eye_array(len(two_way), format="csr")[two_way]
    power = given - charge

    gain_kwh = (
        charge @ sp.diags_array(stores.charge_efficiency * STEP_H)
        - given @ sp.diags_array(STEP_H / stores.discharge_efficiency)
        + stores.drift_kwh
    )
    begins = np.where(stores.starts, stores.retention * stores.initial_kwh, 0.0)
    keeps = np.where(stores.starts, 0.0, stores.retention)
    before = sp.eye_array(len(keeps), k=-1, format="csr") @ energy
    store_law = energy == cp.multiply(keeps, before) + begins + gain_kwh

    held = _Reserve.of(problem)
    site_kw = (
        sites.base_kw
        + power @ _membership(stores.site, problem)
        + source @ _membership(sources.site, problem)
    )
    # Only where a limit can bind at all: most sites' devices can't reach theirs.
    most_kw, least_kw = _site_extremes(problem)
    may_export, may_import = most_kw > sites.export_limit_kw, least_kw < -sites.import_limit_kw
    over_kw = _between(np.zeros(may_export.sum()), sites.export_overload_kw[may_export])
    under_kw = _between(np.zeros(may_import.sum()), sites.import_overload_kw[may_import])
    most_out_kw = site_kw + held.up_at_sites(problem) if held else site_kw
    most_in_kw = held.down_at_sites(problem) - site_kw if held else -site_kw
    export_kw = np.broadcast_to(sites.export_limit_kw, may_export.shape)[may_export]
    import_kw = np.broadcast_to(sites.import_limit_kw, may_import.shape)[may_import]

    ramped = np.isfinite(sources.ramp_kw)
    change = source[1:][:, ramped] - source[:-1][:, ramped]
    limit = np.broadcast_to(sources.ramp_kw[ramped], change.shape)

    wear = 0.5 * STEP_H * stores.wear_eur_per_kwh
    short, above = stores.shortfall_eur_per_kwh > 0, stores.excess_eur_per_kwh > 0
    curtailed = sources.max_kw[:, sources.curtailable] - source[:, sources.curtailable]
    fleet_eur, fleet_laws = _fleet(problem, power, source)
    reserve_eur, reserve_laws = held.traded(problem, power, energy) if held else (0.0, None)
    cost = (
        cp.sum(cp.multiply(paid + wear, charge))
        + cp.sum(cp.multiply(wear[two_way] - paid, discharge))
        + cp.sum(cp.multiply(sources.cost_eur_per_kwh * STEP_H - paid, source))
        + stores.shortfall_eur_per_kwh[short]
        @ cp.pos(stores.wished_kwh[short] - _at(energy, short))
        + stores.excess_eur_per_kwh[above] @ cp.pos(_at(energy, above) - stores.comfort_kwh[above])
        - stores.end_value_eur_per_kwh @ energy[-1]
        + problem.overload_eur_per_kwh * STEP_H * (cp.sum(over_kw) + cp.sum(under_kw))
        + sum(
            _square(part, STEP_H / 2 * curvature, most, linear=linear)
            for part, curvature, most in (
                (charge, stores.curvature_eur_per_kw2h, stores.charge_max_kw),
                (
                    discharge,
                    stores.curvature_eur_per_kw2h[two_way],
                    stores.discharge_max_kw[:, two_way],
                ),
                (
                    curtailed,
                    sources.curvature_eur_per_kw2h[sources.curtailable],
                    (sources.max_kw - sources.min_kw)[:, sources.curtailable],
                ),
                (
                    source[:, ~sources.curtailable],
                    sources.curvature_eur_per_kw2h[~sources.curtailable],
                    sources.max_kw[:, ~sources.curtailable],
                ),
            )
        )
        + fleet_eur
        + reserve_eur
    )
    laws = Laws(
        store=store_law,
        over_export=_at(most_out_kw, may_export) - over_kw <= export_kw,
        may_export=may_export,
        over_import=_at(most_in_kw, may_import) - under_kw <= import_kw,
        may_import=may_import,
        ramp_up=change <= limit,
        ramp_down=-change <= limit,
        ramped=np.broadcast_to(ramped, sources.max_kw[1:].shape),
        fleet=fleet_laws,
        reserve=reserve_laws,
    )
    return Model(charge, discharge, energy, source, two_way, cost, laws)


def _fleet(
    problem: Problem, power: cp.Expression, source: cp.Expression
) -> tuple[cp.Expression | float, FleetLaws | None]:
    """Return what the summed power costs beyond the surplus price, and its laws."""
    portfolio = problem.portfolio
    missing = portfolio.shortage_eur_per_kwh - portfolio.surplus_eur_per_kwh
    counted = (missing > 0) | (portfolio.event_eur_per_kwh > 0) | (portfolio.peak_eur_per_kw > 0)
    if not counted.any():
        return 0.0, None
    base_kw = problem.sites.base_kw.sum(axis=1)
    # A sum over many devices is large beside their powers: unscaled, OSQP does not converge.
    scale = np.sqrt(power.shape[1] + source.shape[1])
    total = scale * cp.Variable(int(counted.sum()))
    peak = scale * cp.Variable(nonneg=True)
    summed = base_kw + cp.sum(power, axis=1) + cp.sum(source, axis=1)
    low, high = portfolio.event_min_kw[counted], portfolio.event_max_kw[counted]
    below, above = np.isfinite(low), np.isfinite(high)
    penalty = portfolio.event_eur_per_kwh[counted]
    cost = STEP_H * (
        missing[counted] @ cp.pos(portfolio.position_kw[counted] - total)
        + penalty[below] @ cp.pos(low[below] - total[below])
        + penalty[above] @ cp.pos(total[above] - high[above])
    )
    laws = FleetLaws(
        total=total / scale == summed[counted] / scale,
        counted=counted,
        peak=(-total - peak) / scale <= portfolio.peak_free_kw / scale,
    )
    return cost + portfolio.peak_eur_per_kw * peak, laws


@dataclass(frozen=True)
class _Reserve:
    """Power held ready by R stores in the quarter-hours asked for it."""

    up_kw: cp.Variable  # (asked, R)
    down_kw: cp.Variable
    asked: Bools  # (T,)
    stores: Bools  # (S,)

    @classmethod
    def of(cls, problem: Problem) -> _Reserve | None:
        """Return the variables; None where no reserve is paid for or can be held."""
        stores, wanted = ready_stores(problem), asked(problem.portfolio)
        if not stores.any():
            return None
        shape = (int(wanted.sum()), int(stores.sum()))
        return cls(cp.Variable(shape, nonneg=True), cp.Variable(shape, nonneg=True), wanted, stores)

    def up_at_sites(self, problem: Problem) -> cp.Expression:
        return self._at_sites(self.up_kw, problem)

    def down_at_sites(self, problem: Problem) -> cp.Expression:
        return self._at_sites(self.down_kw, problem)

    def _at_sites(self, ready_kw: cp.Variable, problem: Problem) -> cp.Expression:
        in_time = sp.eye_array(len(self.asked), format="csc")[:, self.asked]
        return in_time @ ready_kw @ _membership(problem.stores.site[self.stores], problem)

    def traded(
        self, problem: Problem, power: cp.Expression, energy: cp.Variable
    ) -> tuple[cp.Expression, ReserveLaws]:
        """Return minus what the reserve earns, and what it takes."""
        portfolio, stores, here = problem.portfolio, problem.stores, np.flatnonzero(self.stores)
        asked_at = np.flatnonzero(self.asked)
        power, energy = power[asked_at][:, here], energy[asked_at][:, here]
        product = np.unique(products(portfolio)[asked_at], return_inverse=True)[1]
        scale = np.sqrt(len(here))
        up = scale * cp.Variable(product.max() + 1, nonneg=True)
        down = up if portfolio.reserve_symmetric else scale * cp.Variable(up.shape, nonneg=True)
        sustained = portfolio.reserve_sustain_h
        up_kwh = self.up_kw @ sp.diags_array(sustained / stores.discharge_efficiency[here])
        down_kwh = self.down_kw @ sp.diags_array(sustained * stores.charge_efficiency[here])
        earned = STEP_H * (
            portfolio.reserve_up_eur_per_kwh[asked_at] @ up[product]
            + portfolio.reserve_down_eur_per_kwh[asked_at] @ down[product]
        )
        at = np.ix_(asked_at, here)
        return -earned, ReserveLaws(
            asked=self.asked,
            offered_up=(up[product] - cp.sum(self.up_kw, axis=1)) / scale <= 0,
            offered_down=(down[product] - cp.sum(self.down_kw, axis=1)) / scale <= 0,
            power_up=power + self.up_kw <= stores.discharge_max_kw[at],
            power_down=self.down_kw - power <= stores.charge_max_kw[at],
            energy_up=up_kwh - energy <= -stores.floor_kwh[at],
            energy_down=energy + down_kwh <= stores.ceiling_kwh[at],
        )


def _square(
    part: cp.Expression, weight: Floats, most_kw: Floats, *, linear: bool
) -> cp.Expression | float:
    """Return the sum of weight·part², or of the highest of its tangents."""
    curved = weight > 0
    if not part.size or not curved.any():
        return 0.0
    part, weight, most_kw = part[:, curved], weight[curved], most_kw[:, curved]
    if not linear:
        return cp.sum(cp.square(part) @ weight)
    at = [share * most_kw for share in np.linspace(0, 1, _TANGENTS)]
    return cp.sum(cp.maximum(*(cp.multiply(2 * weight * kw, part) - weight * kw**2 for kw in at)))


def _is_constraint(law: object) -> bool:
    return isinstance(law, cp.Constraint)


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
