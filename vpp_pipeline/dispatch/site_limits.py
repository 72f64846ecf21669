"""What a site may draw and inject, shared out over the commands for its devices.

Belongs here: the balance of a site at its grid connection. Does not: what a device may do by
itself (`guard`), where a grid limit comes from (`orders`).
"""

from __future__ import annotations

import polars as pl

from vpp_pipeline.dispatch.commands import CAPPED_TYPES
from vpp_pipeline.dispatch.orders import FAILSAFE, GRID_OPERATOR

_SURE_TYPES = ("battery", "chp")
_NOISE_KW = 1e-6
_SLACK_KW = 1e-9


def within_site_limits(
    commands: pl.DataFrame, plant: pl.DataFrame, standing: pl.DataFrame
) -> pl.DataFrame:
    """Return `command_id`, `shared_kw`, and of those that changed `site_reason` and whose it is.

    `site_authority` and `site_order_id` are null where it is the connection's own limit.

    `commands` has `kw` within each device's own bounds and the columns of `plant` (`evidence`, a
    row for every device); `standing` has the sites' grid limits. The site's net power stays
    within its connection's limits and those.

    The rest of the site counts from the lower to the higher of its measured power and its
    set-point in force, at its nameplate's worst side where neither can be trusted. Of the commands,
    a draw counts against the draw limit and an injection against the injection limit; only a
    battery or a CHP is sure enough to make room for the other direction. PV and wind count as
    injection up to their cap, never against the draw limit.

    What is too much is taken off the commands of that direction pro rata; caps first come down to
    what PV and wind could give now, which costs nothing. Where the rest of the site alone is
    beyond a limit, what remains of that direction is 0.
    """
    rows = commands.with_columns(
        draw=(-pl.col("kw")).clip(0),
        expected=pl.when(pl.col("device_type").is_in(CAPPED_TYPES))
        .then(pl.min_horizontal("kw", "available_kw"))
        .otherwise("kw")
        .clip(0),
        sure=pl.col("device_type").is_in(_SURE_TYPES),
    ).with_columns(headroom=pl.col("kw").clip(0) - pl.col("expected"))
    asked = rows.group_by("site_id").agg(
        pl.col("draw", "expected", "headroom").sum(),
        sure_draw=(pl.col("draw") * pl.col("sure")).sum(),
        sure_inject=(pl.col("expected") * pl.col("sure")).sum(),
    )
    room = (
        asked.join(_sites(plant, standing), on="site_id", how="left")
        .join(_besides(commands, plant), on="site_id", how="left")
        .with_columns(pl.col("besides_low_kw", "besides_high_kw").fill_null(0.0))
        .with_columns(
            draw_room=pl.col("besides_low_kw") - pl.col("least_kw"),
            inject_room=pl.col("most_kw") - pl.col("besides_high_kw"),
        )
    )
    shares = room.select(
        pl.exclude("draw", "expected", "headroom", "sure_draw", "sure_inject"),
        *_shares("netted", pl.col("sure_draw"), pl.col("sure_inject")),
        *_shares("apart", pl.lit(0.0), pl.lit(0.0)),
    )
    options = rows.join(shares, on="site_id", how="left", maintain_order="left").with_columns(
        netted=_kept("netted"), apart=_kept("apart")
    )
    return (
        options.join(_holding(options), on="site_id", how="left", maintain_order="left")
        .with_columns(shared_kw=pl.when("holds").then("netted").otherwise("apart"))
        .select("command_id", "shared_kw", **_told())
    )


def _sites(plant: pl.DataFrame, standing: pl.DataFrame) -> pl.DataFrame:
    """A row a site: the least and the most its net power may be, and by whose word."""
    grid_low, grid_high = pl.col("site_low_kw").fill_nan(0.0), pl.col("site_high_kw").fill_nan(0.0)
    own_low, own_high = -pl.col("site_import_limit_kw"), pl.col("site_export_limit_kw")
    sites = (
        plant.select("device_id", "site_id", "site_import_limit_kw", "site_export_limit_kw")
        .join(standing, on="device_id", how="left")
        .group_by("site_id")
        .agg(
            pl.col("site_import_limit_kw", "site_export_limit_kw").first(),
            grid_low.max(),
            grid_high.min(),
            pl.col("site_low_id", "site_high_id", "site_low_words", "site_high_words")
            .drop_nulls()
            .first(),
        )
    )
    return sites.select(
        "site_id",
        least_kw=pl.max_horizontal(own_low, "site_low_kw"),
        most_kw=pl.min_horizontal(own_high, "site_high_kw"),
        **_whose("least", "low", grid_low >= own_low),
        **_whose("most", "high", grid_high <= own_high),
    )


