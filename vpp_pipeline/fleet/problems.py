"""What can be wrong with a registry file, told so that it can be put right.

Belongs here: the problem, the error that carries all of a file's problems, and the words for
what a model refuses. Does not: finding problems (`yaml_file`, `table_file`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

_LONGEST_VALUE = 80
_SECRET = re.compile(r"://.*@")

_TIME = ("is no time of day", "write one in quotes, such as '20:00'")
_NUMBER = ("is no number", "write a number, without quotes and with a point for its decimals")
_WHOLE_NUMBER = ("is no whole number", "write a whole number, without quotes")
_RECORD = ("is no record", "write a mapping of fields")
_WORDS = {
    "missing": ("is missing", "add it"),
    "union_tag_not_found": ("is missing", "add it"),
    "extra_forbidden": ("is no field of this record", "correct its name or remove it"),
    "invalid_key": ("is no field's name", "write the name as text"),
    "string_type": ("is no text", "write text; put quotes around a number"),
    "bool_type": ("is neither true nor false", "write true or false, without quotes"),
    "float_type": _NUMBER,
    "finite_number": ("is not finite", "write a finite number"),
    "int_type": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "time_type": _TIME,
    "time_parsing": _TIME,
    "tuple_type": ("is no list", "write a list"),
    "model_type": _RECORD,
    "model_attributes_type": _RECORD,
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a file, where, and what to do about it.

    `line` counts a text file's lines and `row` a table's rows (header excluded), both from 1;
    `field` is a dotted path (`sites[2].devices[0].max_charge_kw`) or a column, empty where the
    whole file or row is meant.
    """

    file: str
    line: int | None
    row: int | None
    field: str
    value: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        """Return the problem as one line."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        if self.row is not None:
            place = f"{place} (row {self.row})"
        subject = f"{self.field} {self.value}".strip()
        said = f"{subject} {self.reason}".strip()
        return f"{place}: {said}; {self.remedy}"


class RegistryError(ValueError):
    """A registry file that can't be used; `problems` holds everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        super().__init__("\n".join([f"the fleet registry has {count}:", *map(str, self.problems)]))


def file_problem(file: str, reason: str, remedy: str, line: int | None = None) -> Problem:
    """Return a problem of a file as a whole."""
    return Problem(file, line, None, "", "", reason, remedy)


def shown(value: object) -> str:
    """Return a refused value as one short line; nothing for a whole record or a missing value.

    A URL is shown without its user and password.
    """
    if value is None or isinstance(value, dict | list | tuple):
        return ""
    text = _SECRET.sub("://…@", repr(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def location(error: ErrorDetails) -> tuple[str | int, ...]:
    """Return where in the document an error lies, as keys and positions.

    Pydantic names the union's member after `devices[i]` and `connection`; a document does not.
    """
    loc = error["loc"]
    path = [
        part
        for i, part in enumerate(loc)
        if not (
            (i >= 1 and loc[i - 1] == "connection")
            or (i >= 2 and loc[i - 2] == "devices" and isinstance(loc[i - 1], int))  # noqa: PLR2004 - two steps back: the list's name
        )
    ]
    if error["type"].startswith("union_tag"):
        path.append(error["ctx"]["discriminator"].strip("'"))
    return tuple(path)


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as `sites[2].devices[0].max_charge_kw`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).lstrip(".")


def words(error: ErrorDetails) -> tuple[str, str]:  # noqa: PLR0911 - a table of cases
    """Return the reason and the remedy for what a model refused."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _WORDS:
        return _WORDS[kind]
    if kind in _BOUNDS:
        wording, key = _BOUNDS[kind]
        bound = f"{wording} {context[key]:g}"
        return f"is not {bound}", f"write a value {bound}"
    if kind == "rule":
        return context["reason"], context["remedy"]
    if kind == "union_tag_invalid":
        return "is not known", f"write one of {context['expected_tags']}"
    if kind == "literal_error":
        return "is not known", f"write {context['expected']}"
    if kind == "string_pattern_mismatch":
        return "is malformed", f"write text that matches {context['pattern']}"
    return error["msg"].removeprefix("Input "), "correct it"
