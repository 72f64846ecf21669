"""Day-ahead prices out of yesterday's prices and tomorrow's load, wind and sun.

Belongs here: the LEAR model (LASSO-estimated autoregression), from arrays of days to a day of
prices. Does not: frames, clock changes and quarter-hours (`price_days`), the choice between a
published price, this model and the similar days (`prices`).

The model follows Lago, Marcjasz, De Schutter and Weron, "Forecasting day-ahead electricity
prices" (Applied Energy 293, 2021): for each hour of the day a LASSO on all 24 hours of earlier
days' prices and of the forecasts told for the day, on a median-MAD scale, made anew each day on
several windows and averaged. Theirs takes asinh of that scale everywhere; ours in one window of
three, because prices that leave the window's range are bent back by it. The spread comes from
leave-one-out errors of the last days (as in Barber et al., "Predictive inference with the
jackknife+", Annals of Statistics 49, 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

Array: TypeAlias = NDArray[np.float64]

HOURS = 24
LONGEST_WINDOW_DAYS = 364
LEAST_DAYS = 56
LONGEST_LAG_DAYS = 7


@dataclass(frozen=True)
class _Scale:
    """What is done to values that were brought to median 0 and MAD 1, and its inverse."""

    there: np.ufunc
    back: np.ufunc


_LINEAR, _ASINH = _Scale(np.positive, np.positive), _Scale(np.arcsinh, np.sinh)
_FITS = ((84, _LINEAR), (182, _ASINH), (LONGEST_WINDOW_DAYS, _LINEAR))
"""Short windows follow the level, long ones know the weather's effect; the scales hedge."""
_PRICE_LAGS_DAYS = (1, 2, 3, LONGEST_LAG_DAYS)
_EXOGENOUS_LAGS_DAYS = (0, 1, 2, LONGEST_LAG_DAYS)
_SHRINKAGES = np.array([0.3, 0.15, 0.08, 0.05, 0.03, 0.018])
_TOLERANCE = 1e-3
_MOST_SWEEPS = 2000
_NORMAL_MAD = 1.4826
_ERROR_DAYS = 28
_TAIL = 0.1
_LEAST_SPARE = 0.1


def regressors(prices: Array, exogenous: Sequence[Array], weekdays: NDArray[np.int64]) -> Array:
    """Return what is told of each day before its auction: (days, features), NaN where unknown.

    `prices` and each of `exogenous` are (days, 24) of consecutive days, `weekdays` are 0 to 6.
    """
    lagged = [_before(prices, lag) for lag in _PRICE_LAGS_DAYS]
    told = [_before(series, lag) for series in exogenous for lag in _EXOGENOUS_LAGS_DAYS]
    return np.hstack([*lagged, *told, np.eye(7)[weekdays]])


def _before(series: Array, lag: int) -> Array:
    return np.vstack([np.full((lag, series.shape[1]), np.nan), series[: len(series) - lag]])


def forecast_day(features: Array, prices: Array) -> dict[str, Array]:
    """Forecast the last day of `features` (days, features) from `prices` (days - 1, 24).

    Returns the quantiles by name, 24 hours each, in EUR/MWh: `p50` is the mean over the windows,
    `p10` and `p90` stand off it by quantiles of its errors in the last four weeks, at that hour
    and those beside it. Empty where the day's features are not whole, or fewer than `LEAST_DAYS`
    days before it are.
    """
    asked, past = features[-1], features[:-1]
    whole = np.isfinite(past).all(axis=1) & np.isfinite(prices).all(axis=1)
    if not np.isfinite(asked).all() or whole.sum() < LEAST_DAYS:
        return {}
    past, prices = past[whole], prices[whole]
    from sklearn import config_context  # noqa: PLC0415 - slow; a push does without

    with threadpool_limits(limits=1), config_context(skip_parameter_validation=True):
        told = [_fit(past[-days:], prices[-days:], asked, scale) for days, scale in _FITS]
    p50 = np.mean([point for point, _ in told], axis=0)
    errors = np.mean([errors for _, errors in told], axis=0)
    beside = np.clip(np.arange(HOURS)[:, None] + np.array([-1, 0, 1]), 0, HOURS - 1)
    tail = _TAIL - (1 - _TAIL) / beside[0].size / len(errors)
    low, high = np.quantile(errors[:, beside], (tail, 1 - tail), axis=(0, 2))
    return {"p10": p50 + np.minimum(low, 0.0), "p50": p50, "p90": p50 + np.maximum(high, 0.0)}


