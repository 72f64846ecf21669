"""What can be wrong with a registry file, told so that it can be put right.

Belongs here: the problem, the error that carries all of a file's problems, and the words for
what a model refuses. Does not: finding problems (`yaml_file`, `table_file`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import ErrorDetails

_LONGEST_VALUE = 80

_REMEDIES = {
    "missing": "add it",
    "invalid_key": "write the field's name as text",
    "string_type": "write text; put quotes around a number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "float_type": "write a number",
    "float_parsing": "write a number, with a point for the decimals",
    "finite_number": "write a finite number",
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "time_type": "write a time in quotes, such as '20:00'",
    "time_parsing": "write a time in quotes, such as '20:00'",
    "tuple_type": "write a list",
    "model_type": "write a mapping of fields",
    "model_attributes_type": "write a mapping of fields",
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
    """Return a refused value as one short line; nothing for a whole record or a missing value."""
    if value is None or isinstance(value, dict | list | tuple):
        return ""
    text = repr(value)
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


def words(error: ErrorDetails) -> tuple[str, str]:
    """Return the reason and the remedy for what a model refused."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "rule":
        return context["reason"], context["remedy"]
    if kind == "extra_forbidden":
        return "is no field of this record", "correct its name or remove it"
    if kind == "union_tag_invalid":
        return "is not known", f"write one of {context['expected_tags']}"
    if kind in {"missing", "union_tag_not_found"}:
        return "is missing", "add it"
    if kind == "string_pattern_mismatch":
        return "is malformed", f"write text that matches {context['pattern']}"
    message = error["msg"].removeprefix("Input ").lower()
    return message, _REMEDIES.get(kind, f"write a value that {message}")
