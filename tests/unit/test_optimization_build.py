from dataclasses import replace

import flexibility_fleets as given
import numpy as np
import polars as pl
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from vpp_pipeline.delivery_day import day_intervals
from vpp_pipeline.optimization.build import build
from vpp_pipeline.optimization.feasible import resting, viable, within_ramps
from vpp_pipeline.optimization.portfolio import PortfolioTerms
from vpp_pipeline.optimization.problem import ProblemError
from vpp_pipeline.optimization.settings import PlanSettings

DAY = day_intervals(given.WINTER_DAY, "Europe/Berlin")
DEVICES = given.frame(
    given.site("home", [given.battery("b"), given.load("l")]),
    given.site("yard", [given.pv("p")], import_kw=5, export_kw=0),
)
ENVELOPES = given.envelopes(DEVICES)
PRICES = given.prices(DAY, 50.0)


def problem(envelopes=ENVELOPES, prices=PRICES, devices=DEVICES, **asked_for):
    return build(devices, envelopes, prices, PlanSettings(**asked_for))


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
    with pytest.raises(ProblemError, match=r"2025-01-14 23:30.* has no row .*give"):
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


def asked(**columns):
    return PortfolioTerms(pl.DataFrame({"interval_start": DAY, **columns}))


def with_terms(terms):
    return build(DEVICES, ENVELOPES, PRICES, PlanSettings(), terms)


def test_without_terms_all_power_is_sold_at_the_market():
    for terms in (None, PortfolioTerms()):
        portfolio = with_terms(terms).portfolio
        assert portfolio.surplus_eur_per_kwh.tolist() == [0.05] * 96
        assert portfolio.shortage_eur_per_kwh.tolist() == [0.05] * 96
        assert not portfolio.couples


def test_terms_are_read_per_mwh_and_whatever_is_not_given_is_the_markets():
    made = with_terms(
        replace(
            asked(
                position_kw=np.arange(96.0),
                shortage_eur_per_mwh=np.full(96, 90.0),
                event_min_kw=pl.Series([None] * 90 + [5.0] * 6),
                event_eur_per_mwh=np.full(96, 1000.0),
                reserve_down_eur_per_mwh=np.full(96, 12.0),
                reserve_block=np.arange(96) // 16,
            ),
            peak_eur_per_kw=3.0,
        )
    ).portfolio
    assert made.position_kw.tolist() == list(range(96))
    assert made.surplus_eur_per_kwh.tolist() == [0.05] * 96
    assert made.shortage_eur_per_kwh.tolist() == [0.09] * 96
    assert np.isneginf(made.event_min_kw[:90]).all()
    assert made.event_min_kw[90:].tolist() == [5.0] * 6
    assert made.reserve_down_eur_per_kwh.tolist() == [0.012] * 96
    assert made.peak_eur_per_kw == 3.0
    assert made.couples


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        (asked(position_kw=np.where(np.arange(96) == 7, np.nan, 1.0)), "row 7: position_kw is nan"),
        (asked(position_kw=pl.Series([1.0] * 95 + [None])), "row 95: position_kw is None"),
        (
            asked(shortage_eur_per_mwh=np.full(96, 40.0)),
            "row 0: surplus_eur_per_mwh is above shortage_eur_per_mwh.*the market's price against 40",
        ),
        (
            asked(event_min_kw=np.full(96, 9.0), event_max_kw=np.full(96, 8.0)),
            "row 0: event_min_kw is above event_max_kw",
        ),
        (asked(event_eur_per_mwh=np.full(96, -1.0)), "event_eur_per_mwh is -1.0.*0 or more"),
        (asked(reserve_up_eur_per_mwh=np.full(96, 5.0)), "without reserve_block: number"),
        (asked(positon_kw=np.full(96, 5.0)), "no field 'positon_kw': name it one of position_kw"),
        (PortfolioTerms(peak_eur_per_kw=float("nan")), "peak_eur_per_kw is nan"),
        (PortfolioTerms(reserve_sustain_h=-1.0), "reserve_sustain_h is -1.0"),
        (
            PortfolioTerms(pl.DataFrame({"interval_start": DAY.head(95)})),
            r"interval_start 2025-01-15 22:45.* has no row",
        ),
        (
            PortfolioTerms(pl.DataFrame({"interval_start": pl.concat([DAY, DAY.head(1)])})),
            "row 0: .* more than once",
        ),
        (
            PortfolioTerms(pl.DataFrame({"interval_start": DAY.dt.offset_by("5m")})),
            "row 0: .* does not start a quarter-hour",
        ),
    ],
)
def test_terms_that_make_no_sense_are_refused_with_row_field_and_remedy(terms, told):
    with pytest.raises(ProblemError, match=rf"portfolio.*{told}"):
        with_terms(terms)


@settings(max_examples=50, deadline=None)
@drawn(st.integers(0, 2**32 - 1))
def test_bounds_made_viable_lose_no_path_and_leave_no_dead_end(seed):
    rng = np.random.default_rng(seed)
    starts = np.zeros((6, 40), dtype=bool)
    starts[[0, 3]] = True
    initial, retention = rng.uniform(0, 5, (6, 40)), rng.choice([0.0, 0.9, 1.0], 40)
    drift = rng.choice([-0.3, 0.0, 0.3], (6, 40))
    gain, loss = rng.uniform(0, 1, (2, 6, 40))
    rest = resting(starts, initial, retention, drift)
    floor, ceiling = rest - rng.uniform(0, 2, (6, 40)), rest + rng.uniform(0, 2, (6, 40))
    low, high = viable(floor, ceiling, starts, retention, gain + drift, loss - drift)
    assert (low >= floor - 1e-9).all()
    assert (high <= ceiling + 1e-9).all()
    assert (low <= rest + 1e-9).all()
    assert (high >= rest - 1e-9).all()
    onward = ~starts[1:]
    for energy in (low, high):
        reach_high = retention * energy[:-1] + gain[1:] + drift[1:]
        reach_low = retention * energy[:-1] - loss[1:] + drift[1:]
        assert (reach_high >= low[1:] - 1e-9)[onward].all()
        assert (reach_low <= high[1:] + 1e-9)[onward].all()


@settings(max_examples=50, deadline=None)
@drawn(st.integers(0, 2**32 - 1))
def test_the_least_powers_within_ramps_are_themselves_an_output_that_can_be_run(seed):
    rng = np.random.default_rng(seed)
    least, most = np.sort(rng.uniform(0, 10, (2, 7, 30)), axis=0)
    ramp = rng.choice([0.5, 2.0, np.inf], 30)
    kept = within_ramps(least, most, ramp)
    assert (kept <= most).all()
    assert (np.abs(np.diff(kept, axis=0)) <= ramp + 1e-9).all()
    free = np.isinf(ramp)
    assert (kept[:, free] == least[:, free]).all()
