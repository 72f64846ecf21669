"""The problem as a PyPSA network, solved by HiGHS: site limits and the peak charge, no more.

python -m benchmarks.peers.pypsa_highs PROBLEM.npz ANSWER.npz

Every site is a bus behind one link of limited power. A store is a `Store` on a bus of its own
behind links with its efficiencies; a vehicle is one for every stay. Comfort and debts, which
PyPSA has no component for, are two more variables on its own model. The wear and fairness that
are quadratic are left out: it is the easier, linear problem.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pypsa

from benchmarks.peers.instance import STEP_H, read_problem, write_answer

_NO_LIMIT_KW = 1e7


def main(source: str, target: str) -> None:
    problem = read_problem(Path(source))
    refuse_what_it_lacks(problem)
    pypsa.options.general.allow_network_requests = False
    began = time.perf_counter()
    stays = stays_of(problem.stores)
    network = build(problem, stays)
    network.optimize.create_model()
    add_soft_energies(network, problem, stays)
    built = time.perf_counter()
    status, condition = network.optimize.solve_model(solver_name="highs", log_to_console=False)
    ended = time.perf_counter()
    told = {
        "status": f"{status} {condition}",
        "build_s": built - began,
        "solve_s": ended - built,
    }
    write_answer(Path(target), told, schedule(network, problem, stays))


def refuse_what_it_lacks(problem: SimpleNamespace) -> None:
    portfolio = problem.portfolio
    if (
        portfolio.event_eur_per_kwh.any()
        or (portfolio.shortage_eur_per_kwh != portfolio.surplus_eur_per_kwh).any()
        or portfolio.reserve_up_eur_per_kwh.any()
        or portfolio.reserve_down_eur_per_kwh.any()
    ):
        raise SystemExit("PyPSA has no events, imbalance prices or reserves: ask for the peak only")


def stays_of(stores: SimpleNamespace) -> SimpleNamespace:
    """Return each store's stays: where, from when, and a mask over time (T, n)."""
    store, first = np.nonzero(stores.starts.T)
    steps = len(stores.starts)
    same = np.append(store[1:] == store[:-1], False)
    end = np.where(same, np.append(first[1:], 0), steps)
    step = np.arange(steps)[:, None]
    within = (step >= first) & (step < end)
    moves = stores.charge_max_kw[:, store] + stores.discharge_max_kw[:, store]
    used = (moves * within).any(axis=0)
    store, first, within = store[used], first[used], within[:, used]
    return SimpleNamespace(
        store=store,
        first=first,
        within=within,
        last=within[-1],
        names=pd.Index([f"store {s} from {t}" for s, t in zip(store, first, strict=True)]),
    )


def build(problem: SimpleNamespace, stays: SimpleNamespace) -> pypsa.Network:
    steps = len(problem.price_eur_per_kwh)
    network = pypsa.Network()
    network.set_snapshots(pd.RangeIndex(steps))
    network.snapshot_weightings = network.snapshot_weightings * STEP_H
    add_market(network, problem)
    add_sites(network, problem)
    add_stores(network, problem, stays)
    add_sources(network, problem)
    return network


