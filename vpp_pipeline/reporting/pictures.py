"""Pictures of plans and days, as SVG or PNG bytes.

Belongs here: drawing frames. Does not: blank figures (`canvas`), deciding what to show where
(`html`, the assets).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from vpp_pipeline.delivery_day import STEP
from vpp_pipeline.reporting import canvas

if TYPE_CHECKING:
    from vpp_pipeline.reporting.canvas import Format

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


def prices_and_plan(
    schedules: pl.DataFrame, prices: pl.DataFrame, timezone: str, form: Format = "svg"
) -> bytes:
    """Draw the plan stacked by device type under the price that shaped it.

    `schedules`: (device_type, interval_start, power_kw); `prices`: (interval_start,
    price_eur_per_mwh) and, where some are not published yet, `origin`.
    """
    figure, (top, bottom) = canvas.over_time(2, (9, 5), (1, 2))
    market = prices.sort("interval_start")
    times, price = canvas.instants(market["interval_start"]), market["price_eur_per_mwh"]
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
    times = canvas.instants(by_type["interval_start"])
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
    return canvas.saved_over_time(figure, form, timezone)


def stored_energy(
    planned: pl.DataFrame, measured: pl.DataFrame, timezone: str, form: Format = "svg"
) -> bytes:
    """Draw the batteries' stored energy, planned against measured.

    Both frames: (interval_start, energy_kwh), summed over the batteries.
    """
    figure, (axes,) = canvas.over_time(1, (9, 2.8), (1,))
    for frame, colour, label in (
        (planned, _PRICE, "planned"),
        (measured, _MEASURED, "measured"),
    ):
        ordered = frame.sort("interval_start")
        if ordered.height:
            axes.plot(
                canvas.instants(ordered["interval_start"]),
                ordered["energy_kwh"],
                color=colour,
                label=label,
            )
    axes.set_ylabel("kWh in batteries")
    axes.set_ylim(bottom=0)
    if axes.lines:  # a fleet without batteries has nothing to name
        axes.legend(frameon=False, fontsize=8)
    return canvas.saved_over_time(figure, form, timezone)


def band(course: pl.DataFrame, timezone: str, label: str, form: Format = "svg") -> bytes:
    """Draw a forecast's p50 in its band from p10 to p90.

    `course`: (interval_start, p10, p50, p90); `label` names what it is of, and its unit.
    """
    figure, (axes,) = canvas.over_time(1, (9, 2.8), (1,))
    ordered = course.sort("interval_start")
    times = canvas.instants(ordered["interval_start"])
    axes.fill_between(
        times, ordered["p10"], ordered["p90"], step="post", color=_BAND, lw=0, label="p10 to p90"
    )
    axes.step(times, ordered["p50"], where="post", color=_PRICE, lw=1.4, label="p50")
    axes.set_ylabel(label)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return canvas.saved_over_time(figure, form, timezone)


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
    times = shares["interval_start"].unique().sort()
    names = rows["device_id"].to_list()
    size = (9, max(1.5, 0.8 + 0.16 * rows.height))
    figure = canvas.blank(size, left=canvas.width_of(names, 6), right=1.05)
    axes = figure.subplots()
    colours = axes.pcolormesh(
        canvas.instants(times.append(times.tail(1) + STEP)),
        [row - 0.5 for row in range(rows.height + 1)],
        rows.drop("device_type", "device_id").to_numpy(),
        cmap="RdBu",
        vmin=-1,
        vmax=1,
    )
    axes.invert_yaxis()
    axes.set_yticks(range(rows.height), names, fontsize=6)
    place = axes.get_position()
    beside = figure.add_axes((1 - 0.95 / size[0], place.y0, 0.2 / size[0], place.height))
    bar = figure.colorbar(colours, cax=beside)
    words = ["draws 1", "0.5", "0", "0.5", "injects 1"]
    bar.set_ticks([-1, -0.5, 0, 0.5, 1], labels=words, fontsize=7)
    bar.set_label("share of nameplate", fontsize=7)
    return canvas.saved_over_time(figure, form, timezone)


def delivered(delivery: pl.DataFrame, timezone: str, form: Format = "svg") -> bytes:
    """Draw what the steered devices were planned to do against what they did.

    `delivery`: (interval_start, day_ahead_kw, planned_kw, measured_kw), nulls as zero.
    """
    figure, (axes,) = canvas.over_time(1, (9, 3.2), (1,))
    totals = (
        delivery.group_by("interval_start")
        .agg(pl.col("day_ahead_kw", "planned_kw", "measured_kw").sum())
        .sort("interval_start")
    )
    times = canvas.instants(totals["interval_start"])
    axes.step(times, totals["day_ahead_kw"], where="post", color="#bbb", lw=1, label="day-ahead")
    axes.step(times, totals["planned_kw"], where="post", color=_PRICE, lw=1.6, label="in force")
    axes.step(times, totals["measured_kw"], where="post", color=_MEASURED, lw=1, label="measured")
    axes.axhline(0, color="#555", lw=0.6)
    axes.set_ylabel("kW (positive injects)")
    axes.legend(frameon=False, fontsize=8, ncols=3)
    return canvas.saved_over_time(figure, form, timezone)


def delivery_scores(scores: pl.DataFrame, form: Format = "svg") -> bytes:
    """Draw what share of the power it is asked for each device delivers, the lowest of many.

    `scores`: (device_id, direction, score), lowest first.
    """
    shown = scores.head(_MOST_BARS)
    names = shown.select(pl.format("{} {}", "device_id", "direction")).to_series().to_list()
    figure, axes = canvas.bars(names, "share delivered of what was asked for", 0.25)
    bars = axes.barh(names, shown["score"], color=_PRICE, height=0.6)
    axes.bar_label(bars, fmt="{:.0%}", padding=4, fontsize=7)
    axes.set_xlim(0, 1.1)
    return canvas.saved(figure, form)


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
            pl.col("rmae", "euros_lost").mean(),
            days=pl.len(),
        )
        .sort("target", "euros_lost", "forecaster")
    )
    names = shown.select(pl.format("{}: {}", "target", "forecaster")).to_series().to_list()
    figure, axes = canvas.bars(names, "EUR lost a day to the forecast, all else foreseen", 0.3)
    bars = axes.barh(
        names,
        shown["euros_lost"].fill_null(0.0),
        color=[_PRICE if champion else "#b8b8b8" for champion in shown["champion"]],
        height=0.6,
    )
    labels = [
        ("" if euros is None else f"{euros:.2f} EUR, ")
        + ("" if rmae is None else f"rMAE {rmae:.2f}, ")
        + f"{days} d"
        for euros, rmae, days in shown.select("euros_lost", "rmae", "days").iter_rows()
    ]
    axes.bar_label(bars, labels=labels, padding=4, fontsize=7)
    axes.axvline(0, color="#555", lw=0.6)
    axes.margins(x=0.2)
    return canvas.saved(figure, form)


def costs(named_costs_eur: dict[str, float]) -> bytes:
    """Draw the day's cost of each way to run it, as SVG."""
    names = list(named_costs_eur)
    figure, axes = canvas.bars(names, "cost, EUR (lower is better)", 0.45)
    bars = axes.barh(names, list(named_costs_eur.values()), color=_PRICE, height=0.55)
    axes.bar_label(bars, fmt="%.2f EUR", padding=4, fontsize=8)
    axes.margins(x=0.15)
    return canvas.saved(figure, "svg")


