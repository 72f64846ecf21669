"""What a forecast of vehicles' stays is worth: where it expects them, and what believing it costs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from settlement_days import DAY, TZ, actual, battery, charger, fleet, stay, told

from vpp_pipeline.delivery_day import bounds, day_intervals
from vpp_pipeline.forecasting.presence import presence
from vpp_pipeline.forecasting.schemas import SessionForecasts
from vpp_pipeline.optimization.settings import PlanSettings
from vpp_pipeline.settlement.expected_stays import expected_stays
from vpp_pipeline.settlement.forecast_loss import euros_lost

PLAN = PlanSettings(fairness_eur_per_kwh=0.0)
START, END = bounds(DAY, TZ)
ASKED = day_intervals(DAY, TZ)
HOUR = pl.col("interval_start").dt.convert_time_zone(TZ).dt.hour()
PRICE = pl.when(HOUR < 6).then(20.0).when(HOUR < 12).then(200.0).otherwise(100.0)
KNOWN_AT = datetime(2020, 9, 9, 9, tzinfo=UTC)


def session(
    arrival_h: float, departure_h: float, asks_kwh: float, *, around_h: float = 0.0, **given
) -> pl.DataFrame:
    moments = {
        f"{event}_{q}": START + timedelta(hours=at_h + off)
        for event, at_h in (("arrival", arrival_h), ("departure", departure_h))
        for q, off in (("p10", -around_h), ("p50", 0.0), ("p90", around_h))
    }
    energies = {f"energy_{q}_kwh": asks_kwh for q in ("p10", "p50", "p90")}
    row = {
        "device_id": "charger", **moments, **energies, "probability": 1.0, "model": "own-days",
        "known_at": KNOWN_AT,
    } | given  # fmt: skip
    return SessionForecasts.validate(pl.DataFrame([row]), cast=True)


def night(arrival_h: float = 1.0, departure_h: float = 9.0, asks_kwh: float = 16.0):
    """A vehicle that comes in the cheap hours of the night, and leaves in dear ones."""
    devices = fleet(charger(vehicle_capacity_kwh=50.0), battery())
    hours = (START + timedelta(hours=at_h) for at_h in (arrival_h, departure_h))
    day = actual(
        devices,
        told("charger", **stay(*hours, 50.0 - asks_kwh, 50.0)),
        told("battery", energy_kwh=5.0),
        price=PRICE,
    )
    return devices, day


def lost(*sessions: pl.DataFrame) -> float:
    devices, day = night()
    nothing = SessionForecasts.create_empty()
    said = pl.concat([nothing, *sessions]).with_columns(forecaster=pl.lit("ours"))
    none_else = pl.DataFrame(schema={"target": pl.String, "forecaster": pl.String})
    (row,) = euros_lost(devices, day, none_else, PLAN, 0.0, sessions=said).to_dicts()
    assert (row["target"], row["forecaster"]) == ("sessions", "ours")
    return row["euros_lost"]


def test_the_stays_that_come_cost_nothing_and_an_unexpected_one_what_charging_at_once_does():
    assert lost(session(1, 9, 16.0)) == pytest.approx(0.0, abs=1e-3)
    late = session(14, 20, 16.0)  # expected in the afternoon, it charges at once when it comes
    assert lost(late) == pytest.approx(0.0, abs=1e-2)  # in hours as cheap as any


def test_a_vehicle_that_asks_for_more_than_was_expected_gets_it_in_its_last_and_dearer_hours():
    short = lost(session(1, 9, 1.0))  # 16 kWh in truth
    assert 0.5 < short < 16.0 / 0.8 * 0.2  # what they cost there; no promise is broken


def test_who_is_there_as_the_day_begins_stays_as_it_was_and_the_next_comes_after_it():
    devices, day = night(arrival_h=-1.0, departure_h=4.0)
    expected = pl.concat([session(3, 8, 5.0), session(10.1, 14.4, 5.0), session(13, 15, 5.0)])
    stays = expected_stays(devices, day, expected).sort("first_step")
    assert stays.select("first_step", "end_step", "was_there").rows() == [
        (0, 16, True),
        (41, 57, False),
    ]
    assert stays["initial_kwh"].to_list()[1] == pytest.approx(45.0)
    unlikely = session(10, 14, 5.0, probability=0.4)
    assert expected_stays(devices, day, unlikely).height == 1


def test_presence_is_what_is_planned_for_between_what_is_sure_and_what_may_be():
    there = presence(session(10, 16, 5.0, around_h=1.0), pl.Series(["charger", "other"]), ASKED)
    hours = there.group_by("subject_id").agg(pl.col("p10", "p50", "p90").sum() / 4)
    assert sorted(hours.rows()) == [("charger", 4.0, 6.0, 8.0), ("other", 0.0, 0.0, 0.0)]
    doubted = session(10, 16, 5.0, around_h=1.0, probability=0.4)
    there = presence(doubted, pl.Series(["charger"]), ASKED)
    assert there.select(pl.col("p10", "p50", "p90").sum() / 4).row(0) == (0.0, 0.0, 8.0)
