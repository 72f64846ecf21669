"""Which days, what was known when, and what is changed: read, or refused with the remedy."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import bounds, gate_closure, intervals
from vpp_pipeline.fleet import registry
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.planning.as_of import as_of, days
from vpp_pipeline.planning.variants import (
    AS_IT_WAS,
    Variant,
    VariantError,
    read_variant,
    variant_of,
)
from vpp_pipeline.settings import DEMO_FLEET, MARKET_TZ

DAY = date(2022, 3, 27)  # 23 hours long


@pytest.fixture(scope="module")
def fleet():
    return registry.load(DEMO_FLEET)


def test_a_span_of_days_is_read_with_both_ends():
    assert days("2022-02-28..2022-03-02") == [
        date(2022, 2, 28),
        date(2022, 3, 1),
        date(2022, 3, 2),
    ]
    assert days("2022-03-01") == [date(2022, 3, 1)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2022-03-02..2022-03-01", "ends before it begins"),
        ("March", "names no delivery days"),
        ("2022-03-01..", None),
    ],
)
def test_other_spans_are_refused_with_the_remedy(text, why):
    if why is None:
        assert days(text) == [date(2022, 3, 1)]
        return
    with pytest.raises(ValueError, match=why):
        days(text)


@pytest.mark.parametrize(
    "text", ["0001-01-01", "9999-12-31", "2022-03-01..9999-12-31", "1999-12-31..2000-01-01"]
)
def test_a_day_beyond_the_calendar_is_refused_naming_the_days_that_can_be_replayed(text):
    with pytest.raises(ValueError, match="days from 2000-01-01 to 2099-12-31 can be replayed"):
        days(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00+01:00", "9999-12-31T23:59-01:00"])
def test_a_moment_beyond_the_calendar_is_refused_too(text):
    with pytest.raises(ValueError, match="2000-01-01 to 2099-12-31"):
        as_of(text)


def test_what_was_known_is_told_by_gate_closure_market_time_or_instant():
    assert as_of("gate-closure").of(DAY) == gate_closure(DAY, MARKET_TZ)
    assert as_of("09:30").of(DAY) == datetime(2022, 3, 27, 7, 30, tzinfo=UTC)
    assert as_of("2022-03-01T09:30+01:00").of(DAY) == datetime(2022, 3, 1, 8, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["noon", "2022-03-01T09:30", "09:30+01:00", "", "yesterday"])
def test_a_moment_without_its_zone_or_sense_is_refused(text):
    with pytest.raises(ValueError, match="write gate-closure, a market time"):
        as_of(text)


def test_no_variant_is_the_fleet_as_it_was(fleet):
    assert AS_IT_WAS.fleet(fleet).equals(device_frame(fleet))


def test_a_bigger_battery_is_bigger_and_nothing_else_changes(fleet):
    before = device_frame(fleet)
    name = before.filter(pl.col("device_type").cast(pl.String) == "battery")["device_id"][0]
    after = Variant(name="big", devices={name: {"energy_capacity_kwh": 999.0}}).fleet(fleet)
    others = pl.col("device_id") != name
    assert after.filter(others).equals(before.filter(others))
    (changed,) = after.filter(~others).to_dicts()
    assert changed["energy_capacity_kwh"] == 999.0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"energy_capacity_kwh": -1.0}, r"energy_capacity_kwh is -1.0: .* greater than 0"),
        ({"capacity": 5.0}, "capacity is 5.0: Extra inputs"),
        ({"type": "pv"}, "type is what the device is"),
    ],
)
def test_a_field_that_the_registry_would_refuse_is_named(fleet, changes, why):
    battery = device_frame(fleet).filter(pl.col("device_type").cast(pl.String) == "battery")
    variant = Variant(name="odd", devices={battery["device_id"][0]: changes})
    with pytest.raises(VariantError, match=why):
        variant.fleet(fleet)


def test_what_another_sun_would_have_given_is_not_made_up(fleet):
    pv = device_frame(fleet).filter(pl.col("device_type").cast(pl.String) == "pv")["device_id"][0]
    with pytest.raises(VariantError, match="of type pv, and what another one would have measured"):
        Variant(name="more-sun", devices={pv: {"rated_power_kw": 99.0}}).fleet(fleet)


def test_a_device_that_never_was_is_refused(fleet):
    with pytest.raises(VariantError, match="had no device 'nowhere'"):
        Variant(name="odd", devices={"nowhere": {}}).fleet(fleet)


@given(
    st.dictionaries(
        st.integers(0, 95).map(lambda q: time(q // 4, q % 4 * 15)),
        st.floats(-500, 500),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([date(2022, 3, 26), DAY, date(2022, 10, 30)]),
)
def test_a_tariff_holds_from_each_of_its_times_to_the_next_through_midnight(tariff, day):
    start, end = bounds(day, MARKET_TZ)
    market = (
        intervals(start, end).to_frame().with_columns(price_eur_per_mwh=0.0, origin=pl.lit("x"))
    )
    priced = Variant(name="t", tariff_eur_per_mwh=tariff).prices(market)
    local = priced["interval_start"].dt.convert_time_zone(MARKET_TZ).dt.time().to_list()
    times = sorted(tariff)
    for at, price in zip(local, priced["price_eur_per_mwh"], strict=True):
        begun = [moment for moment in times if moment <= at]
        assert price == tariff[begun[-1] if begun else times[-1]]
    assert priced.columns == market.columns


def test_a_file_is_read_and_a_wrong_one_names_its_field(tmp_path):
    file = tmp_path / "variant.yaml"
    file.write_text(
        "name: dear-evening\ntariff_eur_per_mwh: {'00:00': 100, '17:00': 400}\n"
        "plan: {solvers: [HIGHS]}\nforecasts: {price: similar-day}\n"
    )
    variant = read_variant(file)
    assert variant.tariff_eur_per_mwh == {time(0): 100.0, time(17): 400.0}
    assert variant.settings.solvers == ("HIGHS",)
    assert variant.settings.time_limit_s > timedelta(minutes=1).total_seconds()
    for text, why in (
        ("name: x\nbatteries: {}", "batteries is {}: Extra inputs"),
        ("name: x\nplan: {solvers: [CPLEX]}", "plan.solvers.0 is 'CPLEX'"),
        ("[1]", "the whole is"),
        ("plan: {gap_tolerance: 0.01}", "give the variant a name"),
        ("a: [", r"variant.yaml:2: is no YAML: .*; correct the YAML at this line"),
        ("", "the whole is None"),
    ):
        file.write_text(text)
        with pytest.raises(VariantError, match=why):
            read_variant(file)


def test_a_tariffs_times_mean_the_same_with_and_without_quotes(tmp_path):
    file = tmp_path / "variant.yaml"
    file.write_text("name: dear\ntariff_eur_per_mwh: {00:00: 180, 17:00: 390, '20:00': 260}\n")
    assert read_variant(file).tariff_eur_per_mwh == {time(0): 180, time(17): 390, time(20): 260}


@pytest.mark.parametrize("at", [1020, "17:00+02:00", "17:00Z", "25:00", "17", "17:00:30", 17.5])
def test_what_is_no_market_time_is_refused_and_told_to_be_quoted(at):
    with pytest.raises(VariantError, match=r"here: tariff_eur_per_mwh\..* quote the times"):
        variant_of({"name": "dear", "tariff_eur_per_mwh": {at: 390, "20:00": 260}}, "here")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            b"name: x\nplan: {}\ntariff_eur_per_mwh:\n  '00:00': 1\n  '17:00': 2\n  '17:00': 3\n",
            r"variant.yaml:6: tariff_eur_per_mwh.17:00 stands twice, first in line 5; keep one",
        ),
        (
            "name: x\n# für den Abend\n".encode("latin-1"),
            r"variant.yaml: is not text in UTF-8 \(byte 11\); save the file as UTF-8 text",
        ),
    ],
)
def test_doubled_keys_and_other_encodings_are_refused_naming_file_and_remedy(
    content, why, tmp_path
):
    file = tmp_path / "variant.yaml"
    file.write_bytes(content)
    with pytest.raises(VariantError, match=why):
        read_variant(file)


def test_a_variant_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(VariantError, match=r"none.yaml can't be read \(No such file"):
        read_variant(tmp_path / "none.yaml")