def regret(day: pl.DataFrame, form: Format = "svg") -> bytes:
    """Draw how a day came from perfect foresight's cost to its own, loss by loss.

    `day`: one row of `settlement.regret.Regret`.
    """
    (row,) = day.to_dicts()
    spent = row["as_planned_eur"] if row["managed_eur"] is None else row["managed_eur"]
    losses = [row["solver_eur"], row["forecast_eur"], row["execution_eur"]]
    best = row["perfect_foresight_eur"]
    steps = [best, best + losses[0], best + losses[0] + losses[1]]
    names = [
        "perfect foresight",
        *("lost to the solver", "lost to forecasts", "lost in execution"),
        *("the day as it was", "the unmanaged fleet"),
    ]
    figure, axes = canvas.bars(names, "cost, EUR (lower is better)", 0.4)
    bars = axes.barh(
        names,
        [best, *losses, spent, row["unmanaged_eur"]],
        left=[0.0, *steps, 0.0, 0.0],
        color=[_PRICE, _MEASURED, _MEASURED, _MEASURED, _PRICE, "#b8b8b8"],
        height=0.55,
    )
    axes.bar_label(bars, fmt="%.2f EUR", padding=4, fontsize=8)
    axes.axvline(0, color="#555", lw=0.6)
    axes.use_sticky_edges = False  # a cost below zero ends a bar, too, and needs room for its label
    axes.margins(x=0.15)
    return canvas.saved(figure, form)


def churn(plans: pl.DataFrame, form: Format = "svg") -> bytes:
    """Draw how much energy each re-plan moved, and of what share of the devices.

    `plans`: (revision, cause_kind, moved_kwh, share_moved), oldest first; of many the last.
    """
    shown = plans.tail(_MOST_BARS)
    names = [
        f"{revision}  {kind[:_LONGEST_CAUSE]}"
        for revision, kind in shown.select("revision", "cause_kind").iter_rows()
    ]
    figure, axes = canvas.bars(names, "kWh moved by the re-plan", 0.25)
    bars = axes.barh(names, shown["moved_kwh"], color=_PRICE, height=0.6)
    shares = [f"{share:.0%} of devices" for share in shown["share_moved"]]
    axes.bar_label(bars, labels=shares, padding=4, fontsize=7)
    axes.margins(x=0.15)
    return canvas.saved(figure, form)
