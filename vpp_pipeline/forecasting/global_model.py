"""One model for many series: quantiles that are linear in what was known, fitted hour by hour.

Belongs here: drawing examples, the fit, calibration, and answers as arrays. Does not: features
(`regressors`), frames (`load_model`, `pv_model`).

For each hour of the day the 0.1, 0.5 and 0.9 quantiles are regressed (Koenker and Bassett 1978) on
the features of that hour and of those beside it, over all series at once, by iteratively reweighted
least squares. On recorded homes this is better than gradient-boosted trees and learns in a second.
The outer quantiles are then moved until as many of the last four weeks' values lie beyond them as
should (conformalised quantile regression, Romano, Patterson and Candès 2019), for the coming hour,
the next few and all later ones apart, and for each series by itself where it has told enough. A
fit that has seen a value errs too little on it, one that learnt from half of the days too much: the
move is 0.632 of what the latter asks for and the rest of the former's (Efron 1983).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from vpp_pipeline.forecasting.regressors import USUAL, Examples, Sun, regressors, sizes
from vpp_pipeline.forecasting.rows import QUANTILES
from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    from datetime import timedelta

    from numpy.typing import NDArray

    from vpp_pipeline.forecasting.panel import Array, Panel, Places

_HOURS = 24
_BESIDE = (1.0, 0.7, 0.4)
"""How much an hour's fit learns from itself, from the hours beside it and from the next but one."""
_MOST_EXAMPLES = 24_000
_LEADS_EACH = 3
_LONGEST_LEAD_H = 37
_SOON_H = 3
_SOON_SHARE = 0.4
_LEAST_EXAMPLES = 500
_FIRST_DAYS = 7
"""Earlier days of a history have too little before them to learn from."""
_SWEEPS = 12
_WIDEST, _NARROWEST, _SHRINK = 0.3, 0.02, 0.7
_RIDGE = 1e-2
_CALIBRATED_DAYS = 28
_BLOCK_DAYS = 4
_LEAST_SCORES = 150
_MOST_CALIBRATED = 12_000
_LEADS_FROM_H = (0, 1, 6)
"""Where leads begin that are calibrated together; the last ones reach to the longest."""
_HELD_OUT_SHARE = 0.632
_SERIES_AT_ONCE = 500
_SEED = 20_200_826


@dataclass(frozen=True, eq=False)
class GlobalModel:
    """Weights (quantiles, hours, features), and how far the outer quantiles are moved."""

    weights: Array
    moved: dict[str, Array]
    """By subject (leads, 2): what is added to p10 and to p90, in the series' sizes."""
    moved_else: Array
    step: timedelta


def fit(panel: Panel, sun: Sun | None = None) -> GlobalModel | None:
    """Return what `panel` teaches, all of it known; None where it is too little.

    `sun` as for `regressors`. Deterministic.
    """
    with threadpool_limits(limits=1):
        return _fit(panel, sun)


def _fit(panel: Panel, sun: Sun | None) -> GlobalModel | None:
    size = sizes(panel)
    examples = _drawn(panel, size, sun)
    features = regressors(panel, size, examples, sun)
    value = panel.values[examples.series, examples.asked] / size[examples.series]
    whole = np.isfinite(features).all(axis=1)
    examples, features, value = examples.take(np.flatnonzero(whole)), features[whole], value[whole]
    if len(value) < _LEAST_EXAMPLES:
        return None
    hours = _hour(panel, examples.asked)
    weights = _quantile_weights(features, value, hours)
    half = _is_odd_block(panel, examples.asked)
    of_halves = tuple(
        _quantile_weights(features[some], value[some], hours[some]) for some in (~half, half)
    )
    moved, moved_else = _calibrated(panel, size, sun, weights, of_halves)
    return GlobalModel(weights, moved, moved_else, panel.step)


