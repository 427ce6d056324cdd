"""The queue's two ends through a real embedded Valkey and a real Celery worker process."""

import os
import signal
import ssl
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from jsm_queue import broker, processes
from jsm_queue.errors import SetupError
from jsm_queue.protocol import Bell
from tests.ports import quiet_port
from tests.waiting import wait_for

WORKER = "abcdef12-3456"
PROGRAM = """
import sys, time
from pathlib import Path
from jsm_queue import broker, processes

url, worker, seen, *heartbeat_s = sys.argv[1:]
broker.HEARTBEAT_S = float(*heartbeat_s or (broker.HEARTBEAT_S,))

def handle(kind, bell, delivery):
    with open(seen, "a", encoding="utf-8") as file:
        file.write(f"{kind} {bell.run} {delivery}\\n")
    if bell.label == "fails":
        raise broker.AttemptEnded("crashed")
    while bell.label == "waits" and not Path(seen + ".go").exists():
        time.sleep(0.02)
    return "done"

processes.exit_with_parent(lambda: broker.stop_consuming(3))
raise SystemExit(broker.consume(broker.worker_app(url, worker, 1, handle), f"test@{worker}"))
"""


@pytest.fixture
def port() -> int:
    return quiet_port()


@pytest.fixture
def valkey(tmp_path: Path, port: int) -> Iterator[processes.Process]:
    server = broker.start_valkey(tmp_path / "valkey", port)
    yield server
    processes.kill_tree(server.pid)


@pytest.fixture
def url(tmp_path: Path, port: int, valkey: processes.Process) -> str:
    return broker.valkey_url(tmp_path / "valkey", port)


def start_worker(url: str, tmp_path: Path, heartbeat_s: float = broker.HEARTBEAT_S) -> processes.Process:
    program = [sys.executable, "-c", PROGRAM, url, WORKER, str(tmp_path / "seen"), str(heartbeat_s)]
    return processes.spawn(program, tmp_path / "worker.log")


@pytest.fixture
def worker(url: str, tmp_path: Path) -> Iterator[processes.Process]:
    process = start_worker(url, tmp_path)
    yield process
    processes.kill_tree(process.pid)


