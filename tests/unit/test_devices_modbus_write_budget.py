"""The daily budget of writes to flash."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest

from vpp_pipeline.devices.write_budget import BudgetSpent, WriteBudget

if TYPE_CHECKING:
    from pathlib import Path

TODAY, TOMORROW = date(2026, 3, 1), date(2026, 3, 2)
DEVICE = "127.0.0.1:502 1"


def test_invariant_12_writes_to_flash_end_with_the_budget_in_every_process(tmp_path: Path) -> None:
    for _ in range(3):
        WriteBudget(tmp_path).take(DEVICE, {337: 3}, TODAY)
    with pytest.raises(
        BudgetSpent, match=r"register 337 of 127.0.0.1:502 1 .* 3 writes of 2026-03"
    ):
        WriteBudget(tmp_path).take(DEVICE, {337: 3}, TODAY)
    WriteBudget(tmp_path).take("127.0.0.1:502 2", {337: 3}, TODAY)
    WriteBudget(tmp_path).take(DEVICE, {337: 3}, TOMORROW)


def test_a_refused_write_counts_for_no_register(tmp_path: Path) -> None:
    budget = WriteBudget(tmp_path)
    budget.take(DEVICE, {1: 1, 2: 2}, TODAY)
    with pytest.raises(BudgetSpent, match="register 1 "):
        budget.take(DEVICE, {2: 2, 1: 1}, TODAY)
    budget.take(DEVICE, {2: 2}, TODAY)


def test_a_clock_that_is_set_back_begins_no_day_anew(tmp_path: Path) -> None:
    budget = WriteBudget(tmp_path)
    budget.take(DEVICE, {337: 1}, TOMORROW)
    with pytest.raises(BudgetSpent, match="2026-03-02"):
        budget.take(DEVICE, {337: 1}, TODAY)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"day": "x", "writes": {}}', '{"day": 1}'])
def test_a_count_that_can_t_be_read_refuses_and_names_the_file(
    tmp_path: Path, content: str
) -> None:
    budget = WriteBudget(tmp_path)
    budget.take(DEVICE, {337: 1}, TODAY)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    with pytest.raises(BudgetSpent, match="delete the file") as told:
        budget.take(DEVICE, {337: 5}, TODAY)
    assert str(file) in str(told.value)
