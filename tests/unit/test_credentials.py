"""Secrets are found where they were put, and show up nowhere else."""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.credentials import (
    Credential,
    CredentialError,
    Credentials,
    redact_logs,
    write_credentials,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "hunter2-hunter2"
secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=4, max_size=30)


@pytest.fixture
def logs() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


def of(**fields: str) -> Credentials:
    return Credentials.read({f"VPP_CREDENTIAL_BROKER_{k.upper()}": v for k, v in fields.items()})


def test_the_environment_gives_a_named_credential() -> None:
    broker = of(user="vpp", password=SECRET, ca_file="/etc/ca.pem").named("broker")
    assert broker.password is not None
    assert (broker.user, broker.password.get_secret_value()) == ("vpp", SECRET)
    assert str(broker.ca_file) == "/etc/ca.pem"


def test_case_hyphen_and_underscore_are_the_same_in_a_name(tmp_path: Path) -> None:
    path = tmp_path / "credentials.toml"
    write_credentials(path, {"grid-gateway": {"user": "a", "password": SECRET}})
    known = Credentials.read(
        {"VPP_CREDENTIALS_FILE": str(path), "VPP_CREDENTIAL_GRID_GATEWAY_USER": "b"}
    )
    assert known.named("grid_gateway") == known.named("grid-gateway")
    gateway = known.named("grid-gateway")
    assert (gateway.user, gateway.password is None) == ("b", False)


def test_a_role_has_its_own_or_that_of_all(tmp_path: Path) -> None:
    path = tmp_path / "credentials.toml"
    write_credentials(path, {"broker": {"user": "all"}, "broker-viewer": {"user": "viewer"}})
    known = Credentials.read({}, generated=path)
    assert known.named("broker", "viewer").user == "viewer"
    assert known.named("broker", "dispatcher").user == "all"


def test_the_environment_stands_over_the_operators_file_and_that_over_the_generated(
    tmp_path: Path,
) -> None:
    generated, operators = tmp_path / "generated.toml", tmp_path / "operators.toml"
    write_credentials(generated, {"a": {"user": "1"}, "b": {"user": "1"}, "c": {"user": "1"}})
    write_credentials(operators, {"a": {"user": "2"}, "b": {"user": "2"}})
    known = Credentials.read(
        {"VPP_CREDENTIALS_FILE": str(operators), "VPP_CREDENTIAL_A_USER": "3"}, generated=generated
    )
    assert [known.named(name).user for name in "abc"] == ["3", "2", "1"]


def test_a_written_file_is_its_owners_alone_and_replaces_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "credentials.toml"
    for password in ("first-password", 'quote " and \\ and é'):
        write_credentials(path, {"broker": {"password": password}})
        assert path.stat().st_mode & 0o777 == 0o600
        read = Credentials.read({}, generated=path).named("broker").password
        assert read is not None
        assert read.get_secret_value() == password
    assert [p.name for p in tmp_path.iterdir()] == ["credentials.toml"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_open_to_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "credentials.toml"
    write_credentials(path, {"broker": {"password": SECRET}})
    path.chmod(mode)
    with pytest.raises(CredentialError, match=f"chmod 600 {path}"):
        Credentials.read({"VPP_CREDENTIALS_FILE": str(path)})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f'[broker]\npassword = {SECRET}"', "no TOML"),
        (f'password = "{SECRET}"', "outside of a"),
        (f'[broker]\npasword = "{SECRET}"', "pasword"),
        ("[broker]\npassword = 12345678", "password"),
        ('[broker]\npassword = "abc"', "at least 4"),
        (f'[broker]\npassword = ["{SECRET}"]', "password"),
    ],
)
def test_a_malformed_file_is_told_without_its_secrets(
    tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "credentials.toml"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(CredentialError, match=words) as caught:
        Credentials.read({"VPP_CREDENTIALS_FILE": str(path)})
    assert str(path) in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "12345678" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_file_that_is_named_but_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="can't be read"):
        Credentials.read({"VPP_CREDENTIALS_FILE": str(tmp_path / "none.toml")})
    assert Credentials.read({}, generated=tmp_path / "none.toml") == Credentials()


def test_a_misspelt_variable_is_named_and_its_value_is_not() -> None:
    with pytest.raises(CredentialError, match="VPP_CREDENTIAL_BROKER_PASWORD") as caught:
        of(pasword=SECRET)
    assert SECRET not in str(caught.value)


def test_missing_credentials_are_told_with_the_remedy() -> None:
    with pytest.raises(CredentialError, match="VPP_CREDENTIAL_GRID_GATEWAY_PASSWORD"):
        Credentials().named("grid-gateway")


@settings(deadline=None)
@given(secrets, secrets)
def test_no_secret_is_shown_by_a_repr_a_dump_or_redacted_text(password: str, token: str) -> None:
    known = Credentials(
        {"BROKER": Credential.model_validate({"name": "b", "password": password, "token": token})}
    )
    broker = known.named("broker")
    bland = Credential.model_validate({"name": "b", "password": "other-secret", "token": "another"})
    assert [f(broker) for f in (repr, str, Credential.model_dump_json)] == [
        f(bland) for f in (repr, str, Credential.model_dump_json)
    ]
    assert repr(known) == repr(Credentials())
    for secret in (password, token):
        basic = base64.b64encode(f":{secret}".encode()).decode()
        for shape in (secret, quote(secret, safe=""), basic):
            redacted = known.redact(f"\x00{shape}\x00{shape}\x00")
            assert redacted.count("**********") >= 2
            assert f"\x00{shape}\x00" not in redacted or set(shape) == {"*"}


def test_text_without_a_secret_is_left_as_it_is() -> None:
    assert Credentials().redact("nothing to hide") == "nothing to hide"
    assert of(password=SECRET).redact("nothing to hide") == "nothing to hide"


def test_no_log_record_holds_a_secret(logs: None, caplog: pytest.LogCaptureFixture) -> None:
    redact_logs(of(password=SECRET))
    log = logging.getLogger("some.library")
    log.warning("login with %s failed", SECRET)
    try:
        int(SECRET)
    except ValueError:
        log.exception("login with %(password)s", {"password": SECRET})
    assert "login with ********** failed" in caplog.text
    assert "invalid literal for int() with base 10: '**********'" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in "".join(str(vars(record)) for record in caplog.records)


def test_newer_credentials_take_the_place_of_the_last(
    logs: None, caplog: pytest.LogCaptureFixture
) -> None:
    redact_logs(of(password="before-before"))
    redact_logs(of(password=SECRET))
    logging.getLogger("x").warning("%s and before-before", SECRET)
    assert caplog.messages == ["********** and before-before"]


def test_a_record_with_too_many_arguments_is_left_to_logging(
    logs: None, caplog: pytest.LogCaptureFixture
) -> None:
    redact_logs(of(password=SECRET))
    record = logging.getLogRecordFactory()("x", 30, "f", 1, "no place", ("for", "these"), None)
    assert record.args == ("for", "these")
