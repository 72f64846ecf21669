"""The registry's page names every field with its default, and its table is a sound registry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vpp_pipeline.fleet import columns, registry

PAGE = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text(encoding="utf-8")
OF_ALL = {"device_id", "type", "live", "tags"}


def told(default: object) -> str:
    match default:
        case bool():
            return str(default).lower()
        case float() | int():
            return f"{default:g}"
        case None:
            return "none"
        case _:
            return f"{default:%H:%M}" if hasattr(default, "hour") else str(default)


@pytest.mark.parametrize("kind", [*columns.DEVICE, *columns.CONNECTION])
def test_every_field_of_a_type_stands_in_its_row_with_its_default(kind):
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{kind}` |")]
    _, _, needed, optional, _ = row.split("|")
    fields = columns.DEVICE.get(kind) or {
        name.removeprefix("connection_"): column
        for name, column in columns.CONNECTION[kind].items()
        if name != "connection_protocol"
    }
    for name, column in fields.items():
        if name in OF_ALL:
            continue
        if column.required:
            assert f"`{name}`" in needed
        else:
            default = re.escape(told(column.default))
            assert re.search(rf"`{name}`[^(`]*(`[^`]+`[^(`]*)?\({default}[,;) ]", optional), name


def test_every_field_of_a_site_is_named():
    for name in (*columns.SITE_FIELDS.values(), *columns.GRID_FIELDS):
        assert f"`{name}`" in PAGE


def test_the_pages_table_is_a_sound_registry(tmp_path):
    (table,) = re.findall(r"```csv\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "fleet.csv"
    path.write_text(table)
    assert registry.check(path) == []
    assert registry.read_devices(path).height == 2
