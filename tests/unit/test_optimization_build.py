import flexibility_fleets as given
import numpy as np
import polars as pl
import pytest

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.optimization.build import ProblemError, build
from vpp_pipeline.optimization.settings import PlanSettings

DAY = day_intervals(given.WINTER_DAY, "Europe/Berlin")
DEVICES = given.frame(
    given.site("home", [given.battery("b"), given.load("l")]),
    given.site("yard", [given.pv("p")], import_kw=5, export_kw=0),
)
ENVELOPES = given.envelopes(DEVICES)
PRICES = given.prices(DAY, 50.0)


def problem(envelopes=ENVELOPES, prices=PRICES, devices=DEVICES, **settings):
    return build(devices, envelopes, prices, PlanSettings(**settings))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_price_that_is_no_number_is_refused_with_its_row(value):
    broken = PRICES.with_columns(
        price_eur_per_mwh=pl.when(pl.int_range(pl.len()) == 7)
        .then(pl.lit(value, pl.Float64))
        .otherwise("price_eur_per_mwh")
    )
    with pytest.raises(ProblemError, match=r"prices row 7: .*00:45.*not a finite number.*give"):
        problem(prices=broken)


def test_a_quarter_hour_without_a_price_is_refused():
    with pytest.raises(ProblemError, match=r"2025-01-14 23:30.* has no price_eur_per_mwh.*give"):
        problem(prices=PRICES.filter(pl.int_range(pl.len()) != 2))


def test_a_doubled_price_is_refused():
    with pytest.raises(ProblemError, match=r"row 0: .*more than once"):
        problem(prices=pl.concat([PRICES, PRICES.head(1)]))


def test_a_price_beside_the_grid_is_refused():
    moved = PRICES.with_columns(pl.col("interval_start").dt.offset_by("5m"))
    with pytest.raises(ProblemError, match=r"row 0: .*does not start a quarter-hour"):
        problem(prices=moved)


def test_prices_beyond_the_horizon_are_not_read():
    longer = given.prices(day_intervals(given.WINTER_DAY, "UTC"), 999.0)
    later = longer.filter(pl.col("interval_start") > DAY[-1])
    assert later.height > 0
    found = problem(prices=pl.concat([PRICES, later]))
    assert found.price_eur_per_kwh.tolist() == [0.05] * 96


def test_a_device_that_is_not_in_the_fleet_is_refused():
    stranger = ENVELOPES.with_columns(
        device_id=pl.when(pl.col("device_id") == "l").then(pl.lit("x")).otherwise("device_id")
    )
    with pytest.raises(ProblemError, match=r"row 96: device_id 'x' is not in the fleet"):
        problem(stranger)


def test_a_device_without_an_envelope_is_refused():
    with pytest.raises(ProblemError, match=r"device_id 'p'.* is missing"):
        problem(ENVELOPES.filter(pl.col("device_id") != "p"))


def test_a_doubled_envelope_is_refused():
    with pytest.raises(ProblemError, match=r"device_id 'b'.* is there twice"):
        problem(pl.concat([ENVELOPES, ENVELOPES.head(1)]))


def test_a_hole_in_the_horizon_is_refused():
    with pytest.raises(ProblemError, match=r"does not follow .* by a quarter-hour"):
        problem(ENVELOPES.filter(pl.col("interval_start") != DAY[40]))


def test_an_envelope_that_is_no_number_is_refused_with_row_field_and_device():
    broken = ENVELOPES.with_columns(
        max_power_kw=pl.when(pl.int_range(pl.len()) == 3)
        .then(float("nan"))
        .otherwise("max_power_kw")
    )
    with pytest.raises(ProblemError, match=r"row 3: max_power_kw is nan for device_id 'b'"):
        problem(broken)


def test_no_envelopes_at_all_are_refused():
    with pytest.raises(ProblemError, match="there is no row"):
        problem(ENVELOPES.head(0))


def test_rows_may_come_in_any_order():
    shuffled = ENVELOPES.sample(fraction=1.0, shuffle=True, seed=1)
    first, second = problem(), problem(shuffled)
    assert (first.stores.ceiling_kwh == second.stores.ceiling_kwh).all()
    assert (first.sites.base_kw == second.sites.base_kw).all()


def test_stored_energy_is_worth_the_median_price_and_never_less_than_nothing():
    steps = np.where(np.arange(96) < 60, 30.0, 500.0)
    assert problem(prices=given.prices(DAY, steps)).stores.end_value_eur_per_kwh.tolist() == [0.03]
    assert problem(prices=given.prices(DAY, -20.0)).stores.end_value_eur_per_kwh.tolist() == [0.0]
    given_value = problem(stored_energy_eur_per_mwh=100.0)
    assert given_value.stores.end_value_eur_per_kwh.tolist() == [0.1]
