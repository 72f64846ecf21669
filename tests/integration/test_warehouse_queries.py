"""What was known when: every read names its moment and sees nothing of its future."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from vpp_pipeline.devices.schemas import Telemetry
from vpp_pipeline.forecasting.schemas import Forecasts, SessionForecasts
from vpp_pipeline.markets.schemas import MarketForecasts, Prices, Weather
from vpp_pipeline.warehouse import migrations
from vpp_pipeline.warehouse.quarter_hours import quarter_hours
from vpp_pipeline.warehouse.store import Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

T0 = datetime(2025, 3, 30, tzinfo=UTC)
DAY = {"start": T0, "end_": T0 + timedelta(hours=2)}
DEVICES = {"devices": pl.DataFrame({"device_id": ["b", "a"]})}
SITES = {"sites": pl.DataFrame({"site_id": ["x", "y"]})}
LIMITS = settings(max_examples=25, deadline=None)

minutes = st.integers(0, 60)


def at(minute: float) -> datetime:
    return T0 + timedelta(minutes=minute)


@pytest.fixture(scope="module")
def ask():
    """Return a function that answers a query over given rows, and keeps none of them."""
    session = duckdb.connect()
    session.execute("SET TimeZone = 'UTC'")
    migrations.apply(session, migrations.known())

    def answer(
        query: str,
        rows: Mapping[str, pl.DataFrame],
        frames: Mapping[str, pl.DataFrame] | None = None,
        **params: object,
    ) -> pl.DataFrame:
        session.begin()
        connection = Connection(session)
        for table, frame in rows.items():
            connection.append(table, frame)
        found = connection.frame(query, frames, **params)
        session.rollback()
        return found

    yield answer
    session.close()


def telemetry(*rows: Mapping[str, object]) -> pl.DataFrame:
    """Readings; `measured` and `known` are minutes after T0."""
    full = [
        {
            "device_id": "a",
            "status": "ok",
            **{name: value for name, value in row.items() if name not in {"measured", "known"}},
            "measured_at": at(row["measured"]),
            "known_at": at(row.get("known", row["measured"])),
        }
        for row in rows
    ]
    return pl.DataFrame(full, dict(Telemetry.create_empty().schema))


def keyed(frame_schema, key: str, **constants):
    """Strategy for bitemporal rows: a key of two, four intervals, and the minute it was known."""
    types = dict(frame_schema.create_empty().schema)
    value = next(n for n in ("price_eur_per_mwh", "temperature_c", "p50", "load_mw") if n in types)
    return st.lists(
        st.tuples(st.sampled_from(["x", "y"]), st.integers(0, 3), minutes, st.integers(0, 9)),
        unique_by=lambda row: row[:3],
        max_size=12,
    ).map(
        lambda rows: pl.DataFrame(
            [
                {
                    **constants,
                    key: subject,
                    "interval_start": at(15 * interval),
                    "known_at": at(known),
                    value: float(number),
                }
                for subject, interval, known, number in rows
            ],
            types,
        )
    )


readings = st.lists(
    st.fixed_dictionaries(
        {
            "device_id": st.sampled_from(["a", "b"]),
            "measured": st.integers(0, 45),
            "known": minutes,
            "power_kw": st.none() | st.floats(-10, 10),
            "available_power_kw": st.none() | st.floats(0, 10),
            "energy_kwh": st.none() | st.floats(0, 50),
            "setpoint_kw": st.none() | st.floats(-10, 10),
            "status": st.sampled_from(["ok", "local", "fault", "offline"]),
        }
    ),
    max_size=10,
).map(lambda rows: telemetry(*rows))

sessions = st.lists(
    st.tuples(st.sampled_from(["x", "y"]), st.integers(0, 3), minutes), max_size=8
).map(
    lambda rows: pl.DataFrame(
        [
            {
                "device_id": device,
                **{f"arrival_{q}": at(15 * arrival) for q in ("p10", "p50", "p90")},
                **{f"departure_{q}": at(15 * arrival + 60) for q in ("p10", "p50", "p90")},
                **{f"energy_{q}_kwh": 1.0 for q in ("p10", "p50", "p90")},
                "probability": 1.0,
                "model": "test",
                "known_at": at(known),
            }
            for device, arrival, known in rows
        ],
        dict(SessionForecasts.create_empty().schema),
    )
)

fleets = st.lists(minutes, max_size=6).map(
    lambda known: pl.DataFrame(
        {
            "fleet_version": range(len(known)),
            "content_hash": "h",
            "source": "test",
            "document": "{}",
            "known_at": [at(minute) for minute in known],
        },
        schema_overrides={"fleet_version": pl.Int64, "known_at": pl.Datetime("us", "UTC")},
    )
)

price_rows = keyed(Prices, "market", resolution_minutes=15, source="test")
told_rows = keyed(
    MarketForecasts, "market", renewables_mw=1.0, resolution_minutes=15, source="test"
)
weather_rows = keyed(Weather, "site_id", kind="observed", source="test", ghi_w_per_m2=100.0)
forecast_rows = keyed(Forecasts, "subject_id", target="pv", p10=0.0, p90=10.0, model="test")

AS_OF_READS = {
    "readings": ("telemetry", readings, {"frames": DEVICES, **DAY}),
    "power_readings": ("telemetry", readings, {"frames": DEVICES, **DAY}),
    "charger_readings": ("telemetry", readings, {"frames": DEVICES, **DAY}),
    "latest_telemetry": ("telemetry", readings, {}),
    "prices": ("prices", price_rows, {"market": "x", **DAY}),
    "market_forecasts": ("market_forecasts", told_rows, {"market": "x", **DAY}),
    "weather": ("weather", weather_rows, DAY),
    "temperatures": ("weather", weather_rows, {"frames": SITES, **DAY}),
    "irradiance": ("weather", weather_rows, DAY),
    "forecasts": ("forecasts", forecast_rows, {"target": "pv", **DAY}),
    "session_forecasts": ("session_forecasts", sessions, DAY),
    "fleet_at": ("fleet_versions", fleets, {}),
}


@pytest.mark.parametrize("name", AS_OF_READS)
def test_no_read_sees_a_row_from_its_future(ask, name):
    table, rows, params = AS_OF_READS[name]

    @LIMITS
    @given(rows, minutes)
    def holds(frame, as_of_minute):
        as_of = at(as_of_minute)
        known = frame.filter(pl.col("known_at") <= as_of)

        answer = ask(f"warehouse_{name}", {table: frame}, as_of=as_of, **params)

        assert_frame_equal(answer, ask(f"warehouse_{name}", {table: known}, as_of=as_of, **params))
        assert answer.is_empty() or not known.is_empty()

    holds()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("prices", "market"),
        ("weather", "site_id"),
        ("temperatures", "site_id"),
        ("forecasts", "subject_id"),
    ],
)
def test_the_last_known_row_of_each_interval_counts(ask, name, key):
    table, rows, params = AS_OF_READS[name]

    @LIMITS
    @given(rows, minutes)
    def holds(frame, as_of_minute):
        if name == "prices":
            frame = frame.filter(pl.col("market") == "x")
        expected = (
            frame.filter(pl.col("known_at") <= at(as_of_minute))
            .sort("known_at")
            .unique([key, "interval_start"], keep="last")
            .sort(key, "interval_start")
        )

        answer = ask(f"warehouse_{name}", {table: frame}, as_of=at(as_of_minute), **params)

        assert answer.rows() == expected.select(answer.columns).rows()

    holds()


def quarter_hours_of(ask, rows: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    return quarter_hours(
        ask("warehouse_readings", {"telemetry": rows}, DEVICES, as_of=as_of, **DAY)
    )


def test_only_the_devices_asked_for_are_read(ask):
    rows = telemetry({"measured": 0}, {"measured": 0, "device_id": "b"})
    only_b = {"devices": pl.DataFrame({"device_id": ["b"]})}

    found = ask("warehouse_readings", {"telemetry": rows}, only_b, as_of=at(60), **DAY)

    assert found["device_id"].to_list() == ["b"]


def test_readings_come_by_device_in_time_order_the_correction_last(ask):
    rows = telemetry(
        {"measured": 5, "power_kw": 1.0, "device_id": "b"},
        {"measured": 5, "known": 9, "power_kw": 4.0},
        {"measured": 5, "power_kw": 3.0},
        {"measured": 0, "power_kw": 2.0},
    )

    found = ask("warehouse_readings", {"telemetry": rows}, DEVICES, as_of=at(60), **DAY)

    assert found["power_kw"].to_list() == [2.0, 3.0, 4.0, 1.0]


def test_no_reading_is_no_quarter_hour(ask):
    answer = quarter_hours_of(ask, telemetry(), at(60))

    assert answer.is_empty()
    assert answer.columns == quarter_hours_of(ask, telemetry({"measured": 0}), at(60)).columns


def mean_power(rows: list[dict[str, object]], start: datetime) -> float | None:
    """Compute the time-weighted mean of one device's readings in a quarter-hour, the slow way."""
    end = start + timedelta(minutes=15)
    times = [row["measured_at"] for row in rows] + [end]
    spans = [
        (row["power_kw"], (after - row["measured_at"]).total_seconds())
        for row, after in zip(rows, times[1:], strict=True)
        if row["power_kw"] is not None
    ]
    return sum(p * s for p, s in spans) / sum(s for _, s in spans) if spans else None


