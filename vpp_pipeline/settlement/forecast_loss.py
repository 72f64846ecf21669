"""What a forecast cost: a day planned on it, and lived as the day then was.

Belongs here: the euros lost to one target's forecast, all else known. Does not: other measures of
error (`forecasting.skill`), who is to answer next time (`forecasting.champions`), the day's whole
regret (`regret`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.problem import by_site
from vpp_pipeline.settlement.cost import day_cost
from vpp_pipeline.settlement.expected_stays import expected_stays
from vpp_pipeline.settlement.followed import followed_power
from vpp_pipeline.settlement.foresight import perfect_foresight
from vpp_pipeline.settlement.promises import with_promises_kept
from vpp_pipeline.settlement.stores import on_grid, stores, to_frame
from vpp_pipeline.settlement.unmanaged import unmanaged_power

if TYPE_CHECKING:
    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.optimization.settings import PlanSettings
    from vpp_pipeline.settlement.schemas import ActualDay
    from vpp_pipeline.settlement.stores import Floats

_CURTAILED_KW = 1e-3
_FREE = ["pv", "wind"]
_SUBJECT = {"load": "device_id", "generation": "device_id", "temperature": "site_id"}


def euros_lost(
    devices: dy.DataFrame[DeviceFrame],
    day: ActualDay,
    forecasts: pl.DataFrame,
    settings: PlanSettings,
    imbalance_spread_eur_per_mwh: float,
    *,
    sessions: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return `target`, `forecaster`, `euros_lost`: what planning on each forecast cost in the day.

    `forecasts` has `target` (`load`, `generation`, `temperature`, `price`), `forecaster` and the
    columns of `Forecasts`, one moment a forecaster; `sessions` has `forecaster` and those of
    `SessionForecasts`, and is scored as target `sessions`. Euros lost are the cost of the day planned on
    that one forecast, all else foreseen, less the cost with everything foreseen
    (`cost_if_believed`); null where the forecast leaves one of the day's values out. A solver that
    stops short of the optimum can make it negative by its gap.
    """

    def cost(believed: ActualDay) -> float:
        return cost_if_believed(devices, day, believed, settings, imbalance_spread_eur_per_mwh)

    foreseen = cost(day)
    rows = []
    for (target, forecaster), said in sorted(
        forecasts.partition_by("target", "forecaster", as_dict=True).items()
    ):
        believed = believing(day, str(target), said)
        lost = None if believed is None else cost(believed) - foreseen
        rows.append((target, forecaster, lost))
    if sessions is not None:
        for (forecaster,), expected in sorted(
            sessions.partition_by("forecaster", as_dict=True).items()
        ):
            believed = replace(day, stays=expected_stays(devices, day, expected))
            rows.append(("sessions", forecaster, cost(believed) - foreseen))
    schema = {"target": pl.String, "forecaster": pl.String, "euros_lost": pl.Float64}
    return pl.DataFrame(rows, schema, orient="row")


def cost_if_believed(
    devices: dy.DataFrame[DeviceFrame],
    day: ActualDay,
    believed: ActualDay,
    settings: PlanSettings,
    imbalance_spread_eur_per_mwh: float,
) -> float:
    """Return what `day` costs, in EUR, when it is planned once, before it begins, as `believed`.

    The plan is that of `perfect_foresight`, had the day been as believed; its schedules are then
    followed to the letter (`followed_power`) on what there really was. The cost is `day_cost`'s,
    and what forecasts alone bring about: each kWh off the fleet's planned sum costs the spread, as
    the market settles imbalance, and each kWh beyond a grid connection what the planner takes it
    to cost (`overload_eur_per_kwh`). With `believed` as the day was, this is perfect foresight's.

    A charger whose plan expects no vehicle is told nothing, so that one that comes charges at once.
    Where other stays are believed than came, promises are kept as a plant keeps them that plans
    again (`with_promises_kept`): a vehicle that comes tells what it needs.
    """
    held = stores(devices, day)
    planned_kw = perfect_foresight(devices, believed, settings).power_kw
    done_kw = followed_power(
        devices,
        day,
        held,
        unmanaged_power(devices, day, held),
        _schedules(devices, believed, planned_kw),
    )
    if believed.stays is not day.stays:
        done_kw = with_promises_kept(devices, held, done_kw)
    cost = day_cost(devices, day, held, done_kw, held.contents(done_kw), settings)
    off_kwh = np.abs((done_kw - planned_kw).sum(axis=1)).sum() * STEP_H
    overload_kwh = _beyond_connections(devices, done_kw).sum() * STEP_H
    return float(
        cost.total_eur
        + off_kwh * imbalance_spread_eur_per_mwh / 1000
        + overload_kwh * settings.overload_eur_per_kwh
    )


