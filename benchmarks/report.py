"""What was measured, as a table, a file and a picture.

Belongs here: rows → Markdown, CSV, PNG, and the growth of time with size. Does not: measuring
(`optimization`).
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

mpl.use("Agg")
_LARGE = 1_000  # growth is fitted from here on: below, what is fixed dominates


@dataclass(frozen=True)
class Row:
    """One program on one problem; what it could not tell is None."""

    devices: int
    planner: str
    model: str  # QP, LP or MILP
    status: str
    build_s: float | None = None
    solve_s: float | None = None
    ratio: float | None = None  # of its seconds to ours
    objective_eur: float | None = None  # the schedule under the whole, quadratic objective
    linear_eur: float | None = None  # and without what is quadratic
    bound_eur: float | None = None
    gap: float | None = None  # to our bound
    violation_kw: float | None = None
    violation_kwh: float | None = None
    peak_gb: float | None = None
    first_call_s: float | None = None

    @property
    def seconds(self) -> float | None:
        if self.build_s is None or self.solve_s is None:
            return None
        return self.build_s + self.solve_s


def exponent(rows: list[Row], planner: str) -> float | None:
    """Return b of seconds ~ devices^b over the large sizes; None with fewer than two."""
    points = [
        (row.devices, row.seconds)
        for row in rows
        if row.planner == planner and row.seconds is not None and row.devices >= _LARGE
    ]
    if len(points) < 2:
        return None
    size, seconds = np.log(np.array(points)).T
    return float(np.polyfit(size, seconds, 1)[0])


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    head = "| devices | planner | | seconds | x ours | objective, EUR | gap | violation, kW / kWh | GB | |"
    lines = [head, "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"]
    for row in rows:
        cells = (
            f"{row.devices:,}",
            row.planner,
            row.model,
            _number(row.seconds, ".2f"),
            _number(row.ratio, ".1f"),
            _number(row.objective_eur, ".3f"),
            _number(row.gap, ".1e"),
            f"{_number(row.violation_kw, '.0e')} / {_number(row.violation_kwh, '.0e')}",
            _number(row.peak_gb, ".2f"),
            row.status,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def write_csv(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def plot(rows: list[Row], path: Path, limit_s: float) -> None:
    """Draw seconds over devices, both logarithmic, ours in front."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - the backend is chosen first

    figure, axes = plt.subplots(figsize=(9.5, 5.5), layout="constrained")
    for planner in dict.fromkeys(row.planner for row in rows):
        points = [
            (r.devices, r.seconds) for r in rows if r.planner == planner and r.seconds is not None
        ]
        if not points:
            continue
        ours = planner == "ours"
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            label=planner,
            linewidth=3 if ours else 1.2,
            color="black" if ours else None,
            zorder=3 if ours else 2,
        )
    axes.axhline(limit_s, color="grey", linestyle=":", label=f"time limit, {limit_s:g} s")
    axes.set(xscale="log", yscale="log", xlabel="devices", ylabel="seconds, build included")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
