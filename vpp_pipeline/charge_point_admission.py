"""Which charge points the central system lets in, and on what proof.

Belongs here: the registry's charge points and their passwords at the door. Does not: connections
(`central_system`), where secrets come from (`credentials`).

A charge point shows its id and its password (HTTP Basic, OCPP-J 1.6, 6.2): the password of the
credentials that carry its id. Who has none is let in on a loopback address only.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import polars as pl
from websockets.datastructures import MultipleValuesError
from websockets.exceptions import InvalidHeader
from websockets.headers import build_www_authenticate_basic, parse_authorization_basic

from vpp_pipeline.credentials import CredentialError, Credentials
from vpp_pipeline.fleet import registry

if TYPE_CHECKING:
    from pathlib import Path

    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

_LOG = logging.getLogger(__name__)


@dataclass
class Admission:
    """The door. It reads the registry file again when it changes, and needs no database."""

    fleet_file: Path
    credentials: Credentials = field(default_factory=Credentials)
    _known: frozenset[str] = frozenset()
    _read_at_ns: int = -1

    def refusal(self, connection: ServerConnection, request: Request, host: str) -> Response | None:
        """Return the answer to a charge point that is not let in at `host`, else nothing."""
        charge_point_id = charge_point_id_of(request)
        if not self._knows(charge_point_id):
            _LOG.warning("charge point %r is not in the registry: refused", charge_point_id)
            return connection.respond(HTTPStatus.NOT_FOUND, "not in the registry\n")
        password = self._password(charge_point_id)
        if _shows(request, charge_point_id, password) if password else _is_loopback(host):
            return None
        _LOG.warning(
            "charge point %s showed no valid credentials: refused%s",
            charge_point_id,
            "" if password else "; none are set for it, and beyond loopback it needs them",
        )
        response = connection.respond(HTTPStatus.UNAUTHORIZED, "credentials needed\n")
        response.headers["WWW-Authenticate"] = build_www_authenticate_basic("charge points")
        return response

    def _knows(self, charge_point_id: str) -> bool:
        """Tell whether the registry has it. A file that went bad leaves what was known."""
        try:
            changed_at_ns = self.fleet_file.stat().st_mtime_ns
            if changed_at_ns != self._read_at_ns:
                self._known = charge_points(registry.read_devices(self.fleet_file))
                self._read_at_ns = changed_at_ns
        except (OSError, registry.RegistryError):
            _LOG.exception("%s can't be read; the charge points known before stay", self.fleet_file)
        return charge_point_id in self._known

    def _password(self, charge_point_id: str) -> str | None:
        try:
            password = self.credentials.named(charge_point_id).password
        except CredentialError:
            return None
        return password.get_secret_value() if password else None


def charge_points(devices: pl.DataFrame) -> frozenset[str]:
    """Return the charge point ids of a `DeviceFrame`; a simulated one has its device's id."""
    ours = devices.filter(pl.col("protocol").cast(pl.String) == "ocpp")
    return frozenset(ours.select(pl.coalesce("endpoint", "device_id")).to_series().to_list())


def charge_point_id_of(request: Request) -> str:
    """Return who calls: the last part of the path."""
    return unquote(urlsplit(request.path).path.rpartition("/")[2])


def _shows(request: Request, charge_point_id: str, password: str) -> bool:
    """Tell whether the request carries the charge point's own name and password (RFC 7617)."""
    try:
        user, shown = parse_authorization_basic(request.headers["Authorization"])
    except (KeyError, InvalidHeader, MultipleValuesError):
        return False
    expected = f"{charge_point_id}:{password}".encode()
    return hmac.compare_digest(f"{user}:{shown}".encode(), expected)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
