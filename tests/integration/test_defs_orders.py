"""Orders and releases in the UI: shown, kept in the warehouse once, and warned of."""

from __future__ import annotations

from datetime import timedelta

from defs_plant import failure_of

from vpp_pipeline.defs.orders import nothing_is_held_back
from vpp_pipeline.devices.protocol import CommandResult, Outcome
from vpp_pipeline.dispatch.holds import Holds
from vpp_pipeline.dispatch.order_book import OrderBook
from vpp_pipeline.dispatch.orders import Order
from vpp_pipeline.dispatch.release_log import Cause, Release, ReleaseLog

MINUTE = timedelta(minutes=1)


def order(plant, kind, scope, **fields):
    now = plant.clock.now()
    given = Order(
        order_id=f"{kind}-{now:%H%M%S}",
        kind=kind,
        scope=scope,
        who="kim",
        why="smoke",
        given_at=now,
        **fields,
    )
    OrderBook(plant.runtime.settings.order_dir).give(given)
    return given


def released(plant, given, outcomes):
    cause = Cause("kill switch", given.order_id, given.words)
    ReleaseLog(plant.runtime.settings.order_dir).append(
        [
            Release.of(
                device_id,
                plant.clock.now(),
                "kim",
                cause,
                CommandResult("", outcome, "00", "words", "ff", 3),
            )
            for device_id, outcome in outcomes.items()
        ]
    )


def asked(plant):
    """Let the daemon ask the sensor; return the asset's metadata and which checks passed."""
    (result,) = plant.daemon.ask("changed_orders")
    assert result.success, plant.daemon.failures
    (materialised,) = result.asset_materializations_for_node("orders")
    checks = {
        evaluation.check_name: evaluation.passed
        for evaluation in result.get_asset_check_evaluations()
    }
    return materialised.metadata, checks


def test_an_order_is_shown_and_kept_when_it_is_given_and_again_when_it_has_run_out(plant):
    assert plant.tick("changed_orders").skip_message == "no order was ever given"
    end = plant.clock.now() + 10 * MINUTE
    given = order(plant, "grid_limit", "site:alba", min_kw=-3.0, valid_until=end)
    metadata, checks = asked(plant)
    assert metadata["new"].value == 1
    assert [row.data["order_id"] for row in metadata["in_force"].records] == [given.order_id]
    assert [row.data["devices"] for row in metadata["devices_under"].records] == [4]
    assert checks == {"nothing_is_held_back": False, "watchdog_runs": False}
    (row,) = plant.rows("orders").rows(named=True)
    assert row == given.model_dump()
    assert plant.daemon.ask("changed_orders") == []

    plant.clock.sleep_until(end)
    metadata, checks = asked(plant)
    assert (metadata["new"].value, metadata["in_force"].records) == (0, [])
    assert checks["nothing_is_held_back"]
    assert plant.count("orders") == 1


def test_invariant_19_a_release_without_the_database_is_in_the_ledger_once_it_is_there(plant):
    given = order(plant, "stop", "fleet")
    outcomes = {
        "alba-battery": Outcome.ACKED,
        "alba-pv": Outcome.REJECTED,
        "borgo-battery": Outcome.FAILED,
        "borgo-charger": Outcome.UNKNOWN,
    }
    released(plant, given, outcomes)
    asked(plant)
    plant.clock.sleep_until(plant.clock.now() + MINUTE)
    released(plant, given, {"alba-pv": Outcome.ACKED})
    asked(plant)
    kept = plant.rows("dispatch_ledger").sort("created_at", "device_id")
    ends = dict(kept.head(4).select("device_id", "state").iter_rows())
    assert ends == {
        "alba-battery": "VERIFIED",
        "alba-pv": "REJECTED",
        "borgo-battery": "EXPIRED",
        "borgo-charger": "EXPIRED",
    }
    assert kept.height == 5
    assert kept.row(4, named=True)["state"] == "VERIFIED"
    assert set(kept["order_id"]) == {given.order_id}
    assert set(kept["authority"]) == {"kill switch"}
    events = plant.rows("command_events").sort("event_id")
    of_one = events.filter(command_id=kept["command_id"][4])
    assert of_one["state"].to_list() == ["PLANNED", "SENT", "ACKED", "VERIFIED"]
    assert of_one["detail"][1] == given.words


def test_invariant_03_a_commanded_device_without_a_timer_is_shown_and_warned_of(plant):
    holds = Holds(plant.runtime.settings.order_dir)
    holds.hold({"borgo-battery": plant.clock.now() + MINUTE})
    metadata, checks = asked(plant)
    assert [row.data["device_id"] for row in metadata["held_without_timer"].records] == [
        "borgo-battery"
    ]
    assert not checks["nothing_is_held_back"]


def test_a_damaged_book_is_told_as_everything_stopped(plant):
    directory = plant.runtime.settings.order_dir
    directory.mkdir(exist_ok=True)
    (directory / "orders.jsonl").write_text("{}\n")
    found = nothing_is_held_back(plant.runtime)
    assert not found.passed
    (row,) = found.metadata["devices_under"].records
    assert row.data["authority"] == "kill switch"


def test_a_damaged_book_fails_the_run_in_words_that_name_the_remedy(plant):
    order(plant, "stop", "fleet")
    file = plant.runtime.settings.order_dir / "orders.jsonl"
    file.write_text("{}\n")
    (result,) = plant.daemon.ask("changed_orders")
    assert not result.success
    assert "everything counts as stopped" in failure_of(result)
    assert "orders.jsonl line 1" in failure_of(result)