def believing(day: ActualDay, target: str, forecast: pl.DataFrame) -> ActualDay | None:
    """Return the day as it was, but for `target`, which is as the forecast said; None if it can't.

    `forecast` are `Forecasts` of one moment: of loads for `load`, of PV and wind for `generation`,
    of sites for `temperature` (a plan takes its p10), of the market for `price`. One that leaves out
    one of the day's values of a subject is not scored: a gap would count as foresight.
    """
    if target == "price":
        told = day.prices.select("interval_start").join(
            forecast.select("interval_start", price_eur_per_mwh="p50"),
            on="interval_start",
            how="left",
            maintain_order="left",
        )
        return None if told["price_eur_per_mwh"].null_count() else replace(day, prices=told)
    subject = _SUBJECT[target]
    quantile = "p10" if target == "temperature" else "p50"
    said = forecast.select(pl.col("subject_id").alias(subject), "interval_start", told=quantile)
    if target == "temperature":
        temperatures = _instead(day.temperatures, said, "temperature_c")
        return None if temperatures is None else replace(day, temperatures=temperatures)
    profiles = _instead(day.profiles, said, "available_kw")
    return None if profiles is None else replace(day, profiles=profiles)


def _instead(actual: pl.DataFrame, said: pl.DataFrame, value: str) -> pl.DataFrame | None:
    """Return the actuals with what was said of the subjects that it tells of; None for a gap."""
    keys = [name for name in actual.columns if name != value]
    subjects = said.select(pl.col(keys[0]).unique())
    told_of = actual.join(subjects, on=keys[0], how="semi")
    joined = told_of.join(said, on=keys, how="left", maintain_order="left")
    if joined["told"].null_count():
        return None
    others = actual.join(subjects, on=keys[0], how="anti")
    return pl.concat([others, joined.select(*keys, pl.col("told").alias(value))])


def _schedules(devices: pl.DataFrame, believed: ActualDay, planned_kw: Floats) -> pl.DataFrame:
    """Return the plan as schedules: a limit where sun or wind is curtailed, as a plan gives one.

    A charger has rows only where a vehicle is believed to be.
    """
    kind = devices["device_type"].cast(pl.String)
    free = kind.is_in(_FREE).to_numpy()
    there_kw = np.nan_to_num(
        on_grid(believed.profiles, "available_kw", devices, believed.intervals)
    )
    limit_kw = np.where(free & (planned_kw < there_kw - _CURTAILED_KW), planned_kw, np.nan)
    nobody = (kind == "ev_charger").to_numpy() & ~stores(devices, believed).present
    told_kw = np.where(nobody, np.nan, planned_kw)
    return to_frame(told_kw, "power_kw", devices, believed.intervals).join(
        to_frame(limit_kw, "limit_kw", devices, believed.intervals),
        on=["device_id", "interval_start"],
        how="left",
    )


def _beyond_connections(devices: pl.DataFrame, power_kw: Floats) -> Floats:
    """Return by how much each quarter-hour (T,) passes the sites' limits, kW summed over sites."""
    sites = devices.select(
        "site_id", "site_import_limit_kw", "site_export_limit_kw"
    ).with_row_index("place")
    limits = sites.unique("site_id", maintain_order=True)
    site = (
        devices.select("site_id")
        .join(limits.select("site_id").with_row_index("site"), on="site_id", maintain_order="left")[
            "site"
        ]
        .to_numpy()
    )
    net_kw = by_site(power_kw, site, limits.height)
    imports = np.maximum(-net_kw - limits["site_import_limit_kw"].to_numpy(), 0)
    exports = np.maximum(net_kw - limits["site_export_limit_kw"].to_numpy(), 0)
    beyond: Floats = (imports + exports).sum(axis=1)
    return beyond
