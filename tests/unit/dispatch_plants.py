"""Plants as bad as they come: fleets, telemetry, wishes and orders drawn as whole frames.

A hypothesis example is a seed and a handful of values; the rows are drawn from them, so that one
example holds hundreds of devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl
from dispatch_cases import START, devices, telemetry
from hypothesis import strategies as st

from vpp_pipeline.dispatch.orders import Order
from vpp_pipeline.dispatch.schemas import Commands

KINDS = devices()
DEVICES = 200
SITES = 40

NASTY = [None, math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1e-9, 1e6, -1e6, 1e300, -32768.0]
NASTY += [65535.0, -2147483648.0, 4294967295.0, 1.4, -1.4, 9.0, 8.999, 12.0, -12.0]


@dataclass(frozen=True, repr=False)
class Plant:
    """Frames as `guard` takes them, the orders, and the moment in seconds after START."""

    devices: pl.DataFrame
    states: pl.DataFrame
    commands: pl.DataFrame
    orders: list[Order]
    now_s: int

    def _repr_pretty_(self, printer, _cycle: bool) -> None:
        """Be shown in short: frames of hundreds of rows tell nobody anything."""
        printer.text(f"a plant of {self.commands.height} commands at {self.now_s} s")


@st.composite
def plants(draw: st.DrawFn) -> Plant:
    """Return a plant of `DEVICES` devices at up to `SITES` sites, one to some fifteen each."""
    values = NASTY + draw(st.lists(st.floats(), min_size=4, max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nasty_share = draw(st.sampled_from([0.02, 0.3]))
    now_s = draw(st.integers(-300, 1260))
    fleet = _fleet(rng, draw(st.sampled_from([3, SITES])), draw(st.booleans()), values)
    return Plant(
        fleet,
        _states(rng, fleet, values, nasty_share, now_s),
        _commands(rng, fleet, values, nasty_share),
        _orders(rng, fleet),
        now_s,
    )


def _pick(rng: np.random.Generator, values: list, count: int) -> list:
    return [values[n] for n in rng.integers(0, len(values), count)]


def _mixed(rng, values: list, share: float, low: np.ndarray, high: np.ndarray) -> list:
    """Numbers between low and high, a share of them replaced by others."""
    fine = rng.uniform(low, high).tolist()
    bad = rng.random(len(fine)) < share
    return [b if is_bad else f for f, b, is_bad in zip(fine, _pick(rng, values, len(fine)), bad, strict=True)]  # fmt: skip


def _fleet(rng, sites: int, poisoned: bool, values: list) -> pl.DataFrame:
    fleet = KINDS[rng.integers(0, KINDS.height, DEVICES).tolist()].with_columns(
        device_id=pl.format("d{}", pl.int_range(pl.len())),
        site_id=pl.format("s{}", pl.Series(rng.integers(0, sites, DEVICES))),
        live=pl.Series(rng.random(DEVICES) > 0.05),
        tags=pl.Series([[f"t{n}"] for n in rng.integers(0, 3, DEVICES)]),
        groups=pl.Series(_pick(rng, [[], ["g"]], DEVICES), dtype=pl.List(pl.String)),
        ramp_kw_per_min=pl.Series(_pick(rng, [None, None, 0.1, 1.0], DEVICES), dtype=pl.Float64),
    )
    limits = pl.DataFrame(
        {
            "site_id": [f"s{n}" for n in range(sites)],
            "site_import_limit_kw": _pick(rng, [5.0, 20.0, 100.0, 1000.0], sites),
            "site_export_limit_kw": _pick(rng, [0.0, 10.0, 100.0, 1000.0], sites),
            "site_failsafe_import_kw": _pick(rng, [None, 4.2], sites),
            "site_failsafe_export_kw": _pick(rng, [None, 0.0, 3.0], sites),
        },
        schema_overrides=dict.fromkeys(
            ["site_failsafe_import_kw", "site_failsafe_export_kw"], pl.Float64
        ),
    )
    fleet = fleet.update(limits, on="site_id", include_nulls=True)
    if not poisoned:
        return fleet
    names = ["max_inject_kw", "max_draw_kw", "max_energy_kwh", "charge_efficiency"]
    return fleet.with_columns(
        pl.when(pl.Series(rng.random(DEVICES) < 0.03))
        .then(pl.Series(_pick(rng, values, DEVICES), dtype=pl.Float64).abs())
        .otherwise(name)
        .alias(name)
        for name in names
    )


def _states(rng, fleet: pl.DataFrame, values: list, share: float, now_s: int) -> pl.DataFrame:
    """One or two readings of most devices."""
    schema = telemetry("pv").schema
    heard = rng.random(DEVICES) > 0.05
    twice = pl.concat([fleet.filter(heard), fleet.filter(rng.random(DEVICES) < 0.2)])
    count = twice.height
    low, high = (-twice["max_draw_kw"]), twice["max_inject_kw"]
    low = np.nan_to_num(low.fill_null(0).to_numpy(), posinf=0, neginf=0).clip(-50, 0) + 0.0
    high = np.nan_to_num(high.fill_null(0).to_numpy(), posinf=0, neginf=0).clip(0, 50) + 0.0
    age_s = rng.uniform(0, 200, count) + np.where(rng.random(count) < 0.05, 400, 0)
    age_s -= np.where(rng.random(count) < 0.05, 500, 0)
    rows = {
        "device_id": twice["device_id"].to_list(),
        "measured_at": [START + timedelta(seconds=now_s - age) for age in age_s],
        "power_kw": _mixed(rng, values, share, low, high),
        "setpoint_kw": _mixed(rng, [None, *values], share + 0.3, low, high),
        "energy_kwh": _mixed(rng, values, share, np.zeros(count), np.full(count, 20.0)),
        "available_power_kw": _mixed(rng, [None, *values], share + 0.3, np.zeros(count), high),
        "plugged_in": _pick(rng, [True, True, False, None], count),
        "heartbeat": _pick(rng, [None, 1, 2], count),
        "status": _pick(rng, ["ok"] * 20 + ["local", "fault", "offline", None], count),
        "known_at": [START] * count,
    }
    rows["temperature_c"] = rows["target_energy_kwh"] = rows["deadline"] = [None] * count
    return pl.DataFrame(rows, schema=schema)


def _commands(rng, fleet: pl.DataFrame, values: list, share: float) -> pl.DataFrame:
    """A wish for most devices, now and then two, and some for devices that nobody knows."""
    names = fleet.filter(rng.random(DEVICES) > 0.15)["device_id"].to_list()
    names += _pick(rng, [*names, "ghost", "ghost-2"], 4)
    kw = _mixed(rng, values, share, np.full(len(names), -15.0), np.full(len(names), 15.0))
    return pl.DataFrame(
        {
            "command_id": [f"c{n}" for n in range(len(names))],
            "device_id": names,
            "plan_id": "plan",
            "plan_version": 1,
            "sequence": 1,
            "interval_start": START,
            "valid_from": START,
            "valid_until": START + timedelta(minutes=20),
            "planned_kw": kw,
            "setpoint_kw": kw,
            "guard_reason": "",
        },
        schema=Commands.create_empty().schema,
    )


def _orders(rng, fleet: pl.DataFrame) -> list[Order]:
    """Orders that contradict one another, for single devices, sites, tags and the group."""
    own = [f"device:{name}" for name in _pick(rng, fleet["device_id"].to_list(), 8)]
    sites = [f"site:{name}" for name in _pick(rng, fleet["site_id"].to_list(), 6)]
    scopes = [*own, *sites, *own, "tag:t0", "group:g"]
    kinds = ["stop", "resume", "grid_limit", "grid_limit", "override", "override", "cancel"]
    return [_order(rng, number, _pick(rng, kinds, 1)[0], _pick(rng, scopes, 1)[0]) for number in range(12)]  # fmt: skip


def _order(rng, number: int, kind: str, scope: str) -> Order:
    begin = START + timedelta(minutes=float(rng.uniform(-60, 10)))
    timed = {"valid_from": begin, "valid_until": begin + timedelta(minutes=float(rng.uniform(1, 90)))}  # fmt: skip
    fields: dict[str, object] = {
        "grid_limit": {
            "min_kw": None if rng.random() < 0.3 else -float(rng.uniform(0, 15)),
            "max_kw": None if rng.random() < 0.3 else float(rng.uniform(0, 15)),
            **timed,
        },
        "override": {"power_kw": float(rng.uniform(-40, 40)), **timed},
        "cancel": {"cancels": f"o{rng.integers(0, 12)}"},
    }.get(kind, {})
    told = {"order_id": f"o{number}", "who": "ada", "why": "test", "given_at": START}
    return Order.model_validate({**told, "kind": kind, "scope": scope, **fields})
