"""TLS: a pool's own authority and server certificate, and how a client comes to trust them.

    <home>/tls/ca.pem, ca.key            the pool's authority, for ten years; by ca.pem its clients know it
    <home>/tls/server.pem, server.key    what api and broker show; the key stays when the certificate is renewed

A *fingerprint* names the server's public key: sha256 of its SubjectPublicKeyInfo, base64url without padding. It
outlives renewals, and is what `curl --pinnedpubkey` compares.
"""

import base64
import datetime as dt
import hashlib
import ipaddress
import platform
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from jsm_queue.errors import AuthError, SetupError
from jsm_queue.files import write_secret, write_whole

CA_DAYS = 3650
SERVER_DAYS = 820  # what some systems accept at most of any server
RENEW_DAYS = 30  # a certificate that ends sooner is made anew
BACKDATED = dt.timedelta(days=7)  # a gaming PC's clock may be behind: by nine hours where two systems share it
HANDSHAKE_S = 5.0
# Without ciphers whose recorded traffic could be read by who gets the key later; TLS 1.3 has none of them.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Material(NamedTuple):
    """Files that a server shows: its certificate with what it is signed by, and its key; `ca` by which to know it."""

    certificate: Path
    key: Path
    ca: Path | None


# ---- making ------------------------------------------------------------------------------------------------


