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
from scipy.optimize import lsq_linear
from threadpoolctl import threadpool_limits

from vpp_pipeline.optimization.decomposition import interior_point as blocks
from vpp_pipeline.threads import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vpp_pipeline.optimization.decomposition.assembly import Programmes
    from vpp_pipeline.optimization.decomposition.interior_point import Iterate
    from vpp_pipeline.optimization.decomposition.shared import Shared
    from vpp_pipeline.optimization.problem import Floats, Places

_STEPS_AT_MOST = 100
_START_EUR = 1.0  # complementarity of each bound; measured: 25-34 steps, against 28-42 from 0.01
_ALONE_EUR = 1e-2  # the same where the blocks begin alone, at known prices
_ROUGHLY_EUR = 0.1  # how near each comes to its best there: nearer saves no further step
_AWAY = 3e-3  # of its range, that a variable then begins away from each bound
_FREE_EUR = 5e-4  # complementarity of each bound there
_FITTED = 1e-6  # of what the own variables first miss: they are moved off their bounds anyway
_PIECES = 2 * THREADS
_ROUNDING = 1e-13
_FEW = 4e-4  # of all variables: so many do not shorten all others' step, but go less far
_FEWEST = 40  # in a small fleet each counts: a reserve is the least that is left of it
_FEW_COUNTED = 50  # of them: of a large fleet's blocks, as many are counted as hold so many
_ROUGH = 3e-5  # of the cost: a gap down to which that pays; it leaves residuals behind
_KEPT, _KEPT_LATE = 0.3, 0.05  # what such a step leaves of each bound's room and multiplier
_LATE = 0.9  # of a whole step: so long, it may leave less
_SMOOTH = 1e-2  # of the cost: the gap at which the blocks' answer is smooth, but no longer dull
_SHORT = 0.1  # of a whole step: after one so short, second-order terms lead astray
_BEYOND = 1e-3  # of the gap wanted: residuals that are left then, numbers can't tell
_NEAR = 1e-2  # of the cost: an answer so near is worth having, and its proof tells how near


class CoupledError(RuntimeError):
    """The method broke down before it came near a solution."""


@dataclass(frozen=True)
class Aim:
    """How near to come: a gap, and how much of what residuals cost at their prices counts to it.

    Residuals are repaired: how much of their cost is left then, is known by trying.
    """

    gap: float  # share of the portfolio's own cost
    residuals: float = 1.0


@dataclass(frozen=True)
class Coupled:
    """Where the method ended, with the prices of the step that proved most."""

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


@dataclass(frozen=True)
class _Proven:
    """The prices of the step that proved most: where a few variables lag, a later one may less."""

    proof: float  # EUR between the cost and its bound
    y: Floats  # (R,) of the blocks' rows
    price: Floats  # (rows,) of the shared rows


@dataclass(frozen=True)
class _Linear:
    """The blocks where they stand: sums over all, EUR, and what the shared rows see of them."""

    gap: float
    short: float  # what the rows' residuals cost at their multipliers
    proof: float  # what the reduced costs leave between the cost and its bound
    answer: Floats  # (links, links)
    power: Floats  # (links,)
    pushed: Floats  # (links,) on the way straight to complementarity 0


@dataclass(frozen=True)
class _Direction:
    d_price: Floats
    dv: Floats
    d_low: Floats
    d_high: Floats
    primal: float
    dual: float
    forced: float
    curved: float