def seen(tmp_path: Path) -> list[list[str]]:
    file = tmp_path / "seen"
    return [line.split() for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def bell(number: int, label: str = "train n=250 seed 1") -> Bell:
    return Bell(run=f"{number:08x}", attempts=[f"{number:032x}"], study="river-demo", label=label)


def test_a_bell_reaches_its_worker_once(url: str, worker: processes.Process, tmp_path: Path) -> None:
    app = broker.sender(url)
    broker.ring(app, WORKER, "train", bell(1))
    broker.ring(app, WORKER, "judge", bell(2, "fails"))
    broker.ring(app, WORKER, "score", bell(3))
    wait_for(lambda: len(seen(tmp_path)) == 3, "three deliveries")
    assert [line[:2] for line in seen(tmp_path)] == [
        ["train", "00000001"],
        ["judge", "00000002"],
        ["score", "00000003"],
    ]
    assert len({line[2] for line in seen(tmp_path)}) == 3
    assert "Traceback" not in (tmp_path / "worker.log").read_text(encoding="utf-8")


def test_a_message_reads_like_the_study(url: str, port: int) -> None:
    broker.ring(broker.sender(url), WORKER, "train", bell(1))
    [message] = redis.Redis.from_url(url, decode_responses=True).lrange(broker.queue_name(WORKER), 0, -1)
    raw = str(message)
    assert '"task": "jsm.train"' in raw
    assert '"argsrepr": "train n=250 seed 1"' in raw
    assert "river-demo" in raw


def test_a_waiting_message_stays_in_the_queue_and_is_not_acknowledged_late(
    url: str, worker: processes.Process, tmp_path: Path
) -> None:
    """One slot: while its job runs, nothing is held back unacknowledged that could be delivered twice."""
    app, client = broker.sender(url), redis.Redis.from_url(url)
    broker.ring(app, WORKER, "train", bell(1, "waits"))
    wait_for(lambda: seen(tmp_path), "the first delivery")
    broker.ring(app, WORKER, "train", bell(2))
    wait_for(lambda: client.hlen(f"{broker.queue_name(WORKER)}.unacked") == 0, "the acknowledgement")
    assert client.llen(broker.queue_name(WORKER)) == 1
    (tmp_path / "seen.go").touch()
    wait_for(lambda: len(seen(tmp_path)) == 2, "the second delivery")


def test_both_ends_survive_a_valkey_that_is_killed_and_started_again(
    url: str, port: int, valkey: processes.Process, worker: processes.Process, tmp_path: Path
) -> None:
    app = broker.sender(url)
    broker.ring(app, WORKER, "train", bell(1))
    wait_for(lambda: seen(tmp_path), "the first delivery")
    processes.kill_tree(valkey.pid)
    valkey.wait()
    with pytest.raises(SetupError, match="cannot be reached"):
        broker.ring(app, WORKER, "train", bell(2))
    again = broker.start_valkey(tmp_path / "valkey", port)
    try:
        broker.ring(app, WORKER, "train", bell(3))
        wait_for(lambda: len(seen(tmp_path)) == 2, "a delivery after the restart")
        assert seen(tmp_path)[1][1] == "00000003"
    finally:
        processes.kill_tree(again.pid)


@pytest.mark.timeout(25)  # a fraction of what a worker's own connections would wait
def test_a_queue_that_stands_still_is_soon_given_up(url: str, valkey: processes.Process) -> None:
    app = broker.sender(url)
    broker.ring(app, WORKER, "train", bell(1))
    frozen = processes.psutil.Process(valkey.pid)
    frozen.suspend()
    try:
        with pytest.raises(SetupError, match="cannot be reached"):
            broker.ring(app, WORKER, "train", bell(2))
    finally:
        frozen.resume()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_ends_when_it_is_told(url: str, worker: processes.Process, tmp_path: Path) -> None:
    broker.ring(broker.sender(url), WORKER, "train", bell(1))
    wait_for(lambda: seen(tmp_path), "a delivery")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_busy_worker_ends_while_its_queue_is_away(url: str, valkey: processes.Process, tmp_path: Path) -> None:
    """Nothing but its heartbeats would need the queue, and they are not waited for."""
    worker = start_worker(url, tmp_path, heartbeat_s=0.2)
    try:
        broker.ring(broker.sender(url), WORKER, "train", bell(1, "waits"))
        wait_for(lambda: seen(tmp_path), "a delivery")
        processes.kill_tree(valkey.pid)
        since = time.monotonic()
        wait_for(lambda: time.monotonic() - since > 1.0, "heartbeats that nobody takes")
        worker.send_signal(signal.SIGTERM)
        (tmp_path / "seen.go").touch()
        assert worker.wait(20) == 0
    finally:
        processes.kill_tree(worker.pid)


def test_flower_hears_of_a_busy_worker_after_the_queue_was_away(
    url: str, port: int, valkey: processes.Process, tmp_path: Path
) -> None:
    worker = start_worker(url, tmp_path, heartbeat_s=0.2)
    broker.ring(broker.sender(url), WORKER, "train", bell(1, "waits"))
    wait_for(lambda: seen(tmp_path), "a delivery")
    processes.kill_tree(valkey.pid)
    valkey.wait()
    again = broker.start_valkey(tmp_path / "valkey", port)
    try:
        app, back = broker.sender(url), time.time()
        with app.connection_for_read() as connection:

            def heard(event: dict[str, Any]) -> None:
                receiver.should_stop = event["timestamp"] > back

            receiver = app.events.Receiver(connection, {"worker-heartbeat": heard})
            receiver.capture(limit=None, timeout=10.0, wakeup=False)  # raises where nothing is heard for so long
            assert receiver.should_stop
    finally:
        processes.kill_tree(worker.pid)
        processes.kill_tree(again.pid)


def test_a_worker_ends_from_another_thread(url: str, worker: processes.Process, tmp_path: Path) -> None:
    broker.ring(broker.sender(url), WORKER, "train", bell(1))
    wait_for(lambda: seen(tmp_path), "a delivery")
    assert worker.stdin
    worker.stdin.close()
    assert worker.wait(20) == 3


def test_valkey_keeps_its_password_from_others(url: str, tmp_path: Path, valkey: processes.Process) -> None:
    password = (tmp_path / "valkey" / "valkey.password").read_text(encoding="utf-8")
    assert len(password) == 64
    assert password not in " ".join(processes.psutil.Process(valkey.pid).cmdline())
    if os.name == "posix":
        for file in ("valkey.password", "valkey.conf"):
            assert stat.S_IMODE((tmp_path / "valkey" / file).stat().st_mode) == 0o600
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(url.replace(password, "wrong")).ping()


@pytest.mark.skipif(os.name != "posix", reason="signs that no name has there")
@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "日本語 と 'x'"])
def test_any_folder_will_do(tmp_path: Path, port: int, name: str) -> None:
    server = broker.start_valkey(tmp_path / name, port)
    processes.kill_tree(server.pid)


def test_a_taken_port_is_named(url: str, port: int, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=str(port)):
        broker.start_valkey(tmp_path / "another", port)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "amqp://host",
        "redis://redis.example.org:6379/0",
        "redis://192.168.1.7:6379/0",
        "memory://",
        "redis://",
    ],
)
def test_a_broker_in_plain_text_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(SetupError):
        broker.sender(url)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "redis://[::1]:1/0", "redis://localhost:1/0", "redis://redis:6379/0"]
)
def test_plain_text_on_this_machine_or_in_a_container_network_is_fine(url: str) -> None:
    assert broker.sender(url).conf.broker_use_ssl is None


def test_tls_requires_a_certificate() -> None:
    with broker.sender("rediss://:secret@broker.example.org:6379/0").connection() as connection:
        assert connection.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


def test_a_refused_url_is_shown_without_its_password() -> None:
    with pytest.raises(SetupError) as caught:
        broker.sender("http://:hunter2@host/0")
    assert "hunter2" not in str(caught.value)
