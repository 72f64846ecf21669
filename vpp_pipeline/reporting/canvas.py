"""Blank figures to draw on, and what a figure is as bytes.

Belongs here: margins, axes, the marks of a day, saving. Does not: what is drawn (`pictures`).

Margins are fixed, in inches: to find them, as matplotlib's layouts do, costs more than to draw.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from vpp_pipeline.delivery_day import STEP, floor_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.figure import Figure

Format = Literal["svg", "png"]

_BESIDE_NUMBERS = 1.0
_DAY_S = 86_400
_MOST_MARKS = 10
_MINUTES_BETWEEN_MARKS = (15, 30, 60, 120, 180, 240, 360, 720)


def over_time(
    rows: int, size: tuple[float, float], heights: Sequence[float]
) -> tuple[Figure, list[Any]]:
    """Return a figure of rows under each other that share their time, and its axes."""
    figure = blank(size, left=_BESIDE_NUMBERS)
    axes = figure.subplots(rows, 1, sharex=True, height_ratios=list(heights), squeeze=False)
    for ax in axes[:, 0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="x", color="#eee")
    return figure, list(axes[:, 0])


def bars(names: Sequence[str], label: str, height: float) -> tuple[Figure, Any]:
    """Return a figure with `height` inches for each name's bar, and its axes; `label` is of the x axis."""
    figure = blank((9, 0.6 + height * max(len(names), 1)), left=width_of(names, 10), bottom=0.5)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(label)
    axes.invert_yaxis()
    return figure, axes


def blank(
    size: tuple[float, float], *, left: float, right: float = 0.1, bottom: float = 0.3
) -> Figure:
    """Return a figure without axes; `size` and the margins are in inches."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow; a push draws nothing

    width, height = size
    figure = Figure(figsize=size)
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - 0.06 / height,
    )
    return figure


def width_of(words: Iterable[str], points: float) -> float:
    """Return the inches that the longest of these needs beside an axis, in letters of this size."""
    return 0.15 + max(map(len, words), default=0) * 0.6 * points / 72


def instants(times: pl.Series) -> Any:
    """Return UTC instants in the type that matplotlib takes without a loop."""
    return times.dt.replace_time_zone(None).to_numpy()


def saved_over_time(figure: Figure, form: Format, timezone: str) -> bytes:
    """Return the bytes of a figure over time, marked at round times of day in `timezone`.

    Its name stands beside them: the tables around a picture are in UTC.
    """
    from matplotlib.ticker import FixedFormatter, FixedLocator  # noqa: PLC0415 - see `blank`

    axis = figure.axes[0].xaxis  # shared by all that have a time; a colour bar has none
    days = axis.get_view_interval()  # since 1970, as matplotlib counts time
    first, last = (datetime.fromtimestamp(day * _DAY_S, UTC) for day in days)
    wanted = (last - first) / timedelta(minutes=_MOST_MARKS)
    every = next((minutes for minutes in _MINUTES_BETWEEN_MARKS if minutes >= wanted), 24 * 60)
    times = pl.datetime_range(floor_interval(first), last, STEP, eager=True)
    local = times.dt.convert_time_zone(timezone)
    minute = local.dt.hour().cast(pl.Int32) * 60 + local.dt.minute()
    words = local.dt.to_string("%H:%M").zip_with(minute > 0, local.dt.to_string("%b-%d"))
    marked = minute % every == 0
    axis.set_major_locator(FixedLocator((times.filter(marked).dt.epoch("s") / _DAY_S).to_list()))
    axis.set_major_formatter(FixedFormatter(words.filter(marked).to_list()))
    width, height = figure.get_size_inches()
    figure.text(0.05 / width, 0.12 / height, timezone, fontsize=7, color="#777")
    return saved(figure, form)


def saved(figure: Figure, form: Format) -> bytes:
    """Return the figure's bytes: of the same figure always the same."""
    target = io.BytesIO()
    import matplotlib as mpl  # noqa: PLC0415 - slow, see `blank`

    with mpl.rc_context({"svg.hashsalt": "vpp", "svg.fonttype": "none"}):
        metadata = {"Date": None} if form == "svg" else None
        figure.savefig(target, format=form, dpi=110, metadata=metadata)
    return target.getvalue()
