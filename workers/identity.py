"""Who this worker is:

joined once with an invite, kept in `<home>/identity.json`, readable by its owner alone. The token that it chose is in
`<home>/join.token` before the api is asked: by it the api knows the same worker again, whoever died before the answer.

An invite may carry the fingerprint of the api's key, as TOKEN.FINGERPRINT. Then nothing is sent to an api that has
another key; what it says of its authority is kept, and by that it is known from then on.
"""

import json
import logging
import platform
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from jsm_queue import acl, tls
from jsm_queue.errors import AuthError, ForbiddenError, SetupError
from jsm_queue.files import write_secret
from jsm_queue.protocol import BrokerReply, BrokerRequest, JoinReply, JoinRequest, Place
from workers import outbox
from workers.client import Client, Unreachable, Untrusted, patiently

T = TypeVar("T")
logger = logging.getLogger(__name__)

JOINING = "join.token"
ANOTHER = "Give the invite whole, as `jsm worker invite` prints it, dot and all, and the address that came with it"
CLOCK = "Set the clock of this machine, or of the api's, right"
ELSEWHERE = "Leave --api out, or give an invite of that pool too"


@dataclass(frozen=True)
class Identity:
    """A worker's id in its pool, and its token.

    `broker_secret`: its password at the broker, which it chose. `api`: the pool's address, and `ca` the PEM text of the
    authority by which that is known; None: the system's. `name`: as what it joined.
    """

    worker: str
    token: str
    broker_secret: str = ""
    api: str = ""
    ca: str | None = None
    name: str = ""

    @property
    def broker_request(self) -> BrokerRequest:
        """What the api is told of the password: enough for the broker, of no use to anybody else."""
        return BrokerRequest(secret_hash=acl.password_hash(self.broker_secret))

    def broker_url(self, reply: BrokerReply) -> str:
        """Where the messages come from, with the password."""
        if reply.user is None:
            return reply.broker_url
        return acl.with_credentials(reply.broker_url, reply.user, self.broker_secret)


def find(home: Path, api: str | None, invite: str | None, name: str | None, ca: str | None = None) -> Identity:
    """The identity of an earlier start, or a new one for the invite. Waits for the api as long as it takes.

    `api`: without it the address at which this worker joined. `ca`: the authority by which the api is known, in the
    place of the one that was kept; an invite's fingerprint comes first. `name`: without it the one of an earlier pool,
    or the machine's. Another address is kept once the api there knows this worker. An identity that it does not know is
    given up only where there is an invite to join anew with, and no result for the pool that it is of. Raises
    SetupError without address, or without identity and invite, AuthError when the invite is not good or the api has
    another key than it says.
    """
    known = _load(home)
    if known and not known.broker_secret:  # it joined with an older version
        known = _keep(home, replace(known, broker_secret=_secret()), known)
    address = (api or (known.api if known else "")).rstrip("/")
    if not address:
        raise SetupError(f"{home} does not say which pool this worker is of", "Give --api URL, or set JSM_API_URL")
    if known:
        (home / JOINING).unlink(missing_ok=True)  # of a death just after the answer
    ca = _first_contact(address, invite) if invite and _split(invite)[1] else ca or (known.ca if known else None)
    if known:
        moved = bool(known.api) and (address, ca) != (known.api, known.ca)
        if not (invite or moved) or _knows(address, known, ca, ANOTHER if invite else ELSEWHERE):
            return _keep(home, replace(known, api=address, ca=ca, name=known.name or _name(name)), known)
        if not invite:
            raise SetupError(f"The pool at {address} does not know this worker: {known.api} does", ELSEWHERE)
        _refuse_undelivered(home, known.api, address)
        logger.warning("worker %s: this pool does not know it; joining anew", known.worker)
    if not invite:
        raise SetupError(f"{home} has not joined a pool", "Use --invite; `jsm worker invite` makes one")
    return _join(home, address, _split(invite)[0], _name(name, known.name if known else ""), ca)