def make(folder: Path, hosts: Iterable[str]) -> Material:
    """A server certificate for these host names and addresses, and for this machine's own; what is good is kept.

    Makes the authority where there is none. A renewed certificate keeps its key and the hosts that it had. Raises
    SetupError for what is no host, and when files of the folder are damaged.
    """
    now = dt.datetime.now(dt.UTC)
    found = Material(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    ca, ca_key = _authority(folder, now)
    wanted = {_host(host): None for host in ("localhost", "127.0.0.1", "::1", platform.node() or "localhost", *hosts)}
    old = _read_certificate(found.certificate)
    if old is not None:
        if _is_good(old, ca, set(wanted), now):
            return found
        wanted |= dict.fromkeys(hosts_of(old))
    key = _key(found.key)
    made = _sign_server(list(wanted), key, ca, ca_key, now)
    write_whole(found.certificate, _pem(made) + _pem(ca))
    return found


def _authority(folder: Path, now: dt.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key, ca = _key(folder / "ca.key"), _read_certificate(folder / "ca.pem")
    if ca is None or ca.public_key() != key.public_key() or ca.not_valid_after_utc < now:
        ca = _sign_authority(key, now)
        write_whole(folder / "ca.pem", _pem(ca))
    return ca, key


def _sign_authority(key: ec.EllipticCurvePrivateKey, now: dt.datetime) -> x509.Certificate:
    name = _name(f"jsm-queue authority of {platform.node() or 'a pool'}"[:64])
    usage = _usage(sign_certificates=True)
    return (
        _builder(name, name, key, now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )


def _sign_server(
    hosts: list[str],
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
) -> x509.Certificate:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(_name("jsm-queue"), ca.subject, key, now, SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> str:
    """A host as a certificate names it. Raises SetupError for what is none."""
    plain = host.strip().strip("[]").lower()
    try:
        return str(ipaddress.ip_address(plain))
    except ValueError:
        pass
    if not plain or not all(part and part.replace("-", "a").isalnum() for part in plain.split(".")):
        raise SetupError(f"{host!r} is no host name or address", "Give one such as 192.168.0.5 or pc.local")
    return plain.encode("idna").decode()


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _is_good(old: x509.Certificate, ca: x509.Certificate, wanted: set[str], now: dt.datetime) -> bool:
    lasts = old.not_valid_after_utc - now > dt.timedelta(days=RENEW_DAYS) and old.not_valid_before_utc <= now
    return _is_signed(old, ca) and lasts and wanted <= set(hosts_of(old))


def _is_signed(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
        return True
    except Exception:  # whatever a damaged or foreign certificate raises
        return False


def is_issued_by(certificate: Path, ca: Path) -> bool:
    """Are both there, and is the one signed by the other?"""
    shown, authority = _read_certificate(certificate), _read_certificate(ca)
    return shown is not None and authority is not None and _is_signed(shown, authority)


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def hosts_in(certificate: Path) -> list[str]:
    """The names and addresses that a file's certificate is for."""
    found = _read_certificate(certificate)
    return hosts_of(found) if found else []


# ---- files -------------------------------------------------------------------------------------------------


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    """The key of that file, made where it is missing."""
    if not file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        text = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        write_secret(file, text.decode())
    try:
        found = serialization.load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise SetupError(f"{file} is damaged", "Remove it; a new key is made, and machines join anew") from error
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise SetupError(f"{file} is not a key of `jsm tls init`", "Remove it, or name your own in JSM_TLS_KEY")
    return found


def _read_certificate(file: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError):
        return None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def read_ca(file: Path | None) -> str | None:
    """The text of an authority's file; None without one. Raises SetupError when it cannot be read or is none."""
    if file is None:
        return None
    try:
        text = file.read_text(encoding="ascii")
        x509.load_pem_x509_certificates(text.encode())
        return text
    except (OSError, ValueError) as error:
        raise SetupError(f"{file} is not a readable certificate in PEM ({error})", "Correct the setting") from error


# ---- fingerprints ------------------------------------------------------------------------------------------


class Marks(NamedTuple):
    """By what a server is known before there is an authority to trust.

    `fingerprint`: of its key, as the module says. `certificate`: sha256 of the whole certificate, in hex digits.
    """

    fingerprint: str
    certificate: str


def marks(certificate: Path) -> Marks:
    """Of a PEM file's first certificate. Raises SetupError when it cannot be read."""
    found = _read_certificate(certificate)
    if found is None:
        raise SetupError(f"{certificate} is not a readable certificate in PEM", "See JSM_TLS_CERT and `jsm tls init`")
    der = found.public_bytes(serialization.Encoding.DER)
    return Marks(fingerprint(der), hashlib.sha256(der).hexdigest())


def fingerprint(der: bytes) -> str:
    """Of the public key of a certificate in DER."""
    key = x509.load_der_x509_certificate(der).public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(spki).digest()).decode().rstrip("=")


def curl_pin(mark: str) -> str:
    """A fingerprint as `curl --pinnedpubkey` wants it."""
    return f"sha256//{mark.replace('-', '+').replace('_', '/')}="


# ---- contexts ----------------------------------------------------------------------------------------------


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a server shows. Raises SetupError when the files are no such pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SetupError(
            f"{certificate} and {key} are not a certificate and its key ({error})",
            "Correct JSM_TLS_CERT and JSM_TLS_KEY",
        ) from error
    return context


def client_context(ca: str | None) -> ssl.SSLContext:
    """Verifies a server by that authority's PEM text alone, or without one by the system's authorities."""
    try:
        return ssl.create_default_context(cadata=ca)
    except ssl.SSLError as error:
        raise SetupError(f"The authority's certificate is damaged ({error})", "Join anew, or correct JSM_CA") from error


def pinned_context(host: str, port: int, expected: str) -> ssl.SSLContext:
    """Trusts the one certificate that the server shows now, whose key has the expected fingerprint.

    Sends nothing but a handshake. Raises AuthError for another key, OSError when nobody answers.
    """
    # This handshake verifies nothing, and nothing is said in it: it only fetches what the next line compares.
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=HANDSHAKE_S) as plain,
        asking.wrap_socket(plain, server_hostname=host) as connection,
    ):
        der: Any = connection.getpeercert(binary_form=True)
    shown = fingerprint(der)
    if shown != expected:
        raise AuthError(
            f"{host}:{port} has another key than the invite says: {shown} instead of {expected}; nothing was sent",
            "Is this the right address? If it is, make a new invite, and mind that somebody may be in between",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is known by its key
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(der))
    return context
