"""Where a unit keeps its SunSpec models, and their registers.

Belongs here: finding the models, reading whole blocks in few requests, noticing that they moved.
Does not: a request (`modbus_session`), what registers mean (`sunspec`), keeping what was found
from process to process (`discoveries`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vpp_pipeline.devices import sunspec
from vpp_pipeline.devices.modbus_session import LinkError, Refusal
from vpp_pipeline.devices.sunspec import Block

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from vpp_pipeline.devices.modbus_session import Session

BASE_ADDRESSES = (40000, 0, 50000)
_MOST_REGISTERS = 125  # a Modbus read
_MOST_MODELS = 100  # a longer chain is no SunSpec map


class Placed(NamedTuple):
    """A model as discovered: its first register and the length its header tells.

    `registers` are what it held when it was last read, where that may be remembered.
    """

    address: int
    length: int
    registers: tuple[int, ...] = ()


Models = dict[int, Placed]


async def models(session: Session, unit_id: int, base: int | None) -> Models:
    """Return the SunSpec models of a unit, from the device the first time.

    `base` is where its map is looked for first. Raises `LinkError`.
    """
    if unit_id not in session.discovered:
        session.discovered[unit_id] = await _discover(session, unit_id, base)
    return session.discovered[unit_id]


async def blocks(
    session: Session,
    unit_id: int,
    lengths: Mapping[int, int],
    base: int | None,
    remembered: Collection[int] = (),
) -> dict[int, Block]:
    """Read those of the models that the unit has, `lengths` registers of each, fewest requests.

    Those `remembered` are read once and then told from memory. Raises `LinkError`.
    """
    try:
        return await _blocks(session, unit_id, lengths, base, remembered)
    except (_Moved, Refusal) as error:
        if isinstance(error, Refusal) and not error.is_final:
            raise
    session.discovered.pop(unit_id, None)
    try:
        return await _blocks(session, unit_id, lengths, base, remembered)
    except _Moved as error:
        raise LinkError(f"{error}, even after it was discovered again") from error


def forget_contents(session: Session, unit_id: int) -> None:
    """Forget what a unit's models held, not where they are."""
    session.discovered[unit_id] = {
        model_id: placed._replace(registers=())
        for model_id, placed in session.discovered.get(unit_id, {}).items()
    }


async def _blocks(
    session: Session,
    unit_id: int,
    lengths: Mapping[int, int],
    base: int | None,
    remembered: Collection[int],
) -> dict[int, Block]:
    placed_at = await models(session, unit_id, base)
    blocks = {
        model_id: Block(model_id, placed_at[model_id].registers)
        for model_id in remembered
        if model_id in placed_at and placed_at[model_id].registers
    }
    wanted = sorted(
        (
            placed.address,
            min(length, placed.length + sunspec.HEADER_LENGTH),
            model_id,
        )
        for model_id, length in lengths.items()
        if model_id not in blocks and (placed := placed_at.get(model_id))
    )
    spans = _spans([(address, count) for address, count, _ in wanted])
    words = {start: await session.read(unit_id, start, count) for start, count in spans}
    for address, count, model_id in wanted:
        start = max(start for start in words if start <= address)
        block = Block(model_id, tuple(words[start][address - start : address - start + count]))
        if (block.raw("ID"), block.raw("L")) != (model_id, placed_at[model_id].length):
            raise _Moved(f"model {model_id} is not at {address} any more")
        blocks[model_id] = block
        if model_id in remembered:
            placed = placed_at[model_id]._replace(registers=block.registers)
            session.discovered[unit_id] = placed_at = {**placed_at, model_id: placed}
    return blocks


async def _discover(session: Session, unit_id: int, base: int | None) -> Models:
    for start in sorted(BASE_ADDRESSES, key=lambda one: one != base):
        try:
            marker = await session.read(unit_id, start, len(sunspec.MARKER))
        except Refusal as refusal:
            if not refusal.is_final:
                raise
            continue
        if tuple(marker) == sunspec.MARKER:
            return await _walk(session, unit_id, start + len(sunspec.MARKER))
    raise LinkError(
        f"unit {unit_id} at {session.endpoint} has no SunSpec map at "
        f"{', '.join(map(str, BASE_ADDRESSES))}; check its unit id and address"
    )


async def _walk(session: Session, unit_id: int, address: int) -> Models:
    found: Models = {}
    for _ in range(_MOST_MODELS):
        (model_id,) = await session.read(unit_id, address, 1)
        if model_id == sunspec.END_MODEL:
            return found
        # Some devices give the end model no length: it is read apart from the id.
        (length,) = await session.read(unit_id, address + 1, 1)
        found.setdefault(model_id, Placed(address, length))
        address += sunspec.HEADER_LENGTH + length
    raise LinkError(f"unit {unit_id} at {session.endpoint} ends its SunSpec map nowhere")


class _Moved(Exception):  # noqa: N818 - names what happened
    """A model's header is not where it was discovered."""


def _spans(pieces: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join sorted (address, count) pieces into as few reads as Modbus allows."""
    spans: list[tuple[int, int]] = []
    for address, count in pieces:
        if spans and address + count - spans[-1][0] <= _MOST_REGISTERS:
            start = spans[-1][0]
            spans[-1] = (start, max(sum(spans[-1]), address + count) - start)
        else:
            spans.append((address, count))
    return spans