def predict(
    model: GlobalModel, panel: Panel, origin: int, asked: Places, sun: Sun | None = None
) -> Array:
    """Return (quantiles, series, asked) in the series' unit; NaN where a series has no past day.

    `panel` is as known at `origin`; a column of the past is answered as before it was known.
    """
    size = sizes(panel)
    answers = np.full((len(QUANTILES), len(size), len(asked)), np.nan)
    weights = model.weights[:, _hour(panel, asked)]

    def answer(start: int) -> None:
        some = slice(start, start + _SERIES_AT_ONCE)
        part = replace(panel, subjects=panel.subjects[some], values=panel.values[some])
        series = np.arange(len(part.subjects))
        examples = Examples(
            np.repeat(series, len(asked)),
            np.tile(np.minimum(asked, origin), len(series)),
            np.tile(asked, len(series)),
        )
        over = None if sun is None else Sun(sun.clear[some], sun.told[some])
        features = regressors(part, size[some], examples, over)
        answers[:, some] = np.einsum(
            "qaf,saf->qsa", weights, features.reshape(len(series), len(asked), -1)
        )

    list(side_by_side(answer, range(0, len(size), _SERIES_AT_ONCE)))
    lead = _lead_class(panel, np.maximum(asked - origin, 0))
    moved = np.array([model.moved.get(name, model.moved_else) for name in panel.subjects])
    answers[0] += moved[:, lead, 0]
    answers[2] += moved[:, lead, 1]
    answers[0] = np.minimum(answers[0], answers[1])
    answers[2] = np.maximum(answers[2], answers[1])
    return np.asarray(answers * size[:, None])


