"""A price feed that is late, wrong or absent, and files that were dropped."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from datetime import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import polars as pl
import pytest
from defs_plant import (
    TODAY,
    TOMORROW,
    check_of,
    copied,
    failure_of,
    market_time,
    open_plant,
    records,
)

from vpp_pipeline.delivery_day import bounds, day_intervals
from vpp_pipeline.settings import MARKET, MARKET_TZ

START, END = bounds(TOMORROW, MARKET_TZ)
STAMPS = [int(start.timestamp()) for start in day_intervals(TOMORROW, MARKET_TZ)]
ABSENT = "http://127.0.0.1:9"


@contextmanager
def feed(answer):
    """Serve `answer` (a JSON body) as Energy-Charts on loopback."""

    class Feed(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Keep the console quiet."""

    server = HTTPServer(("127.0.0.1", 0), Feed)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def fed_plant(seeded_home, tmp_path, url):
    home = copied(seeded_home, tmp_path / "plant")
    live = {"price_source": "energy-charts", "energy_charts_url": url}
    with open_plant(home, market_time(TODAY, time(10, 30)), **live) as plant:
        yield plant


def tomorrows(plant):
    return plant.frame(
        "warehouse_prices", market=MARKET, start=START, end_=END, as_of=plant.clock.now()
    )


def assert_planned_on_forecasts(plant, published):
    before = plant.rows("prices").filter(pl.col("interval_start") < START)
    result = plant.plan_tomorrow()
    assert result.success, failure_of(result)
    assert plant.rows("plan_releases").height == 1
    after = plant.rows("prices").filter(pl.col("interval_start") < START)
    assert after.sort(pl.all()).equals(before.sort(pl.all()))
    check = check_of(result, "prices_are_published")
    assert not check.passed
    assert check.metadata["expected"].value == 100
    assert check.metadata["published"].value == published
    assert "the forecast stands in" in check.metadata["remedy"].value
    materialised = result.asset_materializations_for_node("day_ahead_prices")[0]
    return materialised.metadata


def test_with_a_late_feed_the_last_good_prices_stay_and_a_plan_is_made(seeded_home, tmp_path):
    nothing_yet = {"unix_seconds": [], "price": [], "unit": "EUR / MWh"}
    with feed(nothing_yet) as url, fed_plant(seeded_home, tmp_path, url) as plant:
        told = assert_planned_on_forecasts(plant, published=0)
        assert told["new_rows"].value == 0


def test_with_an_absent_feed_the_last_good_prices_stay_and_a_plan_is_made(seeded_home, tmp_path):
    with fed_plant(seeded_home, tmp_path, ABSENT) as plant:
        told = assert_planned_on_forecasts(plant, published=0)
        assert ABSENT in told["feed_problem"].value
        assert "check the address and network" in told["feed_problem"].value


def test_with_a_wrong_feed_its_bad_rows_wait_in_quarantine_and_a_plan_is_made(
    seeded_home, tmp_path
):
    wrong = {
        "unix_seconds": STAMPS[:8],
        "price": ["dear", None, 1e9, 40.0, 41.0, 42.0, 43.0, 44.0],
        "unit": "EUR / MWh",
    }
    with feed(wrong) as url, fed_plant(seeded_home, tmp_path, url) as plant:
        told = assert_planned_on_forecasts(plant, published=5)
        assert told["rejected"].value == 3
        quarantined = plant.rows("quarantine").sort("row_number")
        assert quarantined["table_name"].unique().to_list() == ["prices"]
        assert quarantined["row_number"].to_list() == [1, 2, 3]
        assert quarantined["field"].unique().to_list() == ["price_eur_per_mwh"]
        assert quarantined["reason"].to_list() == [
            "is no finite number",
            "has no price",
            "is outside -5000 to 20000 EUR/MWh",
        ]
        assert (quarantined["remedy"].str.len_chars() > 0).all()
        assert quarantined["source"].str.starts_with(url).all()


