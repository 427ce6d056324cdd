"""TLS before a queue that has none, and before the api: real sockets, a real Valkey, real certificates."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from jsm_queue import acl, broker, processes, tls
from jsm_queue.cli import client
from jsm_queue.cli.proxy import Proxy
from jsm_queue.errors import AuthError, SetupError
from jsm_queue.protocol import Place
from jsm_queue.settings import settings
from tests.ports import quiet_port
from tests.unit.test_acl import HASHES, SECRETS, A, ring, seen
from tests.unit.test_broker import PROGRAM
from tests.waiting import wait_for
from workers import identity
from workers.client import Client, Unreachable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LIMIT_S = 60.0


@pytest.fixture
def material(tmp_path: Path) -> tls.Material:
    return tls.make(tmp_path / "tls", [])


@asynccontextmanager
async def proxied(material: tls.Material, serve: Serve) -> AsyncIterator[Callable[[], Awaitable[Streams]]]:
    """A proxy before a server that does `serve`; gives how to connect to it."""
    behind = await asyncio.start_server(serve, "127.0.0.1", 0)
    context = tls.server_context(material.certificate, material.key)
    before = await Proxy("127.0.0.1", behind.sockets[0].getsockname()[1]).serve("127.0.0.1", 0, context)
    port, trust = before.sockets[0].getsockname()[1], tls.client_context(tls.read_ca(material.ca))

    async def connect() -> Streams:
        return await asyncio.open_connection("127.0.0.1", port, ssl=trust)

    try:
        yield connect
    finally:
        before.close()
        behind.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
    writer.close()


def run(work: Awaitable[None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work, LIMIT_S)

    asyncio.run(limited())


def test_bytes_arrive_both_ways_on_many_connections(material: tls.Material) -> None:
    async def one(connect: Callable[[], Awaitable[Streams]], number: int) -> None:
        reader, writer = await connect()
        sent = bytes([number % 256]) * 20_000
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        writer.close()

    async def work() -> None:
        async with proxied(material, echo) as connect:
            await asyncio.gather(*(one(connect, number) for number in range(100)))

    run(work())


def test_a_side_that_does_not_read_stops_the_other(material: tls.Material) -> None:
    sent = 0
    whole = 64 * 2**20

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < whole:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536
        writer.close()

    async def work() -> None:
        async with proxied(material, flood) as connect:
            reader, _ = await connect()
            before = -1
            while before != sent:  # until nothing moves any more
                before = sent
                await asyncio.sleep(0.3)
            assert 0 < sent < whole / 4, "the proxy kept what its client did not read"
            got = 0
            while piece := await reader.read(2**20):
                got += len(piece)
            assert got == whole

    run(work())


def test_what_a_client_sent_before_it_closed_arrives_whole(material: tls.Material) -> None:
    got, ended = 0, asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        while piece := await reader.read(65536):
            got += len(piece)
            await asyncio.sleep(0.001)
        ended.set()
        writer.close()

    async def work() -> None:
        async with proxied(material, slow) as connect:
            _, writer = await connect()
            writer.write(b"x" * 5_000_000)
            writer.close()
            await ended.wait()
            assert got == 5_000_000

    run(work())


def test_answers_to_a_client_that_closed_cut_nothing_off(material: tls.Material) -> None:
    got, closed, ended = 0, asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await closed.wait()
        with suppress(ConnectionError):
            while piece := await reader.read(1000):
                got += len(piece)
                writer.write(b"+OK\r\n")
                await asyncio.sleep(0.001)
        ended.set()
        writer.close()

    async def work() -> None:
        async with proxied(material, answer) as connect:
            _, writer = await connect()
            writer.write(b"x" * 200_000)
            writer.close()
            await writer.wait_closed()
            closed.set()
            await ended.wait()
            assert got == 200_000

    run(work())


def test_a_client_is_closed_when_the_queue_ends(material: tls.Material) -> None:
    async def bye(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    async def work() -> None:
        async with proxied(material, bye) as connect:
            reader, _ = await connect()
            assert await reader.read() == b"bye"

    run(work())


def test_who_speaks_no_tls_does_not_hurt_the_others(material: tls.Material) -> None:
    async def work() -> None:
        async with proxied(material, echo) as connect:
            reader, writer = await connect()
            port = writer.get_extra_info("peername")[1]
            plain_reader, plain = await asyncio.open_connection("127.0.0.1", port)
            plain.write(b"PING\r\n" * 100)
            assert b"PONG" not in await plain_reader.read()
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"

    run(work())


# ---- the queue ---------------------------------------------------------------------------------------------


@pytest.fixture
def urls(tmp_path: Path, material: tls.Material) -> Iterator[tuple[str, str]]:
    """A real Valkey with its users: the admin's URL without TLS, and the proxy's without credentials."""
    port, before = quiet_port(), quiet_port()
    valkey = broker.start_valkey(tmp_path / "valkey", port)
    url = broker.valkey_url(tmp_path / "valkey", port)
    assert acl.Users(url).sync(HASHES)
    argv = [sys.executable, "-m", "jsm_queue.cli.proxy", "--listen", "127.0.0.1", "--port", str(before)]
    proxy = processes.spawn(
        [*argv, "--to-host", "127.0.0.1", "--to-port", str(port)],
        tmp_path / "proxy.log",
        {"JSM_TLS_CERT": str(material.certificate), "JSM_TLS_KEY": str(material.key)},
    )
    log = tmp_path / "proxy.log"
    wait_for(lambda: "TLS on" in log.read_text(encoding="utf-8"), "the proxy")
    yield url, f"rediss://127.0.0.1:{before}/0"
    processes.kill_tree(proxy.pid)
    processes.kill_tree(valkey.pid)


def test_a_worker_hears_its_bell_through_tls(urls: tuple[str, str], material: tls.Material, tmp_path: Path) -> None:
    url, public = urls
    program = PROGRAM.replace("worker, 1, handle)", "worker, 1, handle, Path(seen + '.ca').read_text())")
    assert program != PROGRAM
    assert material.ca
    (tmp_path / "seen.ca").write_text(material.ca.read_text(encoding="ascii"), encoding="ascii")
    own = acl.with_credentials(public, acl.user_name(A), SECRETS[A])
    worker = processes.spawn([sys.executable, "-c", program, own, A, str(tmp_path / "seen")], tmp_path / "worker.log")
    try:
        ring(url, A, 1)
        wait_for(lambda: seen(tmp_path) == ["00000001"], "the delivery")
    finally:
        processes.kill_tree(worker.pid)


def test_the_proxy_is_trusted_by_its_authority_alone(
    urls: tuple[str, str], material: tls.Material, tmp_path: Path
) -> None:
    own = acl.with_credentials(urls[1], acl.user_name(A), SECRETS[A])
    with acl.connect(own, tls.read_ca(material.ca)) as trusted:
        assert trusted.ping()
    other = tls.make(tmp_path / "other", [])
    for ca in (None, tls.read_ca(other.ca)):
        with pytest.raises(redis.ConnectionError, match=r"(?i)certificate.verify"), acl.connect(own, ca) as stranger:
            stranger.ping()


# ---- the api -----------------------------------------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path, material: tls.Material) -> Iterator[str]:
    """An api with TLS; its queue is away, which hurts no request."""
    port = quiet_port()
    process = processes.spawn(
        [sys.executable, "-m", "api"], tmp_path / "api.log", environment(tmp_path, material, port)
    )
    url = f"https://127.0.0.1:{port}"
    trust = tls.client_context(tls.read_ca(material.ca))

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "api.log").read_text(encoding="utf-8")
        try:
            return httpx.get(f"{url}/healthz", verify=trust, trust_env=False).is_success
        except httpx.TransportError:
            return False

    wait_for(answers, "the api")
    yield url
    processes.kill_tree(process.pid)


def environment(home: Path, material: tls.Material, port: int) -> dict[str, str]:
    return {
        "JSM_HOME": str(home),
        "JSM_API_PORT": str(port),
        "JSM_BROKER_URL": "redis://127.0.0.1:1/0",
        "JSM_TLS_CERT": str(material.certificate),
        "JSM_TLS_KEY": str(material.key),
    }


@pytest.fixture
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets this process's settings for one test."""

    def change(**variables: Any) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"JSM_{name.upper()}", str(value))
        settings.cache_clear()

    yield change
    monkeypatch.undo()
    settings.cache_clear()


