"""A block's variables, rows and coefficients, compiled.

Belongs here: what a store, a source and a connection add to their block's programme, in the order
of time, so that its rows are banded. Does not: the programmes' arrays (`assembly`), solving them.

Blocks are gone through twice: first to count, then, where the counts say, to write. Where an
energy costs in part (a debt, discomfort), it is cut into consecutive pieces, each with its own
cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from vpp_pipeline.delivery_day import STEP_H

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats, Places

_H = STEP_H
_FIXED = 1e-9  # bounds closer than this leave no choice
_PIECES = 3  # short of the wish, between, above comfort
_LOOSENED_KWH = 1e-7  # an energy that can't be changed may lie on its bound
_NOWHERE = 1 << 40
_NO_LINK = (-1, 0.0)
_kernel = njit(cache=True, nogil=True, error_model="numpy")
# Called for every variable with all arrays: a call would cost more than what it does.
_inlined = njit(cache=True, nogil=True, error_model="numpy", inline="always")


class _Into(NamedTuple):
    """What a block is written with."""

    fixed_link: Floats
    fill: bool  # else variables and entries are only counted
    row0: int  # the block's first row
    result: Places  # see `result_places`
    multiplier: Places  # see `multiplier_places`
    row: Places  # a variable's coefficients before they are added: (6,) rows, -1 for none
    value: Floats


class _Rows(NamedTuple):
    """A block's rows, counted from its first; -1 where there is none."""

    law: Places  # (stores, T)
    head: Places  # (stores, T) the first of four headrooms
    ramp: Places  # (sources, T)
    export: Places  # (T,)
    imports: Places  # (T,)
    most_kw: Floats  # (T,) what the block can inject
    least_kw: Floats
    reserved: bool  # whether a store of it may hold reserve


@_inlined
def _add(out, into, at, bounds, costs, link, target):
    """Add a variable with its coefficients; return the new counts of variables and entries.

    One without a choice goes to the right-hand sides instead.
    """
    v, z = at
    low, high = bounds
    row0 = into.row0
    if high - low < _FIXED:
        if into.fill:
            value = 0.5 * (low + high)
            for k in range(len(into.row)):
                if into.row[k] >= 0:
                    out.right[row0 + into.row[k]] -= into.value[k] * value
            if link[0] >= 0:
                into.fixed_link[link[0]] += link[1] * value
            if target >= 0:
                out.fixed_result[target] += value
        return v, z
    for k in range(len(into.row)):
        if into.row[k] >= 0:
            if into.fill:
                out.entry_row[z] = into.row[k]
                out.entry_value[z] = into.value[k]
            z += 1
    if into.fill:
        out.low[v], out.high[v] = low, high
        out.linear[v], out.quadratic[v] = costs
        out.link[v], out.link_value[v] = link
        out.target[v] = target
        out.entry_first[v + 1] = z
    return v + 1, z


@_inlined
def _add_slack(out, into, at, coefficient, most, cost):
    """Add a variable of one row, from 0 to its most."""
    _begin(into)
    _take(into, 0, coefficient[0], coefficient[1])
    return _add(out, into, at, (0.0, most), (cost, 0.0), _NO_LINK, -1)


@_inlined
def _begin(into):
    """Begin a variable without coefficients."""
    for k in range(len(into.row)):
        into.row[k] = -1


@_inlined
def _take(into, k, row, value):
    """Set the variable's k-th coefficient."""
    into.row[k] = row
    into.value[k] = value


@_inlined
def _shift(out, into, low, target):
    """Count the variable from `low`."""
    if into.fill:
        for k in range(len(into.row)):
            if into.row[k] >= 0:
                out.right[into.row0 + into.row[k]] -= into.value[k] * low
        out.fixed_result[target] += low


@_inlined
def _new_row(out, into, r, target, right):
    """Add a row; return their new count."""
    if into.fill:
        out.row_target[into.row0 + r] = target
        out.right[into.row0 + r] = right
    return r + 1


