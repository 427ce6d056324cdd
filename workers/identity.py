"""Who this worker is:

joined once with an invite, kept in `<home>/identity.json`, readable by its owner alone. The token that it chose is in
`<home>/join.token` before the api is asked: by it the api knows the same worker again, whoever died before the answer.
"""

import json
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from jsm_queue.errors import AuthError, SetupError
from jsm_queue.files import write_secret
from jsm_queue.protocol import BrokerReply, JoinReply, JoinRequest
from workers.client import Client, patiently

T = TypeVar("T")
logger = logging.getLogger(__name__)

JOINING = "join.token"


@dataclass(frozen=True)
class Identity:
    """A worker's id in its pool, and its token."""

    worker: str
    token: str


def find(home: Path, api: str, invite: str | None, name: str) -> Identity:
    """The identity of an earlier start, or a new one for the invite. Waits for the api as long as it takes.

    An identity that this pool does not know is given up only where there is an invite to join anew with.
    Raises SetupError without identity and invite, AuthError when the invite is not good.
    """
    known = _load(home)
    if known:
        (home / JOINING).unlink(missing_ok=True)  # of a death just after the answer
    if known and not (invite and _is_foreign(api, known)):
        return known
    if not invite:
        raise SetupError(f"{home} has not joined a pool", "Use --invite; `jsm worker invite` makes one")
    client, request = Client(api, invite), JoinRequest(name=name, token=_chosen_token(home))
    reply = _patiently(lambda: client.post("/v1/workers/join", request, JoinReply))
    identity = Identity(reply.worker, reply.token)
    write_secret(home / "identity.json", json.dumps(asdict(identity)))
    (home / JOINING).unlink()
    logger.info("worker %s: joined as %s", identity.worker, name)
    return identity


def _load(home: Path) -> Identity | None:
    file = home / "identity.json"
    if not file.exists():
        return None
    try:
        return Identity(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise SetupError(f"{file} is damaged", "Remove it and join with a new invite") from error


def _chosen_token(home: Path) -> str:
    file = home / JOINING
    if not file.exists():
        write_secret(file, secrets.token_urlsafe(32))
    return file.read_text(encoding="utf-8")


def _is_foreign(api: str, identity: Identity) -> bool:
    client = Client(api, identity.token)
    try:
        _patiently(lambda: client.get("/v1/worker/broker", BrokerReply))
    except AuthError:
        logger.warning("worker %s: this pool does not know it; joining anew", identity.worker)
        return True
    return False


def _patiently(call: Callable[[], T]) -> T:
    return patiently(call, threading.Event(), lambda why: logger.warning("the api is away (%s); trying on", why))