@pytest.mark.parametrize("answer", ["no prices today", {"unix_seconds": STAMPS, "price": [1]}])
def test_good_prices_outlive_a_feed_that_turns_bad(plant, tmp_path, answer):
    plant.at(time(12, 58))
    (collected,) = plant.daemon.ask("published_prices")
    assert collected.success
    good = tomorrows(plant)
    assert good.height == 100
    home = plant.runtime.settings.home
    with (
        feed(answer) as url,
        open_plant(
            home, plant.clock.now(), price_source="energy-charts", energy_charts_url=url
        ) as later,
    ):
        result = later.daemon.launch("collect_prices", partition_key=str(TOMORROW))
        assert result.success
        told = result.asset_materializations_for_node("day_ahead_prices")[0].metadata
        assert url in told["feed_problem"].value
        assert check_of(result, "prices_are_published").passed
        assert tomorrows(later).equals(good)


def test_prices_are_asked_for_again_until_they_are_whole(plant):
    plant.at(time(12, 58))
    first = plant.tick("published_prices").run_requests
    assert [request.partition_key for request in first] == [str(TOMORROW)]
    plant.at(time(13, 16))
    (again,) = plant.tick("published_prices").run_requests
    assert again.run_key != first[0].run_key
    (collected,) = plant.daemon.ask("published_prices")
    assert collected.success
    assert plant.tick("published_prices").run_requests == []


def test_a_corrected_price_stands_beside_the_first_and_an_unchanged_one_is_not_repeated(plant):
    drop = plant.runtime.settings.drop_dir
    drop.mkdir()
    for price in (50, 50, 60):
        (drop / "prices.csv").write_text(
            f"market,start,price_eur_per_mwh\n{MARKET},{START:%Y-%m-%dT%H:%M}Z,{price}\n"
        )
        plant.clock.sleep_until(plant.clock.now().replace(minute=plant.clock.now().minute + 1))
        assert plant.daemon.launch("collect_dropped_prices").success
    stored = plant.rows("prices").filter(pl.col("interval_start") == START).sort("known_at")
    assert stored["price_eur_per_mwh"].to_list() == [50, 60]
    assert tomorrows(plant)["price_eur_per_mwh"].to_list() == [60]


def test_of_dropped_files_good_rows_are_stored_bad_rows_kept_and_nothing_blocked(plant):
    drop = plant.runtime.settings.drop_dir
    drop.mkdir()
    (drop / "a-unreadable.parquet").write_bytes(b"PAR1 but no more")
    (drop / "b-mixed.csv").write_text(
        "market,start,price_eur_per_mwh\n"
        f"{MARKET},{START:%Y-%m-%dT%H:%M}Z,51.5\n"
        f"{MARKET},{START:%Y-%m-%dT%H:}20Z,52\n"
        f"{MARKET},{START:%Y-%m-%dT%H:}45Z,cheap\n"
    )
    (drop / "c-good.csv").write_text(
        f"market,start,price_eur_per_mwh\n{MARKET},{START:%Y-%m-%dT%H:}30Z,53\n"
    )
    (loaded,) = plant.daemon.ask("dropped_price_files")
    assert loaded.success
    assert tomorrows(plant)["price_eur_per_mwh"].to_list() == [51.5, 53]
    refused = plant.rows("quarantine").filter(pl.col("row_number") > 0).sort("row_number")
    assert refused["source"].str.ends_with("b-mixed.csv").all()
    assert refused["field"].to_list() == ["start", "price_eur_per_mwh"]
    assert refused["value"][1] == "cheap"
    assert (refused["remedy"].str.len_chars() > 0).all()
    done = sorted(path.name.partition("-")[2] for path in (drop / "done").iterdir())
    assert done == ["b-mixed.csv", "c-good.csv"]
    refused = [path.name.partition("-")[2] for path in (drop / "refused").iterdir()]
    assert refused == ["a-unreadable.parquet"]
    told = loaded.asset_materializations_for_node("dropped_prices")[0].metadata
    assert "a-unreadable.parquet" in str(told["refused_files"].value)
    assert plant.tick("dropped_price_files").run_requests == []


