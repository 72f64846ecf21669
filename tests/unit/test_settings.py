"""What an operator may choose is read from the environment, or refused with what to set."""

from __future__ import annotations

import pytest

from vpp_pipeline.settings import Settings


def test_imbalance_costs_nothing_beyond_the_market_unless_it_is_said():
    assert Settings.from_environment({}).imbalance_spread_eur_per_mwh == 0


def test_the_imbalance_spread_is_read_in_eur_per_mwh():
    settings = Settings.from_environment({"VPP_IMBALANCE_SPREAD": "12.5"})
    assert settings.imbalance_spread_eur_per_mwh == 12.5


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "a lot"])
def test_an_imbalance_spread_that_is_no_price_is_refused(text):
    with pytest.raises(ValueError, match=r"VPP_IMBALANCE_SPREAD is .*EUR/MWh, 0 or more"):
        Settings.from_environment({"VPP_IMBALANCE_SPREAD": text})


def test_a_webhook_is_open_only_where_it_is_asked_for() -> None:
    assert Settings.from_environment({}).webhook_port is None
    assert Settings.from_environment({"VPP_WEBHOOK_PORT": "8088"}).webhook_port == 8088


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "8e3"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"VPP_WEBHOOK_PORT is .*1 to 65535"):
        Settings.from_environment({"VPP_WEBHOOK_PORT": text})


def test_the_fleets_ramp_is_read_in_kw_per_minute_and_is_none_unless_set():
    assert Settings.from_environment({}).fleet_ramp_kw_per_min is None
    assert Settings.from_environment({"VPP_FLEET_RAMP": "250"}).fleet_ramp_kw_per_min == 250


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "slowly"])
def test_a_fleet_ramp_at_which_nothing_would_start_is_refused(text):
    with pytest.raises(ValueError, match=r"VPP_FLEET_RAMP is .*kW/min above 0"):
        Settings.from_environment({"VPP_FLEET_RAMP": text})


def test_a_weather_service_is_asked_only_where_its_address_is_set():
    assert Settings.from_environment({}).weather_url is None
    address = "https://weather.example/v1/forecast"
    assert Settings.from_environment({"VPP_WEATHER_URL": address}).weather_url == address