@_kernel
def _rows_of(part, b):
    """Return a block's rows, none of them there yet, and what the block can inject."""
    steps = part.charge_max_kw.shape[1]
    s0, s1 = part.store_first[b], part.store_first[b + 1]
    g0, g1 = part.source_first[b], part.source_first[b + 1]
    most_kw, least_kw = part.base_kw[b].copy(), part.base_kw[b].copy()
    reserved = False
    for s in range(s0, s1):
        reserved = reserved or part.reserve[s]
        for t in range(steps):
            if part.present[s, t]:
                most_kw[t] += part.discharge_max_kw[s, t]
                least_kw[t] -= part.charge_max_kw[s, t]
    for g in range(g0, g1):
        for t in range(steps):
            most_kw[t] += part.source_max_kw[g, t]
            least_kw[t] += part.source_min_kw[g, t]
    return _Rows(
        np.full((s1 - s0, steps), -1, dtype=np.int64),
        np.full((s1 - s0, steps), -1, dtype=np.int64),
        np.full((g1 - g0, steps), -1, dtype=np.int64),
        np.full(steps, -1, dtype=np.int64),
        np.full(steps, -1, dtype=np.int64),
        most_kw,
        least_kw,
        reserved,
    )


@_kernel
def _add_rows(part, out, into, rows, b):
    """Lay out a block's rows, those of one quarter-hour together; return their count."""
    steps = part.charge_max_kw.shape[1]
    s0, g0, of, r = part.store_first[b], part.source_first[b], into.multiplier, 0
    for t in range(steps):
        for g in range(g0, part.source_first[b + 1]):
            if t > 0 and np.isfinite(part.source_ramp_kw[g]):
                rows.ramp[g - g0, t] = r
                r = _new_row(out, into, r, of[1] + g * steps + t, 0.0)
        for s in range(s0, part.store_first[b + 1]):
            if not part.present[s, t]:
                continue
            rows.law[s - s0, t] = r
            started = t == 0 or part.starts[s, t] or not part.present[s, t - 1]
            before = part.retention[s] * part.initial_kwh[s, t] if started else 0.0
            place = s * steps + t
            r = _new_row(out, into, r, of[0] + place, part.drift_kwh[s, t] + before)
            if part.reserve[s] and part.charge_max_kw[s, t] + part.discharge_max_kw[s, t] > _FIXED:
                rows.head[s - s0, t] = r
                r = _new_row(out, into, r, of[4] + place, part.discharge_max_kw[s, t])
                r = _new_row(out, into, r, of[5] + place, part.charge_max_kw[s, t])
                r = _new_row(out, into, r, of[6] + place, part.floor_kwh[s, t])
                r = _new_row(out, into, r, of[7] + place, part.ceiling_kwh[s, t])
        if not part.limited[b]:
            continue
        may_export = rows.most_kw[t] > part.export_limit_kw[b]
        may_import = rows.least_kw[t] < -part.import_limit_kw[b]
        # One row serves both limits, unless reserve is held up and down within them.
        if may_export or (may_import and not rows.reserved):
            rows.export[t] = r
            left_kw = part.export_limit_kw[b] - part.base_kw[b, t]
            r = _new_row(out, into, r, of[2] + b * steps + t, left_kw)
        if may_import and rows.reserved:
            rows.imports[t] = r
            left_kw = part.import_limit_kw[b] + part.base_kw[b, t]
            r = _new_row(out, into, r, of[3] + b * steps + t, left_kw)
    return r


@_kernel
def _add_powers(part, out, into, rows, at, s, nth):
    """Add a store's charging and discharging."""
    steps = part.charge_max_kw.shape[1]
    gain, loss = part.charge_efficiency[s] * _H, _H / part.discharge_efficiency[s]
    costs = (0.5 * _H * part.wear_eur_per_kwh[s], part.store_curvature[s] * _H)
    for t in range(steps):
        if not part.present[s, t]:
            continue
        up, place = rows.head[nth, t], s * steps + t
        for way in range(2):
            sign = -1.0 if way == 0 else 1.0
            _begin(into)
            _take(into, 0, rows.law[nth, t], -gain if way == 0 else loss)
            _take(into, 1, rows.export[t], sign)
            _take(into, 2, rows.imports[t], -sign)
            if up >= 0:
                _take(into, 3, up, sign)
                _take(into, 4, up + 1, -sign)
            low = part.charge_min_kw[s, t] if way == 0 else part.discharge_min_kw[s, t]
            high = part.charge_max_kw[s, t] if way == 0 else part.discharge_max_kw[s, t]
            at = _add(out, into, at, (low, high), costs, (t, sign), into.result[way] + place)
    return at