@LIMITS
@given(frame=readings, as_of_minute=minutes)
def test_power_is_the_time_weighted_mean_of_the_readings_known(ask, frame, as_of_minute):
    as_of = at(as_of_minute)
    known: dict[tuple[object, object], dict[str, object]] = {}
    for row in frame.sort("known_at", maintain_order=True).iter_rows(named=True):
        if row["known_at"] <= as_of:
            known[row["device_id"], row["measured_at"]] = row

    answer = quarter_hours_of(ask, frame, as_of)

    assert answer["readings"].sum() == len(known)
    for interval in answer.iter_rows(named=True):
        start = interval["interval_start"]
        rows = sorted(
            (
                row
                for (device, measured), row in known.items()
                if device == interval["device_id"]
                and start <= measured < start + timedelta(minutes=15)
            ),
            key=lambda row: row["measured_at"],
        )
        assert interval["power_kw"] == pytest.approx(mean_power(rows, start), abs=1e-9)


def test_a_late_price_row_stands_beside_the_old_one(ask):
    def price(known: int, value: float) -> dict[str, object]:
        return {
            "market": "DE-LU",
            "interval_start": T0,
            "price_eur_per_mwh": value,
            "resolution_minutes": 15,
            "source": "test",
            "known_at": at(known),
        }

    rows = {"prices": pl.DataFrame([price(0, 50.0), price(30, -5.0)])}

    def seen(minute: int) -> list[float]:
        found = ask("warehouse_prices", rows, market="DE-LU", as_of=at(minute), **DAY)
        return found["price_eur_per_mwh"].to_list()

    assert (seen(0), seen(29), seen(30)) == ([50.0], [50.0], [-5.0])


