"""Energy-Charts over real HTTP, with a recorded answer and broken ones."""

import json
import threading
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from vpp_pipeline.markets.energy_charts import fetch_day_ahead
from vpp_pipeline.markets.feeds import FeedError, gaps

RECORDED = json.loads(
    (
        Path(__file__).parents[1] / "fixtures/energy_charts/price_de_lu_2024-12-10_60min.json"
    ).read_text()
)
KNOWN = datetime(2024, 12, 9, 12, tzinfo=UTC)
DAY = date(2024, 12, 10)
MIDNIGHT = 1733785200  # 2024-12-10 00:00 in Berlin


class Server:
    """Answers every request with what it was told to, and remembers what it was asked."""

    def __init__(self):
        self.status, self.headers, self.body = 200, {}, b""
        self.asked = []
        self.silent = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, dict(self.headers)))
                if outer.silent.is_set():
                    outer.over.wait(10)
                    return
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *args):
                pass

        self.over = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def says(self, stamps, prices, unit="EUR / MWh"):
        self.body = json.dumps({"unix_seconds": stamps, "price": prices, "unit": unit}).encode()


@pytest.fixture
def server():
    server = Server()
    server.thread.start()
    yield server
    server.over.set()
    server.http.shutdown()
    server.http.server_close()
    server.thread.join()


def fetch(server, end=DAY, **settings):
    with requests.Session() as session:
        return fetch_day_ahead(session, server.url, "DE-LU", DAY, end, KNOWN, **settings)


def test_the_recorded_hours_become_the_quarter_hours_of_two_days(server):
    server.body = json.dumps(RECORDED).encode()
    result = fetch(server, end=date(2024, 12, 11))
    assert result.rejected.is_empty()
    assert gaps(result.rows).is_empty()
    assert result.rows.height == 2 * 96
    first = result.rows.row(0, named=True)
    assert first == {
        "market": "DE-LU",
        "interval_start": datetime(2024, 12, 9, 23, tzinfo=UTC),
        "price_eur_per_mwh": 92.85,
        "resolution_minutes": 60,
        "source": "energy_charts",
        "known_at": KNOWN,
    }
    by_hour = result.rows["price_eur_per_mwh"].gather_every(4).to_list()
    assert by_hour == RECORDED["price"]


def test_the_zone_and_both_days_are_asked_for(server):
    server.body = json.dumps(RECORDED).encode()
    result = fetch(server, end=date(2024, 12, 11))
    ((path, _),) = server.asked
    assert urlsplit(path).path == "/price"
    assert parse_qs(urlsplit(path).query) == {
        "bzn": ["DE-LU"],
        "start": ["2024-12-10"],
        "end": ["2024-12-11"],
    }
    assert result.source.startswith(f"{server.url}/price?bzn=DE-LU")
    assert result.fetched_at == KNOWN


def test_a_quarter_hourly_day_stays_as_it_is(server):
    server.says([MIDNIGHT + 900 * i for i in range(96)], list(range(96)))
    result = fetch(server)
    assert result.rows["price_eur_per_mwh"].to_list() == [float(i) for i in range(96)]
    assert set(result.rows["resolution_minutes"]) == {15}


def test_the_day_on_which_the_market_became_quarter_hourly_follows_an_hourly_one(server):
    change = int(datetime(2025, 9, 30, 22, tzinfo=UTC).timestamp())
    hours = [change - 3600 * i for i in range(24, 0, -1)]
    server.says([*hours, *(change + 900 * i for i in range(96))], [1.0] * 24 + [2.0] * 96)
    rows = fetch(server).rows
    assert rows["resolution_minutes"].to_list() == [60] * 96 + [15] * 96
    assert rows["price_eur_per_mwh"].to_list() == [1.0] * 96 + [2.0] * 96


def test_a_lost_quarter_hour_is_not_filled_from_its_neighbour(server):
    stamps = [MIDNIGHT + 900 * i for i in range(96) if i not in {5, 6, 7}]
    server.says(stamps, [1.0] * 93)
    rows = fetch(server).rows
    assert rows.height == 93
    assert gaps(rows)["interval_start"].to_list() == [
        datetime.fromtimestamp(MIDNIGHT, UTC) + timedelta(minutes=15 * i) for i in (5, 6, 7)
    ]


def test_unordered_answers_come_out_in_order(server):
    server.says([MIDNIGHT + 900 * i for i in (2, 0, 1)], [2.0, 0.0, 1.0])
    assert fetch(server).rows["price_eur_per_mwh"].to_list() == [0.0, 1.0, 2.0]