@_kernel
def _add_energies(part, out, into, rows, at, s, nth):
    """Add a store's energies at the quarter-hours' ends, counted from its floor, in their pieces."""
    steps = part.charge_max_kw.shape[1]
    for t in range(steps):
        if not part.present[s, t]:
            continue
        up, target = rows.head[nth, t], into.result[2] + s * steps + t
        low = part.floor_kwh[s, t] - _LOOSENED_KWH
        high = part.ceiling_kwh[s, t] + _LOOSENED_KWH
        wished = min(max(part.wished_kwh[s, t], low), high)
        comfort = min(max(part.comfort_kwh[s, t], low), high)
        short, above = part.shortfall_eur_per_kwh[s, t], part.excess_eur_per_kwh[s, t]
        kept = part.end_value_eur_per_kwh[s] if t == steps - 1 else 0.0
        _begin(into)
        _take(into, 0, rows.law[nth, t], 1.0)
        if t + 1 < steps and part.present[s, t + 1] and not part.starts[s, t + 1]:
            _take(into, 1, rows.law[nth, t + 1], -part.retention[s])
        if up >= 0:
            _take(into, 2, up + 2, 1.0)
            _take(into, 3, up + 3, 1.0)
        _shift(out, into, low, target)
        first, second = min(wished, comfort), max(wished, comfort)
        between = above - short if comfort < wished else 0.0
        start = low
        for k in range(_PIECES):
            end = first if k == 0 else second if k == 1 else high
            slope = -short if k == 0 else between if k == 1 else above
            after = between if k == 0 else above
            if k < _PIECES - 1 and (after == slope or end - start < _FIXED):
                continue
            at = _add(out, into, at, (0.0, end - start), (slope - kept, 0.0), _NO_LINK, target)
            start = end
    return at


@_kernel
def _add_reserves(part, out, into, rows, at, s, nth):
    """Add what a store holds ready up and down, and the slacks of its headrooms."""
    steps = part.charge_max_kw.shape[1]
    bend = part.store_curvature[s] * _H * 1e-3
    up_kwh = -part.sustain_h / part.discharge_efficiency[s]
    down_kwh = part.sustain_h * part.charge_efficiency[s]
    for t in range(steps):
        up = rows.head[nth, t]
        if up < 0:
            continue
        full_kw = part.charge_max_kw[s, t] + part.discharge_max_kw[s, t]
        room_kwh = part.ceiling_kwh[s, t] - part.floor_kwh[s, t] + _LOOSENED_KWH
        for way in range(2):
            _begin(into)
            _take(into, 0, up + way, 1.0)
            _take(into, 1, up + 2 + way, up_kwh if way == 0 else down_kwh)
            _take(into, 2, rows.export[t] if way == 0 else rows.imports[t], 1.0)
            link, target = ((1 + way) * steps + t, 1.0), into.result[4 + way] + s * steps + t
            at = _add(out, into, at, (0.0, full_kw), (0.0, bend), link, target)
            at = _add_slack(out, into, at, (up + way, 1.0), full_kw, 0.0)
            at = _add_slack(out, into, at, (up + 2 + way, -1.0 if way == 0 else 1.0), room_kwh, 0.0)
    return at


@_kernel
def _add_outputs(part, out, into, rows, at, g, nth):
    """Add a source's output, and how fast it changes where that is limited."""
    steps = part.source_max_kw.shape[1]
    bend, limit_kw = part.source_curvature[g] * _H, part.source_ramp_kw[g]
    for t in range(steps):
        most_kw, ramp = part.source_max_kw[g, t], rows.ramp[nth, t]
        linear = part.source_cost[g] * _H
        if part.curtailable[g]:
            linear -= bend * most_kw
        _begin(into)
        _take(into, 0, rows.export[t], 1.0)
        _take(into, 1, rows.imports[t], -1.0)
        _take(into, 2, ramp, 1.0)
        if t + 1 < steps:
            _take(into, 3, rows.ramp[nth, t + 1], -1.0)
        bounds, target = (part.source_min_kw[g, t], most_kw), into.result[3] + g * steps + t
        at = _add(out, into, at, bounds, (linear, bend), (t, 1.0), target)
        if ramp >= 0:
            _begin(into)
            _take(into, 0, ramp, -1.0)
            at = _add(out, into, at, (-limit_kw, limit_kw), (0.0, 0.0), _NO_LINK, -1)
    return at


