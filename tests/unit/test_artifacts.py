"""Uploads, also of one file by several clients at once: what is known is there, and is what its name says."""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from jsm_queue import artifacts
from jsm_queue.artifacts import Uploads, find, path_of
from jsm_queue.errors import ConflictError, NotFoundError
from jsm_queue.protocol import ArtifactState
from jsm_queue.store import queries
from jsm_queue.store.database import reading
from jsm_queue.store.tables import Artifact
from tests.waiting import wait_for

DATA = b"model " * 1000
SIZE = len(DATA)
SHA = hashlib.sha256(DATA).hexdigest()
EMPTY = hashlib.sha256(b"").hexdigest()
NOTHING = ArtifactState(have=False, offset=0)


@pytest.fixture
def uploads(engine: Engine, tmp_path: Path) -> Uploads:
    return Uploads(engine, tmp_path / "artifacts")


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def held(go: asyncio.Event, first: bytes, *rest: bytes) -> AsyncIterator[bytes]:
    """A sender that pauses after its first chunk."""
    yield first
    await go.wait()
    for chunk in rest:
        yield chunk


def send(uploads: Uploads, data: bytes, start: int = 0, sha: str = SHA, size: int = SIZE) -> int:
    return asyncio.run(uploads.receive(sha, size, start, pieces(data)))


def partial(uploads: Uploads, sha: str = SHA) -> Path:
    path = uploads.root / "partial" / sha
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def known(engine: Engine, sha: str = SHA) -> dict[str, int]:
    with reading(engine) as session:
        return queries.sizes(session, [sha])


def test_a_file_comes_in_pieces_and_is_known_at_the_end(uploads: Uploads, engine: Engine) -> None:
    assert uploads.offer(SHA, SIZE, 0.0) == NOTHING
    assert send(uploads, DATA[:500]) == 500
    assert uploads._writers == {}, "the file is closed when its sender has gone"
    assert uploads.offer(SHA, SIZE, 0.0) == ArtifactState(have=False, offset=500)
    assert send(uploads, DATA[500:], 500) == SIZE
    assert known(engine) == {}
    uploads.finish(SHA, SIZE, 0.0)
    assert uploads.offer(SHA, SIZE, 0.0) == ArtifactState(have=True, offset=SIZE)
    assert find(uploads.root, SHA).read_bytes() == DATA
    assert known(engine) == {SHA: SIZE}


def test_an_older_upload_cannot_write_into_the_finished_file(uploads: Uploads) -> None:
    async def scenario() -> None:
        go = asyncio.Event()
        older = asyncio.create_task(uploads.receive(SHA, SIZE, 0, held(go, b"", b"late")))
        await asyncio.sleep(0)  # it has begun
        assert await uploads.receive(SHA, SIZE, 0, pieces(DATA)) == SIZE
        await asyncio.to_thread(uploads.finish, SHA, SIZE, 0.0)
        go.set()
        with pytest.raises(ConflictError, match="newer"):
            await older

    asyncio.run(scenario())
    assert find(uploads.root, SHA).read_bytes() == DATA


def test_a_newer_upload_goes_on_where_an_older_one_fell_silent(uploads: Uploads) -> None:
    async def scenario() -> None:
        go = asyncio.Event()
        older = asyncio.create_task(uploads.receive(SHA, SIZE, 0, held(go, DATA[:500], DATA[500:])))
        while uploads.offset(SHA, SIZE) < 500:
            await asyncio.sleep(0)
        with pytest.raises(ConflictError, match="500 bytes are here"):
            await uploads.receive(SHA, SIZE, 0, pieces(DATA))
        assert await uploads.receive(SHA, SIZE, 500, pieces(DATA[500:])) == SIZE
        go.set()
        with pytest.raises(ConflictError, match="newer"):
            await older

    asyncio.run(scenario())
    uploads.finish(SHA, SIZE, 0.0)
    assert find(uploads.root, SHA).read_bytes() == DATA


