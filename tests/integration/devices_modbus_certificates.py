"""Certificates for a test, made by openssl: an authority, servers and clients signed by it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LONG_AGO = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")


def make_authority(folder: Path, name: str = "ca") -> Path:
    """Return the certificate of a new authority."""
    _openssl(
        folder,
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2"),
    )
    return folder / f"{name}.pem"


def issue(
    folder: Path, name: str, authority: str = "ca", *, expired: bool = False
) -> tuple[Path, Path]:
    """Return certificate and key for 127.0.0.1, signed by the authority."""
    _openssl(
        folder,
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
    )
    (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    (folder / f"{name}.db").touch()
    (folder / f"{name}.cnf").write_text(
        f"[ca]\ndefault_ca=it\n[it]\ndatabase={name}.db\nnew_certs_dir=.\nrand_serial=yes\n"
        "default_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n"
    )
    _openssl(
        folder,
        *("ca", "-batch", "-notext", "-config", f"{name}.cnf", "-extfile", f"{name}.ext"),
        *("-cert", f"{authority}.pem", "-keyfile", f"{authority}.key"),
        *("-in", f"{name}.csr", "-out", f"{name}.pem"),
        *(_LONG_AGO if expired else ("-days", "2")),
    )
    return folder / f"{name}.pem", folder / f"{name}.key"


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