def over_time(values: np.ndarray, names: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(values, columns=names)


def add_market(network: pypsa.Network, problem: SimpleNamespace) -> None:
    """Buy and sell at the market's price; what is bought at most is charged as the peak."""
    price, portfolio = problem.price_eur_per_kwh, problem.portfolio
    network.add("Bus", "market")
    network.add(
        "Generator",
        "bought",
        bus="market",
        marginal_cost=price,
        p_nom_extendable=True,
        p_nom_min=portfolio.peak_free_kw,
        p_nom_max=_NO_LIMIT_KW,
        capital_cost=portfolio.peak_eur_per_kw,
    )
    network.add(
        "Generator",
        "sold",
        bus="market",
        marginal_cost=price,
        p_nom=_NO_LIMIT_KW,
        p_min_pu=-1,
        p_max_pu=0,
    )


def site_names(problem: SimpleNamespace) -> pd.Index:
    return pd.Index([f"site {k}" for k in range(len(problem.sites.import_limit_kw))])


def add_sites(network: pypsa.Network, problem: SimpleNamespace) -> None:
    sites, names = problem.sites, site_names(problem)
    network.add("Bus", names)
    most_kw = np.maximum(np.maximum(sites.import_limit_kw, sites.export_limit_kw), 1e-6)
    network.add(
        "Link",
        names + " connection",
        bus0="market",
        bus1=names,
        p_nom=most_kw,
        p_max_pu=sites.import_limit_kw / most_kw,
        p_min_pu=-sites.export_limit_kw / most_kw,
    )
    loads = names + " load"
    network.add("Load", loads, bus=names, p_set=over_time(-sites.base_kw, loads))
    broken = sites.import_overload_kw.max(axis=0) > 0
    overload = names[broken] + " overload"
    nominal = sites.import_overload_kw[:, broken].max(axis=0)
    price = problem.price_eur_per_kwh + problem.overload_eur_per_kwh
    network.add(
        "Generator",
        overload,
        bus=names[broken],
        p_nom=nominal,
        p_max_pu=over_time(sites.import_overload_kw[:, broken] / nominal, overload),
        marginal_cost=over_time(np.repeat(price[:, None], broken.sum(), axis=1), overload),
    )


def add_stores(network: pypsa.Network, problem: SimpleNamespace, stays: SimpleNamespace) -> None:
    stores, at, names = problem.stores, stays.store, stays.names
    site = site_names(problem)[stores.site[at]]
    network.add("Bus", names)
    low = np.where(stays.within, stores.floor_kwh[:, at], np.minimum(stores.floor_kwh[:, at], 0))
    high = np.where(stays.within, stores.ceiling_kwh[:, at], stores.ceiling_kwh[:, at].max(axis=0))
    # PyPSA's standing loss begins with the second snapshot.
    initial = stores.initial_kwh[stays.first, at] * stores.retention[at]
    before = np.arange(len(low))[:, None] < stays.first
    low = np.where(before, np.minimum(low, initial), low)
    high = np.where(before, np.maximum(high, initial), high)
    nominal = np.maximum(high.max(axis=0), 1e-6)
    network.add(
        "Store",
        names,
        bus=names,
        e_nom=nominal,
        e_min_pu=over_time(low / nominal, names),
        e_max_pu=over_time(high / nominal, names),
        e_initial=initial,
        standing_loss=1 - stores.retention[at] ** (1 / STEP_H),
        # What is taken out is not left at the end: the end value, for stores that lose nothing.
        marginal_cost=np.where(stays.last, stores.end_value_eur_per_kwh[at], 0.0),
    )
    losing = stores.drift_kwh[:, at].any(axis=0)
    lost = names[losing] + " loss"
    network.add(
        "Load",
        lost,
        bus=names[losing],
        p_set=over_time(-stores.drift_kwh[:, at[losing]] / STEP_H, lost),
    )
    inwards = pd.DataFrame(
        {
            "bus0": site,
            "bus1": names,
            "efficiency": stores.charge_efficiency[at],
            "marginal_cost": stores.wear_eur_per_kwh[at] / 2,
        },
        index=names + " in",
    )
    add_links(network, inwards, stores.charge_max_kw[:, at] * stays.within)
    efficiency = stores.discharge_efficiency[at]
    out_kw = stores.discharge_max_kw[:, at] * stays.within
    two_way = out_kw.any(axis=0)
    outwards = pd.DataFrame(
        {
            "bus0": names,
            "bus1": site,
            "efficiency": efficiency,
            "marginal_cost": stores.wear_eur_per_kwh[at] / 2 * efficiency,
        },
        index=names + " out",
    )
    add_links(network, outwards[two_way], (out_kw / efficiency)[:, two_way])


def add_links(network: pypsa.Network, links: pd.DataFrame, most_kw: np.ndarray) -> None:
    """Add links with the most they take from `bus0` over time (T, n)."""
    nominal = most_kw.max(axis=0)
    network.add(
        "Link",
        links.index,
        p_nom=nominal,
        p_max_pu=over_time(most_kw / nominal, links.index),
        **{name: links[name] for name in links},
    )


def source_names(problem: SimpleNamespace) -> pd.Index:
    return pd.Index([f"source {g}" for g in range(len(problem.sources.site))])


def add_sources(network: pypsa.Network, problem: SimpleNamespace) -> None:
    sources, names = problem.sources, source_names(problem)
    nominal = np.maximum(sources.max_kw.max(axis=0), 1e-6)
    network.add(
        "Generator",
        names,
        bus=site_names(problem)[sources.site],
        p_nom=nominal,
        p_min_pu=over_time(sources.min_kw / nominal, names),
        p_max_pu=over_time(sources.max_kw / nominal, names),
        marginal_cost=sources.cost_eur_per_kwh,
        **{
            f"ramp_limit_{way}": np.where(
                np.isfinite(sources.ramp_kw), np.minimum(sources.ramp_kw / nominal, 1), np.nan
            )
            for way in ("up", "down")
        },
    )


def add_soft_energies(
    network: pypsa.Network, problem: SimpleNamespace, stays: SimpleNamespace
) -> None:
    """Add the kWh that are wished for or too much, and what they cost."""
    stores, at = problem.stores, stays.store
    model = network.model
    energy = model["Store-e"]
    for name, penalty, sign, wish in (
        ("short", stores.shortfall_eur_per_kwh, 1, stores.wished_kwh),
        ("above", stores.excess_eur_per_kwh, -1, stores.comfort_kwh),
    ):
        cost = np.where(stays.within, penalty[:, at], 0.0)
        mask = (energy.labels * 0 + 1).copy(data=cost > 0).astype(bool)
        off = model.add_variables(lower=0, coords=energy.coords, name=name, mask=mask)
        wished = mask.copy(data=wish[:, at])
        if sign > 0:
            model.add_constraints(energy + off >= wished, name=name, mask=mask)
        else:
            model.add_constraints(energy - off <= wished, name=name, mask=mask)
        model.objective += (off * mask.copy(data=cost)).sum()


def schedule(
    network: pypsa.Network, problem: SimpleNamespace, stays: SimpleNamespace
) -> dict[str, np.ndarray]:
    """Return the answer in the problem's terms; a store at rest keeps what it began with."""
    stores, at, names = problem.stores, stays.store, stays.names
    shape = stores.drift_kwh.shape
    charge, discharge = np.zeros(shape), np.zeros(shape)
    links, out = network.links_t, names + " out"
    two_way = out.isin(network.links.index)
    np.add.at(charge.T, at, links.p0[names + " in"].to_numpy().T)
    np.add.at(discharge.T, at[two_way], -links.p1[out[two_way]].to_numpy().T)
    energy = np.zeros(shape)
    before = stores.initial_kwh[0]
    for t in range(len(energy)):
        start = np.where(stores.starts[t], stores.initial_kwh[t], before)
        energy[t] = before = stores.retention * start + stores.drift_kwh[t]
    told = network.stores_t.e[names].to_numpy()
    for n, store in enumerate(at):
        energy[stays.within[:, n], store] = told[stays.within[:, n], n]
    return {
        "charge_kw": charge,
        "discharge_kw": discharge,
        "energy_kwh": energy,
        "source_kw": network.generators_t.p[source_names(problem)].to_numpy(),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
