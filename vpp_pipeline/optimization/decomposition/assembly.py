"""Blocks as quadratic programmes over boxes, compiled.

Belongs here: a block's variables, rows and coefficients, in the order of time, so that its rows
are banded. Does not: solving them (`interior_point`), the same mathematics to be read (`model`).

A block is  minimise ½ x'Qx + q'x  over  A x = b,  low <= x <= high,  with diagonal Q. Its rows are
the stores' energy laws, the reserves' headrooms, ramps, and the site's limits. `link` ties a
variable to the rows that all blocks share: the fleet's power in each of T quarter-hours and, after
these, reserve up and reserve down. Where an energy costs in part (a debt, discomfort), it is cut
into consecutive pieces, each with its own cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vpp_pipeline.delivery_day import STEP_H
from vpp_pipeline.optimization.threads import side_by_side

if TYPE_CHECKING:
    from vpp_pipeline.optimization.decomposition.blocks import Part
    from vpp_pipeline.optimization.problem import Floats, Places

Indices = NDArray[np.int32]  # half the memory that every step goes through

_H = STEP_H
_AT_A_TIME = 64  # blocks
_FIXED = 1e-9  # bounds closer than this leave no choice
_kernel = njit(cache=True, nogil=True, error_model="numpy")
_PIECES = 3  # short of the wish, between, above comfort
_LOOSENED_KWH = 1e-7  # an energy that can't be changed may lie on its bound


class Programmes(NamedTuple):
    """The blocks' variables (V) and rows (R), one block after the other; L shared rows."""

    variable_first: Places  # (B+1,)
    row_first: Places  # (B+1,)
    width: Places  # (B,) half-bandwidth
    entry_first: Indices  # (V+1,)
    entry_row: Indices  # (E,) counted from the block's first
    entry_value: Floats  # (E,)
    linear: Floats  # (V,)
    quadratic: Floats  # (V,)
    low: Floats  # (V,)
    high: Floats  # (V,)
    link: Indices  # (V,) -1 where there is none
    link_value: Floats  # (V,)
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
    sources = len(part.source_cost)
    results = result_places(stores, sources, steps)
    multipliers = multiplier_places(stores, sources, blocks, steps)
    runs = [(first, min(first + _AT_A_TIME, blocks)) for first in range(0, blocks, _AT_A_TIME)]
    ends = np.zeros((blocks + 1, 3), dtype=np.int64)

    def write(out: Programmes, run: tuple[int, int], *, fill: bool) -> Floats:
        link = np.zeros(3 * steps)
        _write(part, out, link, run[0], run[1], fill, ends, results, multipliers)
        return link

    counted = _empty(blocks, 0, 0, 0, steps, 0)
    list(side_by_side(lambda run: write(counted, run, fill=False), runs))
    ends.cumsum(axis=0, out=ends)
    variables, rows, entries = (int(end) for end in ends[-1])
    made = _empty(blocks, variables, rows, entries, steps, int(results[-1]))
    made.variable_first[:] = ends[:, 0]
    made.row_first[:] = ends[:, 1]
    made.entry_first[-1] = entries
    for link in side_by_side(lambda run: write(made, run, fill=True), runs):
        made.fixed_link[:] += link
    return made


def _empty(
    blocks: int, variables: int, rows: int, entries: int, steps: int, results: int
) -> Programmes:
    return Programmes(
        variable_first=np.zeros(blocks + 1, dtype=np.int64),
        row_first=np.zeros(blocks + 1, dtype=np.int64),
        width=np.zeros(blocks, dtype=np.int64),
        entry_first=np.zeros(variables + 1, dtype=np.int32),
        entry_row=np.zeros(entries, dtype=np.int32),
        entry_value=np.zeros(entries),
        linear=np.zeros(variables),
        quadratic=np.zeros(variables),
        low=np.zeros(variables),
        high=np.zeros(variables),
        link=np.full(variables, -1, dtype=np.int32),
        link_value=np.zeros(variables),
        target=np.zeros(variables, dtype=np.int64),
        right=np.zeros(rows),
        row_target=np.zeros(rows, dtype=np.int64),
        fixed_link=np.zeros(3 * steps),
        fixed_result=np.zeros(results),
        steps=steps,
    )


