"""What was known of a series when it was to be forecast: lags, habits and the latest levels.

Belongs here: the features that the models of load and sun share, for any origins and leads. Does
not: the panel (`panel`), the fit (`global_model`).

An example is a series, an origin (the first column not known yet) and a column that is asked, at
the origin or later. Every feature is in units of the series' own usual size (`sizes`), so that one
model serves large and small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vpp_pipeline.forecasting.panel import mean_before, running_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vpp_pipeline.forecasting.panel import Array, Panel, Places

LAG_DAYS = 28
USUAL = 1
"""The feature that is what the series usually gives then, on such a day."""
_RECENCY_DAYS = 14.0
_SIZED_DAYS = 30
_WEEK = 7
_WEEKEND_DAYS = 2
_SATURDAY = 2  # days since 1970-01-01, a Thursday
_MEMORIES_H = (1.5, 6.0, 20.0)
"""How fast a departure from the habit fades: the fit chooses among these."""
_LEAST_SHARE_OF_SUN = 0.05
_MOST_SCALING = 1.5


@dataclass(frozen=True)
class Examples:
    """What was asked of which series and when, an array each of the same length."""

    series: Places
    origin: Places
    asked: Places

    def take(self, chosen: Places) -> Examples:
        """Return the examples at these places."""
        return Examples(self.series[chosen], self.origin[chosen], self.asked[chosen])


@dataclass(frozen=True)
class Sun:
    """What each series would give (series by columns, as wide as the panel)."""

    clear: Array
    """Under a clear sky."""
    told: Array
    """Under the clouds that a weather service foretold; NaN where none did."""


def sizes(panel: Panel) -> Array:
    """Return each series' mean size of late; NaN where nothing is known, 0 where it is all zero.

    Only the last month counts: what is learnt from a year is then in the same units as an issue
    that looks at four weeks, whatever the season.
    """
    values = panel.values[:, -_SIZED_DAYS * panel.steps_per_day :]
    known = np.isfinite(values)
    total = np.where(known, np.abs(values), 0.0).sum(axis=1)
    count = known.sum(axis=1)
    mean: Array = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return mean


def regressors(panel: Panel, size: Array, examples: Examples, sun: Sun | None = None) -> Array:
    """Return (examples, features), the first a constant; a row of NaN where no day is known.

    With `sun`, earlier days are scaled by its height, and the features tell how clear the last
    hours and days were, and how clear it is to be.
    """
    day, hour = panel.steps_per_day, panel.steps_per_hour
    series, origin, asked = examples.series, examples.origin, examples.asked
    days_back = (asked - origin) // day + 1
    back = days_back[:, None] + np.arange(LAG_DAYS)
    source = asked[:, None] - back * day
    lags = _at(panel.values, series[:, None], source)
    if sun is not None:
        lags = lags * _risen(sun.clear, series, asked, source)
    unit = np.where(size > 0, size, 1.0)[series]
    lags /= unit[:, None]
    known = np.isfinite(lags)
    weight = np.exp(-back / _RECENCY_DAYS) * known
    alike = (
        _is_weekend(source // day + panel.first_day)
        == (_is_weekend(asked // day + panel.first_day)[:, None])
    )
    usual = _weighted(lags, weight)
    usual_of_type = _or(_weighted(lags, weight * alike), usual)
    low, middle, high = _ranks(lags, (0.1, 0.5, 0.9))
    last_week = asked - -(-days_back // _WEEK) * _WEEK * day
    like_now = asked - days_back * day

    def recent(hours: int) -> Array:
        return mean_before(panel.value_sums, series, origin, hours * hour) / unit

    def departure(hours: int) -> Array:
        mean = mean_before(panel.departure_sums, series, origin, hours * hour)
        return np.nan_to_num(mean / unit)

    def beside(hours: int) -> Array:
        return _at(panel.habit, series, np.minimum(like_now + hours * hour, origin - 1)) / unit

    others = [
        *(lags[:, n] for n in range(3)),
        _at(panel.values, series, last_week) / unit,
        usual,
        _weighted(lags, weight * (np.arange(LAG_DAYS) < _WEEK)),
        low,
        middle,
        high,
        _at(panel.values, series, like_now - hour) / unit,
        beside(-1),
        beside(1),
    ]
    lead_h = (asked - origin) / hour
    spread = np.sqrt(np.maximum(_weighted(lags**2, weight) - usual**2, 0.0))
    columns = [
        np.ones(len(asked)),
        usual_of_type,
        *(_or(other, usual_of_type) - usual_of_type for other in others),
        spread,
        np.sqrt(lead_h + 1.0) * spread,
        departure(6),
        departure(24),
        departure(72),
        _or(recent(24), usual_of_type),
    ]
    now = _or(recent(1), usual_of_type) - usual_of_type
    for memory_h in _MEMORIES_H:
        left = np.exp(-lead_h / memory_h)
        columns += [left * departure(1), left * departure(3), left * departure(24), left * now]
    if sun is not None:
        columns += _clearness(panel, sun, examples, unit, usual_of_type, lead_h)
    return np.column_stack(columns)


def _clearness(  # noqa: PLR0917 - what the caller has at hand already
    panel: Panel,
    sun: Sun,
    examples: Examples,
    unit: Array,
    usual: Array,
    lead_h: Array,
) -> list[Array]:
    """Return the asked step's sun, and that sun under the clouds of the last hours and days."""
    hour = panel.steps_per_hour
    series, origin = examples.series, examples.origin
    seen = np.where(np.isfinite(panel.values), sun.clear, np.nan)
    given, offered = panel.value_sums, running_sums(seen)
    ahead = _at(sun.clear, series, examples.asked) / unit
    foretold = _or(_at(sun.told, series, examples.asked) / unit, usual) - usual
    columns = [ahead, foretold]
    for hours in (1, 3, 24, 72):
        start = np.maximum(origin - hours * hour, 0)
        got, could = (sums[0][series, origin] - sums[0][series, start] for sums in (given, offered))
        bright = could > _LEAST_SHARE_OF_SUN * hours * hour * sun.clear.max(axis=1)[series]
        clear = np.divide(got, could, out=np.full(len(got), np.nan), where=bright)
        under = _or(clear * ahead, usual) - usual
        columns += [under, np.exp(-lead_h / 3.0) * under]
    return columns