def test_while_a_file_is_verified_nobody_writes_it_and_others_wait(
    uploads: Uploads, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, hashed = threading.Event(), threading.Event(), list[Path]()

    def slow_hash(path: Path) -> str:
        hashed.append(path)
        begun.set()
        assert go.wait(120)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(artifacts, "file_hash", slow_hash)
    send(uploads, DATA)
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as at_last:
        at_last.callback(go.set)  # also when an assertion fails, or the pool would wait for ever
        first = pool.submit(uploads.finish, SHA, SIZE, 0.0)
        wait_for(begun.is_set, "the first verification")
        second = pool.submit(uploads.finish, SHA, SIZE, 0.0)
        offer = pool.submit(uploads.offer, SHA, 5, 0.0)  # a false size must not drop what is being verified
        with pytest.raises(ConflictError, match="being verified"):
            send(uploads, b"more", SIZE)
        assert not (second.done() or offer.done())
        go.set()
        first.result()
        second.result()
        assert offer.result() == NOTHING
    assert hashed == [partial(uploads)]
    assert find(uploads.root, SHA).read_bytes() == DATA
    assert known(engine) == {SHA: SIZE}


def test_of_a_false_file_nothing_becomes_known_however_often_it_is_finished(uploads: Uploads, engine: Engine) -> None:
    send(uploads, b"x" * SIZE)
    for words in ("has sha256", "0 of its"):
        with pytest.raises(ConflictError, match=words):
            uploads.finish(SHA, SIZE, 0.0)
    assert known(engine) == {}
    with pytest.raises(NotFoundError):
        find(uploads.root, SHA)


def test_a_false_partial_file_of_the_full_size_is_begun_anew_by_the_next_offer(uploads: Uploads) -> None:
    send(uploads, b"x" * SIZE)
    assert uploads.offer(SHA, SIZE, 0.0) == NOTHING
    assert not partial(uploads).exists()


def test_an_empty_file_is_an_artifact_once_it_was_sent(uploads: Uploads, engine: Engine) -> None:
    assert uploads.offer(EMPTY, 0, 0.0) == NOTHING
    assert known(engine, EMPTY) == {}
    assert send(uploads, b"", sha=EMPTY, size=0) == 0
    uploads.finish(EMPTY, 0, 0.0)
    assert find(uploads.root, EMPTY).read_bytes() == b""
    assert uploads.offer(EMPTY, 0, 0.0) == ArtifactState(have=True, offset=0)


def test_more_than_the_size_is_dropped_wherever_it_is_met(uploads: Uploads) -> None:
    partial(uploads).write_bytes(DATA + b"too much")
    assert uploads.offer(SHA, SIZE, 0.0) == NOTHING
    partial(uploads).write_bytes(DATA + b"too much")
    assert send(uploads, DATA) == SIZE
    with pytest.raises(ConflictError, match="more than its size"):
        send(uploads, b"too much", SIZE)
    assert uploads.offer(SHA, SIZE, 0.0) == NOTHING


def test_a_visible_file_of_another_size_is_replaced(uploads: Uploads) -> None:
    send(uploads, DATA)
    uploads.finish(SHA, SIZE, 0.0)
    whole = find(uploads.root, SHA)
    whole.write_bytes(DATA[:500])
    assert uploads.offer(SHA, SIZE, 0.0) == NOTHING
    send(uploads, DATA)
    uploads.finish(SHA, SIZE, 0.0)
    assert whole.read_bytes() == DATA


@pytest.mark.parametrize("content", [DATA, b"x" * SIZE])
def test_a_visible_file_that_the_store_does_not_know_is_verified(
    uploads: Uploads, engine: Engine, content: bytes
) -> None:
    """What a crash between the rename and the row leaves; what a power cut makes of it."""
    whole = path_of(uploads.root, SHA)
    whole.parent.mkdir(parents=True)
    whole.write_bytes(content)
    assert uploads.offer(SHA, SIZE, 0.0).have == (content == DATA)
    assert known(engine) == ({SHA: SIZE} if content == DATA else {})


@pytest.mark.parametrize("removed", [False, True])
def test_what_a_crash_left_doomed_goes_with_the_next_checkpoint(
    uploads: Uploads, engine: Engine, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    other = hashlib.sha256(b"newer").hexdigest()
    for sha, data in ((SHA, DATA), (other, b"newer")):
        send(uploads, data, sha=sha, size=len(data))
        uploads.finish(sha, len(data), 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(uploads, "_remove", lambda sha: path_of(uploads.root, sha).unlink() if removed else None)
        assert not uploads.discard(SHA, 1.0)
    assert uploads.discard(other, 2.0)
    assert [path for path in uploads.root.rglob("*") if path.is_file()] == []
    with reading(engine) as session:
        assert session.exec(select(Artifact)).all() == []


def test_what_was_sent_again_leaves_nothing_behind(uploads: Uploads) -> None:
    for _ in range(2):
        send(uploads, DATA)
        uploads.finish(SHA, SIZE, 0.0)
    assert not partial(uploads).exists()
