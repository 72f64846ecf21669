"""Named credentials, and keeping their secrets out of everything that is written.

Belongs here: where secrets come from, who may have them, and redaction. Does not: what a protocol
does with them, anything generated for a simulated plant.

The registry names credentials, it never holds them. They come, the later over the earlier, from

- a TOML file, a table a name: `[grid-gateway]`, `user = "…"`, `password = "…"`. The file is the
  one that `VPP_CREDENTIALS_FILE` names, and none but its owner may read it;
- `VPP_CREDENTIAL_<NAME>_<FIELD>`, such as `VPP_CREDENTIAL_GRID_GATEWAY_PASSWORD`. Upper and lower
  case, `-` and `_` are the same in a name.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import stat
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_PREFIX = "VPP_CREDENTIAL_"
_FILE_VARIABLE = "VPP_CREDENTIALS_FILE"
_HIDDEN = "**********"
_OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO

# A shorter one would also be found, and hidden, in ordinary words and numbers.
Secret = Annotated[SecretStr, Field(min_length=4)]


class CredentialError(ValueError):
    """Credentials that are missing, malformed or open to others; the text names the remedy."""


class Credential(BaseModel):
    """What one name stands for. Only `get_secret_value()` shows a secret, never a repr or dump."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str
    user: str | None = None
    password: Secret | None = None
    token: Secret | None = None
    ca_file: Path | None = None
    """Who signs the peer's certificate; none leaves it to the system."""
    cert_file: Path | None = None
    """Our own certificate, with `key_file`, where the peer asks for one."""
    key_file: Path | None = None

    def secrets(self) -> Iterator[str]:
        """Yield every text that would give a secret away, also as it is put on a wire."""
        for secret in (self.password, self.token):
            if secret is None:
                continue
            plain = secret.get_secret_value()
            yield from (plain, quote(plain, safe=""), json.dumps(plain)[1:-1])
            yield base64.b64encode(f"{self.user or ''}:{plain}".encode()).decode()


_FIELDS = tuple(name for name in Credential.model_fields if name != "name")
_VARIABLE = re.compile(f"{_PREFIX}(?P<name>.+)_(?P<field>{'|'.join(_FIELDS).upper()})")


@dataclass(frozen=True)
class Credentials:
    """All that one process may show to devices and brokers."""

    _known: Mapping[str, Credential] = field(default_factory=dict, repr=False)

    @classmethod
    def read(
        cls, environment: Mapping[str, str] = os.environ, *, generated: Path | None = None
    ) -> Self:
        """Read `generated` where it exists, VPP_CREDENTIALS_FILE, and the environment.

        `generated` is a file of the same form that a simulated plant keeps for itself. Raises
        `CredentialError` that names file or variable, and field.
        """
        told: dict[str, tuple[str, dict[str, Any]]] = {}
        named = environment.get(_FILE_VARIABLE)
        for path in (generated if generated and generated.exists() else None, named):
            if path:
                for name, fields in _tables(Path(path)).items():
                    told[_key(name)] = (f"{path}, [{name}]", {"name": name, **fields})
        for variable, value in environment.items():
            if not variable.startswith(_PREFIX):
                continue
            match = _VARIABLE.fullmatch(variable)
            if match is None:
                raise CredentialError(
                    f"{variable}: it ends in no known field; use"
                    f" {_PREFIX}<NAME>_ and one of {', '.join(_FIELDS).upper()}"
                )
            key = _key(match["name"])
            _, fields = told.get(key, ("", {"name": match["name"].lower()}))
            told[key] = (
                f"{variable[: match.end('name')]}_…",
                fields | {match["field"].lower(): value},
            )
        return cls({key: _credential(where, fields) for key, (where, fields) in told.items()})

    def named(self, name: str, role: str = "") -> Credential:
        """Return `<name>-<role>` where a role has its own, else `name`.

        Raises `CredentialError` where there is neither.
        """
        for wanted in (f"{name}-{role}", name):
            if credential := self._known.get(_key(wanted)):
                return credential
        raise CredentialError(
            f"no credentials are known as {name!r}: set {_PREFIX}{_key(name)}_USER and"
            f" {_PREFIX}{_key(name)}_PASSWORD, or add [{name}] to the file that {_FILE_VARIABLE}"
            " names"
        )

    def redact(self, text: str) -> str:
        """Return `text` with every secret known here made unreadable."""
        return self._secrets.sub(_HIDDEN, text) if self._secrets else text

    @cached_property
    def _secrets(self) -> re.Pattern[str] | None:
        texts = {text for known in self._known.values() for text in known.secrets()}
        if not texts:
            return None
        return re.compile("|".join(re.escape(t) for t in sorted(texts, key=len, reverse=True)))


def redact_logs(credentials: Credentials) -> None:
    """From now on keep the secrets of `credentials` out of every log record of this process."""
    make = logging.getLogRecordFactory()
    before = make.make if isinstance(make, _RedactedRecords) else make
    logging.setLogRecordFactory(_RedactedRecords(before, credentials))


@dataclass(frozen=True)
class _RedactedRecords:
    """A factory of log records that show no secret."""

    make: Callable[..., logging.LogRecord]
    credentials: Credentials

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self.make(*args, **kwargs)
        redact = self.credentials.redact
        with suppress(TypeError, ValueError):  # ill-formed: logging itself tells of it
            record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return record


def write_credentials(path: Path, tables: Mapping[str, Mapping[str, str]]) -> None:
    """Write a file that `Credentials.read` takes, for its owner alone; it replaces the last one."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    lines = [
        line
        for name, fields in tables.items()
        for line in (
            f"[{name}]",
            *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()),
        )
    ]
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join([*lines, ""]))
    temporary.replace(path)


def _key(name: str) -> str:
    return name.upper().replace("-", "_").replace(" ", "_")


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & _OTHERS_MAY:
                raise CredentialError(
                    f"{path} is open to others (mode {mode:03o}): run `chmod 600 {path}`"
                )
            content = tomllib.load(file)
    except OSError as error:
        raise CredentialError(
            f"{path} can't be read ({error.strerror}): correct {_FILE_VARIABLE} or the file's owner"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # The decoder's own words may quote a secret.
        raise CredentialError(
            f'{path} is no TOML: write [name], then field = "value" on lines of their own'
        ) from None
    for name, fields in content.items():
        if not isinstance(fields, dict):
            raise CredentialError(f"{path}: {name} stands outside of a [name]; put it below one")
    return content


def _credential(where: str, fields: Mapping[str, Any]) -> Credential:
    try:
        return Credential.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise CredentialError(f"{where}: {faults}; known are {', '.join(_FIELDS)}") from None