def _risen(sun: Array, series: Places, asked: Places, source: Places) -> Array:
    """Return how much higher the sun stands at `asked` than at `source`; 1 where it is too low."""
    then, now = _at(sun, series[:, None], source), _at(sun, series, asked)[:, None]
    high = then > _LEAST_SHARE_OF_SUN * sun.max(axis=1)[series][:, None]
    ratio = np.divide(now, then, out=np.ones(then.shape), where=high)
    return np.clip(ratio, 0.0, _MOST_SCALING)


def _at(values: Array, series: Places, column: Places) -> Array:
    """Return the values at these places, NaN before the first and after the last column."""
    inside = (column >= 0) & (column < values.shape[1])
    found = values[series, np.clip(column, 0, values.shape[1] - 1)]
    return np.where(inside, found, np.nan)


def _is_weekend(day: Places) -> NDArray[np.bool_]:
    return (day - _SATURDAY) % _WEEK < _WEEKEND_DAYS


def _weighted(values: Array, weight: Array) -> Array:
    total = weight.sum(axis=1)
    mean = np.full(len(total), np.nan)
    np.divide((weight * np.nan_to_num(values)).sum(axis=1), total, out=mean, where=total > 0)
    return mean


def _ranks(values: Array, shares: tuple[float, ...]) -> list[Array]:
    ordered = np.sort(values, axis=1)  # NaN last
    last = np.isfinite(values).sum(axis=1) - 1
    rows = np.arange(len(values))
    return [ordered[rows, np.rint(share * np.maximum(last, 0)).astype(int)] for share in shares]


def _or(values: Array, otherwise: Array) -> Array:
    return np.where(np.isfinite(values), values, otherwise)