@_kernel
def _add_connection(part, out, into, rows, at, b):
    """Add what the connection leaves, and what may go beyond it at a cost."""
    cost = part.overload_eur_per_kwh * _H
    export_kw, import_kw = part.export_limit_kw[b], part.import_limit_kw[b]
    for t in range(part.charge_max_kw.shape[1]):
        over, under = part.export_overload_kw[b, t], part.import_overload_kw[b, t]
        for way in range(2):
            row = rows.export[t] if way == 0 else rows.imports[t]
            if row < 0:
                continue
            if not rows.reserved:
                slack = export_kw + import_kw
            elif way == 0:
                slack = export_kw + over - min(rows.least_kw[t], 0.0)
            else:
                slack = import_kw + under + max(rows.most_kw[t], 0.0)
            at = _add_slack(out, into, at, (row, 1.0), slack, 0.0)
            at = _add_slack(out, into, at, (row, -1.0), over if way == 0 else under, cost)
            if not rows.reserved:
                at = _add_slack(out, into, at, (row, 1.0), under, cost)
    return at


@_kernel
def write_blocks(part, out, fixed_link, run, fill, ends, places):
    """Count the blocks' variables, rows and entries into `ends`, or write them where it says.

    `run` is the first block and the one after the last; `places` are those of results and of
    multipliers.
    """
    row, value = np.full(6, -1, dtype=np.int64), np.zeros(6)
    for b in range(run[0], run[1]):
        s0, g0 = part.store_first[b], part.source_first[b]
        row0 = ends[b, 1] if fill else 0
        begin = (ends[b, 0], ends[b, 2]) if fill else (0, 0)
        into = _Into(fixed_link, fill, row0, places[0], places[1], row, value)
        if fill and len(out.entry_first) > begin[0]:
            out.entry_first[begin[0]] = begin[1]  # the block before may not be there yet
        rows = _rows_of(part, b)
        count = _add_rows(part, out, into, rows, b)
        at = begin
        for s in range(s0, part.store_first[b + 1]):
            at = _add_powers(part, out, into, rows, at, s, s - s0)
            at = _add_energies(part, out, into, rows, at, s, s - s0)
            at = _add_reserves(part, out, into, rows, at, s, s - s0)
        for g in range(g0, part.source_first[b + 1]):
            at = _add_outputs(part, out, into, rows, at, g, g - g0)
        at = _add_connection(part, out, into, rows, at, b)
        if fill:
            out.width[b], out.meeting_first[b + 1] = _width(out, begin[0], at[0])
        else:
            ends[b + 1, 0], ends[b + 1, 1], ends[b + 1, 2] = at[0], count, at[1]


@_inlined
def _spread(out, v):
    """Return the first and the last row of a variable; (_NOWHERE, -1) where it has none."""
    low, high = _NOWHERE, -1
    for z in range(out.entry_first[v], out.entry_first[v + 1]):
        low = min(low, out.entry_row[z])
        high = max(high, out.entry_row[z])
    return low, high


@_kernel
def _width(out, first, last):
    """Return the widest spread of rows that a variable, or a shared row, brings together, and how
    many shared rows do.
    """
    width, meetings = 1, 0
    lowest = np.full(3 * out.steps, _NOWHERE, dtype=np.int64)
    highest = np.full(3 * out.steps, -1, dtype=np.int64)
    for v in range(first, last):
        low, high = _spread(out, v)
        if high < 0:
            continue
        width = max(width, high - low)
        link = out.link[v]
        if link >= 0:
            meetings += highest[link] < 0
            lowest[link] = min(lowest[link], low)
            highest[link] = max(highest[link], high)
            width = max(width, highest[link] - lowest[link])
    return width, meetings


@_kernel
def write_meetings(out, first, last):
    """Write which shared rows the rows of blocks [first, last) meet, and where: in time's order."""
    links = 3 * out.steps
    lowest = np.empty(links, dtype=np.int64)
    for b in range(first, last):
        lowest[:] = _NOWHERE
        for v in range(out.variable_first[b], out.variable_first[b + 1]):
            link = out.link[v]
            if link >= 0:
                lowest[link] = min(lowest[link], _spread(out, v)[0])
        m = out.meeting_first[b]
        for t in range(out.steps):
            for link in range(t, links, out.steps):
                if lowest[link] < _NOWHERE:
                    out.meeting_link[m], out.meeting_row[m] = link, lowest[link]
                    m += 1
