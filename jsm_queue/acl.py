"""Who may do what at the broker: a user of its own for each worker, and one for Flower.

    jsm-<worker id>   takes from its own queue and tells Flower what it does. Its password is the worker's own choice,
                      and only its sha256 is known here
    jsm-flower        watches; it can change no worker's queue

Users are state of the store: a broker that was restarted and forgot them gets them again (`Users.sync`). What the rules
must allow was measured, command by command, with Celery 5.7.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import redis

from jsm_queue import broker
from jsm_queue.errors import SetupError

ANSWER_S = 2.0  # what a broker may take to answer
FLOWER = "jsm-flower"

logger = logging.getLogger(__name__)

WORKER_COMMANDS = [
    "ping",
    "client|setname",
    "brpop",
    "llen",
    "lpush",
    "rpush",
    "sadd",
    "smembers",
    "hset",
    "hget",
    "hdel",
    "zadd",
    "zrem",
    "zrange",
    "set",
    "get",
    "del",
    "watch",
    "unwatch",
    "multi",
    "exec",
    "discard",
    "evalsha",
    "script|load",
    "script|exists",
]
FLOWER_COMMANDS = [
    "ping",
    "client|setname",
    "llen",
    "brpop",
    "smembers",
    "publish",
    "psubscribe",
    "punsubscribe",
    "evalsha",
    "script|load",
    "script|exists",
    "sadd",
    "srem",
    "set",
    "get",
    "del",
    "exists",
    "zadd",
    "zrem",
    "zrange",
    "zrangebyscore",
    "hset",
    "hget",
    "hdel",
    "time",
    "multi",
    "exec",
    "watch",
    "unwatch",
    "pexpire",
]
FLOWER_KEYS = [
    "~celeryev.*",
    "~*.reply.celery.pidbox*",
    "~_kombu.binding.celeryev",
    "~_kombu.binding_permanent.celeryev",
    "~_kombu.binding.reply.celery.pidbox",
    "~_kombu.binding_permanent.reply.celery.pidbox",
    "~_kombu.binding_deadlines",
    "~flower.unacked*",
    "%R~jsm.w.*",
    "%R~_kombu.binding.*",
]


def password_hash(secret: str) -> str:
    """As the broker keeps it: sha256. The passwords are random with 256 bits, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


def user_name(worker_id: str) -> str:
    """A worker's user at the broker. Raises SetupError for an id that would mean more than one key in a rule."""
    if not re.fullmatch(r"[0-9a-f][0-9a-f-]{7,63}", worker_id):
        raise SetupError(f"{worker_id!r} is no id of a worker", "Remove that worker and let it join anew")
    return f"jsm-{worker_id}"


def worker_keys(worker_id: str) -> list[str]:
    """All keys of a worker."""
    queue = broker.queue_name(worker_id)
    own = [queue, *(f"{queue}.{name}" for name in ("unacked", "unacked_index", "unacked_mutex"))]
    return [*own, f"_kombu.binding.{queue}", f"_kombu.binding_permanent.{queue}"]


def worker_rules(worker_id: str, secret_hash: str, database: int = 0) -> list[str]:
    """What `ACL SETUSER` is told of a worker: its own keys, and events to publish, which are in no key."""
    keys = [f"~{key}" for key in worker_keys(worker_id)]
    allowed = [f"+{command}" for command in WORKER_COMMANDS]
    return [*_only(secret_hash), *keys, *allowed, f"(+publish &/{database}.celeryev/*)"]


def flower_rules(secret_hash: str, database: int = 0) -> list[str]:
    """What `ACL SETUSER` is told of Flower, which sends a broadcast to wake workers up; no worker of ours listens."""
    channels = [f"&/{database}.celeryev/*", f"&/{database}.celery.pidbox"]
    return [*_only(secret_hash), *FLOWER_KEYS, *channels, *(f"+{command}" for command in FLOWER_COMMANDS)]