def solve_coupled(
    of: Programmes, shared: Shared, near: Floats | None, aims: tuple[Aim, ...]
) -> Iterator[Coupled]:
    """Solve as near as is aimed at, one aim after the other, or as near as numbers allow.

    Going on writes over what was yielded. `near` (rows,) are prices to begin from, EUR/kW: those
    of a problem like this one. Prices that have little to do with this one's are worse than none.

    Residuals are left, as many as an aim allows: they are repaired, and counted in the proof.

    Raises `CoupledError` where the Newton system can't be solved from the start.
    """
    few = int(_FEW * len(of.linear))
    few = few if few >= _FEWEST else 0
    with ThreadPoolExecutor(THREADS) as pool:
        method = None
        for aim in aims:
            with threadpool_limits(1, "blas"):
                try:
                    method = method or _Method(of, shared, near, pool, few=few)
                    found = method.run(aim)
                except CoupledError:
                    if near is None and not few:
                        raise
                    few, near = 0, None
                    method = _Method(of, shared, near, pool, few=few)
                    found = method.run(aim)
            yield found


class _Method:
    def __init__(
        self,
        of: Programmes,
        shared: Shared,
        near: Floats | None,
        pool: ThreadPoolExecutor,
        *,
        few: int,
    ) -> None:
        self.of, self.shared, self.pool, self.few = of, shared, pool, few
        marks = np.searchsorted(
            of.variable_first, np.linspace(0, of.variable_first[-1], _PIECES + 1)
        )
        marks = np.unique(np.concatenate([[0], marks[1:-1], [len(of.width)]])).tolist()
        self.pieces = list(itertools.pairwise(marks))
        self.right = shared.right.copy()
        self.right[: shared.links] -= of.fixed_link[: shared.links]
        if near is None:
            self.at = blocks.begin(of, _START_EUR)
            self.own = _middle(shared)
        else:
            self.at = blocks.begin(of, _ALONE_EUR)
            self.each(partial(self._settle, near[: shared.links]))
            self.own = self._beside_blocks(near)
        self.proven = _Proven(np.inf, self.at.y, self.own.price)

    def _settle(self, price: Floats, first: int, last: int) -> None:
        """Bring blocks near their best at these prices, and away from their bounds again.

        Such a start is that of Yildirim & Wright, SIAM J. Optim. 12, 2002.
        """
        blocks.solve_alone(self.of, self.at, first, last, price, _ROUGHLY_EUR)
        blocks.unbind(self.of, self.at, first, last, _AWAY, _FREE_EUR)

    def _beside_blocks(self, price: Floats) -> _Own:
        """Return the shared rows' own variables as fit the blocks best, away from their bounds."""
        of, shared = self.of, self.shared
        missing = self.right.copy()
        missing[: shared.links] -= np.bincount(
            of.link + 1, of.link_value * self.at.x, shared.links + 1
        )[1:]
        bounds = (shared.low, shared.high)
        fitted = lsq_linear(shared.matrix, missing, bounds, tol=_FITTED).x
        away = _AWAY * (shared.high - shared.low)
        v = np.clip(fitted, shared.low + away, shared.high - away)
        reduced = shared.cost - shared.matrix.T @ price
        return _Own(
            v=v,
            at_low=np.maximum(reduced, 0.0) + _FREE_EUR / (v - shared.low),
            at_high=np.maximum(-reduced, 0.0) + _FREE_EUR / (shared.high - v),
            price=price,
        )

    def each(self, task: Callable[[int, int], Any]) -> list[Any]:
        return list(self.pool.map(lambda piece: task(*piece), self.pieces))

    def run(self, aim: Aim) -> Coupled:
        shared, own, links = self.shared, self.own, self.shared.links
        pairs = 2 * (len(self.of.linear) + len(own.v))
        smooth = np.zeros((links, links))
        gap, longest = np.inf, 1.0
        for step in range(_STEPS_AT_MOST):
            here = self._linearised()
            scale = 1 + abs(shared.cost @ own.v + shared.fixed_eur)
            low_room, high_room = own.v - shared.low, shared.high - own.v
            gap = here.gap + float(own.at_low @ low_room + own.at_high @ high_room)
            theta = 1.0 / (
                own.at_low / low_room
                + own.at_high / high_room
                + blocks.PROXIMAL_EUR / (shared.high - shared.low)
            )
            dual = shared.matrix.T @ own.price - shared.cost + own.at_low - own.at_high
            rows = self.right - shared.matrix @ own.v
            rows[:links] -= here.power
            few = self.few if gap > _ROUGH * scale else 0
            if gap > _SMOOTH * (1 + abs(shared.cost @ own.v)):
                smooth = here.answer
            wanted = aim.gap * scale
            short = here.short + float(np.abs(rows) @ np.abs(own.price))
            saving = dual - own.at_low + own.at_high  # of one more of each variable, EUR
            proof = here.proof + float(
                np.maximum(-saving, 0) @ low_room + np.maximum(saving, 0) @ high_room
            )
            if proof < self.proven.proof:
                self.proven = _Proven(proof, self.at.y.copy(), own.price)
            left = self.proven.proof + aim.residuals * short
            if left <= wanted or gap <= _BEYOND * wanted:
                break
            if not np.isfinite(gap):
                raise CoupledError(f"numbers ran out of range after {step} steps")
            system = (shared.matrix * theta) @ shared.matrix.T
            system[:links, :links] += here.answer
            try:
                factored = _factored(system)
            except LinAlgError:
                if gap <= _NEAR * scale:
                    break
                raise CoupledError(f"no Newton step after {step} steps, gap {gap:.3g}") from None
            way_to = partial(
                self._direction, few, factored, theta, dual, rows, (low_room, high_room)
            )
            ahead = way_to(0.0, 0.0, None, here.pushed)
            primal, dual_step = min(1.0, ahead.primal), min(1.0, ahead.dual)
            after = blocks.gap_after(gap, primal, dual_step, ahead.forced, ahead.curved)
            bend = 1.0 if longest > _SHORT else primal * dual_step
            centre = gap / pairs * (after / gap) ** 3
            way = way_to(centre, bend, ahead, self._pushed(centre, bend))
            self._move(way, few)
            longest = min(way.primal, way.dual)
        else:
            if self.few:
                raise CoupledError(f"the gap is still {gap:.3g} after {step} steps")
        proven = self.proven
        return Coupled(self.at._replace(y=proven.y), proven.price, smooth, float(gap), step)

    def _linearised(self) -> _Linear:
        links = self.shared.links

        def task(first: int, last: int) -> tuple[tuple[float, float, float], Floats, Floats]:
            answer, seen = np.zeros((links, links)), np.zeros((2, links))
            told = blocks.linearise(
                self.of, self.at, first, last, self.own.price, answer, seen[0], seen[1]
            )
            return told, answer, seen

        told, answers, seen = zip(*self.each(task), strict=True)
        half = np.sum(answers, axis=0)
        whole = half + half.T
        whole[np.diag_indices(links)] -= np.diag(half)
        power, pushed = np.sum(seen, axis=0)
        gap, short, proof = np.sum(told, axis=0).tolist()
        return _Linear(gap, short, proof, whole, power, pushed)

    def _pushed(self, centre: float, bend: float) -> Floats:
        """Begin the blocks' directions anew; return what they push onto the shared rows."""

        def task(first: int, last: int) -> Floats:
            pushed = np.zeros(self.shared.links)
            blocks.aim(self.of, self.at, first, last, centre, bend, pushed)
            return pushed

        of_all: Floats = np.sum(self.each(task), axis=0)
        return of_all

    def _direction(  # noqa: PLR0917 - one Newton system
        self,
        few: int,
        factored: tuple[Floats, bool],
        theta: Floats,
        dual: Floats,
        rows: Floats,
        room: tuple[Floats, Floats],
        centre: float,
        bend: float,
        before: _Direction | None,
        pushed: Floats,
    ) -> _Direction:
        own, shared = self.own, self.shared
        low = centre - (bend * before.dv * before.d_low if before else 0.0)
        high = centre + (bend * before.dv * before.d_high if before else 0.0)
        push = dual + low / room[0] - own.at_low - high / room[1] + own.at_high
        right = rows - shared.matrix @ (theta * push)
        right[: shared.links] -= pushed
        d_price = cho_solve(factored, right)
        dv = theta * (shared.matrix.T @ d_price + push)
        d_low = (low - own.at_low * dv) / room[0] - own.at_low
        d_high = (high + own.at_high * dv) / room[1] - own.at_high
        primal, dual_step, forced, curved = self._completed(few, d_price, centre, bend)
        if not self._own_lag(few):
            primal = min(primal, _longest(room[0], -dv), _longest(room[1], dv))
            dual_step = min(dual_step, _longest(own.at_low, -d_low), _longest(own.at_high, -d_high))
        return _Direction(
            d_price,
            dv,
            d_low,
            d_high,
            primal=primal,
            dual=dual_step,
            forced=forced + float((own.at_low - own.at_high) @ dv),
            curved=curved + float((d_low - d_high) @ dv),
        )

    def _completed(
        self, few: int, d_price: Floats, centre: float, bend: float
    ) -> tuple[float, float, float, float]:
        """Complete the blocks' directions; return steps that all but a few variables allow, and
        what `gap_after` needs.
        """
        every = max(few // _FEW_COUNTED, 1)

        def task(first: int, last: int) -> tuple[Floats, Places]:
            counts = np.zeros((2, blocks.LENGTHS), dtype=np.int64)
            return blocks.direct(
                self.of, self.at, first, last, d_price, centre, bend, counts, every
            ), counts

        told, counts = (np.array(part) for part in zip(*self.each(task), strict=True))
        shorter = counts.sum(axis=0).cumsum(axis=1)
        most = [
            np.searchsorted(way, few // every, side="right") / blocks.LENGTHS for way in shorter
        ]
        primal, dual = np.maximum(told[:, :2].min(axis=0), most).tolist()
        forced, curved = told[:, 2:].sum(axis=0).tolist()
        return primal, dual, forced, curved

    def _own_lag(self, few: int) -> bool:
        """Return whether the shared rows' own variables can all be among the few."""
        return few >= len(self.own.v)

    def _move(self, way: _Direction, few: int) -> None:
        own = self.own
        primal, dual = (min(1.0, blocks.NEAR_BOUND * longest) for longest in (way.primal, way.dual))
        keep = (_KEPT_LATE if min(primal, dual) > _LATE else _KEPT) if few else 0.0
        self.each(
            lambda first, last: blocks.move(self.of, self.at, first, last, primal, dual, keep)
        )
        low, high = self.shared.low, self.shared.high
        own_keep = keep if self._own_lag(few) else 0.0
        least = blocks.LEAST_SHARE * (high - low)
        below, above = (np.maximum(own_keep * room, least) for room in (own.v - low, high - own.v))
        own.v = np.clip(own.v + primal * way.dv, low + below, high - above)
        own.at_low = _kept(own.at_low, dual * way.d_low, own_keep)
        own.at_high = _kept(own.at_high, dual * way.d_high, own_keep)
        own.price = own.price + dual * way.d_price


def _middle(shared: Shared) -> _Own:
    middle = 0.5 * (shared.low + shared.high)
    return _Own(
        v=middle,
        at_low=_START_EUR / (middle - shared.low),
        at_high=_START_EUR / (shared.high - middle),
        price=np.zeros(len(shared.right)),
    )


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


def _kept(multiplier: Floats, change: Floats, keep: float) -> Floats:
    """Return multipliers after a change, of which each keeps a share."""
    kept: Floats = np.maximum(
        multiplier + change, np.maximum(keep * multiplier, blocks.LEAST_MULTIPLIER)
    )
    return kept


def _longest(room: Floats, speed: Floats) -> float:
    """Return the longest step before any room is used up at these speeds."""
    moving = speed > 0
    return float(np.min(room[moving] / speed[moving], initial=1e30))