def _name(wanted: str | None, before: str = "") -> str:
    return (before or platform.node()[:64] or "worker") if wanted is None else wanted


def _join(home: Path, api: str, token: str, name: str, ca: str | None) -> Identity:
    try:
        request = JoinRequest(name=name, token=_chosen_token(home))
    except ValueError as error:
        raise SetupError(f"{name!r} is no name for a machine", "Give 1 to 64 characters on one line") from error
    client = Client(api, token, ca)
    reply = _patiently(lambda: client.post("/v1/workers/join", request, JoinReply))
    identity = _keep(home, Identity(reply.worker, reply.token, _secret(), api, ca, name), None)
    (home / JOINING).unlink()
    logger.info("worker %s: joined as %s", identity.worker, name)
    return identity


def _secret() -> str:
    return secrets.token_urlsafe(32)


def _keep(home: Path, identity: Identity, before: Identity | None) -> Identity:
    if identity != before:
        write_secret(home / "identity.json", json.dumps(asdict(identity)))
    return identity


def is_there(home: Path) -> bool:
    """Whether this worker joined a pool."""
    return (home / "identity.json").exists()


def _load(home: Path) -> Identity | None:
    if not is_there(home):
        return None
    file = home / "identity.json"
    try:
        kept, names = json.loads(file.read_text(encoding="utf-8")), {field.name for field in fields(Identity)}
        return Identity(**{name: value for name, value in kept.items() if name in names})
    except (ValueError, TypeError, AttributeError) as error:
        raise SetupError(f"{file} is damaged", "Remove it and join with a new invite") from error


def _chosen_token(home: Path) -> str:
    file = home / JOINING
    if not file.exists():
        write_secret(file, secrets.token_urlsafe(32))
    return file.read_text(encoding="utf-8")


def _refuse_undelivered(home: Path, api: str, other: str) -> None:
    """A result is for the pool that the worker leaves: the other one would have no use for it."""
    results = outbox.count_results(home)
    if results and api != other:
        raise SetupError(
            f"{home} holds {results} result{'s' * (results > 1)} for the pool at {api}",
            f"Start it without --api and invite until they are delivered, or remove {home / 'outbox'}",
        )


# ---- trust -------------------------------------------------------------------------------------------------


def _split(invite: str) -> tuple[str, str | None]:
    """Token and fingerprint, whatever blanks were copied with them."""
    token, _, fingerprint = invite.strip().partition(".")
    return token, fingerprint or None


def _first_contact(api: str, invite: str) -> str | None:
    """The authority by which this api is to be known, as it says itself once its key is the one of the invite.

    None for the system's. Raises AuthError for another key.
    """
    fingerprint, (host, port) = _split(invite)[1] or "", _place(api)

    def ask() -> Place:
        try:
            context = tls.pinned_context(host, port, fingerprint)
        except OSError as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        return Client(api, "none", context).get("/v1/join", Place)

    return _patiently(ask).ca


def _place(api: str) -> tuple[str, int]:
    try:
        parts = urlsplit(api)
        if parts.scheme == "https" and parts.hostname:
            return parts.hostname, parts.port or 443
    except ValueError:
        pass
    raise SetupError(f"{api!r} is no https:// address, as this invite asks for", "Use the one that came with it")


def _knows(api: str, identity: Identity, ca: str | None, fix: str) -> bool:
    client = Client(api, identity.token, ca)

    def ask() -> bool:
        try:
            client.post("/v1/worker/broker", identity.broker_request, BrokerReply)
        except (AuthError, ForbiddenError):
            return False
        return True

    return _patiently(ask, fix)


def _patiently(call: Callable[[], T], fix: str = ANOTHER) -> T:
    """Somebody waits for this machine to join: a certificate that is not trusted ends it, where a worker tries on."""

    def ask() -> T:
        try:
            return call()
        except Untrusted as error:
            said = f"The api is not known for certain: {error}"
            raise AuthError(said, CLOCK if error.by_clock else fix) from error

    return patiently(ask, threading.Event(), lambda why: logger.warning("waits for the api (%s); trying on", why))
