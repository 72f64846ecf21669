"""A picture's marks stand at whole hours of the market's day, and its names have their room."""

from __future__ import annotations

import re
from datetime import date, timedelta
from itertools import pairwise

import polars as pl
import pytest

from vpp_pipeline.delivery_day import STEP, day_intervals
from vpp_pipeline.reporting import canvas

TZ = "Europe/Berlin"


def drawn(times):
    """Return the marks of a picture over these quarter-hours: (words, place from the left)."""
    figure, (axes,) = canvas.over_time(1, (9, 2), (1,))
    axes.plot(canvas.instants(times), range(times.len()))
    svg = canvas.saved_over_time(figure, "svg", TZ).decode()
    axis = svg[svg.index('id="matplotlib.axis_1"') : svg.index('id="matplotlib.axis_2"')]
    return [
        (words, float(place))
        for place, words in re.findall(r'x="([\d.]+)"[^>]*>([A-Z]?[\w:-]+)</text>', axis)
    ]


@pytest.mark.parametrize(
    ("day", "hours_of_the_first_three"),
    [(date(2020, 8, 26), 3), (date(2020, 10, 25), 4), (date(2020, 3, 29), 2)],
)
def test_marks_stand_at_the_days_own_hours_also_when_the_clock_is_changed(
    day, hours_of_the_first_three
):
    marks = drawn(day_intervals(day, TZ))
    words = [words for words, _ in marks]
    assert words[1:8] == [f"{hour:02d}:00" for hour in range(3, 24, 3)]
    assert words[0] == f"{day:%b-%d}"
    assert words[8:] == [f"{day + timedelta(days=1):%b-%d}"]
    first, *others = [right - left for (_, left), (_, right) in pairwise(marks)]
    assert others == pytest.approx([first * 3 / hours_of_the_first_three] * 7, abs=0.01)


def test_what_is_left_of_a_day_has_marks_of_quarter_hours():
    left = day_intervals(date(2020, 8, 26), TZ).tail(6)
    assert [words for words, _ in drawn(left)] == [
        "22:30",
        "22:45",
        "23:00",
        "23:15",
        "23:30",
        "23:45",
    ]


def test_a_picture_of_weeks_is_marked_by_days():
    start = day_intervals(date(2020, 8, 1), TZ)[0]
    weeks = pl.datetime_range(start, start + timedelta(days=14), STEP, eager=True)
    assert [words for words, _ in drawn(weeks)] == [f"Aug-{day:02d}" for day in range(1, 16)]


@pytest.mark.parametrize("points", [6, 10])
def test_names_of_devices_fit_beside_their_axis(points):
    from matplotlib.textpath import TextPath

    for name in ("home-042-heat-pump draw", "DEPOT-BATTERY inject", "a", "wallbox_0815"):
        inches = TextPath((0, 0), name, size=points).get_extents().width / 72
        assert inches + 0.1 < canvas.width_of([name], points) + 0.03


@pytest.mark.parametrize("highest_kw", [1.0, 750_000.0, 5e6])
def test_what_an_axis_is_of_stays_in_the_picture_however_large_its_numbers(highest_kw):
    figure, (axes,) = canvas.over_time(1, (9, 2.8), (1,))
    axes.plot([0, 1], [-highest_kw, highest_kw])
    axes.set_ylabel("kW (positive injects)")
    figure.draw_without_rendering()
    assert axes.yaxis.label.get_window_extent().x0 >= 0
