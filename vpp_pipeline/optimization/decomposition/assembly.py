"""Blocks as quadratic programmes over boxes, compiled.

Belongs here: what programmes are, room for them, blocks over threads. Does not: which variables
and rows a block has (`assembly_kernel`), solving them (`interior_point`), the same mathematics to
be read (`model`).

A block is  minimise ½ x'Qx + q'x  over  A x = b,  low <= x <= high,  with diagonal Q. Its rows are
the stores' energy laws, the reserves' headrooms, ramps, and the site's limits. `link` ties a
variable to the rows that all blocks share: the fleet's power in each of T quarter-hours and, after
these, reserve up and reserve down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vpp_pipeline.optimization.decomposition.assembly_kernel import write_blocks
from vpp_pipeline.optimization.decomposition.sheets import (
    Indices,
    Sheet,
    blank_sheet,
    put_together,
)
from vpp_pipeline.threads import side_by_side

if TYPE_CHECKING:
    from vpp_pipeline.optimization.decomposition.blocks import Part
    from vpp_pipeline.optimization.problem import Floats, Places

_AT_A_TIME = 64  # blocks


class Programmes(NamedTuple):
    """The blocks' variables (V) and rows (R), one block after the other; L shared rows."""

    variable_first: Places  # (B+1,)
    row_first: Places  # (B+1,)
    width: Places  # (B,) half-bandwidth
    entry_first: Indices  # (V+1,) a variable has two or more, lacking ones are 0
    entry_row: Indices  # (E,) counted from the block's first; of the first two in order
    entry_value: Floats  # (E,)
    linear: Floats  # (V,)
    quadratic: Floats  # (V,)
    low: Floats  # (V,)
    high: Floats  # (V,)
    link: Indices  # (V,) -1 where there is none
    link_value: Floats  # (V,)
    meeting_first: Places  # (B+1,) of the shared rows that a block's rows meet, in time's order
    meeting_link: Indices  # (M,)
    meeting_row: Indices  # (M,) the first of the block's rows that it meets
    target: Places  # (V,) place in the flat results, see `result_places`
    right: Floats  # (R,)
    row_target: Places  # (R,) place in the flat multipliers, see `multiplier_places`
    fixed_link: Floats  # (L,) what variables without a choice add to the shared rows
    fixed_result: Floats  # the flat results before the variables are added
    steps: int


def result_places(stores: int, sources: int, steps: int) -> Places:
    """Return where charge, discharge, energy, source, reserve up and down begin, and the end."""
    sizes = np.array([stores, stores, stores, sources, stores, stores]) * steps
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def multiplier_places(stores: int, sources: int, blocks: int, steps: int) -> Places:
    """Return where law, ramp, export, import and the four headrooms begin, and the end."""
    sizes = np.array([stores, sources, blocks, blocks, stores, stores, stores, stores]) * steps
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def assemble(part: Part) -> Programmes:
    """Return the blocks' programmes, without any price of the shared rows."""
    blocks = len(part.limited)
    stores, steps = part.charge_max_kw.shape
    results = result_places(stores, len(part.source_cost), steps)
    multipliers = multiplier_places(stores, len(part.source_cost), blocks, steps)
    runs = [(first, min(first + _AT_A_TIME, blocks)) for first in range(0, blocks, _AT_A_TIME)]
    fixed_result = np.zeros(results[-1])

    def write(run: tuple[int, int]) -> Sheet:
        sheet = blank_sheet(part, *run, fixed_result)
        write_blocks(part, sheet, *run, results, multipliers)
        return sheet

    sheets = list(side_by_side(write, runs))
    begin = np.zeros((len(sheets) + 1, 4), dtype=np.int64)
    for nth, sheet in enumerate(sheets):
        begin[nth + 1] = begin[nth] + sheet.ends[-1]
    made = _empty(blocks, begin[-1], steps, fixed_result)

    def place(nth: int) -> None:
        put_together(sheets[nth], made, runs[nth][0], begin[nth])

    list(side_by_side(place, range(len(sheets))))
    for sheet in sheets:
        made.fixed_link[:] += sheet.fixed_link
    return made


def _empty(blocks: int, sizes: Places, steps: int, fixed_result: Floats) -> Programmes:
    """Return room for programmes with so many variables, rows, entries and meetings."""
    variables, rows, entries, meetings = sizes
    return Programmes(
        variable_first=np.full(blocks + 1, variables, dtype=np.int64),
        row_first=np.full(blocks + 1, rows, dtype=np.int64),
        width=np.empty(blocks, dtype=np.int64),
        entry_first=np.zeros(variables + 1, dtype=np.int32),
        entry_row=np.empty(entries, dtype=np.int32),
        entry_value=np.empty(entries),
        linear=np.empty(variables),
        quadratic=np.empty(variables),
        low=np.empty(variables),
        high=np.empty(variables),
        link=np.empty(variables, dtype=np.int32),
        link_value=np.empty(variables),
        meeting_first=np.full(blocks + 1, meetings, dtype=np.int64),
        meeting_link=np.empty(meetings, dtype=np.int32),
        meeting_row=np.empty(meetings, dtype=np.int32),
        target=np.empty(variables, dtype=np.int64),
        right=np.empty(rows),
        row_target=np.empty(rows, dtype=np.int64),
        fixed_link=np.zeros(3 * steps),
        fixed_result=fixed_result,
        steps=steps,
    )