def test_dropped_market_forecasts_are_stored_beside_prices_and_the_corrected_ones_hold(plant):
    drop = plant.runtime.settings.drop_dir
    drop.mkdir()
    start = f"{START:%Y-%m-%dT%H:%M}Z"
    for load in (50000, 50000, 52000):
        (drop / "told.csv").write_text(
            "market,start,load_mw,renewables_mw,resolution_minutes\n"
            f"{MARKET},{start},{load},9000,60\n"
            f"{MARKET},{START:%Y-%m-%dT%H:}15Z,1,9000,60\n"
        )
        plant.clock.sleep_until(plant.clock.now().replace(minute=plant.clock.now().minute + 1))
        assert plant.daemon.launch("collect_dropped_prices").success
    stored = plant.rows("market_forecasts").filter(pl.col("interval_start") == START)
    assert stored.sort("known_at")["load_mw"].to_list() == [50000, 52000]
    now = plant.clock.now()
    known = plant.frame(
        "warehouse_market_forecasts", market=MARKET, start=START, end_=END, as_of=now
    )
    assert known["load_mw"].to_list() == [52000] * 4
    refused = plant.rows("quarantine")
    assert refused["table_name"].unique().to_list() == ["market_forecasts"]
    assert refused["field"].to_list() == ["start"] * 3


HEADER = "market,start,price_eur_per_mwh\n"
REFUSED = {
    "a.csv": (b"market;start;price_eur_per_mwh\nDE-LU;2020-10-25T00:00Z;5\n", "lacks market"),
    "b.csv": (b"market,start,price_eur_per_mwh\nDE-LU,\xff\n", "is not text in UTF-8"),
    "c.csv": (b"market,price_eur_per_mwh\nDE-LU,5\n", "lacks start"),
    "d.csv": (b"", "is empty"),
    "e.csv": (HEADER.encode(), "holds no row"),
    "f.csv": (b"market,start,load_mw,renewables_mw\n", "holds no row"),
    "g": (HEADER.encode(), "has no known suffix"),
}


def test_every_dropped_file_that_is_refused_leaves_a_row_and_is_warned_of(plant):
    drop = plant.runtime.settings.drop_dir
    drop.mkdir()
    for name, (content, _) in REFUSED.items():
        (drop / name).write_bytes(content)
    (loaded,) = plant.daemon.ask("dropped_price_files")
    assert loaded.success
    quarantined = plant.rows("quarantine").sort("source")
    assert quarantined["source"].to_list() == [str(drop / name) for name in REFUSED]
    assert quarantined["row_number"].unique().to_list() == [0]
    assert quarantined["table_name"].to_list() == ["prices"] * 5 + ["market_forecasts", "prices"]
    for (_, said), reason in zip(REFUSED.values(), quarantined["reason"], strict=True):
        assert said in reason
    kept = sorted((drop / "refused").iterdir())
    assert [path.name.partition("-")[2] for path in kept] == list(REFUSED)
    for path, remedy in zip(kept, quarantined["remedy"], strict=True):
        assert f"kept as {path}: correct it and drop it anew" in remedy
    assert not check_of(loaded, "dropped_files_are_taken").passed


@pytest.mark.parametrize("market", ["DE_LU", "FR", "de-lu"])
def test_prices_of_a_market_that_is_never_read_are_refused_and_warned_of(plant, market):
    drop = plant.runtime.settings.drop_dir
    drop.mkdir()
    row = f"{START:%Y-%m-%dT%H:%M}Z"
    (drop / "prices.csv").write_text(f"{HEADER}{market},{row},50\n{MARKET},{row},51\n")
    (drop / "told.csv").write_text(
        f"market,start,load_mw,renewables_mw\n{market},{row},50000,9000\n"
    )
    (loaded,) = plant.daemon.ask("dropped_price_files")
    assert tomorrows(plant)["price_eur_per_mwh"].to_list() == [51]
    assert plant.rows("market_forecasts").is_empty()
    refused = plant.rows("quarantine")
    assert refused.select("field", "value").unique().rows() == [("market", market)]
    assert refused["remedy"].str.contains(f"write {MARKET}").all()
    check = check_of(loaded, "dropped_files_are_taken")
    assert not check.passed
    told = records(check.metadata["refused"])
    assert [row["rows_refused"] for row in told] == [1, 1]


def test_of_good_dropped_files_nothing_is_warned(plant):
    drop = plant.runtime.settings.drop_dir
    drop.mkdir()
    (drop / "prices.csv").write_text(f"{HEADER}{MARKET},{START:%Y-%m-%dT%H:%M}Z,50\n")
    (loaded,) = plant.daemon.ask("dropped_price_files")
    assert check_of(loaded, "dropped_files_are_taken").passed
