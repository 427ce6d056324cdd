"""What a worker may do at the broker, and what it may not: a real Valkey, a real Celery worker under its own user."""

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from jsm_queue import acl, broker, processes
from jsm_queue.errors import SetupError
from jsm_queue.protocol import Bell
from tests.ports import quiet_port
from tests.unit.test_broker import PROGRAM
from tests.waiting import wait_for

A, B = "aaaaaaaa-0001", "bbbbbbbb-0002"
SECRETS = {A: "of-a", B: "of-b"}
HASHES = {worker: acl.password_hash(secret) for worker, secret in SECRETS.items()}


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


@pytest.fixture
def users(url: str) -> acl.Users:
    """Both workers, and Flower, are known."""
    users = acl.Users(url)
    assert users.sync(HASHES, flower=acl.password_hash("of-flower"))
    assert users.allowed is True
    return users


def client(url: str, user: str, secret: str) -> Any:
    return acl.connect(acl.with_credentials(url, user, secret))


@pytest.fixture
def of_a(url: str, users: acl.Users) -> Iterator[Any]:
    """Worker A's connection, with what it may do and nothing else."""
    with client(url, acl.user_name(A), SECRETS[A]) as made:
        yield made


def run_worker(url: str, worker: str, tmp_path: Path) -> processes.Process:
    own = acl.with_credentials(url, acl.user_name(worker), SECRETS[worker])
    program = [sys.executable, "-c", PROGRAM, own, worker, str(tmp_path / "seen")]
    return processes.spawn(program, tmp_path / "worker.log")


def ring(url: str, worker: str, number: int) -> None:
    bell = Bell(run=f"{number:08x}", attempts=[f"{number:032x}"], study="s", label="l")
    broker.ring(broker.sender(url), worker, "train", bell)


