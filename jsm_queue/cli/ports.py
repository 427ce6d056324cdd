"""Where the parts of a pool listen.

<home>/ports.json   the ports of the last start: the same again where they are free
"""

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from jsm_queue import processes
from jsm_queue.cli import lan
from jsm_queue.errors import SetupError
from jsm_queue.files import write_whole
from jsm_queue.settings import Settings

DEFAULT_PORTS = {"api": 8080, "flower": 5555, "valkey": 6379, "broker": 6380}


def choose_ports(config: Settings, folder: Path, opened: lan.Lan | None = None) -> dict[str, int]:
    """Ports for api, Flower, Valkey and the proxy: what the settings tell, else the last ones, else free ones.

    Raises SetupError when a port that the settings tell is taken, or told twice.
    """
    told = {"api": config.api_port, "flower": config.flower_port, "valkey": 0, "broker": config.broker_port}
    _refuse_twice(told)
    ports = last = DEFAULT_PORTS | _last_ports(folder)
    for name, host in _hosts(config, opened).items():
        ports = ports | {name: processes.free_port(told[name] or last[name], host)}
        if told[name] not in (0, ports[name]):
            why = processes.refusal(told[name], host)
            raise SetupError(f"Port {told[name]} for {name} {why}", f"Set JSM_{name.upper()}_PORT to another, or to 0")
    write_whole(folder / "ports.json", json.dumps(ports))
    return ports


def are_free(ports: Mapping[str, int], config: Settings, opened: lan.Lan | None) -> bool:
    """Whether nobody listens on any of them now."""
    return all(processes.free_port(ports[name], host) == ports[name] for name, host in _hosts(config, opened).items())


def _hosts(config: Settings, opened: lan.Lan | None) -> dict[str, str]:
    """Where each part listens."""
    hosts = {"api": config.host, "flower": lan.LOOPBACK, "valkey": lan.LOOPBACK}
    return hosts | ({"api": opened.listen, "broker": opened.listen} if opened else {})


def _refuse_twice(told: Mapping[str, int]) -> None:
    for (one, port), (other, same) in combinations(told.items(), 2):
        if port == same != 0:
            either = f"JSM_{one.upper()}_PORT or JSM_{other.upper()}_PORT"
            raise SetupError(f"Port {port} is told for {one} and {other}", f"Set {either} to another, or to 0")


def _last_ports(folder: Path) -> dict[str, int]:
    """The ports of the last start on this home folder."""
    try:
        kept = json.loads((folder / "ports.json").read_text(encoding="utf-8"))
        return {name: int(kept[name]) for name in DEFAULT_PORTS if name in kept}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