def test_a_price_that_is_not_there_yet_is_refused_and_not_invented(server):
    server.says([MIDNIGHT, MIDNIGHT + 900], [1.0, None])
    result = fetch(server)
    assert result.rows.height == 1
    (refused,) = result.rejected.to_dicts()
    assert (refused["row_number"], refused["reason"]) == (2, "has no price")
    assert json.loads(refused["row_json"]) == {"unix_seconds": MIDNIGHT + 900, "price": None}


def test_what_is_no_time_and_no_price_is_refused_row_by_row(server):
    stamps = [MIDNIGHT, None, "noon", 1.5, True, 10**30, -1, [], MIDNIGHT + 1, MIDNIGHT + 900]
    server.says([*stamps, MIDNIGHT + 1800], [*[1.0] * 9, "1", True])
    result = fetch(server)
    assert result.rows.height == 1
    assert result.rejected["row_number"].to_list() == list(range(2, 12))
    assert result.rejected["field"].to_list() == (
        ["unix_seconds"] * 7 + ["start"] + ["price_eur_per_mwh"] * 2
    )


def test_repeats_are_kept_once_and_contradictions_not_at_all(server):
    server.says([MIDNIGHT, MIDNIGHT, MIDNIGHT + 900, MIDNIGHT + 900], [1.0, 1.0, 2.0, 3.0])
    result = fetch(server)
    assert result.rows["price_eur_per_mwh"].to_list() == [1.0]
    assert result.rejected["row_number"].to_list() == [2, 3, 4]


def test_a_day_that_is_not_published_gives_no_rows(server):
    server.says([], [])
    result = fetch(server)
    assert (result.rows.height, result.rejected.height) == (0, 0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"),
        (b"<html>maintenance</html>", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no object"),
        (b'{"price": [1], "unit": "EUR / MWh"}', "without the lists"),
        (b'{"unix_seconds": 1, "price": 1, "unit": "EUR / MWh"}', "without the lists"),
        (b'{"unix_seconds": [0, 1], "price": [1], "unit": "EUR / MWh"}', "2 times but 1 prices"),
        (b'{"unix_seconds": [0], "price": [1], "unit": "ct/kWh"}', "in 'ct/kWh', not in EUR / MWh"),
        (b'{"unix_seconds": [0], "price": [1]}', "in None, not in EUR / MWh"),
    ],
)
def test_an_answer_of_another_shape_or_unit_is_refused_whole(server, body, said):
    server.body = body
    with pytest.raises(FeedError, match=r"Energy-Charts|EUR|minutes") as refusal:
        fetch(server)
    assert said in refusal.value.reason
    assert refusal.value.remedy


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (400, "check the bidding zone and the dates"),
        (404, "once the day is published"),
        (429, "try again"),
        (500, "try again"),
        (503, "try again"),
    ],
)
def test_an_http_error_is_told_with_what_to_do(server, status, remedy):
    server.status = status
    with pytest.raises(FeedError, match=f"answered {status}") as refusal:
        fetch(server)
    assert remedy in refusal.value.remedy


def test_a_redirect_is_not_followed_but_told(server):
    server.status, server.headers = 302, {"Location": f"{server.url}/elsewhere"}
    with pytest.raises(FeedError, match="answered 302") as refusal:
        fetch(server)
    assert f"{server.url}/elsewhere" in refusal.value.remedy
    assert len(server.asked) == 1


def test_a_server_that_says_nothing_is_left_after_the_timeout(server):
    server.silent.set()
    with pytest.raises(FeedError, match=r"no answer within 0\.2 s"):
        fetch(server, timeout_s=0.2)


def test_a_server_that_is_not_there_is_told(server):
    port = server.http.server_port
    server.url = f"http://127.0.0.1:{port}:{port}"
    with pytest.raises(FeedError, match="can't be asked"):
        fetch(server)


def test_a_refused_connection_is_told(server):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        server.url = f"http://127.0.0.1:{closed.server_port}"
    with pytest.raises(FeedError, match="can't be asked"):
        fetch(server)


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.says([MIDNIGHT], [1.0])
    assert fetch(server).rows.height == 4


def test_a_range_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="before it starts"):
        fetch_day_ahead(
            requests.Session(), "http://127.0.0.1", "DE-LU", DAY, date(2024, 12, 9), KNOWN
        )