def _whose(limit: str, side: str, by_grid: pl.Expr) -> dict[str, pl.Expr]:
    order_id = pl.col(f"site_{side}_id")
    operator = pl.when(order_id.is_null()).then(pl.lit(FAILSAFE)).otherwise(pl.lit(GRID_OPERATOR))
    connection = pl.lit("the grid connection")
    return {
        f"{limit}_authority": pl.when(by_grid).then(operator),
        f"{limit}_id": pl.when(by_grid).then(order_id),
        f"{limit}_words": pl.when(by_grid).then(f"site_{side}_words").otherwise(connection),
    }


def _besides(commands: pl.DataFrame, plant: pl.DataFrame) -> pl.DataFrame:
    """A row a site: between what and what the devices without a command leave its net power."""
    capped = pl.col("device_type").is_in(CAPPED_TYPES)
    moving = (pl.col("status") != "offline") & pl.col("measured_kw").is_not_null()
    ordered_kw = (
        pl.when(capped & pl.col("in_force_kw").is_not_null())
        .then(pl.min_horizontal("in_force_kw", "available_kw"))
        .when(~capped & pl.col("plugged_in").ne_missing(other=False))
        .then("in_force_kw")
    )
    return (
        plant.join(commands, on="device_id", how="anti")
        .with_columns(ordered_kw=ordered_kw)
        .group_by("site_id")
        .agg(
            besides_low_kw=pl.when(moving)
            .then(pl.min_horizontal("measured_kw", pl.when(~capped).then("ordered_kw")))
            .otherwise(-pl.col("max_draw_kw"))
            .sum(),
            besides_high_kw=pl.when(moving)
            .then(pl.max_horizontal("measured_kw", "ordered_kw"))
            .otherwise("max_inject_kw")
            .sum(),
        )
    )


def _shares(name: str, sure_draw: pl.Expr, sure_inject: pl.Expr) -> list[pl.Expr]:
    """The parts of draw, expected injection and headroom that are kept, if so much offsets."""
    keep_draw = _share(pl.col("draw_room") + sure_inject, pl.col("draw"))
    inject_room = pl.col("inject_room") + sure_draw * keep_draw
    keep_inject = _share(inject_room, pl.col("expected"))
    left_kw = inject_room - pl.col("expected") * keep_inject
    return [
        keep_draw.alias(f"{name}_draw"),
        keep_inject.alias(f"{name}_inject"),
        _share(left_kw, pl.col("headroom")).alias(f"{name}_headroom"),
    ]


def _share(room_kw: pl.Expr, asked_kw: pl.Expr) -> pl.Expr:
    """The part of what is asked that there is room for, 0 to 1."""
    return pl.when(asked_kw > room_kw).then((room_kw / asked_kw).clip(0, 1)).otherwise(1.0)


def _kept(name: str) -> pl.Expr:
    """The set-points after each direction kept its share."""
    injected = pl.col("expected") * pl.col(f"{name}_inject")
    kw = (
        pl.when(pl.col("kw") < 0)
        .then(pl.col("kw") * pl.col(f"{name}_draw"))
        .otherwise(injected + pl.col("headroom") * pl.col(f"{name}_headroom"))
    )
    return pl.when(kw.abs() < pl.col("min_active_kw")).then(0.0).otherwise(kw)


def _holding(options: pl.DataFrame) -> pl.DataFrame:
    """A row a site: whether both its limits hold if its commands are `netted`."""
    kw, sure = pl.col("netted"), pl.col("sure")
    lowest = (kw.clip(None, 0) + kw.clip(0) * sure).sum()
    highest = (kw.clip(0) + kw.clip(None, 0) * sure).sum()
    return options.group_by("site_id").agg(
        holds=(lowest + pl.col("draw_room").first() >= -_NOISE_KW)
        & (highest - pl.col("inject_room").first() <= _NOISE_KW)
    )


def _told() -> dict[str, pl.Expr]:
    draws = pl.format(
        "the site may draw {} kW by {}, and {} kW are drawn besides",
        (-pl.col("least_kw")).round(3),
        "least_words",
        (-pl.col("besides_low_kw")).round(3),
    )
    injects = pl.format(
        "the site may inject {} kW by {}, and {} kW are injected besides",
        pl.col("most_kw").round(3),
        "most_words",
        pl.col("besides_high_kw").round(3),
    )
    changed = (pl.col("shared_kw") - pl.col("kw")).abs() > _SLACK_KW
    by_draw = pl.col("kw") < 0
    return {
        name: pl.when(changed).then(pl.when(by_draw).then(draw).otherwise(inject))
        for name, draw, inject in (
            ("site_reason", draws, injects),
            ("site_authority", pl.col("least_authority"), pl.col("most_authority")),
            ("site_order_id", pl.col("least_id"), pl.col("most_id")),
        )
    }
