"""Blocks and the portfolio solved as one, all blocks in lockstep.

Belongs here: the interior-point method over sites that share a portfolio. Does not: what a block
does in it (`interior_point`), fleets too large for it (`decompose`).

It is exact up to its tolerance whatever kinks the portfolio has, and its cost grows with the
number of devices and no power of it: only the shared rows are dense.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from threadpoolctl import threadpool_limits

from vpp_pipeline.optimization.decomposition import interior_point as blocks
from vpp_pipeline.threads import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vpp_pipeline.optimization.decomposition.assembly import Programmes
    from vpp_pipeline.optimization.decomposition.interior_point import Iterate
    from vpp_pipeline.optimization.decomposition.shared import Shared
    from vpp_pipeline.optimization.problem import Floats, Places

_STEPS_AT_MOST = 100
_START_EUR = 1.0  # complementarity of each bound; measured: 25-34 steps, against 28-42 from 0.01
_PIECES = 2 * THREADS
_ROUNDING = 1e-13
_LEAST_MULTIPLIER = 1e-16
_FEW = 2e-4  # of all variables: so many do not shorten all others' step, but go less far
_ROUGH = 1e-3  # of the cost: a gap down to which that pays; it leaves residuals behind
_KEPT, _KEPT_LATE = 0.3, 0.05  # what such a step leaves of each bound's room and multiplier
_LATE = 0.9  # of a whole step: so long, it may leave less
# Residuals that a gap of 1 leaves room for: EUR per unit; kW, kWh; of the fleet's power. What is
# missing in the end is repaired, and counted in the proof.
_DUALS_MET, _ROWS_MET, _SHARED_MET = 10.0, 100.0, 1.0
_SMOOTH = 1e-2  # of the cost: the gap at which the blocks' answer is smooth, but no longer dull
_NEAR = 1e2  # within so much of it, an answer is worth having


class CoupledError(RuntimeError):
    """The method broke down before it came near a solution."""


@dataclass(frozen=True)
class Coupled:
    """Where the method ended."""

    at: Iterate
    price: Floats  # (rows,) of the shared rows, EUR/kW
    answer: Floats  # (links, links) how the blocks' part of these rows follows their prices:
    # of the last step but those few in which every bound is felt, where it holds for a hair only
    gap_eur: float
    steps: int


@dataclass
class _Own:
    """The shared rows' own variables v and the rows' prices."""

    v: Floats
    at_low: Floats
    at_high: Floats
    price: Floats


@dataclass
class _Direction:
    d_price: Floats
    dv: Floats
    d_low: Floats
    d_high: Floats
    primal: float
    dual: float


def solve_coupled(of: Programmes, shared: Shared, tolerance: float) -> Coupled:
    """Solve to a gap of `tolerance` times the portfolio's own cost, or as near as numbers allow.

    Raises `CoupledError` where the Newton system can't be solved from the start.
    """
    with ThreadPoolExecutor(THREADS) as pool, threadpool_limits(1, "blas"):
        try:
            return _Method(of, shared, pool, few=int(_FEW * len(of.linear))).run(tolerance)
        except CoupledError:
            return _Method(of, shared, pool, few=0).run(tolerance)


class _Method:
    def __init__(
        self, of: Programmes, shared: Shared, pool: ThreadPoolExecutor, *, few: int
    ) -> None:
        self.of, self.shared, self.pool, self.few = of, shared, pool, few
        self.at = blocks.begin(of, _START_EUR)
        self.right = shared.right.copy()
        self.right[: shared.links] -= of.fixed_link[: shared.links]
        middle = 0.5 * (shared.low + shared.high)
        self.own = _Own(
            v=middle,
            at_low=_START_EUR / (middle - shared.low),
            at_high=_START_EUR / (shared.high - middle),
            price=np.zeros(len(shared.right)),
        )
        marks = np.searchsorted(
            of.variable_first, np.linspace(0, of.variable_first[-1], _PIECES + 1)
        )
        marks = np.unique(np.concatenate([[0], marks[1:-1], [len(of.width)]])).tolist()
        self.pieces = list(itertools.pairwise(marks))

    def each(self, task: Callable[[int, int], Any]) -> list[Any]:
        return list(self.pool.map(lambda piece: task(*piece), self.pieces))

    def run(self, tolerance: float) -> Coupled:
        shared, own, links = self.shared, self.own, self.shared.links
        pairs = 2 * (len(self.of.linear) + len(own.v))
        answer = np.zeros((links, links))
        gap = np.inf
        smooth = answer
        for step in range(_STEPS_AT_MOST):
            found, off, answer, power = self._linearised()
            scale = 1 + abs(shared.cost @ own.v + shared.fixed_eur)
            low_room, high_room = own.v - shared.low, shared.high - own.v
            gap = found + float(own.at_low @ low_room + own.at_high @ high_room)
            theta = 1.0 / (own.at_low / low_room + own.at_high / high_room)
            dual = shared.matrix.T @ own.price - shared.cost + own.at_low - own.at_high
            rows = self.right - shared.matrix @ own.v
            rows[:links] -= power
            few = self.few if gap > _ROUGH * scale else 0
            if gap > _SMOOTH * (1 + abs(shared.cost @ own.v)):
                smooth = answer
            wanted = tolerance * scale
            shared_off = float(np.abs(rows).max()) / (1 + np.abs(self.right).max())
            met = off <= tolerance * np.array([_DUALS_MET, _ROWS_MET])
            if gap <= wanted and shared_off <= tolerance * _SHARED_MET and met.all():
                break
            if not np.isfinite(gap):
                raise CoupledError(f"numbers ran out of range after {step} steps")
            system = (shared.matrix * theta) @ shared.matrix.T
            system[:links, :links] += answer
            try:
                factored = _factored(system)
            except LinAlgError:
                if gap <= _NEAR * wanted:
                    break
                raise CoupledError(f"no Newton step after {step} steps, gap {gap:.3g}") from None
            aim = partial(self._direction, few, factored, theta, dual, rows, (low_room, high_room))
            found_way = aim(0.0, None)
            primal, dual_step = min(1.0, found_way.primal), min(1.0, found_way.dual)
            after = self._gap_after(found_way, primal, dual_step)
            way = aim(gap / pairs * (after / gap) ** 3, found_way)
            self._move(way, hasty=few > 0)
        else:
            if self.few:
                raise CoupledError(f"the gap is still {gap:.3g} after {step} steps")
        return Coupled(self.at, own.price, smooth, float(gap), step)

    def _linearised(self) -> tuple[float, Floats, Floats, Floats]:
        """Return the blocks' gap, worst dual and row residuals, answer and power."""
        links = self.shared.links

        def task(first: int, last: int) -> tuple[tuple[float, float, float], Floats, Floats]:
            answer, power = np.zeros((links, links)), np.zeros(links)
            told = blocks.linearise(self.of, self.at, first, last, self.own.price, answer, power)
            return told, answer, power

        made = self.each(task)
        half = np.sum([answer for _, answer, _ in made], axis=0)
        whole = half + half.T
        whole[np.diag_indices(links)] -= np.diag(half)
        gap, dual, row = np.transpose([told for told, _, _ in made])
        return (
            float(gap.sum()),
            np.array([dual.max(), row.max()]),
            whole,
            np.sum([power for _, _, power in made], axis=0),
        )

    def _direction(  # noqa: PLR0917 - one Newton system
        self,
        few: int,
        factored: tuple[Floats, bool],
        theta: Floats,
        dual: Floats,
        rows: Floats,
        room: tuple[Floats, Floats],
        centre: float,
        before: _Direction | None,
    ) -> _Direction:
        of, at, own, shared = self.of, self.at, self.own, self.shared
        corrected = before is not None
        low = centre - (before.dv * before.d_low if before else 0.0)
        high = centre + (before.dv * before.d_high if before else 0.0)

        def begun(first: int, last: int) -> Floats:
            pushed = np.zeros(shared.links)
            blocks.aim(of, at, first, last, centre, corrected, pushed)
            return pushed

        pushed = np.sum(self.each(begun), axis=0)
        push = dual + low / room[0] - own.at_low - high / room[1] + own.at_high
        right = rows - shared.matrix @ (theta * push)
        right[: shared.links] -= pushed
        d_price = cho_solve(factored, right)
        dv = theta * (shared.matrix.T @ d_price + push)
        d_low = (low - own.at_low * dv) / room[0] - own.at_low
        d_high = (high + own.at_high * dv) / room[1] - own.at_high
        primal, dual_step = self._lengths(few, d_price, centre, corrected=corrected)
        return _Direction(
            d_price,
            dv,
            d_low,
            d_high,
            primal=min(primal, _longest(room[0], -dv), _longest(room[1], dv)),
            dual=min(dual_step, _longest(own.at_low, -d_low), _longest(own.at_high, -d_high)),
        )

    def _lengths(
        self, few: int, d_price: Floats, centre: float, *, corrected: bool
    ) -> tuple[float, float]:
        """Complete the blocks' directions; return steps that all but a few variables allow."""

        def task(first: int, last: int) -> tuple[tuple[float, float], Places]:
            counts = np.zeros((2, blocks.LENGTHS), dtype=np.int64)
            longest = blocks.direct(
                self.of, self.at, first, last, d_price, centre, corrected, counts
            )
            return longest, counts

        told = self.each(task)
        shorter = np.sum([counts for _, counts in told], axis=0).cumsum(axis=1)
        most = [np.searchsorted(way, few, side="right") / blocks.LENGTHS for way in shorter]
        every = [min(longest[way] for longest, _ in told) for way in range(2)]
        return max(every[0], float(most[0])), max(every[1], float(most[1]))

    def _gap_after(self, way: _Direction, primal: float, dual: float) -> float:
        """Return the complementarity after steps of these lengths."""
        own, shared = self.own, self.shared
        low = (own.at_low + dual * way.d_low) @ (own.v - shared.low + primal * way.dv)
        high = (own.at_high + dual * way.d_high) @ (shared.high - own.v - primal * way.dv)
        of_blocks = self.each(
            lambda first, last: blocks.gap_after(self.of, self.at, first, last, primal, dual)
        )
        return float(low + high + sum(of_blocks))

    def _move(self, way: _Direction, *, hasty: bool) -> None:
        own = self.own
        primal, dual = (min(1.0, blocks.NEAR_BOUND * longest) for longest in (way.primal, way.dual))
        keep = (_KEPT_LATE if min(primal, dual) > _LATE else _KEPT) if hasty else 0.0
        self.each(
            lambda first, last: blocks.move(self.of, self.at, first, last, primal, dual, keep)
        )
        own.v = own.v + primal * way.dv
        own.at_low = np.maximum(own.at_low + dual * way.d_low, _LEAST_MULTIPLIER)
        own.at_high = np.maximum(own.at_high + dual * way.d_high, _LEAST_MULTIPLIER)
        own.price = own.price + dual * way.d_price


def _factored(system: Floats) -> tuple[Floats, bool]:
    """Factor, with more and more on the diagonal where rounding has made it indefinite."""
    diagonal = np.diag_indices(len(system))
    plain = system[diagonal].copy()
    for rounding in (_ROUNDING, 1e-11, 1e-9):
        system[diagonal] = plain * (1 + rounding)
        try:
            factored: tuple[Floats, bool] = cho_factor(system, lower=True)
        except LinAlgError:
            continue
        return factored
    raise LinAlgError


def _longest(room: Floats, speed: Floats) -> float:
    """Return the longest step before any room is used up at these speeds."""
    moving = speed > 0
    return float(np.min(room[moving] / speed[moving], initial=1e30))
