"""`jsm tls init`: certificates of a pool's own."""

from jsm_queue import tls
from jsm_queue.cli import console
from jsm_queue.cli.home import home
from jsm_queue.cli.lan import lan_address


def init(hosts: list[str], as_json: bool) -> None:
    """Makes an authority and a server certificate in the home folder; what is there and good is kept."""
    found = [address for address in [lan_address()] if address and not hosts]
    material = tls.make(home() / "tls", [*hosts, *found])
    fingerprint = tls.marks(material.certificate).fingerprint
    if as_json:
        paths = {"ca": str(material.ca), "cert": str(material.certificate), "key": str(material.key)}
        console.print_json({**paths, "hosts": tls.hosts_in(material.certificate), "fingerprint": fingerprint})
        return
    console.out.print(f"authority    {material.ca}   (clients: JSM_CA)")
    console.out.print(f"certificate  {material.certificate}   (JSM_TLS_CERT)")
    console.out.print(f"key          {material.key}   (JSM_TLS_KEY)")
    console.out.print(f"for          {', '.join(tls.hosts_in(material.certificate))}")
    console.out.print(f"fingerprint  {fingerprint}")