@_kernel
def _add(out, fixed_link, fill, v, z, bounds, costs, rows, values, link, link_value, target, row0):
    """Add a variable with up to `len(rows)` coefficients (row -1: none); return the new counts.

    One without a choice goes to the right-hand sides instead.
    """
    low, high = bounds
    if high - low < _FIXED:
        if fill:
            value = 0.5 * (low + high)
            for k in range(len(rows)):
                if rows[k] >= 0:
                    out.right[row0 + rows[k]] -= values[k] * value
            if link >= 0:
                fixed_link[link] += link_value * value
            if target >= 0:
                out.fixed_result[target] += value
        return v, z
    for k in range(len(rows)):
        if rows[k] >= 0:
            if fill:
                out.entry_row[z] = rows[k]
                out.entry_value[z] = values[k]
            z += 1
    if fill:
        out.low[v], out.high[v] = low, high
        out.linear[v], out.quadratic[v] = costs
        out.link[v], out.link_value[v] = link, link_value
        out.target[v] = target
        out.entry_first[v + 1] = z
    return v + 1, z


@_kernel
def _write(part, out, fixed_link, block_first, block_last, fill, ends, results, multipliers):
    """Count the blocks' variables, rows and entries into `ends`, or write them where it says."""
    steps = part.charge_max_kw.shape[1]
    rows = np.empty(6, dtype=np.int64)
    values = np.empty(6)
    for b in range(block_first, block_last):
        s0, s1 = part.store_first[b], part.store_first[b + 1]
        g0, g1 = part.source_first[b], part.source_first[b + 1]
        v = ends[b, 0] if fill else 0
        row0 = ends[b, 1] if fill else 0
        z = ends[b, 2] if fill else 0
        v0, z0 = v, z
        if fill and len(out.entry_first) > v:
            out.entry_first[v] = z  # the block before may not be there yet
        r = 0
        law = np.full((s1 - s0, steps), -1, dtype=np.int64)
        head = np.full((s1 - s0, steps), -1, dtype=np.int64)
        ramp = np.full((g1 - g0, steps), -1, dtype=np.int64)
        export = np.full(steps, -1, dtype=np.int64)
        imports = np.full(steps, -1, dtype=np.int64)
        most = np.zeros(steps)
        least = np.zeros(steps)
        reserved = False
        for s in range(s0, s1):
            reserved = reserved or part.reserve[s]
        for t in range(steps):
            for g in range(g0, g1):
                if t > 0 and np.isfinite(part.source_ramp_kw[g]):
                    ramp[g - g0, t] = r
                    if fill:
                        out.row_target[row0 + r] = multipliers[1] + g * steps + t
                    r += 1
            for s in range(s0, s1):
                if part.present[s, t]:
                    law[s - s0, t] = r
                    if fill:
                        started = t == 0 or part.starts[s, t] or not part.present[s, t - 1]
                        before = part.retention[s] * part.initial_kwh[s, t] if started else 0.0
                        out.right[row0 + r] = part.drift_kwh[s, t] + before
                        out.row_target[row0 + r] = multipliers[0] + s * steps + t
                    r += 1
                    if part.reserve[s] and (
                        part.charge_max_kw[s, t] + part.discharge_max_kw[s, t] > _FIXED
                    ):
                        head[s - s0, t] = r
                        if fill:
                            for k in range(4):
                                out.row_target[row0 + r + k] = multipliers[4 + k] + s * steps + t
                            out.right[row0 + r] = part.discharge_max_kw[s, t]
                            out.right[row0 + r + 1] = part.charge_max_kw[s, t]
                            out.right[row0 + r + 2] = part.floor_kwh[s, t]
                            out.right[row0 + r + 3] = part.ceiling_kwh[s, t]
                        r += 4
            if not part.limited[b]:
                continue
            most[t] = least[t] = part.base_kw[b, t]
            for s in range(s0, s1):
                if part.present[s, t]:
                    most[t] += part.discharge_max_kw[s, t]
                    least[t] -= part.charge_max_kw[s, t]
            for g in range(g0, g1):
                most[t] += part.source_max_kw[g, t]
                least[t] += part.source_min_kw[g, t]
            may_export = most[t] > part.export_limit_kw[b]
            may_import = least[t] < -part.import_limit_kw[b]
            # One row serves both limits, unless reserve is held up and down within them.
            if may_export or (may_import and not reserved):
                export[t] = r
                if fill:
                    out.row_target[row0 + r] = multipliers[2] + b * steps + t
                    out.right[row0 + r] = part.export_limit_kw[b] - part.base_kw[b, t]
                r += 1
            if may_import and reserved:
                imports[t] = r
                if fill:
                    out.row_target[row0 + r] = multipliers[3] + b * steps + t
                    out.right[row0 + r] = part.import_limit_kw[b] + part.base_kw[b, t]
                r += 1

        for t in range(steps):
            for s in range(s0, s1):
                if not part.present[s, t]:
                    continue
                here, up = law[s - s0, t], head[s - s0, t]
                place = s * steps + t
                gain = part.charge_efficiency[s] * _H
                loss = _H / part.discharge_efficiency[s]
                wear = 0.5 * _H * part.wear_eur_per_kwh[s]
                bend = part.store_curvature[s] * _H
                rows[0], rows[1], rows[2] = here, export[t], imports[t]
                rows[3] = up
                rows[4] = up + 1 if up >= 0 else -1
                rows[5] = -1
                values[0], values[1], values[2], values[3], values[4] = -gain, -1.0, 1.0, -1.0, 1.0
                v, z = _add(
                    out,
                    fixed_link,
                    fill,
                    v,
                    z,
                    (part.charge_min_kw[s, t], part.charge_max_kw[s, t]),
                    (wear, bend),
                    rows,
                    values,
                    t,
                    -1.0,
                    results[0] + place,
                    row0,
                )
                values[0], values[1], values[2], values[3], values[4] = loss, 1.0, -1.0, 1.0, -1.0
                v, z = _add(
                    out,
                    fixed_link,
                    fill,
                    v,
                    z,
                    (part.discharge_min_kw[s, t], part.discharge_max_kw[s, t]),
                    (wear, bend),
                    rows,
                    values,
                    t,
                    1.0,
                    results[1] + place,
                    row0,
                )
                low = part.floor_kwh[s, t] - _LOOSENED_KWH
                high = part.ceiling_kwh[s, t] + _LOOSENED_KWH
                wished = min(max(part.wished_kwh[s, t], low), high)
                comfort = min(max(part.comfort_kwh[s, t], low), high)
                short, above = part.shortfall_eur_per_kwh[s, t], part.excess_eur_per_kwh[s, t]
                kept = part.end_value_eur_per_kwh[s] if t == steps - 1 else 0.0
                onward = t + 1 < steps and part.present[s, t + 1] and not part.starts[s, t + 1]
                rows[0] = here
                rows[1] = law[s - s0, t + 1] if onward else -1
                rows[2] = up + 2 if up >= 0 else -1
                rows[3] = up + 3 if up >= 0 else -1
                rows[4] = -1
                values[0], values[1], values[2], values[3] = 1.0, -part.retention[s], 1.0, 1.0
                if fill:
                    for k in range(4):
                        if rows[k] >= 0:
                            out.right[row0 + rows[k]] -= values[k] * low
                    out.fixed_result[results[2] + place] += low
                first, second = min(wished, comfort), max(wished, comfort)
                between = above - short if comfort < wished else 0.0
                start = low
                for k in range(_PIECES):
                    end = first if k == 0 else second if k == 1 else high
                    slope = -short if k == 0 else between if k == 1 else above
                    after = between if k == 0 else above
                    if k < _PIECES - 1 and (after == slope or end - start < _FIXED):
                        continue
                    v, z = _add(
                        out,
                        fixed_link,
                        fill,
                        v,
                        z,
                        (0.0, end - start),
                        (slope - kept, 0.0),
                        rows,
                        values,
                        -1,
                        0.0,
                        results[2] + place,
                        row0,
                    )
                    start = end
                if up < 0:
                    continue
                full = part.charge_max_kw[s, t] + part.discharge_max_kw[s, t]
                room = part.ceiling_kwh[s, t] - part.floor_kwh[s, t]
                rows[4] = -1
                for way in range(2):
                    rows[0] = up + way
                    rows[1] = up + 2 + way
                    rows[2] = export[t] if way == 0 else imports[t]
                    rows[3] = -1
                    values[0], values[2] = 1.0, 1.0
                    values[1] = (
                        -part.sustain_h / part.discharge_efficiency[s]
                        if way == 0
                        else part.sustain_h * part.charge_efficiency[s]
                    )
                    v, z = _add(
                        out,
                        fixed_link,
                        fill,
                        v,
                        z,
                        (0.0, full),
                        (0.0, bend * 1e-3),
                        rows,
                        values,
                        (1 + way) * steps + t,
                        1.0,
                        results[4 + way] + place,
                        row0,
                    )
                    rows[1] = rows[2] = -1
                    v, z = _add(
                        out,
                        fixed_link,
                        fill,
                        v,
                        z,
                        (0.0, full),
                        (0.0, 0.0),
                        rows,
                        values,
                        -1,
                        0.0,
                        -1,
                        row0,
                    )
                    rows[0] = up + 2 + way
                    values[0] = -1.0 if way == 0 else 1.0
                    v, z = _add(
                        out,
                        fixed_link,
                        fill,
                        v,
                        z,
                        (0.0, room + _LOOSENED_KWH),
                        (0.0, 0.0),
                        rows,
                        values,
                        -1,
                        0.0,
                        -1,
                        row0,
                    )
            for g in range(g0, g1):
                bend = part.source_curvature[g] * _H
                most_kw = part.source_max_kw[g, t]
                rows[0], rows[1], rows[2] = export[t], imports[t], ramp[g - g0, t]
                rows[3] = ramp[g - g0, t + 1] if t + 1 < steps else -1
                rows[4] = rows[5] = -1
                values[0], values[1], values[2], values[3] = 1.0, -1.0, 1.0, -1.0
                linear = part.source_cost[g] * _H
                if part.curtailable[g]:
                    linear -= bend * most_kw
                v, z = _add(
                    out,
                    fixed_link,
                    fill,
                    v,
                    z,
                    (part.source_min_kw[g, t], most_kw),
                    (linear, bend),
                    rows,
                    values,
                    t,
                    1.0,
                    results[3] + g * steps + t,
                    row0,
                )
                if ramp[g - g0, t] >= 0:
                    rows[0], rows[1], rows[3] = ramp[g - g0, t], -1, -1
                    rows[2] = -1
                    values[0] = -1.0
                    limit = part.source_ramp_kw[g]
                    v, z = _add(
                        out,
                        fixed_link,
                        fill,
                        v,
                        z,
                        (-limit, limit),
                        (0.0, 0.0),
                        rows,
                        values,
                        -1,
                        0.0,
                        -1,
                        row0,
                    )
            for way in range(2):
                row = export[t] if way == 0 else imports[t]
                if row < 0:
                    continue
                rows[0] = row
                rows[1] = rows[2] = rows[3] = rows[4] = rows[5] = -1
                values[0] = 1.0
                over = part.export_overload_kw[b, t]
                under = part.import_overload_kw[b, t]
                if reserved and way == 0:
                    slack = part.export_limit_kw[b] + over - min(least[t], 0.0)
                elif reserved:
                    slack = part.import_limit_kw[b] + under + max(most[t], 0.0)
                else:
                    slack = part.export_limit_kw[b] + part.import_limit_kw[b]
                v, z = _add(
                    out,
                    fixed_link,
                    fill,
                    v,
                    z,
                    (0.0, slack),
                    (0.0, 0.0),
                    rows,
                    values,
                    -1,
                    0.0,
                    -1,
                    row0,
                )
                cost = part.overload_eur_per_kwh * _H
                values[0] = -1.0
                v, z = _add(
                    out,
                    fixed_link,
                    fill,
                    v,
                    z,
                    (0.0, over if way == 0 else under),
                    (cost, 0.0),
                    rows,
                    values,
                    -1,
                    0.0,
                    -1,
                    row0,
                )
                if not reserved:
                    values[0] = 1.0
                    v, z = _add(
                        out,
                        fixed_link,
                        fill,
                        v,
                        z,
                        (0.0, under),
                        (cost, 0.0),
                        rows,
                        values,
                        -1,
                        0.0,
                        -1,
                        row0,
                    )
        if fill:
            out.width[b] = _width(out, v0, v, steps)
        else:
            ends[b + 1, 0], ends[b + 1, 1], ends[b + 1, 2] = v - v0, r, z - z0


@_kernel
def _width(out, first, last, steps):
    """Return the widest spread of rows that a variable, or a shared row, brings together."""
    width = 1
    lowest = np.full(3 * steps, 1 << 40, dtype=np.int64)
    highest = np.full(3 * steps, -1, dtype=np.int64)
    for v in range(first, last):
        low, high = 1 << 40, -1
        for z in range(out.entry_first[v], out.entry_first[v + 1]):
            low = min(low, out.entry_row[z])
            high = max(high, out.entry_row[z])
        if high < 0:
            continue
        width = max(width, high - low)
        link = out.link[v]
        if link >= 0:
            lowest[link] = min(lowest[link], low)
            highest[link] = max(highest[link], high)
            width = max(width, highest[link] - lowest[link])
    return width
