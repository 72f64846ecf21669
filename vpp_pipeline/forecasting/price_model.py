"""Day-ahead prices out of yesterday's prices and tomorrow's load, wind and sun.

Belongs here: the LEAR model (LASSO-estimated autoregression), from arrays of days to a day of
prices. Does not: frames, clock changes and quarter-hours (`price_days`), the choice between a
published price, this model and the similar days (`prices`).

The model is that of Lago, Marcjasz, De Schutter and Weron, "Forecasting day-ahead electricity
prices" (Applied Energy 293, 2021): for each hour of the day a LASSO on all 24 hours of earlier
days' prices and of the forecasts known for the day, with a median-MAD scale and asinh, made anew
each day on several windows and averaged. Its spread comes from leave-one-out errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import lasso_path  # type: ignore[import-untyped] # ships no types
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

Array: TypeAlias = NDArray[np.float64]

HOURS = 24
WINDOWS_DAYS = (56, 84, 364, 728)
"""Short ones follow the level, long ones know the weather's effect."""
LEAST_DAYS = WINDOWS_DAYS[0]
PRICE_LAGS_DAYS = (1, 2, 3, 7)
EXOGENOUS_LAGS_DAYS = (0, 1, 2, 7)
LONGEST_LAG_DAYS = 7

_SHRINKAGES = np.array([0.3, 0.15, 0.08, 0.05, 0.03, 0.018])
_TOLERANCE = 1e-3
_MOST_SWEEPS = 2000
_NORMAL_MAD = 1.4826


def regressors(prices: Array, exogenous: Sequence[Array], weekdays: NDArray[np.int64]) -> Array:
    """Return what is told of each day before its auction: (days, features), NaN where unknown.

    `prices` and each of `exogenous` are (days, 24) of consecutive days, `weekdays` are 0 to 6.
    """
    lagged = [_before(prices, lag) for lag in PRICE_LAGS_DAYS]
    told = [_before(series, lag) for series in exogenous for lag in EXOGENOUS_LAGS_DAYS]
    return np.hstack([*lagged, *told, np.eye(7)[weekdays]])


def _before(series: Array, lag: int) -> Array:
    return np.vstack([np.full((lag, series.shape[1]), np.nan), series[: len(series) - lag]])


def forecast_day(features: Array, prices: Array) -> dict[str, Array]:
    """Forecast the last day of `features` (days, features) from `prices` (days - 1, 24).

    Returns the quantiles by name, 24 hours each, in EUR/MWh: `p50` is the mean over the windows,
    `p10` and `p90` stand off it by quantiles of its leave-one-out errors of the last days at that
    hour and those beside it. Empty where the day's features are not whole, or fewer than
    `LEAST_DAYS` days before it are.
    """
    asked, past = features[-1], features[:-1]
    whole = np.isfinite(past).all(axis=1) & np.isfinite(prices).all(axis=1)
    if not np.isfinite(asked).all() or whole.sum() < LEAST_DAYS:
        return {}
    past, prices = past[whole], prices[whole]
    windows = sorted({min(window, len(past)) for window in WINDOWS_DAYS})
    with threadpool_limits(limits=1):
        told = [_fit(past[-window:], prices[-window:], asked) for window in windows]
    point = np.mean([p50 for p50, _ in told], axis=0)
    errors = np.mean([errors[-LEAST_DAYS:] for _, errors in told], axis=0)
    beside = np.clip(np.arange(HOURS)[:, None] + np.array([-1, 0, 1]), 0, HOURS - 1)
    low, high = np.quantile(errors[:, beside], (0.1, 0.9), axis=(0, 2))
    return {
        "p10": point + np.minimum(low, 0.0),
        "p50": point,
        "p90": point + np.maximum(high, 0.0),
    }


def _fit(past: Array, prices: Array, asked: Array) -> tuple[Array, Array]:
    """Return a window's forecast (24) and its days' leave-one-out errors (days, 24).

    The 24 hours share the Gram matrix of their features.
    """
    centre, scale = _median_mad(past)
    features = np.arcsinh((np.vstack([past, asked]) - centre) / scale)
    mean, deviation = features[:-1].mean(axis=0), features[:-1].std(axis=0)
    features = (features - mean) / np.where(deviation > 0, deviation, 1.0)
    design, ahead = np.asfortranarray(features[:-1]), features[-1]
    level, spread = (float(v[0]) for v in _median_mad(prices.reshape(-1, 1)))
    target = np.arcsinh((prices - level) / spread)
    usual = target.mean(axis=0)
    target = target - usual
    gram, moments = design.T @ design, design.T @ target
    days = len(design)
    p50, errors = np.empty(HOURS), np.empty((days, HOURS))
    for hour in range(HOURS):
        weights = _lasso(design, target[:, hour], gram, moments[:, hour])
        fitted = _left_out(design, target[:, hour], gram, weights)
        p50[hour] = np.sinh(ahead @ weights + usual[hour]) * spread + level
        errors[:, hour] = prices[:, hour] - (np.sinh(fitted + usual[hour]) * spread + level)
    return p50, errors


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
    _, path, _ = lasso_path(
        design,
        target,
        alphas=steepest * _SHRINKAGES,
        precompute=gram,
        Xy=moments,
        tol=_TOLERANCE,
        max_iter=_MOST_SWEEPS,
    )
    squares = target @ target - 2 * moments @ path + np.einsum("ij,ij->j", path, gram @ path)
    used = np.count_nonzero(path, axis=0) + 1
    spare = np.maximum(days - used - 1, 1)
    criterion = days * np.log(np.maximum(squares, 1e-12) / days) + 2 * used * days / spare
    best: Array = path[:, int(np.argmin(criterion))]
    return best


def _left_out(design: Array, target: Array, gram: Array, weights: Array) -> Array:
    """Return what each day would have been told had it been left out of the fit.

    The leverage of the chosen features stands in for refitting without the day (the PRESS
    residual, Allen 1974).
    """
    fitted: Array = design @ weights
    chosen = np.flatnonzero(weights)
    if not chosen.size:
        return fitted
    part = design[:, chosen]
    inverse = np.linalg.pinv(gram[np.ix_(chosen, chosen)], hermitian=True)
    leverage = np.einsum("ij,ij->i", part @ inverse, part) + 1 / len(target)
    left: Array = target - (target - fitted) / np.maximum(1 - leverage, 0.1)
    return left
