"""What blocks are written on before their places among all are known, and putting it together.

Belongs here: a sheet for some blocks, its room, and copying it to the programmes. Does not: what is
written on it (`assembly_kernel`), the programmes (`assembly`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vpp_pipeline.optimization.decomposition.blocks import Part
    from vpp_pipeline.optimization.problem import Floats, Places

Indices = NDArray[np.int32]  # half the memory that every step goes through
_kernel = njit(cache=True, nogil=True, error_model="numpy")


class Sheet(NamedTuple):
    """Room for the variables (V), rows (R), entries (E) and meetings (M) of some blocks (B)."""

    ends: Places  # (B+1, 4) where a block's variables, rows, entries and meetings begin; the ends
    width: Places  # (B,) half-bandwidth
    number: Floats  # (V, 5) low, high, linear, quadratic, link value
    place: Places  # (V, 3) link, target, end of its entries
    entry_row: Indices  # (E,) counted from the block's first
    entry_value: Floats  # (E,)
    right: Floats  # (R,)
    row_target: Places  # (R,)
    meeting_link: Indices  # (M,)
    meeting_row: Indices  # (M,)
    fixed_link: Floats  # (L,) what variables without a choice add to the shared rows
    fixed_result: Floats  # all blocks' flat results before the variables are added


def blank_sheet(part: Part, first: int, last: int, fixed_result: Floats) -> Sheet:
    """Return a sheet on which the blocks [first, last) find room, whatever choices they leave."""
    s0, s1 = part.store_first[first], part.store_first[last]
    stores, reserving = s1 - s0, int(part.reserve[s0:s1].sum())
    sources = part.source_first[last] - part.source_first[first]
    limited, steps = int(part.limited[first:last].sum()), part.charge_max_kw.shape[1]
    # a store has two powers with 5 entries each and three pieces of energy with 4; none has under 2
    variables = steps * (5 * stores + 6 * reserving + 2 * sources + 6 * limited)
    entries = steps * (22 * stores + 14 * reserving + 6 * sources + 12 * limited)
    rows = steps * (stores + 4 * reserving + sources + 2 * limited)
    meetings = steps * (last - first + 2 * reserving)
    return Sheet(
        ends=np.zeros((last - first + 1, 4), dtype=np.int64),
        width=np.empty(last - first, dtype=np.int64),
        number=np.empty((variables, 5)),
        place=np.empty((variables, 3), dtype=np.int64),
        entry_row=np.empty(entries, dtype=np.int32),
        entry_value=np.empty(entries),
        right=np.empty(rows),
        row_target=np.empty(rows, dtype=np.int64),
        meeting_link=np.empty(meetings, dtype=np.int32),
        meeting_row=np.empty(meetings, dtype=np.int32),
        fixed_link=np.zeros(3 * steps),
        fixed_result=fixed_result,
    )


@_kernel
def put_together(sheet, out, first, begin):
    """Copy a sheet's blocks to the programmes: from block `first` on, their variables, rows,
    entries and meetings from where `begin` (4,) says.
    """
    v0, r0, z0, m0 = begin
    blocks = len(sheet.width)
    for b in range(blocks):
        out.variable_first[first + b] = v0 + sheet.ends[b, 0]
        out.row_first[first + b] = r0 + sheet.ends[b, 1]
        out.meeting_first[first + b] = m0 + sheet.ends[b, 3]
        out.width[first + b] = sheet.width[b]
    variables, rows, entries, meetings = sheet.ends[blocks]
    number, place = sheet.number, sheet.place
    low, high, linear, quadratic = out.low[v0:], out.high[v0:], out.linear[v0:], out.quadratic[v0:]
    link, link_value, target = out.link[v0:], out.link_value[v0:], out.target[v0:]
    entry_first = out.entry_first[v0:]
    for v in range(variables):
        low[v], high[v], linear[v] = number[v, 0], number[v, 1], number[v, 2]
        quadratic[v], link_value[v] = number[v, 3], number[v, 4]
        link[v], target[v] = place[v, 0], place[v, 1]
        entry_first[v + 1] = z0 + place[v, 2]
    out.right[r0 : r0 + rows] = sheet.right[:rows]
    out.row_target[r0 : r0 + rows] = sheet.row_target[:rows]
    out.entry_row[z0 : z0 + entries] = sheet.entry_row[:entries]
    out.entry_value[z0 : z0 + entries] = sheet.entry_value[:entries]
    out.meeting_link[m0 : m0 + meetings] = sheet.meeting_link[:meetings]
    out.meeting_row[m0 : m0 + meetings] = sheet.meeting_row[:meetings]
