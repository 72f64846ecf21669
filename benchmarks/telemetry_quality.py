"""How well the rules of telemetry quality tell faults, and what a fleet's day costs.

`python benchmarks/telemetry_quality.py` prints three tables:

- stale values on the labelled series of an inverter. A labelled run counts whole, its first
  sample too: a flag is set on a run from its first reading, once the run is long enough. Before
  that (three hours) it can't be told from steady sun.
- faults put into measured series by a seeded generator: an inverter (15 min) and the five homes'
  loads and PV (60 min), in windows of four weeks as forecasts read them. One kind of fault at a
  time; a reading that the fault changes by 2 % of the rating or less is not counted as wrong, so
  precision is that of any rule, on a reading left as it was. A shifted day is flagged whole, its
  true zeros too.
- 10,000 devices over a day of quarter-hours: seconds and memory.
"""

from __future__ import annotations

import resource
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from vpp_pipeline.telemetry_quality.flags import broken_rules
from vpp_pipeline.telemetry_quality.repair import telemetry_flags, trusted
from vpp_pipeline.telemetry_quality.schemas import VALUE_RULES
from vpp_pipeline.telemetry_quality.settings import QualitySettings

DATA = Path(__file__).parent / "data"
SETTINGS = QualitySettings()
WINDOW_DAYS = 28
DEVICES = 10_000


def main() -> None:
    print("stale values, labelled")
    print(table([labelled()]))
    print("faults put in (seed 1)")
    rng = np.random.default_rng(1)
    series = measured_series()
    kinds = [None, freeze, spike, flip, level, delay]
    print(table([injected(name, kind, rows, rng) for kind in kinds for name, rows in series]))
    print(f"{DEVICES:,} devices, one day of quarter-hours")
    at_scale()


def labelled() -> dict[str, object]:
    stale = pl.read_parquet(DATA / "telemetry_stale_labelled_15min.parquet")
    rows = readings(
        "pv", "pv", 1.0, stale.select(measured_at="ts_utc", power_kw="value_normalized")
    )
    return score("labelled inverter", "freeze", rows, stale["stale_data_mask"])


def measured_series() -> list[tuple[str, pl.DataFrame]]:
    """Return windows of four weeks, one device each, by the name of their source."""
    inverter = pl.read_parquet(DATA / "pv_nrel_serf_east_15min_2016.parquet").select(
        measured_at="ts_utc", power_kw=pl.col("ac_power_raw") / 1000
    )
    homes = pl.read_parquet(DATA / "citylearn2022_b1-5_days0-239_60min.parquet").with_columns(
        measured_at=datetime(2022, 1, 1, 8, tzinfo=UTC) + pl.duration(hours="hour_index")
    )
    found = [("inverter", windows("inverter", "pv", 5.5, inverter))]
    loads, roofs = [], []
    for (building,), rows in homes.group_by("building", maintain_order=True):
        load = rows.select("measured_at", power_kw=-pl.col("load_kwh"))
        roof = rows.select("measured_at", power_kw="pv_kwh")
        loads.append(windows(f"load-{building}", "load", 10.0, load))
        roofs.append(windows(f"roof-{building}", "pv", float(roof["power_kw"].max()), roof))
    return [*found, ("homes' loads", pl.concat(loads)), ("homes' PV", pl.concat(roofs))]


def windows(name: str, kind: str, rating_kw: float, rows: pl.DataFrame) -> pl.DataFrame:
    start = rows["measured_at"][0]
    cut = (pl.col("measured_at") - start).dt.total_days() // WINDOW_DAYS
    return readings(pl.format("{}/{}", pl.lit(name), cut), kind, rating_kw, rows)


def readings(name: str | pl.Expr, kind: str, rating_kw: float, rows: pl.DataFrame) -> pl.DataFrame:
    device = pl.lit(name) if isinstance(name, str) else name
    return rows.with_columns(
        device_id=device,
        known_at=pl.col("measured_at") + timedelta(minutes=15),
        kind=pl.lit(kind),
        rating_kw=pl.lit(rating_kw),
    )


def fleet_of(rows: pl.DataFrame) -> pl.DataFrame:
    is_load = pl.col("kind") == "load"
    return (
        rows.select("device_id", "kind", "rating_kw")
        .unique(maintain_order=True)
        .select(
            "device_id",
            device_type="kind",
            longitude=pl.when(pl.col("device_id").str.starts_with("inverter"))
            .then(-105.2)
            .otherwise(-117.4),
            timezone=pl.lit("UTC"),
            max_inject_kw=pl.when(~is_load).then("rating_kw").otherwise(0.0),
            max_draw_kw=pl.when(is_load).then("rating_kw").otherwise(0.0),
            energy_capacity_kwh=pl.lit(None, pl.Float64),
        )
    )


