"""What `jsm up --lan` opens to other machines: the api with TLS, and a TLS proxy before the queue."""

import ipaddress
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from jsm_queue import tls
from jsm_queue.errors import SetupError
from jsm_queue.settings import Settings

ANYWHERE = "0.0.0.0"
LOOPBACK = "127.0.0.1"
TEST_NET = ("192.0.2.1", 9)  # an address that no network has; nothing is sent to it


@dataclass(frozen=True)
class Lan:
    """Where other machines find this one (`host`), on what address it listens, and what it shows."""

    host: str
    listen: str
    material: tls.Material

    @property
    def marks(self) -> tls.Marks:
        """By what its certificate is known."""
        return tls.marks(self.material.certificate)

    @property
    def local(self) -> str:
        """The host by which this machine reaches its own api: one that the certificate is for."""
        if self.material.ca is None:
            return self.host
        return LOOPBACK if self.listen == ANYWHERE else self.listen

    def code(self, invite: str) -> str:
        """An invite with the fingerprint of the api's key."""
        return f"{invite}.{self.marks.fingerprint}"

    def environment(self, ports: Mapping[str, int], broker_url: str) -> dict[str, str]:
        """What api and workers of this machine are told."""
        shown = url_host(self.host)
        told = {
            "JSM_HOST": self.listen,
            "JSM_PUBLIC_URL": f"https://{shown}:{ports['api']}",
            "JSM_TLS_CERT": str(self.material.certificate),
            "JSM_TLS_KEY": str(self.material.key),
        }
        ca = {"JSM_CA": str(self.material.ca)} if self.material.ca else {}
        if is_plain(broker_url):
            told["JSM_BROKER_PUBLIC_URL"] = f"rediss://{shown}:{ports['broker']}{urlsplit(broker_url).path}"
            told |= {"JSM_BROKER_CA": str(self.material.ca)} if self.material.ca else {}
        return told | ca

    def proxy(self, ports: Mapping[str, int], broker_url: str) -> list[str]:
        """The command line of the proxy before a queue that speaks no TLS."""
        to = urlsplit(broker_url)
        argv = [sys.executable, "-m", "jsm_queue.cli.proxy", "--listen", self.listen, "--port", str(ports["broker"])]
        return [*argv, "--to-host", to.hostname or LOOPBACK, "--to-port", str(to.port or 6379)]


def opened(config: Settings, folder: Path, host: str | None) -> Lan:
    """What to open, with certificates made where they are missing.

    `host`: the address or name that others shall use; without it the one that this machine has in its network. Raises
    SetupError.
    """
    told = host or (config.host if not _is_loopback(config.host) and config.host != ANYWHERE else None)
    shown = told or lan_address()
    if shown is None:
        raise SetupError("This machine's address in the LAN is not known", "Give it: jsm up --lan --host 192.168.0.5")
    if config.tls_cert or config.tls_key:
        if not (config.tls_cert and config.tls_key):
            raise SetupError("JSM_TLS_CERT and JSM_TLS_KEY go together", "Set both, or none for a certificate of jsm's")
        material = tls.Material(config.tls_cert.resolve(), config.tls_key.resolve(), config.ca and config.ca.resolve())
        tls.server_context(material.certificate, material.key)
    else:
        material = tls.make(folder / "tls", [shown])
    return Lan(shown, told if told and is_address(told) else ANYWHERE, material)


def lan_address() -> str | None:
    """The address of the interface that leads to other machines, or None."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(TEST_NET)
            found = probe.getsockname()[0]
    except OSError:
        return None
    return None if _is_loopback(found) or found == ANYWHERE else found


def is_plain(broker_url: str) -> bool:
    """Does the queue speak no TLS itself?"""
    return urlsplit(broker_url).scheme == "redis"


def is_address(host: str) -> bool:
    """Is it an address rather than a name?"""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def url_host(host: str) -> str:
    """A host as a URL has it."""
    return f"[{host}]" if ":" in host else host