def _fit(past: Array, prices: Array, asked: Array, scale: _Scale) -> tuple[Array, Array]:
    """Return a window's forecast (24) and the errors (days, 24) of its last days, left out.

    The 24 hours share the Gram matrix of their features.
    """
    centre, unit = _median_mad(past)
    features = scale.there((np.vstack([past, asked]) - centre) / unit)
    mean, deviation = features[:-1].mean(axis=0), features[:-1].std(axis=0)
    features = (features - mean) / np.where(deviation > 0, deviation, 1.0)
    design, ahead = np.asfortranarray(features[:-1]), features[-1]
    centre, unit = _median_mad(prices.reshape(-1, 1))
    target = scale.there((prices - centre) / unit)
    usual = target.mean(axis=0)
    target -= usual
    gram, moments = design.T @ design, design.T @ target
    weights = np.column_stack(
        [
            _lasso(design, target[:, hour].copy(), gram, moments[:, hour].copy())
            for hour in range(HOURS)
        ]
    )
    told = np.vstack([_left_out(design, target, gram, weights), ahead @ weights])
    told = scale.back(told + usual) * unit + centre
    return told[-1], prices[-_ERROR_DAYS:] - told[:-1]


def _median_mad(values: Array) -> tuple[Array, Array]:
    centre = np.median(values, axis=0)
    scale = _NORMAL_MAD * np.median(np.abs(values - centre), axis=0)
    return centre, np.where(scale > 0, scale, 1.0)


def _lasso(design: Array, target: Array, gram: Array, moments: Array) -> Array:
    """Return the weights on the LASSO path with the least corrected Akaike criterion."""
    days = len(target)
    steepest = float(np.abs(moments).max()) / days
    if steepest <= 0:
        return np.zeros(len(moments))
    from sklearn.linear_model import lasso_path  # noqa: PLC0415 - slow; a push does without

    _, path, _ = lasso_path(
        design,
        target,
        alphas=steepest * _SHRINKAGES,
        precompute=gram,
        Xy=moments,
        tol=_TOLERANCE,
        max_iter=_MOST_SWEEPS,
        check_input=False,
    )
    squares = target @ target - 2 * moments @ path + np.einsum("ij,ij->j", path, gram @ path)
    used = np.count_nonzero(path, axis=0) + 1
    spare = np.maximum(days - used - 1, 1)
    criterion = days * np.log(np.maximum(squares, 1e-12) / days) + 2 * used * days / spare
    best: Array = path[:, int(np.argmin(criterion))]
    return best


def _left_out(design: Array, target: Array, gram: Array, weights: Array) -> Array:
    """Return what the last days would have been told had each been left out: (days, 24).

    The leverage of the chosen features stands in for a fit without the day (the PRESS residual,
    Allen 1974).
    """
    last, happened = design[-_ERROR_DAYS:], target[-_ERROR_DAYS:]
    leverage = np.full(happened.shape, 1 / len(design))
    for hour in range(HOURS):
        chosen = np.flatnonzero(weights[:, hour])
        part = last[:, chosen]
        inverse = np.linalg.pinv(gram[np.ix_(chosen, chosen)], hermitian=True)
        leverage[:, hour] += np.einsum("ij,ij->i", part @ inverse, part)
    spare = np.maximum(1 - leverage, _LEAST_SPARE)
    left: Array = happened - (happened - last @ weights) / spare
    return left
