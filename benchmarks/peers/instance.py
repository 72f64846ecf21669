"""A planning problem and its answer as plain arrays in files, for programs that don't know ours.

Belongs here: writing and reading both. Does not: formulating or solving. NumPy alone, so that it
runs under any interpreter.
"""

from __future__ import annotations

import json
from dataclasses import fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

STEP_H = 0.25
_PARTS = ("stores", "sources", "sites", "portfolio")


def write_problem(problem: Any, path: Path) -> None:
    """Write a `vpp_pipeline` problem's parts, prices and penalties."""
    parts = {
        f"{part}.{field.name}": getattr(getattr(problem, part), field.name)
        for part in _PARTS
        for field in fields(getattr(problem, part))
    }
    np.savez(
        path,
        price_eur_per_kwh=problem.price_eur_per_kwh,
        overload_eur_per_kwh=problem.overload_eur_per_kwh,
        **parts,
    )


def read_problem(path: Path) -> SimpleNamespace:
    """Return what was written, with the same names."""
    problem = SimpleNamespace(**{part: SimpleNamespace() for part in _PARTS})
    with np.load(path) as arrays:
        for name in arrays:
            part, _, field = name.rpartition(".")
            owner = getattr(problem, part) if part else problem
            value = arrays[name]
            setattr(owner, field, value if value.ndim else value.item())
    return problem


def write_answer(path: Path, told: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write what a program tells of itself, and its schedule: (T, S), (T, G), reserves (T, R)."""
    np.savez(path, told=json.dumps(told), **arrays)


def read_answer(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what was written."""
    with np.load(path) as content:
        arrays = {name: content[name] for name in content if name != "told"}
        return json.loads(content["told"].item()), arrays


def products(portfolio: SimpleNamespace) -> np.ndarray:
    """Return which reserve product a quarter-hour belongs to (T,), counted from 0."""
    return np.unique(portfolio.reserve_block, return_inverse=True)[1]


def by_site(problem: SimpleNamespace, of_stores: np.ndarray, of_sources: np.ndarray) -> np.ndarray:
    """Return sums (T, K) of values at stores (T, S) and at sources (T, G)."""
    total = np.zeros(problem.sites.base_kw.shape)
    np.add.at(total.T, problem.stores.site, of_stores.T)
    np.add.at(total.T, problem.sources.site, of_sources.T)
    return total


def limit_cells(problem: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
    """Return where (T, K) a site's devices could pass its export and its import limit at all."""
    stores, sources, sites = problem.stores, problem.sources, problem.sites
    most = sites.base_kw + by_site(problem, stores.discharge_max_kw, sources.max_kw)
    least = sites.base_kw + by_site(problem, -stores.charge_max_kw, sources.min_kw)
    return most > sites.export_limit_kw, least < -sites.import_limit_kw