def test_a_quarter_hour_tells_the_last_of_each_and_the_worst_status(ask):
    rows = telemetry(
        {"measured": 0, "power_kw": 6.0, "energy_kwh": 10.0, "setpoint_kw": 6.0, "status": "ok"},
        {"measured": 5, "power_kw": 0.0, "energy_kwh": 11.0, "status": "fault", "plugged_in": True},
        {"measured": 10, "energy_kwh": None, "status": "local"},
        {"measured": 15, "power_kw": -1.0},
    )

    answer = quarter_hours_of(ask, rows, at(60))

    first, second = answer.iter_rows(named=True)
    assert first["interval_start"] == T0
    assert first["power_kw"] == pytest.approx(3.0)  # 5 min at 6 kW, 5 at 0; the last has none
    assert first["energy_kwh"] == 11.0
    assert first["setpoint_kw"] is None  # none is in force any more
    assert first["plugged_in"] is True
    assert first["status"] == "fault"
    assert first["readings"] == 3
    assert second["power_kw"] == -1.0


def test_a_device_that_fell_silent_keeps_what_it_last_said_of_its_setpoint(ask):
    rows = telemetry(
        {"measured": 0, "setpoint_kw": 4.0, "target_energy_kwh": 30.0, "deadline": at(90)},
        {"measured": 5, "status": "offline"},
    )

    (interval,) = quarter_hours_of(ask, rows, at(60)).iter_rows(named=True)

    assert (interval["setpoint_kw"], interval["target_energy_kwh"]) == (4.0, 30.0)
    assert interval["deadline"] == at(90)
    assert interval["status"] == "offline"


