"""TLS towards devices and brokers: whom we trust, what we show, and failures in plain words.

Belongs here: contexts made of credentials, and what a failed handshake means. Does not: the
connections themselves, or which of them are encrypted (the registry's `tls`).
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from vpp_pipeline.credentials import CredentialError

if TYPE_CHECKING:
    from vpp_pipeline.credentials import Credential

# As OpenSSL names its reasons, and the alerts that a peer sends (RFC 8446, section 6.2).
_MEANINGS = {
    "certificate has expired": "its certificate has expired; renew it there",
    "not yet valid": "its certificate is not valid yet; see the clocks of both sides",
    "self-signed certificate": "its certificate is signed by nobody we trust; give ca_file",
    "self signed certificate": "its certificate is signed by nobody we trust; give ca_file",
    "unable to get local issuer": "its certificate is signed by nobody we trust; give ca_file",
    "Hostname mismatch": "its certificate is for another name; see the registry's address",
    "IP address mismatch": "its certificate is for another address; see the registry's address",
    "ALERT_CERTIFICATE_EXPIRED": "it says that our certificate has expired; renew cert_file",
    "CERTIFICATE_REQUIRED": "it asks for our certificate; give cert_file and key_file",
    "ALERT_HANDSHAKE_FAILURE": "it asks for our certificate; give cert_file and key_file",
    "ALERT_UNKNOWN_CA": "it does not trust who signed our certificate; see cert_file",
    "ALERT_BAD_CERTIFICATE": "it does not accept our certificate; see cert_file",
    "WRONG_VERSION_NUMBER": "it does not speak TLS there; see the registry's port and tls",
}


def client_context(credential: Credential | None) -> ssl.SSLContext:
    """Return a context that verifies the peer's name and certificate, from TLS 1.2 on.

    Raises `CredentialError` that names the credential and the file at fault.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if credential is None:
        return context
    try:
        if credential.ca_file:
            context.load_verify_locations(credential.ca_file)
        if credential.cert_file:
            context.load_cert_chain(credential.cert_file, credential.key_file)
    except OSError as error:
        files = [credential.ca_file, credential.cert_file, credential.key_file]
        named = ", ".join(str(file) for file in files if file)
        raise CredentialError(
            f"credentials {credential.name!r}: {named} can't be used ({error.strerror or error});"
            " give PEM files, the key without a passphrase"
        ) from error
    return context


def objection(
    host: str, port: int, context: ssl.SSLContext, timeout_s: float, *, listen: bool
) -> str:
    """Return what either side objects to in a handshake made for that alone; empty for nothing.

    With `listen` also to our certificate: from TLS 1.3 on a peer says so after the handshake, and
    its words are lost on a client that has begun to speak. Raises OSError where the peer can't be
    reached.
    """
    with socket.create_connection((host, port), timeout_s) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as encrypted:
                if listen:
                    with suppress(TimeoutError):
                        encrypted.recv(1)
        except ssl.SSLError as error:
            return in_words(str(error)) or f"TLS failed: {error.reason or error}"
    return ""


def in_words(failure: str) -> str:
    """Return what a TLS failure means and what helps; empty where the text tells of none."""
    return next((words for sign, words in _MEANINGS.items() if sign in failure), "")