def test_the_cli_knows_its_own_api_and_no_other(
    api: str, tmp_path: Path, material: tls.Material, fresh_settings: Callable[..., None]
) -> None:
    fresh_settings(home=tmp_path)
    with client.client(api, "any") as known:
        place = client.call(known, "GET", "/v1/join")
    marks = tls.marks(material.certificate)
    assert (place["fingerprint"], place["certificate"]) == tuple(marks)
    assert place["ca"] == tls.read_ca(material.ca)
    fresh_settings(home=tmp_path / "elsewhere")
    with client.client(api, "any") as stranger, pytest.raises(SetupError, match="not trusted") as caught:
        client.call(stranger, "GET", "/v1/join")
    assert "JSM_CA" in caught.value.fix


def test_an_invite_without_its_key_joins_nobody(api: str, tmp_path: Path) -> None:
    home = tmp_path / "worker"
    home.mkdir()
    with pytest.raises(AuthError, match="nothing is sent") as caught:
        identity.find(home, api, "token", "pc")
    assert "jsm worker invite" in caught.value.fix


def test_a_worker_that_joined_waits_where_another_answers(api: str) -> None:
    with pytest.raises(Unreachable, match="nothing is sent"):
        Client(api, "token").get("/v1/join", Place)


def test_curl_joins_by_the_pin(api: str, material: tls.Material) -> None:
    def curl(pin: str) -> subprocess.CompletedProcess[str]:
        argv = ["curl", "-fsSk", "--pinnedpubkey", pin, f"{api}/join.sh"]
        return subprocess.run(argv, capture_output=True, encoding="utf-8", check=False)

    done = curl(tls.curl_pin(tls.marks(material.certificate).fingerprint))
    assert done.returncode == 0 and done.stdout.startswith("#!/bin/sh\n")
    assert curl("sha256//" + "A" * 43 + "=").returncode == 90


def test_half_a_pair_is_told_at_the_start(tmp_path: Path, material: tls.Material) -> None:
    env = environment(tmp_path, material, quiet_port()) | {"JSM_LOG_LEVEL": "info"}
    del env["JSM_TLS_KEY"]
    done = subprocess.run(
        [sys.executable, "-m", "api"],
        env={**os.environ, **env},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "JSM_TLS_CERT and JSM_TLS_KEY go together" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_protocols_are_refused(api: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{api}/healthz", verify=context, trust_env=False)