def test_the_latest_reading_is_the_newest_measured_in_its_latest_correction(ask):
    rows = telemetry(
        {"measured": 5, "power_kw": 1.0},
        {"measured": 10, "power_kw": 2.0},
        {"measured": 10, "known": 20, "power_kw": 3.0},
        {"measured": 6, "known": 30, "power_kw": 4.0},
        {"measured": 50, "known": 0, "power_kw": 5.0},  # a clock that runs ahead
        {"measured": 0, "device_id": "b"},
    )

    def seen(minute: int) -> list[tuple[str, float | None]]:
        found = ask("warehouse_latest_telemetry", {"telemetry": rows}, as_of=at(minute))
        assert found.columns == Telemetry.column_names()
        return found.select("device_id", "power_kw").rows()

    assert seen(15) == [("a", 2.0), ("b", None)]
    assert seen(45) == [("a", 3.0), ("b", None)]


def plan(version: int, *, day: date = date(2025, 3, 30), as_of: int = 0, start: int = 0) -> dict:
    return {
        "plan_id": f"plan-{version}",
        "plan_version": version,
        "delivery_day": day,
        "revision": version,
        "kind": "intraday",
        "cause": "test",
        "as_of": at(as_of),
        "horizon_start": at(start),
        "horizon_end": at(start + 60),
        "fleet_version": 1,
        "input_hash": "",
        "code_version": "",
        "label": "optimal",
        "solver": "osqp",
        "solver_status": "solved",
        "objective_eur": 0.0,
        "worst_violation_kw": 0.0,
        "worst_violation_kwh": 0.0,
        "overload_kw": 0.0,
        "simultaneous_steps": 0,
        "unmet_kwh": 0.0,
        "solve_seconds": 0.0,
    }


def plans(*rows: tuple[dict, int | None]) -> dict[str, pl.DataFrame]:
    """Plans, each with the minute of its release."""
    return {
        "plans": pl.DataFrame([row for row, _ in rows]),
        "plan_releases": pl.DataFrame(
            [
                {"plan_id": row["plan_id"], "released_at": at(released)}
                for row, released in rows
                if released is not None
            ]
        ),
    }


RELEASED = plans(
    (plan(1), 1),
    (plan(2, as_of=10, start=15), 12),
    (plan(3, as_of=20, start=30), None),
    (plan(4, as_of=30, start=30), 35),
    (plan(5, day=date(2025, 3, 31), as_of=2, start=1440), 3),
)


@pytest.mark.parametrize(
    ("minute", "expected"),
    [
        (0, []),
        (1, ["plan-1"]),
        (11, ["plan-1"]),
        (12, ["plan-2"]),
        (34, ["plan-2"]),
        (35, ["plan-4"]),
    ],
)
def test_the_latest_plan_is_the_newest_of_its_day_that_was_released_by_then(ask, minute, expected):
    found = ask("warehouse_latest_plan", RELEASED, delivery_day=date(2025, 3, 30), as_of=at(minute))

    assert found["plan_id"].to_list() == expected


@pytest.mark.parametrize(
    ("moment", "as_of", "expected"),
    [
        (5, 5, ["plan-1"]),
        (14, 14, ["plan-1"]),  # plan 2 is released but begins at 15
        (15, 15, ["plan-2"]),
        (40, 20, ["plan-2"]),  # as it looked at 20, before plan 4
        (40, 40, ["plan-4"]),
        (90, 90, []),  # a horizon does not hold its end
        (5, 0, []),
    ],
)
def test_the_plan_in_force_is_the_newest_released_one_that_covers_the_moment(
    ask, moment, as_of, expected
):
    found = ask("warehouse_plan_in_force", RELEASED, moment=at(moment), as_of=at(as_of))

    assert found["plan_id"].to_list() == expected


