"""Small fleets, written by hand in YAML.

Belongs here: every problem of the file at once, by its line. Does not: YAML itself
(`yaml_document`), what a record may be (`model`), rules over many devices (`across`), tables
(`table_file`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import yaml
from pydantic import ValidationError

from vpp_pipeline.fleet import yaml_document
from vpp_pipeline.fleet.across import clashes, misfits
from vpp_pipeline.fleet.columns import CONNECTION
from vpp_pipeline.fleet.model import Fleet
from vpp_pipeline.fleet.problems import Problem, dotted, file_problem, location, shown, words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vpp_pipeline.fleet.yaml_document import Place

_LOOKED_AT = {
    "connection_protocol": str,
    "connection_over": str,
    "connection_host": str,
    "connection_port": int,
    "connection_unit_id": int,
    "connection_register_map": str,
    "connection_url": str,
    "connection_charge_point_id": str,
    "connection_connector_id": int,
}


def read(content: bytes, file: str) -> tuple[Fleet | None, list[Problem]]:
    """Return the fleet that a YAML document holds, or all its problems in the file's order."""
    root, data, problems = yaml_document.read(content, file)
    if root is None:
        empty = file_problem(file, "is empty", "write `sites:` and the devices there")
        return None, problems or [empty]

    def problem(place: Place, value: object, reason: str, remedy: str) -> Problem:
        return Problem(file, _line(root, place), None, dotted(place), shown(value), reason, remedy)

    fleet = None
    try:
        fleet = Fleet.model_validate(data)
    except ValidationError as refusal:
        problems += [
            problem(location(broken), _refused(broken), *words(broken))
            for broken in refusal.errors(include_url=False)
        ]
    problems += [problem(*clash) for clash in _broken_across(data)]
    return (None if problems else fleet), sorted(problems, key=lambda p: (p.line or 0, p.field))


def _refused(error: Any) -> object:
    if error["type"] == "union_tag_invalid":
        return error["ctx"]["tag"]
    return None if error["type"] == "missing" else error["input"]


def _line(root: yaml.Node, place: Place) -> int:
    """Return the line of the key or item at a place, or of the record that lacks it."""
    node, line = root, root.start_mark.line
    for part in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
            continue
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        found = [(key, child) for key, child in pairs if key.value == str(part)]
        if not found:
            break
        key, node = found[-1]
        line = key.start_mark.line
    return int(line) + 1


def _broken_across(data: Any) -> Iterator[tuple[Place, object, str, str]]:
    """Yield what breaks the rules across records, however malformed the records are."""
    sites = list(_records(data, "sites"))
    groups = list(_records(data, "groups"))
    devices = [
        (("sites", i, "devices", j), device)
        for i, site in sites
        for j, device in _records(site, "devices")
    ]
    yield from _repeated("sites", "site_id", sites)
    yield from _repeated("groups", "group_id", groups)
    if not devices:
        yield ("sites",), None, "holds no device", "write at least one site with one device"
    places: list[Place] = [place for place, _ in devices]
    looked_at = _looked_at([device for _, device in devices])
    for clash in clashes(looked_at).to_dicts():
        first = dotted(places[clash.pop("first_row")])
        yield _in_connection(places, clash | {"reason": f"{clash['reason']}, first at {first}"})
    for misfit in misfits(looked_at).to_dicts():
        yield _in_connection(places, misfit)
    device_ids = {device["device_id"] for _, device in devices if _is_text(device, "device_id")}
    tags = {
        tag
        for record in [site for _, site in sites] + [device for _, device in devices]
        for _, tag in _texts(record, "tags")
    }
    for i, group in groups:
        if not group.get("devices") and not group.get("tags"):
            remedy = "list its devices or tags, or remove it"
            yield ("groups", i), group.get("group_id"), "has no member", remedy
        for j, name in _texts(group, "devices"):
            if name not in device_ids:
                remedy = "name a device of this file or remove it"
                yield ("groups", i, "devices", j), name, "is no device of this fleet", remedy
        for j, tag in _texts(group, "tags"):
            if tag not in tags:
                remedy = "tag a device or a site with it or remove it"
                yield ("groups", i, "tags", j), tag, "is carried by no device or site", remedy


def _records(parent: Any, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the mappings in a record's list, with their positions; what is malformed is skipped."""
    children = parent.get(key) if isinstance(parent, dict) else None
    for i, child in enumerate(children if isinstance(children, list) else ()):
        if isinstance(child, dict):
            yield i, child


def _texts(record: dict[str, Any], key: str) -> Iterator[tuple[int, str]]:
    values = record.get(key)
    for i, value in enumerate(values if isinstance(values, list) else ()):
        if isinstance(value, str):
            yield i, value


def _is_text(record: dict[str, Any], key: str) -> bool:
    return isinstance(record.get(key), str)


def _repeated(
    kind: str, key: str, records: list[tuple[int, dict[str, Any]]]
) -> Iterator[tuple[Place, object, str, str]]:
    first: dict[str, int] = {}
    for i, record in records:
        if _is_text(record, key):
            if record[key] in first:
                reason = f"is used twice, first at {kind}[{first[record[key]]}]"
                yield (kind, i, key), record[key], reason, f"give each of the {kind} its own id"
            first.setdefault(record[key], i)


def _in_connection(places: list[Place], found: dict[str, Any]) -> tuple[Place, object, str, str]:
    field = found["field"].replace("connection_", "connection.").split(".")
    return (*places[found["row"]], *field), found["value"], found["reason"], found["remedy"]


def _looked_at(devices: list[dict[str, Any]]) -> pl.DataFrame:
    """Return what `across` looks at, with a connection's defaults; the malformed is null."""
    kinds = {"row": int, "device_id": str, "type": str} | _LOOKED_AT
    rows = []
    for i, device in enumerate(devices):
        given = device.get("connection")
        connection = given if isinstance(given, dict) else {}
        protocol = connection.get("protocol")
        own = CONNECTION.get(protocol, {}) if isinstance(protocol, str) else {}
        values = [i, device.get("device_id"), device.get("type")]
        for column in _LOOKED_AT:
            default = own[column].default if column in own else None
            values.append(connection.get(column.removeprefix("connection_"), default))
        rows.append(
            [
                value if isinstance(value, kind) else None
                for value, kind in zip(values, kinds.values(), strict=True)
            ]
        )
    schema = {name: pl.Int64() if kind is int else pl.String() for name, kind in kinds.items()}
    return pl.DataFrame(rows, schema=schema, orient="row", strict=False)
