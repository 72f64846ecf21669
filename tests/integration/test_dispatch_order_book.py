"""The order book keeps what was given, whole, and never takes damage for silence."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from dispatch_fakes import plant

from vpp_pipeline.dispatch import order_book
from vpp_pipeline.dispatch.order_book import OrderBook, OrderBookDamaged
from vpp_pipeline.dispatch.orders import Order

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)


def stop(name: str) -> Order:
    return Order(order_id=name, kind="stop", scope="fleet", who="ada", why="test", given_at=NOW)


@pytest.fixture
def book(tmp_path) -> OrderBook:
    return OrderBook(tmp_path / "orders")


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "orders" / "orders.jsonl"


def names(book: OrderBook) -> list[str]:
    return [order.order_id for order in book.read()]


def test_where_nothing_was_given_nothing_stands(book):
    assert book.read() == []
    assert not book.standing(plant(), NOW)["stopped"].any()


def test_what_was_given_is_read_as_it_was_given(book, file):
    order = Order(
        order_id="o-1",
        kind="grid_limit",
        scope="site:site",
        who="Stadtwerke “Süd”",
        why="§14a\nEnWG",
        given_at=datetime.fromisoformat("2026-03-01T11:00:00.000001+01:00"),
        valid_until=datetime(2026, 3, 1, 12, tzinfo=UTC),
        min_kw=-4.2,
    )
    book.give(order)
    book.give(stop("o-2"))
    assert OrderBook(file.parent).read() == [order, stop("o-2")]
    assert order.given_at.tzinfo is UTC
    assert book.standing(plant(), NOW)["stopped"].all()


def test_an_order_cut_off_by_a_crash_was_never_given_and_hides_no_other(book, file):
    book.give(stop("o-1"))
    with file.open("ab") as torn:
        torn.write(b'{"order_id": "o-2", "ki')
    assert names(book) == ["o-1"]
    book.give(stop("o-3"))
    assert names(book) == ["o-1", "o-3"]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (b"\0\0\0\n", "line 2"),
        (b"\n", "line 2"),
        (b"[]\n", "line 2"),
        (b'{"order_id": "o-2"}\n', "line 2, kind"),
        (stop("o-2").model_dump_json().replace('"stop"', '"stopp"').encode() + b"\n", "kind"),
        (b"\xff\xfe\n", "line 2"),
    ],
)
def test_invariant_09_a_damaged_book_stops_every_device(book, file, damage, what):
    book.give(Order.model_validate({**stop("o-1").model_dump(), "kind": "resume"}))
    with file.open("ab") as damaged:
        damaged.write(damage)
    with pytest.raises(OrderBookDamaged, match=what) as raised:
        book.read()
    assert str(file) in str(raised.value)
    assert "mend the line" in str(raised.value)
    standing = book.standing(plant(), NOW)
    assert standing["stopped"].all()
    assert standing["stop_words"].str.contains("can't be read").all()


@pytest.mark.parametrize("lost", ["book", "directory", "last order"])
def test_invariant_09_orders_that_were_lost_stop_every_device(book, file, lost):
    book.give(Order.model_validate({**stop("o-1").model_dump(), "kind": "resume"}), stop("o-2"))
    lines = file.read_text().splitlines(keepends=True)
    file.unlink()
    if lost == "directory":
        file.parent.rmdir()
    if lost == "last order":
        file.write_text(lines[0])
    for _ in range(2):
        with pytest.raises(OrderBookDamaged, match=r"orders\.jsonl is gone, or has lost orders"):
            book.read()
        standing = book.standing(plant(), NOW)
        assert standing["stopped"].all()
        assert standing["stop_words"].str.contains("bring it back").all()
        book.give(Order.model_validate({**stop("o-3").model_dump(), "kind": "resume"}))
    (file.parent.parent / "orders.length").unlink()
    assert not book.standing(plant(), NOW)["stopped"].any()


def test_invariant_09_a_length_that_cant_be_read_stops_every_device(book, file):
    book.give(Order.model_validate({**stop("o-1").model_dump(), "kind": "resume"}))
    (file.parent.parent / "orders.length").write_text("")
    assert book.standing(plant(), NOW)["stopped"].all()


def test_invariant_10_a_stop_can_be_given_to_a_damaged_book(book, file):
    file.parent.mkdir()
    file.write_bytes(b"what is this?\n")
    book.give(stop("o-1"))
    assert file.read_bytes().endswith(
        stop("o-1").model_dump_json(exclude_none=True).encode() + b"\n"
    )


def test_invariant_09_a_book_that_can_t_be_opened_is_damaged_and_not_empty(book, file):
    file.mkdir(parents=True)
    with pytest.raises(OrderBookDamaged, match="can't be read"):
        book.read()
    assert book.standing(plant(), NOW)["stopped"].all()


def test_invariant_09_a_book_that_nobody_lets_go_of_is_damaged_and_not_empty(
    book, file, monkeypatch
):
    monkeypatch.setattr(order_book, "_ATTEMPTS", 2)
    book.give(stop("o-1"))
    with file.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OrderBookDamaged, match="end the process"):
            book.read()
        assert book.standing(plant(), NOW)["stopped"].all()
    assert names(book) == ["o-1"]


GIVER = textwrap.dedent("""
    import sys
    from datetime import UTC, datetime
    from pathlib import Path
    from vpp_pipeline.dispatch.order_book import OrderBook
    from vpp_pipeline.dispatch.orders import Order

    book = OrderBook(Path(sys.argv[1]))
    for number in range(int(sys.argv[3])):
        name = f"{sys.argv[2]}-{number}"
        now = datetime(2026, 3, 1, 10, tzinfo=UTC)
        book.give(Order(order_id=name, kind="stop", scope="fleet", who="ada", why="x" * 150,
                        given_at=now))
        print(name, flush=True)
""")


def giver(directory: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", GIVER, str(directory), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_what_several_processes_give_at_once_is_kept_whole_even_if_one_is_killed(book, file):
    file.parent.mkdir()
    with giver(file.parent, "a", 30) as steady, giver(file.parent, "b", 10_000) as doomed:
        given = [doomed.stdout.readline().strip() for _ in range(10)]
        doomed.kill()
        given += doomed.stdout.read().split("\n")[:-1]
        given += steady.stdout.read().split()
    kept = names(book)
    assert set(given) <= set(kept)
    assert len(kept) == len(set(kept))
    assert len(kept) - len(given) <= 1
    assert [name for name in kept if name.startswith("a-")] == [f"a-{n}" for n in range(30)]
