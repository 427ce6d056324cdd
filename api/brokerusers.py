"""Workers' users at the broker: told at a worker's start, and again whenever a restarted broker has forgotten them."""

import ipaddress
import logging
import threading

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, select

from api.context import Context
from jsm_queue import acl, broker, tls
from jsm_queue.errors import AuthError
from jsm_queue.protocol import BrokerReply
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading

LOOK_S = 2.0  # between two looks at the broker, which cost it two commands
AWAY_S = 0.5  # between two tries while it does not answer: its workers come back as soon as they may

logger = logging.getLogger(__name__)


def sync(ctx: Context) -> bool:
    """Make sure of all users. Returns whether the broker answered."""
    with reading(ctx.engine) as session:
        rows = session.exec(select(t.Worker.id, t.Worker.state, t.Worker.broker_secret_hash)).all()
    workers = {worker: held for worker, state, held in rows if held and state != "removed"}
    removed = [worker for worker, state, _ in rows if state == "removed"]
    return ctx.users.sync(workers, removed, flower_hash(ctx.settings))


def flower_hash(settings: Settings) -> str | None:
    """Of the password that `jsm up` made for its Flower; None where nobody did."""
    try:
        return acl.password_hash((settings.home / "flower.password").read_text(encoding="utf-8").strip())
    except OSError:
        return None


def start(ctx: Context) -> threading.Thread:
    """Looks once now, and from then on in a thread, until the api stops."""
    _look(ctx)
    thread = threading.Thread(target=_loop, args=(ctx,), name="broker-users", daemon=True)
    thread.start()
    return thread


def _loop(ctx: Context) -> None:
    answered = True
    while not ctx.stop.wait(LOOK_S if answered else AWAY_S):
        answered = _look(ctx)


def _look(ctx: Context) -> bool:
    try:
        return sync(ctx)
    except SQLAlchemyError:
        return False  # the coordinator says so
    except Exception:
        logger.exception("the broker's users cannot be told; it is tried again")
        return True


def place(settings: Settings) -> str:
    """Where workers find the broker, without anybody's credentials."""
    return acl.without_credentials(settings.broker_public_url or settings.broker_url or "")


def reply(ctx: Context, worker_id: str) -> BrokerReply:
    """What a worker with a password of its own is told; its user is made here, or as soon as the broker is back."""
    sync(ctx)
    queue, ca = broker.queue_name(worker_id), tls.read_ca(ctx.settings.broker_ca)
    if ctx.users.allowed is False:
        shared = ctx.settings.broker_public_url or ctx.settings.broker_url or ""
        return BrokerReply(broker_url=shared, queue=queue, ca=ca)
    return BrokerReply(broker_url=place(ctx.settings), queue=queue, user=acl.user_name(worker_id), ca=ca)


def shared_reply(ctx: Context, session: Session, worker_id: str) -> BrokerReply:
    """What a worker is told that is too old to choose a password: the broker's URL, while only this machine asks.

    Raises AuthError where others could learn the broker's own password so.
    """
    worker = session.get_one(t.Worker, worker_id)
    if worker.broker_secret_hash or not _is_private(ctx.settings):
        raise AuthError(
            "This worker is too old for this pool: it has no password of its own at the broker",
            "Install it anew with the line that `jsm worker invite` prints",
        )
    return BrokerReply(broker_url=ctx.settings.broker_url or "", queue=broker.queue_name(worker_id))


def _is_private(settings: Settings) -> bool:
    if settings.broker_public_url or settings.public_url:
        return False
    try:
        return ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        return settings.host == "localhost"
