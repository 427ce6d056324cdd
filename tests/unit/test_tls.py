"""Certificates that are made, kept and renewed; who trusts what."""

import base64
import datetime as dt
import hashlib
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from jsm_queue import tls
from jsm_queue.errors import AuthError, SetupError


@pytest.fixture
def made(tmp_path: Path) -> tls.Material:
    return tls.make(tmp_path / "tls", ["192.168.0.5", "pc.local"])


def certificate(material: tls.Material) -> x509.Certificate:
    return x509.load_pem_x509_certificate(material.certificate.read_bytes())


class Listening:
    """A TLS server that keeps what it hears after the handshake, and answers with one letter."""

    def __init__(self, material: tls.Material) -> None:
        self.heard: list[bytes] = []
        self._context = tls.server_context(material.certificate, material.key)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            plain.settimeout(5)
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    connection.sendall(b"x")
                    self.heard.append(connection.recv(100))
            except OSError:
                self.heard.append(b"")

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening(material: tls.Material) -> Iterator[Listening]:
    server = Listening(material)
    try:
        yield server
    finally:
        server.close()


def greet(port: int, context: ssl.SSLContext, host: str = "127.0.0.1") -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        return connection.recv(1)


def test_a_certificate_is_for_the_hosts_that_were_named_and_this_machine(made: tls.Material) -> None:
    assert {"192.168.0.5", "pc.local", "localhost", "127.0.0.1", "::1"} <= set(tls.hosts_in(made.certificate))
    assert made.ca and tls.is_issued_by(made.certificate, made.ca)


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
def test_keys_are_their_owners_alone(made: tls.Material) -> None:
    for key in (made.key, made.key.with_name("ca.key")):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_what_is_good_is_kept(made: tls.Material, tmp_path: Path) -> None:
    before = made.certificate.read_bytes()
    assert tls.make(tmp_path / "tls", ["pc.local"]) == made
    assert made.certificate.read_bytes() == before


def test_another_host_renews_the_certificate_and_not_the_key(made: tls.Material, tmp_path: Path) -> None:
    mark, ca = tls.marks(made.certificate), (tmp_path / "tls" / "ca.pem").read_bytes()
    tls.make(tmp_path / "tls", ["192.168.0.9"])
    assert {"192.168.0.9", "192.168.0.5"} <= set(tls.hosts_in(made.certificate))
    renewed = tls.marks(made.certificate)
    assert renewed.fingerprint == mark.fingerprint and renewed.certificate != mark.certificate
    assert (tmp_path / "tls" / "ca.pem").read_bytes() == ca


def test_a_certificate_that_ends_soon_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "SERVER_DAYS", tls.RENEW_DAYS - 1)
    old = certificate(tls.make(tmp_path, []))
    monkeypatch.undo()
    new = certificate(tls.make(tmp_path, []))
    assert new.not_valid_after_utc - old.not_valid_after_utc > dt.timedelta(days=365)


def test_a_damaged_certificate_is_made_anew_and_a_damaged_key_is_told(made: tls.Material, tmp_path: Path) -> None:
    made.certificate.write_text("damaged", encoding="ascii")
    tls.make(tmp_path / "tls", [])
    assert tls.hosts_in(made.certificate)
    made.key.write_text("damaged", encoding="ascii")
    made.certificate.unlink()
    with pytest.raises(SetupError, match=r"server\.key is damaged"):
        tls.make(tmp_path / "tls", [])


@pytest.mark.parametrize("host", ["", "a b", "https://pc.local", "pc..local", "192.168.0.5:8080", "*.local", "a/b"])
def test_what_is_no_host_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no host name or address"):
        tls.make(tmp_path, [host])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is the reference")
def test_openssl_agrees_on_the_chain_and_the_fingerprint(made: tls.Material) -> None:
    said = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(made.ca), str(made.certificate)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert said.returncode == 0, said.stderr
    key = subprocess.run(
        ["openssl", "x509", "-in", str(made.certificate), "-noout", "-pubkey"], capture_output=True, check=True
    )
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "der"], input=key.stdout, capture_output=True, check=True
    ).stdout
    digest = hashlib.sha256(der).digest()
    pin = tls.curl_pin(tls.marks(made.certificate).fingerprint)
    assert pin == f"sha256//{base64.b64encode(digest).decode()}"


def test_a_client_trusts_its_authority_alone(made: tls.Material, tmp_path: Path) -> None:
    other = tls.make(tmp_path / "other", [])
    with listening(made) as server:
        assert greet(server.port, tls.client_context(tls.read_ca(made.ca))) == b"x"
        for stranger in (tls.client_context(tls.read_ca(other.ca)), tls.client_context(None)):
            with pytest.raises(ssl.SSLCertVerificationError):
                greet(server.port, stranger)


def test_a_certificate_is_good_for_its_hosts_alone(made: tls.Material) -> None:
    with listening(made) as server, pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)hostname mismatch"):
        greet(server.port, tls.client_context(tls.read_ca(made.ca)), "other.local")


def test_a_pin_trusts_that_one_server(made: tls.Material, tmp_path: Path) -> None:
    with listening(made) as server:
        context = tls.pinned_context("127.0.0.1", server.port, tls.marks(made.certificate).fingerprint)
        assert greet(server.port, context, "any.name") == b"x"
    with listening(tls.make(tmp_path / "other", [])) as other, pytest.raises(ssl.SSLCertVerificationError):
        greet(other.port, context)


def test_another_key_hears_nothing(made: tls.Material, tmp_path: Path) -> None:
    expected = tls.marks(tls.make(tmp_path / "other", []).certificate).fingerprint
    with listening(made) as server:
        with pytest.raises(AuthError, match="another key than the invite says"):
            tls.pinned_context("127.0.0.1", server.port, expected)
        deadline = threading.Event()
        while not server.heard and not deadline.wait(0.01):
            pass
        assert server.heard == [b""]


def test_files_that_are_no_pair_are_told(made: tls.Material, tmp_path: Path) -> None:
    other = tls.make(tmp_path / "other", [])
    with pytest.raises(SetupError, match="not a certificate and its key"):
        tls.server_context(made.certificate, other.key)
    with pytest.raises(SetupError, match="not a certificate and its key"):
        tls.server_context(tmp_path / "none.pem", made.key)


def test_a_ca_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate", encoding="ascii")
    for file in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(SetupError, match="not a readable certificate"):
            tls.read_ca(file)
    assert tls.read_ca(None) is None


def test_a_key_is_named_by_its_der(made: tls.Material) -> None:
    assert tls.fingerprint(certificate(made).public_bytes(Encoding.DER)) == tls.marks(made.certificate).fingerprint