def test_a_schedule_is_read_by_its_plan(ask):
    rows = pl.DataFrame(
        {
            "plan_id": ["a", "a", "b"],
            "device_id": ["y", "x", "x"],
            "interval_start": [T0] * 3,
            "power_kw": [1.0, 2.0, 3.0],
            "limit_kw": [None, 2.5, None],
        }
    )

    found = ask("warehouse_schedule", {"schedules": rows}, plan_id="a")

    assert found.select("device_id", "power_kw", "limit_kw", "energy_kwh").rows() == [
        ("x", 2.0, 2.5, None),
        ("y", 1.0, None, None),
    ]


def test_sessions_of_a_window_come_from_each_devices_newest_forecast_for_it(ask):
    def session(device: str, arrival: int, known: int) -> dict[str, object]:
        return {
            "device_id": device,
            **{f"arrival_{q}": at(arrival) for q in ("p10", "p50", "p90")},
            **{f"departure_{q}": at(arrival + 30) for q in ("p10", "p50", "p90")},
            **{f"energy_{q}_kwh": 1.0 for q in ("p10", "p50", "p90")},
            "probability": 0.5,
            "model": "test",
            "known_at": at(known),
        }

    rows = pl.DataFrame(
        [
            session("x", 10, 0),
            session("x", 20, 5),
            session("x", 60, 5),
            session("y", 15, 0),
            session("y", 500, 6),  # another day's forecast leaves this window's alone
        ]
    )

    found = ask("warehouse_session_forecasts", {"session_forecasts": rows}, as_of=at(6), **DAY)

    assert found.select("device_id", "arrival_p50").rows() == [
        ("x", at(20)),
        ("x", at(60)),
        ("y", at(15)),
    ]


def test_a_forecast_that_names_its_day_ends_the_sessions_of_the_one_before(ask):
    def row(device: str, arrival: int, departure: int, known: int, p: float) -> dict[str, object]:
        return {
            "device_id": device,
            **{f"arrival_{q}": at(arrival) for q in ("p10", "p50", "p90")},
            **{f"departure_{q}": at(departure) for q in ("p10", "p50", "p90")},
            **{f"energy_{q}_kwh": p for q in ("p10", "p50", "p90")},
            "probability": p,
            "model": "test",
            "known_at": at(known),
        }

    rows = pl.DataFrame(
        [
            row("gone", 60, 90, 0, 0.9),
            row("gone", 0, 300, 0, 0.0),
            row("gone", 0, 300, 5, 0.0),
            row("earlier", 60, 90, 0, 0.9),
            row("earlier", 10, 20, 5, 0.9),
            row("earlier", 0, 300, 5, 0.0),
            row("overnight", 60, 90, 5, 0.9),
            row("overnight", 0, 300, 5, 0.0),
            row("overnight", 100, 400, 6, 0.9),  # as the next day's forecast tells it too
            row("overnight", 300, 600, 6, 0.0),
        ]
    )

    found = ask(
        "warehouse_session_forecasts",
        {"session_forecasts": rows},
        start=at(30),
        end_=at(300),
        as_of=at(6),
    )

    assert found.select("device_id", "arrival_p50").rows() == [("overnight", at(60))]


def test_a_plan_was_in_force_where_it_was_the_newest_released_when_the_quarter_hour_began(ask):
    day = {"delivery_day": date(2025, 3, 30)}

    def in_force(minute: int) -> dict[str, tuple[int, int]]:
        found = ask("defs_plans_in_force", RELEASED, as_of=at(minute), **day)
        return {row["plan_id"]: (row["in_force"], row["quarter_hours"]) for row in found.to_dicts()}

    # plan 1 is released after its first quarter-hour began, plan 4 in its own first one
    assert in_force(60) == {"plan-1": (0, 4), "plan-2": (2, 4), "plan-4": (3, 4)}
    assert in_force(20) == {"plan-1": (0, 4), "plan-2": (4, 4)}
