"""A YAML document written by hand: read as meant, or refused.

Belongs here: scalars, syntax and doubled keys of any such file. Does not: what stands in it
(`yaml_file`, `planning.variants`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from vpp_pipeline.fleet.problems import Problem, dotted, file_problem

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

Place = tuple[str | int, ...]

_DEEPEST = 20
_REMEDY = "correct the YAML at this line"


class _CoreLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # libyaml is optional
    """Scalars by YAML 1.2's core schema: `no` is text, and `20:00` is no number in base 60."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    (
        "float",
        (
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+.0123456789"),
    ),
    ("merge", r"^<<$", ["<"]),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def read(content: bytes, file: str) -> tuple[yaml.Node | None, Any, list[Problem]]:
    """Return a document's nodes, what they say, and its problems.

    The problems are that it can't be read at all, and each key that stands twice. Without nodes
    and without problems it is empty.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"is not text in UTF-8 (byte {error.start})"
        return None, None, [file_problem(file, reason, "save the file as UTF-8 text")]
    try:
        if _depth(text) > _DEEPEST:
            remedy = f"nest no more than {_DEEPEST} levels"
            return None, None, [file_problem(file, "is nested too deeply", remedy)]
        loader = _CoreLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None, None, []
        return root, loader.construct_document(root), list(_duplicate_keys(root, file))
    except (yaml.YAMLError, ValueError, KeyError, AttributeError) as error:
        # The last three are how PyYAML refuses a scalar that its explicit tag does not fit.
        return None, None, [_syntax_problem(error, file)]


def _depth(text: str) -> int:
    """Return how deep the document nests: libyaml's composer dies, beyond catching, of too much."""
    depth = deepest = 0
    for event in yaml.parse(text, _CoreLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        deepest = max(deepest, depth)
        if deepest > _DEEPEST:
            break
    return deepest


def _syntax_problem(error: Exception, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return file_problem(file, f"is no YAML: {reason}", _REMEDY, mark.line + 1 if mark else None)


def _duplicate_keys(root: yaml.Node, file: str) -> Iterator[Problem]:
    """Yield a problem for each key that a mapping has twice; YAML would keep the last in silence."""
    waiting: list[tuple[Place, yaml.Node]] = [((), root)]
    seen: set[int] = set()
    while waiting:
        place, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [((*place, i), child) for i, child in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            first_lines: dict[object, int] = {}
            for key, child in node.value:
                waiting.append(((*place, str(key.value)), child))
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and key.value in first_lines:
                    reason = f"stands twice, first in line {first_lines[key.value]}"
                    at = dotted((*place, key.value))
                    yield Problem(file, line, None, at, "", reason, "keep one of the two")
                first_lines.setdefault(_name(key), line)


def _name(key: yaml.Node) -> Hashable:
    return key.value if isinstance(key, yaml.ScalarNode) else id(key)
