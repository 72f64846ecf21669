"""Pictures of plans and days, as SVG or PNG bytes.

Belongs here: drawing frames. Does not: deciding what to show where (`html`, the assets).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from vpp_pipeline.delivery_day import STEP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

_COLOURS = {
    "battery": "#2a9d8f",
    "pv": "#e9c46a",
    "wind": "#8ab6d6",
    "ev_charger": "#9b5de5",
    "heat_pump": "#e76f51",
    "flexible_load": "#f4a261",
    "chp": "#6d6875",
    "load": "#b8b8b8",
}
_PRICE = "#264653"
_MEASURED = "#d1495b"
_BAND = "#cfe3e8"
_MOST_BARS = 30
_LONGEST_CAUSE = 48

Format = Literal["svg", "png"]


def prices_and_plan(
    schedules: pl.DataFrame, prices: pl.DataFrame, timezone: str, form: Format = "svg"
) -> bytes:
    """Draw the plan stacked by device type under the price that shaped it.

    `schedules`: (device_type, interval_start, power_kw); `prices`: (interval_start,
    price_eur_per_mwh) and, where some are not published yet, `origin`.
    """
    figure, (top, bottom) = _figure(2, (9, 5), (1, 2))
    market = prices.sort("interval_start")
    times, price = _local(market, timezone), market["price_eur_per_mwh"]
    if "origin" in market.columns and (market["origin"] == "forecast").any():
        top.step(times, price, where="post", color=_PRICE, lw=1, ls=":", label="forecast")
        published = pl.when(pl.col("origin") == "published").then("price_eur_per_mwh")
        price = market.select(published).to_series()
        top.step(times, price, where="post", color=_PRICE, lw=1.5, label="published")
        top.legend(ncols=2, fontsize=7, frameon=False)
    else:
        top.step(times, price, where="post", color=_PRICE, lw=1.5)
    top.axhline(0, color="#999", lw=0.6)
    top.set_ylabel("EUR/MWh")
    by_type = (
        schedules.group_by("device_type", "interval_start")
        .agg(pl.col("power_kw").sum())
        .with_columns(pl.col("device_type").cast(pl.String))
        .pivot("device_type", index="interval_start", values="power_kw")
        .sort("interval_start")
        .fill_null(0.0)
    )
    times = _local(by_type, timezone)
    types = [name for name in _COLOURS if name in by_type.columns]
    for clip in ("lower_bound", "upper_bound"):
        parts = [by_type[name].clip(**{clip: 0.0}) for name in types]
        bottom.stackplot(
            times,
            parts,
            colors=[_COLOURS[name] for name in types],
            labels=[name.replace("_", " ") for name in types] if clip == "lower_bound" else (),
            step="post",
        )
    net = by_type.select(pl.sum_horizontal(types)).to_series()
    bottom.step(times, net, where="post", color="black", lw=1.2, label="net")
    bottom.axhline(0, color="#555", lw=0.6)
    bottom.set_ylabel("kW (positive injects)")
    bottom.legend(
        ncols=9, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, columnspacing=1
    )
    return _bytes(figure, form, timezone)


def stored_energy(
    planned: pl.DataFrame, measured: pl.DataFrame, timezone: str, form: Format = "svg"
) -> bytes:
    """Draw the batteries' stored energy, planned against measured.

    Both frames: (interval_start, energy_kwh), summed over the batteries.
    """
    figure, (axes,) = _figure(1, (9, 2.8), (1,))
    for frame, colour, label in (
        (planned, _PRICE, "planned"),
        (measured, _MEASURED, "measured"),
    ):
        ordered = frame.sort("interval_start")
        if ordered.height:
            axes.plot(_local(ordered, timezone), ordered["energy_kwh"], color=colour, label=label)
    axes.set_ylabel("kWh in batteries")
    axes.set_ylim(bottom=0)
    if axes.lines:  # a fleet without batteries has nothing to name
        axes.legend(frameon=False, fontsize=8)
    return _bytes(figure, form, timezone)


def band(course: pl.DataFrame, timezone: str, label: str, form: Format = "svg") -> bytes:
    """Draw a forecast's p50 in its band from p10 to p90.

    `course`: (interval_start, p10, p50, p90); `label` names what it is of, and its unit.
    """
    figure, (axes,) = _figure(1, (9, 2.8), (1,))
    ordered = course.sort("interval_start")
    times = _local(ordered, timezone)
    axes.fill_between(
        times, ordered["p10"], ordered["p90"], step="post", color=_BAND, lw=0, label="p10 to p90"
    )
    axes.step(times, ordered["p50"], where="post", color=_PRICE, lw=1.4, label="p50")
    axes.set_ylabel(label)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return _bytes(figure, form, timezone)


def set_points(shares: pl.DataFrame, timezone: str, form: Format = "svg") -> bytes:
    """Draw what each device is to do through the day, one row a device.

    `shares`: (device_type, device_id, interval_start, share), power as a share of the nameplate;
    blue injects, red draws.
    """
    rows = (
        shares.sort("interval_start")
        .pivot("interval_start", index=["device_type", "device_id"], values="share")
        .sort("device_type", "device_id")
    )
    times = _local(shares.select(pl.col("interval_start").unique().sort()), timezone)
    figure = _blank((9, 0.8 + 0.16 * rows.height))
    axes = figure.subplots()
    colours = axes.pcolormesh(
        [*times, times[-1] + STEP],
        [row - 0.5 for row in range(rows.height + 1)],
        rows.drop("device_type", "device_id").to_numpy(),
        cmap="RdBu",
        vmin=-1,
        vmax=1,
    )
    axes.invert_yaxis()
    axes.set_yticks(range(rows.height), rows["device_id"].to_list(), fontsize=6)
    bar = figure.colorbar(colours, ax=axes, pad=0.01)
    bar.set_label("share of nameplate, positive injects", fontsize=7)
    return _bytes(figure, form, timezone)


def delivered(delivery: pl.DataFrame, timezone: str, form: Format = "svg") -> bytes:
    """Draw what the steered devices were planned to do against what they did.

    `delivery`: (interval_start, day_ahead_kw, planned_kw, measured_kw), nulls as zero.
    """
    figure, (axes,) = _figure(1, (9, 3.2), (1,))
    totals = (
        delivery.group_by("interval_start")
        .agg(pl.col("day_ahead_kw", "planned_kw", "measured_kw").sum())
        .sort("interval_start")
    )
    times = _local(totals, timezone)
    axes.step(times, totals["day_ahead_kw"], where="post", color="#bbb", lw=1, label="day-ahead")
    axes.step(times, totals["planned_kw"], where="post", color=_PRICE, lw=1.6, label="in force")
    axes.step(times, totals["measured_kw"], where="post", color=_MEASURED, lw=1, label="measured")
    axes.axhline(0, color="#555", lw=0.6)
    axes.set_ylabel("kW (positive injects)")
    axes.legend(frameon=False, fontsize=8, ncols=3)
    return _bytes(figure, form, timezone)


def delivery_scores(scores: pl.DataFrame, form: Format = "svg") -> bytes:
    """Draw what share of the power it is asked for each device delivers, the lowest of many.

    `scores`: (device_id, direction, score), lowest first.
    """
    shown = scores.head(_MOST_BARS)
    figure = _blank((9, 0.6 + 0.25 * max(shown.height, 1)))
    axes = figure.subplots()
    names = shown.select(pl.format("{} {}", "device_id", "direction")).to_series().to_list()
    bars = axes.barh(names, shown["score"], color=_PRICE, height=0.6)
    axes.bar_label(bars, fmt="{:.0%}", padding=4, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("share delivered of what was asked for")
    return _save(figure, form)


def forecast_skill(skill: pl.DataFrame, form: Format = "svg") -> bytes:
    """Draw what each candidate's forecasts lost a day, and how that compares with the naive rule.

    `skill`: (delivery_day, target, forecaster, champion, rmae, euros_lost), of some weeks; dark is
    who answered on the last of the days.
    """
    shown = (
        skill.sort("delivery_day")
        .group_by("target", "forecaster")
        .agg(
            pl.col("champion").last(),
            pl.col("rmae").mean(),
            pl.col("euros_lost").mean().fill_null(0.0),
            days=pl.len(),
        )
        .sort("target", "euros_lost", "forecaster")
    )
    figure = _blank((9, 0.8 + 0.3 * max(shown.height, 1)))
    axes = figure.subplots()
    bars = axes.barh(
        shown.select(pl.format("{}: {}", "target", "forecaster")).to_series().to_list(),
        shown["euros_lost"],
        color=[_PRICE if champion else "#b8b8b8" for champion in shown["champion"]],
        height=0.6,
    )
    labels = [
        f"{euros:.2f} EUR, " + ("" if rmae is None else f"rMAE {rmae:.2f}, ") + f"{days} d"
        for euros, rmae, days in shown.select("euros_lost", "rmae", "days").iter_rows()
    ]
    axes.bar_label(bars, labels=labels, padding=4, fontsize=7)
    axes.axvline(0, color="#555", lw=0.6)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("EUR lost a day to the forecast, all else foreseen")
    return _save(figure, form)


def costs(named_costs_eur: dict[str, float]) -> bytes:
    """Draw the day's cost of each way to run it, as SVG."""
    figure = _blank((9, 0.6 + 0.45 * len(named_costs_eur)))
    axes = figure.subplots()
    names = list(named_costs_eur)
    bars = axes.barh(names, list(named_costs_eur.values()), color=_PRICE, height=0.55)
    axes.bar_label(bars, fmt="%.2f EUR", padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("cost, EUR (lower is better)")
    return _save(figure, "svg")


def regret(day: pl.DataFrame, form: Format = "svg") -> bytes:
    """Draw how a day came from perfect foresight's cost to its own, loss by loss.

    `day`: one row of `settlement.regret.Regret`.
    """
    (row,) = day.to_dicts()
    spent = row["as_planned_eur"] if row["managed_eur"] is None else row["managed_eur"]
    losses = [row["solver_eur"], row["forecast_eur"], row["execution_eur"]]
    best = row["perfect_foresight_eur"]
    steps = [best, best + losses[0], best + losses[0] + losses[1]]
    names = ["perfect foresight", "lost to the solver", "lost to forecasts", "lost in execution"]
    figure = _blank((9, 3.0))
    axes = figure.subplots()
    bars = axes.barh(
        [*names, "the day as it was", "the unmanaged fleet"],
        [best, *losses, spent, row["unmanaged_eur"]],
        left=[0.0, *steps, 0.0, 0.0],
        color=[_PRICE, _MEASURED, _MEASURED, _MEASURED, _PRICE, "#b8b8b8"],
        height=0.55,
    )
    axes.bar_label(bars, fmt="%.2f EUR", padding=4, fontsize=8)
    axes.axvline(0, color="#555", lw=0.6)
    axes.invert_yaxis()
    axes.use_sticky_edges = False  # a cost below zero ends a bar, too, and needs room for its label
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("cost, EUR (lower is better)")
    return _save(figure, form)


def churn(plans: pl.DataFrame, form: Format = "svg") -> bytes:
    """Draw how much energy each re-plan moved, and of what share of the devices.

    `plans`: (revision, cause_kind, moved_kwh, share_moved), oldest first; of many the last.
    """
    shown = plans.tail(_MOST_BARS)
    figure = _blank((9, 0.6 + 0.25 * max(shown.height, 1)))
    axes = figure.subplots()
    names = [
        f"{revision}  {kind[:_LONGEST_CAUSE]}"
        for revision, kind in shown.select("revision", "cause_kind").iter_rows()
    ]
    bars = axes.barh(names, shown["moved_kwh"], color=_PRICE, height=0.6)
    shares = [f"{share:.0%} of devices" for share in shown["share_moved"]]
    axes.bar_label(bars, labels=shares, padding=4, fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("kWh moved by the re-plan")
    return _save(figure, form)


def _figure(
    rows: int, size: tuple[float, float], heights: Sequence[float]
) -> tuple[Figure, list[Any]]:
    figure = _blank(size)
    axes = figure.subplots(rows, 1, sharex=True, height_ratios=list(heights), squeeze=False)
    for ax in axes[:, 0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="x", color="#eee")
    return figure, list(axes[:, 0])


def _local(frame: pl.DataFrame, timezone: str) -> list[Any]:
    return frame["interval_start"].dt.convert_time_zone(timezone).to_list()


def _blank(size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow; a push draws nothing

    return Figure(figsize=size, layout="constrained")


def _bytes(figure: Figure, form: Format, timezone: str) -> bytes:
    axis = figure.axes[0].xaxis  # shared by all that have a time; a colour bar has none
    from matplotlib.dates import ConciseDateFormatter  # noqa: PLC0415 - slow, see `_blank`

    formatter: Any = ConciseDateFormatter  # its constructor has no types
    axis.set_major_formatter(
        # without what it would write in the corner: the date of the last tick, the day after
        formatter(axis.get_major_locator(), tz=timezone, show_offset=False)
    )
    return _save(figure, form)


def _save(figure: Figure, form: Format) -> bytes:
    target = io.BytesIO()
    # A fixed salt and no date make the same day the same file.
    import matplotlib as mpl  # noqa: PLC0415 - slow, see `_blank`

    with mpl.rc_context({"svg.hashsalt": "vpp", "svg.fonttype": "none"}):
        metadata = {"Date": None} if form == "svg" else None
        figure.savefig(target, format=form, dpi=110, metadata=metadata)
    return target.getvalue()
