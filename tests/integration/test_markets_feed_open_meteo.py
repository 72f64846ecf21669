"""Weather forecasts over real HTTP: stored as foretold, and read as of a moment."""

from __future__ import annotations

import json
import threading
from datetime import time, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import polars as pl
import pytest
import requests
from defs_plant import TODAY, TOMORROW, copied, failure_of, market_time, open_plant

from vpp_pipeline.delivery_day import bounds
from vpp_pipeline.markets.feeds import FeedError
from vpp_pipeline.markets.open_meteo import fetch_weather
from vpp_pipeline.planning import forecasts
from vpp_pipeline.settings import MARKET_TZ

NOW = market_time(TODAY, time(10, 30))
MIDNIGHT = NOW.replace(hour=0, minute=0)
UNITS = {"time": "unixtime", "temperature_2m": "°C", "shortwave_radiation": "W/m²"}
SITES = pl.DataFrame(
    {"site_id": ["a", "b", "c"], "latitude": [39.74, 39.73, 52.0], "longitude": [14.82, 14.83, 9.0]}
)


class Service:
    """Tells each place's latitude as its temperature, rising by 1 K an hour; `spoil`s its answer."""

    def __init__(self):
        self.asked, self.spoil = [], lambda places: places
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                question = parse_qs(urlsplit(self.path).query)
                service.asked.append(question)
                latitudes = question["latitude"][0].split(",")
                places = service.spoil([place(float(latitude)) for latitude in latitudes])
                body = json.dumps(places[0] if len(places) == 1 else places).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Keep the console quiet."""

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1/forecast"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}
        )


def place(latitude: float) -> dict:
    hours = range(72)
    return {
        "hourly_units": UNITS,
        "hourly": {
            "time": [int(MIDNIGHT.timestamp()) + 3600 * n for n in hours],
            "temperature_2m": [latitude - 30.0 + n % 24 for n in hours],
            "shortwave_radiation": [10.0 * (n % 24) for n in hours],
        },
    }


@pytest.fixture
def service():
    told = Service()
    told.thread.start()
    yield told
    told.http.shutdown()
    told.http.server_close()
    told.thread.join()


def test_what_is_foretold_of_an_hour_stands_on_its_quarters_and_sites_side_by_side_share_it(
    service,
):
    with requests.Session() as session:
        rows = fetch_weather(session, service.url, SITES, NOW)
    assert service.asked[0]["latitude"] == ["39.7,52.0"]
    assert rows["interval_start"].min() == NOW
    assert set(rows["kind"]) == {"forecast"}
    of_a = rows.filter(pl.col("site_id") == "a", pl.col("interval_start").dt.hour() == 11).head(4)
    # the mean of the hour until noon is told at noon; temperatures are those of 11 and 12 o'clock
    assert of_a["ghi_w_per_m2"].to_list() == [120.0] * 4
    assert of_a["temperature_c"].to_list() == pytest.approx([20.825, 21.075, 21.325, 21.575])
    assert rows.group_by("site_id").len()["len"].n_unique() == 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda places: places[:1], "told of 1 places, asked of 2"),
        (lambda places: [{}, {}], "another form"),
        (lambda places: [p | {"hourly_units": UNITS | {"temperature_2m": "°F"}} for p in places],
         "in '°F', not in °C"),
        (lambda places: [p | {"hourly": p["hourly"] | {"temperature_2m": [99.0] * 72}}
                         for p in places], "temperature_2m 99.0 at 39.7, 14.8"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_what_it_should_be_is_refused_with_what_is_wrong(
    service, spoil, reason
):
    service.spoil = spoil
    with requests.Session() as session, pytest.raises(FeedError, match=reason):
        fetch_weather(session, service.url, SITES, NOW)


def test_a_plant_with_a_service_stores_what_is_foretold_and_forecasts_on_it_from_then_on(
    service, seeded_home, tmp_path
):
    home = copied(seeded_home, tmp_path / "plant")
    with open_plant(home, NOW, weather_url=service.url) as plant:
        blind = forecasts.temperature(plant.runtime, TOMORROW, NOW)
        for _ in range(2):  # the second run has a forecast that is fresh enough
            result = plant.materialise("day_ahead", TOMORROW, "weather")
            assert result.success, failure_of(result)
        assert len(service.asked) == 1
        start, end = bounds(TOMORROW, MARKET_TZ)
        cold = forecasts.temperature(plant.runtime, TOMORROW, NOW)
        before = NOW - timedelta(minutes=1)
        irradiance, unknown = (
            plant.frame("warehouse_irradiance", start=start, end_=end, as_of=moment)
            for moment in (NOW, before)
        )
    assert set(cold["model"]) == {"service"}
    assert "service" not in set(blind["model"])
    assert (irradiance.height, unknown.height) == (2 * 100, 0)
    assert set(irradiance["kind"]) == {"forecast"}