def seen(tmp_path: Path) -> list[str]:
    file = tmp_path / "seen"
    return [line.split()[1] for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def denials(url: str) -> set[str]:
    with acl.connect(url) as admin:
        return {entry["object"] for entry in admin.acl_log()}


def test_a_worker_works_with_no_more_than_its_rules(url: str, users: acl.Users, tmp_path: Path) -> None:
    process = run_worker(url, A, tmp_path)
    try:
        ring(url, A, 1)
        wait_for(lambda: seen(tmp_path) == ["00000001"], "the delivery")
        process.terminate()
        assert process.wait(20) == 0
        # The client's library tells its name and version where it may; nobody needs them.
        assert denials(url) <= {"client|setinfo"}
    finally:
        processes.kill_tree(process.pid)


QUEUE_B = broker.queue_name(B)


@pytest.mark.parametrize(
    "command",
    [
        ("BRPOP", QUEUE_B, "1"),
        ("LPUSH", QUEUE_B, "x"),
        ("LLEN", QUEUE_B),
        ("DEL", QUEUE_B),
        ("GET", f"{QUEUE_B}.unacked"),
        ("SMEMBERS", f"_kombu.binding.{QUEUE_B}"),
        ("LPUSH", "jsm.w.*", "x"),
        ("HGETALL", f"{broker.queue_name(A)}.unacked"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "requirepass"),
        ("CONFIG", "SET", "requirepass", ""),
        ("SUBSCRIBE", "/0.celeryev/worker.heartbeat"),
        ("PSUBSCRIBE", "*"),
        ("PUBLISH", "/0.celery.pidbox", "x"),
        ("EVAL", "return 1", "0"),
        ("ACL", "WHOAMI"),
        ("ACL", "SETUSER", acl.user_name(A), "+@all"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("MONITOR",),
        ("SHUTDOWN",),
        ("REPLICAOF", "192.0.2.1", "1"),
        ("MODULE", "LIST"),
        ("SELECT", "1"),
    ],
    ids=" ".join,
)
def test_a_worker_cannot(of_a: Any, command: tuple[str, ...]) -> None:
    with pytest.raises(NoPermissionError):
        of_a.execute_command(*command)


def test_a_worker_reaches_its_own_keys(of_a: Any) -> None:
    assert of_a.llen(broker.queue_name(A)) == 0
    assert of_a.publish("/0.celeryev/worker.heartbeat", "x") == 0


def test_a_scripts_keys_are_no_way_around(url: str, of_a: Any) -> None:
    with acl.connect(url) as admin:
        sha = admin.script_load("return redis.call('LPUSH', KEYS[1], 'x')")
    with pytest.raises(redis.ResponseError, match=r"(?i)permission|no access|NOPERM"):
        of_a.evalsha(sha, 1, QUEUE_B)


def test_nobody_comes_in_without_a_password(url: str, users: acl.Users) -> None:
    for user, secret in ((acl.user_name(A), "wrong"), (acl.user_name(A), HASHES[A]), ("default", "")):
        with (
            pytest.raises(redis.RedisError, match=r"(?i)wrongpass|invalid username|required"),
            acl.connect(acl.with_credentials(url, user, secret or "x")) as stranger,
        ):
            stranger.ping()


def test_flower_watches_and_takes_no_message(url: str, users: acl.Users) -> None:
    ring(url, A, 1)
    with client(url, acl.FLOWER, "of-flower") as flower:
        assert flower.llen(broker.queue_name(A)) == 1
        for command in (("LPUSH", broker.queue_name(A), "x"), ("BRPOP", broker.queue_name(A), "1"), ("FLUSHALL",)):
            with pytest.raises(NoPermissionError):
                flower.execute_command(*command)


def test_a_restarted_broker_gets_its_users_back_and_a_worker_goes_on(
    url: str, port: int, valkey: processes.Process, users: acl.Users, tmp_path: Path
) -> None:
    process = run_worker(url, A, tmp_path)
    again = None
    try:
        ring(url, A, 1)
        wait_for(lambda: seen(tmp_path), "the first delivery")
        processes.kill_tree(valkey.pid)
        valkey.wait()
        assert users.sync(HASHES) is False
        again = broker.start_valkey(tmp_path / "valkey", port)
        with acl.connect(url) as admin:
            assert admin.acl_users() == ["default"]
        assert users.sync(HASHES) is True
        ring(url, A, 2)
        wait_for(lambda: seen(tmp_path) == ["00000001", "00000002"], "a delivery after the restart")
        assert process.poll() is None
    finally:
        processes.kill_tree(process.pid)
        if again:
            processes.kill_tree(again.pid)


def test_a_removed_worker_is_shut_out_and_leaves_nothing(url: str, users: acl.Users, of_a: Any) -> None:
    ring(url, A, 1)
    assert of_a.ping()
    assert users.sync({B: HASHES[B]}, removed=[A])
    with acl.connect(url) as admin:
        assert acl.user_name(A) not in admin.acl_users()
        assert admin.exists(*acl.worker_keys(A)) == 0
    with pytest.raises(redis.RedisError):
        of_a.ping()
    assert users.sync({B: HASHES[B]}, removed=[A]), "said again it changes nothing"


def test_another_password_replaces_the_old(url: str, users: acl.Users) -> None:
    assert users.sync(HASHES | {A: acl.password_hash("new")})
    with client(url, acl.user_name(A), "new") as connected:
        assert connected.ping()
    with pytest.raises(redis.AuthenticationError), client(url, acl.user_name(A), SECRETS[A]) as old:
        old.ping()


def test_a_broker_that_gives_us_no_acl_is_told_once(
    url: str, users: acl.Users, caplog: pytest.LogCaptureFixture
) -> None:
    with acl.connect(url) as admin:
        admin.execute_command("ACL", "SETUSER", "plain", "on", ">plain", "~*", "&*", "+@all", "-acl")
    plain = acl.Users(acl.with_credentials(url, "plain", "plain"))
    for _ in range(2):
        assert plain.sync(HASHES) is True
    assert plain.allowed is False
    assert caplog.text.count("all workers share the credentials") == 1


# ---- without a broker --------------------------------------------------------------------------------------


def test_only_what_changed_is_told_again() -> None:
    rules = {"a": ["on"], "b": ["on"]}
    assert acl.due(rules, rules, ["default", "a", "b"]) == []
    assert acl.due(rules, rules, ["default", "b"]) == ["a"]
    assert acl.due(rules, {"a": ["off"], "b": ["on"]}, ["a", "b"]) == ["a"]


@pytest.mark.parametrize("worker", ["", "*", "a*", "jsm", "abcdef12 ~*", "abcdef12\n", "ABCDEF12", "../abcdef12"])
def test_an_id_that_means_more_than_one_key_gets_no_rules(worker: str) -> None:
    with pytest.raises(SetupError):
        acl.user_name(worker)


@pytest.mark.parametrize(
    ("url", "mine", "bare"),
    [
        ("redis://:admin@127.0.0.1:6379/0", "redis://u:p@127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://x:y@[::1]:6380/2", "rediss://u:p@[::1]:6380/2", "rediss://[::1]:6380/2"),
        ("redis://redis:6379", "redis://u:p@redis:6379", "redis://redis:6379"),
    ],
)
def test_credentials_are_put_into_urls_and_taken_out(url: str, mine: str, bare: str) -> None:
    assert acl.with_credentials(url, "u", "p") == mine
    assert acl.without_credentials(url) == bare


def test_a_password_of_any_signs_survives_its_url() -> None:
    made = acl.with_credentials("redis://127.0.0.1:1/3", "jsm-a", secret := "a/b@c:d#" + secrets.token_urlsafe(8))
    pool = redis.ConnectionPool.from_url(made)
    assert (pool.connection_kwargs["username"], pool.connection_kwargs["password"]) == ("jsm-a", secret)
    assert acl.database_of(made) == 3
