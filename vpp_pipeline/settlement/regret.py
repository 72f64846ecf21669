"""What a day cost more than the best that could have been done, and where it was lost.

Belongs here: regret and its parts, from costs and certificates. Does not: any cost (`cost`),
running a day one way or another (`foresight`, `followed`, `unmanaged`).
"""

from __future__ import annotations

import dataframely as dy
import polars as pl


class Regret(dy.Schema):
    """One row a delivery day; EUR. Of a loss, positive is money lost."""

    delivery_day = dy.Date(primary_key=True)
    unmanaged_eur = dy.Float64()
    perfect_foresight_eur = dy.Float64()
    as_planned_eur = dy.Float64()
    managed_eur = dy.Float64(nullable=True, description="null: the day was planned and not run")
    solver_eur = dy.Float64()
    forecast_eur = dy.Float64()
    execution_eur = dy.Float64()
    regret_eur = dy.Float64()
    saved_eur = dy.Float64(description="of what the unmanaged fleet would have cost")
    unproven_quarter_hours = dy.Int64(
        min=0, description="in which a plan without a bound was in force"
    )


def regret(costs: pl.DataFrame, plans: pl.DataFrame) -> dy.DataFrame[Regret]:
    """Return each delivery day's regret, split so that the parts add up to it.

    `costs` (delivery_day, basis, total_eur) are `settlements`, of one settling each; `plans`
    (delivery_day, objective_eur, bound_eur, in_force, quarter_hours) the plans that were in force:
    how many of their `quarter_hours` each was, after re-plans took over the rest.

    Each way to run the day is costed alike, on what really happened. From the best to what was:

        perfect foresight  the day planned by someone who knew it all
        + solver           what the plans' certificates leave open: objective less bound, by the
                           share of its horizon that each plan was in force; 0 where unproven.
                           The most that a better solver could have gained on what was believed
        + forecast         the rest of what the schedules in force cost, followed to the letter:
                           what was not known. A re-plan that makes do without a device that
                           failed counts here, the quarter-hours until then below
        = as planned       each quarter-hour by the plan released last before it began
        + execution        what devices, commands, guards and orders made of it
        = managed          as measured

    `regret_eur` is managed less perfect foresight, `saved_eur` unmanaged less managed. A day that
    was planned and not run has no managed cost: it counts as followed to the letter. A day that
    lacks another way to run it has no row.
    """
    solver = plans.group_by("delivery_day").agg(
        solver_eur=(
            (pl.col("objective_eur") - pl.col("bound_eur")).clip(lower_bound=0.0)
            * pl.col("in_force")
            / pl.col("quarter_hours")
        ).sum(),
        unproven_quarter_hours=pl.col("in_force").filter(pl.col("bound_eur").is_null()).sum(),
    )
    ways = [
        costs.filter(pl.col("basis") == basis).select(
            "delivery_day", pl.col("total_eur").alias(f"{basis}_eur")
        )
        for basis in ("unmanaged", "perfect_foresight", "as_planned")
    ]
    managed = costs.filter(pl.col("basis") == "managed").select(
        "delivery_day", managed_eur="total_eur"
    )
    spent = pl.coalesce("managed_eur", "as_planned_eur")
    unmanaged, perfect, as_planned = ways
    return Regret.validate(
        unmanaged.join(perfect, on="delivery_day")
        .join(as_planned, on="delivery_day")
        .join(managed, on="delivery_day", how="left")
        .join(solver, on="delivery_day", how="left")
        .with_columns(pl.col("solver_eur", "unproven_quarter_hours").fill_null(0))
        .with_columns(
            forecast_eur=pl.col("as_planned_eur")
            - pl.col("perfect_foresight_eur")
            - pl.col("solver_eur"),
            execution_eur=spent - pl.col("as_planned_eur"),
            regret_eur=spent - pl.col("perfect_foresight_eur"),
            saved_eur=pl.col("unmanaged_eur") - spent,
        )
        .select(Regret.column_names())
        .sort("delivery_day"),
        cast=True,
    )