def _drawn(panel: Panel, size: Array, sun: Sun | None) -> Examples:
    """Draw known values with leads up to a day and a half, near ones more often."""
    taught = np.flatnonzero(_taught(panel, size, sun))
    random = np.random.default_rng(_SEED)
    count = len(taught) * _LEADS_EACH
    if count > _MOST_EXAMPLES:
        drawn = np.sort(random.choice(count, _MOST_EXAMPLES, replace=False))
    else:
        drawn = np.arange(count)
    series, asked = np.divmod(taught[drawn // _LEADS_EACH], panel.values.shape[1])
    longest = np.where(random.random(len(drawn)) < _SOON_SHARE, _SOON_H, _LONGEST_LEAD_H)
    lead = np.floor(random.random(len(drawn)) * longest * panel.steps_per_hour).astype(np.int64)
    return Examples(series, asked - lead, asked)


def _taught(panel: Panel, size: Array, sun: Sun | None) -> NDArray[np.bool_]:
    """Return where values are known that have days before them, in daylight where there is a sun."""
    first = np.isfinite(panel.values).any(axis=0).argmax()
    known = np.isfinite(panel.values) & (size > 0)[:, None]
    if sun is not None:
        known &= sun.clear > 0
    known[:, : first + _FIRST_DAYS * panel.steps_per_day] = False
    return known


def _is_odd_block(panel: Panel, column: Places) -> NDArray[np.bool_]:
    odd: NDArray[np.bool_] = column // panel.steps_per_day // _BLOCK_DAYS % 2 == 1
    return odd


def _lead_class(panel: Panel, lead: Places) -> Places:
    """Return the place in `_LEADS_FROM_H` of leads in steps."""
    starts = np.array(_LEADS_FROM_H) * panel.steps_per_hour
    return np.searchsorted(starts, lead, side="right") - 1


def _hour(panel: Panel, column: Places) -> Places:
    return column % panel.steps_per_day * _HOURS // panel.steps_per_day


def _quantile_weights(features: Array, value: Array, hours: Places) -> Array:
    """Return the weights (quantiles, hours, features) of every hour's fits."""

    def of_hour(hour: int) -> Array:
        apart = np.minimum((hours - hour) % _HOURS, (hour - hours) % _HOURS)
        near = np.flatnonzero(apart < len(_BESIDE))
        some, told, counts = features[near], value[near], np.array(_BESIDE)[apart[near]]
        return np.stack([_quantile_fit(some, told, counts, share) for share in QUANTILES.values()])

    return np.stack(list(side_by_side(of_hour, range(_HOURS))), axis=1)


def _quantile_fit(features: Array, value: Array, counts: Array, share: float) -> Array:
    """Return the weights with the least pinball loss, shrunk towards the usual value.

    Iteratively reweighted least squares: a residual counts by its side's share over its size.
    """
    usual = np.eye(features.shape[1])[USUAL]
    ridge = np.eye(len(usual)) * _RIDGE * max(counts.sum(), 1.0)
    weights: Array = usual
    importance = counts
    for sweep in range(_SWEEPS):
        weighted = features * importance[:, None]
        weights = np.linalg.solve(weighted.T @ features + ridge, weighted.T @ value + ridge @ usual)
        residual = value - features @ weights
        width = max(_NARROWEST, _WIDEST * _SHRINK**sweep)
        sided = 2.0 * np.where(residual > 0, share, 1.0 - share)
        importance = counts * sided / np.maximum(np.abs(residual), width)
    return weights


def _calibrated(
    panel: Panel, size: Array, sun: Sun | None, weights: Array, of_halves: tuple[Array, ...]
) -> tuple[dict[str, Array], Array]:
    """Return the moves, by subject and for all others.

    `of_halves` are the weights learnt without the odd blocks of days, and without the even ones.
    """
    taught = _taught(panel, size, sun)
    newest = np.flatnonzero(taught.any(axis=0))[-1]
    taught[:, : max(newest + 1 - _CALIBRATED_DAYS * panel.steps_per_day, 0)] = False
    late = np.flatnonzero(taught)
    random = np.random.default_rng(_SEED)
    if len(late) > _MOST_CALIBRATED:
        late = np.sort(random.choice(late, _MOST_CALIBRATED, replace=False))
    series, asked = np.divmod(late, taught.shape[1])
    bounds = np.array([*_LEADS_FROM_H, _LONGEST_LEAD_H]) * panel.steps_per_hour
    lead = np.concatenate(
        [random.integers(least, most, len(late)) for least, most in pairwise(bounds)]
    )
    leads = _lead_class(panel, lead)
    series, asked = (np.tile(places, len(_LEADS_FROM_H)) for places in (series, asked))
    examples = Examples(series, asked - lead, asked)
    features = regressors(panel, size, examples, sun)
    whole = np.isfinite(features).all(axis=1)
    value = panel.values[series, asked] / size[series]
    hours, odd = _hour(panel, asked), _is_odd_block(panel, asked)
    seen, without_odd, without_even = (
        np.einsum("qef,ef->qe", learnt[:, hours], features) for learnt in (weights, *of_halves)
    )
    held_out = np.where(odd, without_odd, without_even)

    def moves(rows: Places) -> Array:
        return _moves(held_out[:, rows], seen[:, rows], value[rows])

    moves_else = np.stack([moves(np.flatnonzero(whole & (leads == n))) for n in np.unique(leads)])
    kept = np.flatnonzero(whole)
    order = kept[np.lexsort((leads[kept], series[kept]))]
    group = series[order] * len(_LEADS_FROM_H) + leads[order]
    starts = np.unique(group, return_index=True)[1]
    moved: dict[str, Array] = {}
    for rows in np.split(order, starts[1:]):
        if len(rows) >= _LEAST_SCORES:
            name = panel.subjects[int(series[rows[0]])]
            moved.setdefault(name, moves_else.copy())[leads[rows[0]]] = moves(rows)
    return moved, moves_else


def _moves(held_out: Array, seen: Array, value: Array) -> Array:
    """Return what to add to p10 and p90 to leave a tenth of the values beyond each; 0 of none."""
    share = 1.0 - QUANTILES["p10"]
    moves = np.zeros(2)
    if len(value):
        for told, weight in ((held_out, _HELD_OUT_SHARE), (seen, 1.0 - _HELD_OUT_SHARE)):
            moves[0] -= weight * np.quantile(told[0] - value, share)
            moves[1] += weight * np.quantile(value - told[2], share)
    return moves
