"""What all devices do, and what their constraints are worth, in a problem's own order.

Belongs here: the arrays, filling them from blocks, and reading them as multipliers. Does not:
finding the answers (`at_prices`, `coupled`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.decomposition.assembly import multiplier_places, result_places
from vpp_pipeline.optimization.decomposition.interior_point import collect
from vpp_pipeline.optimization.multipliers import Multipliers
from vpp_pipeline.optimization.reserves import ready_stores

if TYPE_CHECKING:
    from vpp_pipeline.optimization.decomposition.assembly import Programmes
    from vpp_pipeline.optimization.decomposition.blocks import Cut
    from vpp_pipeline.optimization.decomposition.interior_point import Iterate
    from vpp_pipeline.optimization.found import Prices
    from vpp_pipeline.optimization.problem import Bools, Floats, Problem

_ALL = slice(None)


def link_prices(problem: Problem, prices: Prices) -> Floats:
    """Return the prices of the rows that blocks share (links,), EUR/kW in a quarter-hour."""
    parts = [prices.energy_eur_per_kwh]
    if problem.portfolio.wants_reserve:
        parts += [prices.reserve_up_eur_per_kwh, prices.reserve_down_eur_per_kwh]
    return np.concatenate(parts) * STEP_H


@dataclass(frozen=True)
class Answers:
    """One row of T values a store (S), source (G) or site (K); filled in place."""

    charge_kw: Floats  # (S, T)
    discharge_kw: Floats
    energy_kwh: Floats
    law: Floats  # EUR/kWh
    source_kw: Floats  # (G, T)
    ramp: Floats  # EUR/kW, positive downwards
    export: Floats  # (K, T) EUR/kW
    imports: Floats
    reserve_kw: Floats  # (2, S, T) up and down; no stores where none is wanted
    headroom: Floats  # (4, S, T) power up, down, energy up, down

    @classmethod
    def blank(cls, problem: Problem) -> Answers:
        """Return answers to be filled."""
        shape = problem.stores.drift_kwh.T.shape
        charge, discharge, energy, law = (np.zeros(shape) for _ in range(4))
        return cls.around(problem, charge, discharge, energy, law)

    @classmethod
    def around(
        cls,
        problem: Problem,
        charge_kw: Floats,
        discharge_kw: Floats,
        energy_kwh: Floats,
        law: Floats,
    ) -> Answers:
        """Return the stores' answers, all others to be filled."""
        sources = len(problem.sources.place)
        steps, sites = problem.sites.base_kw.shape
        ready = len(charge_kw) if problem.portfolio.wants_reserve else 0
        return cls(
            charge_kw=charge_kw,
            discharge_kw=discharge_kw,
            energy_kwh=energy_kwh,
            law=law,
            source_kw=np.zeros((sources, steps)),
            ramp=np.zeros((sources, steps)),
            export=np.zeros((sites, steps)),
            imports=np.zeros((sites, steps)),
            reserve_kw=np.zeros((2, ready, steps)),
            headroom=np.zeros((4, ready, steps)),
        )

    def fill(self, cut: Cut, of: Programmes, at: Iterate) -> None:
        """Write what blocks have come to."""
        stores, sources, steps = len(cut.store), len(cut.source), self.charge_kw.shape[1]
        place = result_places(stores, sources, steps)
        row = multiplier_places(stores, sources, len(cut.site), steps)
        result, multiplier = of.fixed_result.copy(), np.zeros(row[-1])
        collect(of, at, result, multiplier)
        for into, part in ((self.charge_kw, 0), (self.discharge_kw, 1), (self.energy_kwh, 2)):
            into[cut.store] = result[place[part] : place[part + 1]].reshape(stores, steps)
        self.source_kw[cut.source] = result[place[3] : place[4]].reshape(sources, steps)
        self.law[cut.store] = -multiplier[: row[1]].reshape(stores, steps)
        self.ramp[cut.source] = multiplier[row[1] : row[2]].reshape(sources, steps)
        limited = cut.limited
        either = multiplier[row[2] : row[3]].reshape(-1, steps)[limited]
        only_import = multiplier[row[3] : row[4]].reshape(-1, steps)[limited]
        self.export[cut.site[limited]] = np.maximum(-either, 0)
        self.imports[cut.site[limited]] = np.maximum(either, 0) + np.maximum(-only_import, 0)
        if self.reserve_kw.size:
            for way in range(2):
                held = result[place[4 + way] : place[5 + way]]
                self.reserve_kw[way, cut.store] = held.reshape(stores, steps)
            for kind in range(4):
                price = multiplier[row[4 + kind] : row[5 + kind]].reshape(stores, steps)
                self.headroom[kind, cut.store] = np.maximum(price if kind == 2 else -price, 0)  # noqa: PLR2004 - energy above the floor

    def multipliers(self, problem: Problem, prices: Prices) -> Multipliers:
        """Return the prices of all constraints, for the bound."""
        ready = ready_stores(problem)
        headroom = self.headroom[:, ready] if self.headroom.size else np.zeros((4, 0, 0))
        steps = len(problem.price_eur_per_kwh)
        power_up, power_down, energy_up, energy_down = (
            part.T if part.size else np.zeros((steps, 0)) for part in headroom
        )
        return Multipliers(
            store_law=self.law.T,
            over_export=self.export.T,
            over_import=self.imports.T,
            ramp_up=np.maximum(-self.ramp[:, 1:], 0).T,
            ramp_down=np.maximum(self.ramp[:, 1:], 0).T,
            energy_eur_per_kwh=prices.energy_eur_per_kwh,
            peak_eur_per_kw=prices.peak_eur_per_kw,
            reserve_up_eur_per_kwh=prices.reserve_up_eur_per_kwh,
            reserve_down_eur_per_kwh=prices.reserve_down_eur_per_kwh,
            power_up=power_up,
            power_down=power_down,
            energy_up=energy_up,
            energy_down=energy_down,
        )

    def proven_as(self, other: Answers) -> Answers:
        """Return these answers with what another's constraints are worth."""
        return replace(
            self,
            law=other.law,
            ramp=other.ramp,
            export=other.export,
            imports=other.imports,
            headroom=other.headroom,
        )

    def copied(self) -> Answers:
        """Return answers that can be written over."""
        return Answers(**{field.name: getattr(self, field.name).copy() for field in fields(self)})

    def of(self, stores: Bools, sources: Bools) -> Answers:
        """Return what these stores and sources do."""
        return replace(
            self,
            charge_kw=self.charge_kw[stores],
            discharge_kw=self.discharge_kw[stores],
            energy_kwh=self.energy_kwh[stores],
            source_kw=self.source_kw[sources],
            reserve_kw=self.reserve_kw[:, stores] if self.reserve_kw.size else self.reserve_kw,
        )

    def exchange(self, part: Answers, stores: Bools, sources: Bools) -> Answers:
        """Write what a part's stores and sources do over theirs; return what they did before."""
        before = self.of(stores, sources)
        self.charge_kw[stores] = part.charge_kw
        self.discharge_kw[stores] = part.discharge_kw
        self.energy_kwh[stores] = part.energy_kwh
        self.source_kw[sources] = part.source_kw
        if self.reserve_kw.size:
            self.reserve_kw[:, stores] = part.reserve_kw
        return before

    def ready_kw(self, problem: Problem) -> tuple[Floats, Floats]:
        """Return the power held ready up and down (T, R); no column where none is wanted."""
        ready = ready_stores(problem) if self.reserve_kw.size else slice(0)
        return self.reserve_kw[0][ready].T, self.reserve_kw[1][ready].T

    def site_kw(self, problem: Problem) -> Floats:
        """Return the sites' power (T, K), base included."""
        total = np.array(problem.sites.base_kw.T)
        np.add.at(total, problem.stores.site, self.discharge_kw - self.charge_kw)
        np.add.at(total, problem.sources.site, self.source_kw)
        return total.T

    def links_kw(
        self, problem: Problem, stores: Bools | slice = _ALL, sources: Bools | slice = _ALL
    ) -> Floats:
        """Return what the chosen stores and sources put on the shared rows (links,)."""
        parts = [
            self.discharge_kw[stores].sum(axis=0)
            - self.charge_kw[stores].sum(axis=0)
            + self.source_kw[sources].sum(axis=0)
        ]
        if problem.portfolio.wants_reserve:
            parts += [held[stores].sum(axis=0) for held in self.reserve_kw]
        return np.concatenate(parts)
