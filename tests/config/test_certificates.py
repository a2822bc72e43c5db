"""Client certificates: wrong files end the program at its start, expired files are warned of."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from formrelay.config.certificates import validity
from formrelay.config.settings import Reading, read_settings
from tests.support.certificates import Authority

PREFIXES = ["API_", "WEBHOOK_"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("client", ends=timedelta(days=30), lasts=timedelta(days=40))


@pytest.fixture(params=PREFIXES)
def reading(request: pytest.FixtureRequest) -> Callable[..., Reading]:
    def read(**ends: object) -> Reading:
        given = {f"{request.param}CLIENT_{name}": str(text) for name, text in ends.items()}
        return read_settings({"BROKER": "embedded"} | given, env_file=None)

    read.prefix = request.param  # type: ignore[attr-defined]
    return read


def only_error(reading: Reading) -> str:
    assert reading.error is not None
    (line,) = str(reading.error).split("\n")
    return line


def test_a_certificate_and_its_key_are_valid_in_two_files_and_in_one(
    reading: Callable[..., Reading], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = pair
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    for found in (reading(CERT_FILE=cert, KEY_FILE=key), reading(CERT_FILE=both)):
        assert found.error is None
        assert found.warnings == ()


@pytest.mark.parametrize("name", ["CERT_FILE", "KEY_FILE"])
@pytest.mark.parametrize("what", ["missing", "folder", "other"])
def test_an_unreadable_file_is_one_error_that_names_its_variable(
    reading: Callable[..., Reading], pair: tuple[Path, Path], tmp_path: Path, name: str, what: str
) -> None:
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "other":
        path.write_text("hunter2")
    files = {"CERT_FILE": pair[0], "KEY_FILE": pair[1]} | {name: path}
    found = reading(**files)
    line = only_error(found)
    variable = f"{reading.prefix}CLIENT_{name}"  # type: ignore[attr-defined]
    assert variable in line
    assert str(path) in line or what == "folder"
    assert "hunter2" not in line
    assert variable in found.invalid


def test_the_key_of_another_certificate_is_an_error(
    reading: Callable[..., Reading], authority: Authority, pair: tuple[Path, Path]
) -> None:
    _, other = authority.issue("other")
    line = only_error(reading(CERT_FILE=pair[0], KEY_FILE=other))
    assert "to be the private key of" in line
    assert f"got the key of another certificate ('{other}')" in line


def test_a_certificate_alone_and_a_key_alone_are_errors(
    reading: Callable[..., Reading], pair: tuple[Path, Path]
) -> None:
    assert "name its file in" in only_error(reading(CERT_FILE=pair[0]))
    assert "CLIENT_CERT_FILE to be set, because" in only_error(reading(KEY_FILE=pair[1]))


def test_an_encrypted_key_needs_its_password(
    reading: Callable[..., Reading], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkcs8", "-topk8", "-in", str(pair[1]), "-out", str(locked)]
    subprocess.run([*command, "-passout", "pass:hunter2"], check=True, capture_output=True)
    files = {"CERT_FILE": pair[0], "KEY_FILE": locked}
    assert reading(**files, KEY_PASSWORD="hunter2").error is None
    (tmp_path / "password").write_text("hunter2\n")
    assert reading(**files, KEY_PASSWORD_FILE=tmp_path / "password").error is None
    assert "private key in" in only_error(reading(**files))
    line = only_error(reading(**files, KEY_PASSWORD="hunter3"))
    assert "CLIENT_KEY_PASSWORD to be the password of the private key" in line
    assert "hunter" not in line


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (timedelta(days=-1), "expired at"),
        (timedelta(days=9), "expires at"),
        (timedelta(days=20), "is not valid before"),
        (timedelta(days=15), ""),
    ],
)
def test_a_certificate_out_of_its_time_is_a_warning(
    reading: Callable[..., Reading],
    authority: Authority,
    ends: timedelta,
    said: str,
) -> None:
    cert, key = authority.issue("aging", ends=ends, lasts=timedelta(days=18))
    found = reading(CERT_FILE=cert, KEY_FILE=key)
    assert found.error is None
    assert [said in line for line in found.warnings] == ([True] if said else [])
    assert all(f"{reading.prefix}CLIENT_CERT_FILE" in line for line in found.warnings)  # type: ignore[attr-defined]


def test_the_validity_is_read_as_openssl_reads_it(authority: Authority) -> None:
    for days in (-400, 1, 400, 9_000, 20_000):
        cert, _ = authority.issue("sample", ends=timedelta(days=days))
        begins, ends = validity(ssl.PEM_cert_to_DER_cert(cert.read_text()))
        shown = subprocess.run(
            ["openssl", "x509", "-in", str(cert), "-noout", "-enddate"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        wanted = ssl.cert_time_to_seconds(shown.strip().removeprefix("notAfter="))
        assert ends == datetime.fromtimestamp(wanted, UTC)
        assert ends - begins == timedelta(days=10)