def _only(secret_hash: str) -> list[str]:
    return ["reset", "on", f"#{secret_hash}", "resetkeys", "resetchannels", "-@all"]


def due(wanted: Mapping[str, list[str]], told: Mapping[str, list[str]], known: Iterable[str]) -> list[str]:
    """The users that the broker must be told of: those that it does not know, and those whose rules changed."""
    there = set(known)
    return [name for name, rules in wanted.items() if name not in there or told.get(name) != rules]


# ---- URLs --------------------------------------------------------------------------------------------------


def database_of(url: str) -> int:
    """The number of the database that a broker URL names."""
    path = urlsplit(url).path.strip("/")
    return int(path) if path.isdigit() else 0


def without_credentials(url: str) -> str:
    """A broker URL without user and password."""
    return with_credentials(url, None, None)


def with_credentials(url: str, user: str | None, secret: str | None) -> str:
    """A broker URL with this user and password in the place of what it had."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    netloc = f"{quote(user or '', safe='')}:{quote(secret, safe='')}@{place}" if secret else place
    return urlunsplit(parts._replace(netloc=netloc))


# ---- the broker --------------------------------------------------------------------------------------------


class Users:
    """Keeps a broker's users as the store wants them. Safe from several threads; one a process is enough.

    `allowed`: may we? None until the broker was asked. Where we may not, all workers share the credentials of its URL.
    """

    def __init__(self, broker_url: str, ca: str | None = None) -> None:
        self.allowed: bool | None = None
        self._url, self._lock, self._client = broker_url, threading.Lock(), connect(broker_url, ca)
        self._told: dict[str, list[str]] = {}
        self._server = ""

    def sync(self, workers: Mapping[str, str], removed: Iterable[str] = (), flower: str | None = None) -> bool:
        """Make sure of the users; cheap when nothing changed.

        `workers`: id → sha256 of its password; `removed`: ids whose users and keys must go; `flower`: sha256 of its
        password. Returns whether the broker answered.
        """
        database = database_of(self._url)
        wanted = {user_name(worker): worker_rules(worker, held, database) for worker, held in workers.items()}
        if flower:
            wanted[FLOWER] = flower_rules(flower, database)
        try:
            with self._lock:
                self._update(wanted, removed)
        except redis.ResponseError as error:
            self._refused(str(error))
        except (redis.RedisError, OSError):
            return False
        return True

    def _update(self, wanted: Mapping[str, list[str]], removed: Iterable[str]) -> None:
        client = self._client
        known = set(client.execute_command("ACL", "USERS"))
        server = client.info("server")["run_id"]
        if server != self._server:  # another process answers: what was told to the old one is worth nothing
            self._told, self._server = {}, server
        for name in due(wanted, self._told, known):
            client.execute_command("ACL", "SETUSER", name, *wanted[name])
            self._told[name] = wanted[name]
            logger.info("the broker knows user %s", name)
        for worker in removed:
            if user_name(worker) in known:
                _forget(client, worker)
                self._told.pop(user_name(worker), None)
        self.allowed = True

    def _refused(self, why: str) -> None:
        if self.allowed is not False:
            logger.warning(
                "the broker gives workers no users of their own (%s): all workers share the credentials of "
                "JSM_BROKER_URL. Give its user the right to ACL, on Redis 7 or Valkey",
                why,
            )
        self.allowed = False


def connect(broker_url: str, ca: str | None = None) -> Any:
    """A client of the broker, to be used as a context manager. Raises SetupError for a URL that must not be used."""
    options = broker.tls_options(broker_url, ca) or {}
    return redis.Redis.from_url(
        broker_url,
        socket_timeout=ANSWER_S,
        socket_connect_timeout=ANSWER_S,
        retry=None,
        decode_responses=True,
        **options,
    )


def _forget(client: Any, worker_id: str) -> None:
    """Remove a worker's user, which ends its connections, and its keys."""
    client.execute_command("ACL", "DELUSER", user_name(worker_id))
    client.delete(*worker_keys(worker_id))