def freeze(power: np.ndarray, hours: np.ndarray, rng: np.random.Generator) -> None:
    """Hold what was told last for six to eighteen hours, twice in a window."""
    for _ in range(2):
        begin = rng.integers(0, len(power) - 1)
        held = hours <= hours[begin] + rng.uniform(6, 18)
        power[begin:][held[begin:]] = power[begin]


def spike(power: np.ndarray, hours: np.ndarray, rng: np.random.Generator) -> None:
    """Tell five single readings 1.5 to 4 times the window's greatest power, either sign."""
    del hours
    at = rng.choice(len(power), 5, replace=False)
    power[at] = np.abs(power).max() * rng.uniform(1.5, 4, 5) * rng.choice([-1, 1], 5)


def flip(power: np.ndarray, hours: np.ndarray, rng: np.random.Generator) -> None:
    """Turn the sign for two days."""
    power[_days(hours, 2, rng)] *= -1


def level(power: np.ndarray, hours: np.ndarray, rng: np.random.Generator) -> None:
    """Add a fifth of the greatest power, in the direction of the power, for two days."""
    side = np.sign(power.sum())
    power[_days(hours, 2, rng)] += side * 0.2 * np.abs(power).max()


def delay(power: np.ndarray, hours: np.ndarray, rng: np.random.Generator) -> None:
    """Tell two days three hours late."""
    hit = _days(hours, 2, rng)
    late = round(3 / (hours[1] - hours[0]))
    power[hit] = np.roll(power, late)[hit]


def _days(hours: np.ndarray, days: int, rng: np.random.Generator) -> np.ndarray:
    begin = 24 * rng.integers(1, int(hours[-1] // 24) - days)
    return (hours >= begin) & (hours < begin + 24 * days)


def injected(
    name: str, kind: object, rows: pl.DataFrame, rng: np.random.Generator
) -> dict[str, object]:
    told = []
    for part in rows.partition_by("device_id", maintain_order=True):
        power = part["power_kw"].to_numpy().copy()
        since = part["measured_at"] - part["measured_at"][0]
        if callable(kind) and since.dt.total_days().max() >= 7:
            kind(power, since.dt.total_minutes().to_numpy() / 60, rng)
        told.append(part.with_columns(power_kw=pl.Series(power)))
    told_rows = pl.concat(told)
    off = (told_rows["power_kw"] - rows["power_kw"]).abs() / rows["rating_kw"]
    wrong = off > SETTINGS.standby_share
    return score(name, getattr(kind, "__name__", "none"), told_rows, wrong)


def score(name: str, fault: str, rows: pl.DataFrame, wrong: pl.Series) -> dict[str, object]:
    found = broken_rules(rows, fleet_of(rows), SETTINGS).filter(pl.col("rule").is_in(VALUE_RULES))
    flagged = np.zeros(rows.height, bool)
    flagged[found["row"].to_numpy()] = True
    truth = wrong.fill_null(value=False).to_numpy()
    hits = int((flagged & truth).sum())
    by_rule = found.group_by("rule").len().sort("rule").rows()
    return {
        "fault": fault,
        "series": name,
        "readings": rows.height,
        "wrong": int(truth.sum()),
        "flagged": int(flagged.sum()),
        "precision": hits / flagged.sum() if flagged.any() else None,
        "recall": hits / truth.sum() if truth.any() else None,
        "rules": ", ".join(f"{rule} {count}" for rule, count in by_rule),
    }


def table(rows: list[dict[str, object]]) -> pl.DataFrame:
    pl.Config(tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=60, tbl_width_chars=140, float_precision=3)
    pl.Config.set_tbl_hide_dataframe_shape(active=True).set_tbl_hide_column_data_types(active=True)
    return pl.DataFrame(rows, infer_schema_length=None)


def at_scale() -> None:
    source = windows(
        "roof",
        "pv",
        5.5,
        pl.read_parquet(DATA / "pv_nrel_serf_east_15min_2016.parquet")
        .head(96)
        .select(measured_at="ts_utc", power_kw=pl.col("ac_power_raw") / 1000),
    )
    names = pl.DataFrame({"device_id": [f"inverter-{n:05}" for n in range(DEVICES)]})
    rows = names.join(source.drop("device_id"), how="cross").with_columns(
        setpoint_kw=pl.lit(None, pl.Float64),
        energy_kwh=pl.lit(None, pl.Float64),
        temperature_c=pl.lit(None, pl.Float64),
        available_power_kw=pl.col("power_kw"),
    )
    devices = fleet_of(rows)
    for name, judge in (
        ("trusted", lambda: trusted(rows, devices, SETTINGS)),
        ("telemetry_flags", lambda: telemetry_flags(rows, devices, SETTINGS, datetime.now(UTC))),
    ):
        begun = time.perf_counter()
        judge()
        took_s = time.perf_counter() - begun
        print(f"  {name}: {rows.height:,} readings in {took_s:.2f} s")
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"  peak memory of this process: {peak_gb:.2f} GB")


if __name__ == "__main__":
    main()
