"""Who may do what on a broker of our own: roles, accounts and its certificate.

Belongs here: mosquitto's password and access files, and the credentials generated for a simulated
plant. Does not: running the broker (`broker`), where credentials are read (`credentials`).

    viewer      reads everything, publishes nothing
    operator    reads everything, may ask and release: kill switch and watchdog
    dispatcher  reads everything, may ask, command and release
    collector   reads states and telemetry, may ask
    devices     all simulated devices over one connection
    <device>    an account of a device's own name: reads its orders, writes its answers
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vpp_pipeline.credentials import Credential, Credentials, write_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIMULATED_BROKER = "simulated-broker"
"""Under this name the registry's simulated devices know their credentials."""

_TO_DEVICES = ("cmd", "release", "get")
_FROM_DEVICES = ("ack", "state", "tele")
_READS = {
    "viewer": ("+/#",),
    "operator": ("+/#",),
    "dispatcher": ("+/#",),
    "collector": ("+/state", "+/tele"),
    "devices": tuple(f"+/{kind}" for kind in _TO_DEVICES),
}
_WRITES = {
    "viewer": (),
    "operator": ("+/release", "+/get"),
    "dispatcher": tuple(f"+/{kind}" for kind in _TO_DEVICES),
    "collector": ("+/get",),
    "devices": tuple(f"+/{kind}" for kind in _FROM_DEVICES),
}
ROLES = tuple(_READS)


@dataclass(frozen=True)
class ServerCertificate:
    """What the broker shows, and with `client_ca_file` whose certificates it asks for."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None


@dataclass(frozen=True)
class BrokerAccess:
    """Whom the broker lets in; nobody else. Accounts map a user, a role or a device, to its
    password.
    """

    accounts: Mapping[str, str] = field(repr=False)
    certificate: ServerCertificate | None = None

    def write(self, directory: Path) -> list[str]:
        """Write the files into `directory`, for the owner alone; return the lines that name them.

        The password file holds salted hashes only.
        """
        passwords, rights = directory / "passwords", directory / "rights"
        _write_private(passwords, "".join(f"{u}:{p}\n" for u, p in self.accounts.items()))
        subprocess.run([_mosquitto_passwd(), "-U", str(passwords)], check=True, capture_output=True)
        _write_private(rights, access_rules())
        lines = ["allow_anonymous false", f"password_file {passwords}", f"acl_file {rights}"]
        if self.certificate:
            lines += [
                f"certfile {self.certificate.cert_file}",
                f"keyfile {self.certificate.key_file}",
                "tls_version tlsv1.2",
            ]
            if self.certificate.client_ca_file:
                lines += [f"cafile {self.certificate.client_ca_file}", "require_certificate true"]
        return lines


def access_rules() -> str:
    """Return mosquitto's access file for the roles, and for devices by their user name."""
    lines = [f"pattern read vpp/v1/%u/{kind}" for kind in _TO_DEVICES]
    lines += [f"pattern write vpp/v1/%u/{kind}" for kind in _FROM_DEVICES]
    for role in ROLES:
        lines.append(f"user {role}")
        lines += [f"topic read vpp/v1/{topics}" for topics in _READS[role]]
        lines += [f"topic write vpp/v1/{topics}" for topics in _WRITES[role]]
        lines.append(f"topic deny vpp/v1/{role}/#")  # it is no device of that name
    return "\n".join([*lines, ""])


def generated_access(credentials_file: Path) -> BrokerAccess:
    """Return access for every role with the passwords in `credentials_file`, made where it is not.

    The passwords stay the same from start to start, so that processes need not be told anew.
    """
    if not credentials_file.exists():
        write_credentials(
            credentials_file,
            {
                SIMULATED_BROKER if role == "operator" else f"{SIMULATED_BROKER}-{role}": {
                    "user": role,
                    "password": secrets.token_urlsafe(24),
                }
                for role in ROLES
            },
        )
    known = Credentials.read({}, generated=credentials_file)
    return BrokerAccess(
        {role: _password(known.named(SIMULATED_BROKER, role), credentials_file) for role in ROLES}
    )


def _password(credential: Credential, file: Path) -> str:
    if credential.password is None:
        raise ValueError(f"{file}: [{credential.name}] has no password; delete the file")
    return credential.password.get_secret_value()


def _mosquitto_passwd() -> str:
    path = shutil.which("mosquitto_passwd")
    if path is None:
        raise FileNotFoundError("mosquitto_passwd is not installed: it comes with mosquitto")
    return path


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
