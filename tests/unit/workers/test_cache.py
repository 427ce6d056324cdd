"""The cache against a real HTTP server with ranges; what is removed first."""

import errno
import hashlib
import http.server
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jsm_queue.errors import ModelError, NotFoundError
from jsm_queue.protocol import InputFile
from workers import cache as caching
from workers.cache import Cache, Entry, evictions
from workers.client import Client, Stopped, Unreachable

BODY = bytes(range(256)) * 8192  # 2 MiB
SHA = hashlib.sha256(BODY).hexdigest()


@dataclass
class Served:
    """What the server gives, and what it was asked for. `cut`: bytes after which it breaks the connection off."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    ranges: list[str | None] = field(default_factory=list)
    cut: int | None = None
    status: int | None = None
    ignore_ranges: bool = False


def handler(served: Served) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = served.bodies.get(self.path.rsplit("/", 1)[-1])
            served.ranges.append(self.headers.get("Range"))
            status = served.status or (404 if body is None else 200)
            if status != 200 or body is None:
                self.send_response(status)
                self.end_headers()
                return
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if served.ignore_ranges:
                start = 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut, served.cut = served.cut, None
            self.wfile.write(body[start : None if cut is None else start + cut])

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler


@pytest.fixture
def served() -> Served:
    return Served({SHA: BODY})


@pytest.fixture
def cache(served: Served, tmp_path: Path) -> Iterator[Cache]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Cache(tmp_path / "cache", Client(f"http://127.0.0.1:{server.server_port}", "token"))
    server.shutdown()
    server.server_close()


def fetch(cache: Cache, sha: str = SHA, size: int = len(BODY)) -> Path:
    return cache.fetch(sha, size, threading.Event())


def test_a_file_is_fetched_once(cache: Cache, served: Served) -> None:
    assert fetch(cache).read_bytes() == BODY
    assert fetch(cache) == cache.path_of(SHA)
    assert served.ranges == [None]


@pytest.mark.parametrize("ignore_ranges", [False, True])
def test_a_broken_download_goes_on_where_it_was(cache: Cache, served: Served, ignore_ranges: bool) -> None:
    served.cut = 1_000_000
    with pytest.raises(Unreachable):
        fetch(cache)
    assert not cache.path_of(SHA).exists()
    have = (cache.root / "partial" / SHA).stat().st_size
    assert 0 < have <= 1_000_000
    served.ignore_ranges = ignore_ranges
    assert fetch(cache).read_bytes() == BODY
    assert served.ranges == [None, f"bytes={have}-"]


def test_a_complete_partial_file_needs_no_request(cache: Cache, served: Served) -> None:
    (cache.root / "partial").mkdir(parents=True)
    (cache.root / "partial" / SHA).write_bytes(BODY)
    assert fetch(cache).read_bytes() == BODY
    assert served.ranges == []


def test_a_damaged_partial_file_is_fetched_again(cache: Cache) -> None:
    (cache.root / "partial").mkdir(parents=True)
    (cache.root / "partial" / SHA).write_bytes(b"x" * 1000)
    assert fetch(cache).read_bytes() == BODY


def test_what_a_failed_disk_shortened_is_fetched_again(cache: Cache, served: Served) -> None:
    fetch(cache).write_bytes(BODY[:1000])
    assert fetch(cache).read_bytes() == BODY
    assert len(served.ranges) == 2


def test_a_file_is_on_the_disk_before_it_has_its_name(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            assert not cache.path_of(SHA).exists()
            flushed.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    fetch(cache)
    assert flushed == [len(BODY)]


def test_another_content_is_never_visible(cache: Cache, served: Served) -> None:
    served.bodies[SHA] = BODY[:-1] + b"x"
    with pytest.raises(ModelError, match="another content"):
        fetch(cache)
    assert not cache.path_of(SHA).exists()
    assert len(served.ranges) == caching.TRIES


def test_a_failing_api_is_unreachable_and_an_unknown_file_is_named(cache: Cache, served: Served) -> None:
    with pytest.raises(NotFoundError):
        fetch(cache, "0" * 64)
    served.status = 503
    with pytest.raises(Unreachable):
        fetch(cache)


def test_an_unwanted_download_stops(cache: Cache) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        cache.fetch(SHA, len(BODY), stop)


def test_two_slots_fetch_a_file_once(cache: Cache, served: Served) -> None:
    threads = [threading.Thread(target=fetch, args=(cache,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.path_of(SHA).read_bytes() == BODY
    assert served.ranges == [None]


@pytest.mark.parametrize("links", [True, False])
def test_inputs_lie_where_kinds_expect_them(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError("no links here")

        monkeypatch.setattr(caching.os, "link", refuse)
    inputs = [
        InputFile(folder="gguf.0", name="model.gguf", sha=SHA, size=len(BODY)),
        InputFile(folder="base", name="model.safetensors", sha=SHA, size=len(BODY)),
    ]
    for _ in range(2):  # the second time after an outage
        cache.build(inputs, tmp_path / "inputs", threading.Event())
    assert (tmp_path / "inputs" / "gguf.0" / "model.gguf").read_bytes() == BODY
    assert (tmp_path / "inputs" / "base" / "model.safetensors").read_bytes() == BODY


def test_an_own_result_is_adopted_unless_it_changed(cache: Cache, tmp_path: Path, served: Served) -> None:
    (tmp_path / "right").write_bytes(BODY)
    (tmp_path / "wrong").write_bytes(b"x")
    assert cache.adopt(tmp_path / "right", SHA)
    assert not cache.adopt(tmp_path / "wrong", "0" * 64)
    assert fetch(cache).read_bytes() == BODY and served.ranges == []


def test_the_longest_unused_go_first() -> None:
    entries = [Entry(Path(name), 10, used) for name, used in (("new", 3.0), ("old", 1.0), ("mid", 2.0))]
    assert evictions(entries, 30) == []
    assert evictions(entries, 29) == [Path("old")]
    assert evictions(entries, 15) == [Path("old"), Path("mid")]
    assert evictions(entries, -1) == [Path("old"), Path("mid"), Path("new")]
    assert evictions(reversed(entries), 15) == [Path("old"), Path("mid")]


def test_room_is_made_for_what_comes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fetch(cache)
    hub = cache.root / "hub" / "owner--name@abc"
    hub.mkdir(parents=True)
    (hub / "model.safetensors").write_bytes(b"x" * 1000)
    (hub / ".complete").touch()
    caching.os.utime(whole, (1, 1))
    room = len(BODY) + 2000
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: caching.shutil._ntuple_diskusage(room, 0, room))
    cache.make_room(100)
    assert whole.exists() and hub.exists()
    cache.make_room(len(BODY))
    assert not whole.exists() and hub.exists()


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = caching.shutil._ntuple_diskusage(free, 0, free)
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: usage)


def test_what_the_disk_cannot_hold_is_not_begun(
    cache: Cache, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, len(BODY) - 1)
    inputs = [InputFile(folder="base", name="model.safetensors", sha=SHA, size=len(BODY))]
    with pytest.raises(OSError, match=f"{len(BODY)} bytes are needed") as caught:
        cache.build(inputs, tmp_path / "inputs", threading.Event())
    assert caught.value.errno == errno.ENOSPC
    assert served.ranges == []


def test_two_attempts_do_not_both_count_on_the_same_room(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 1000)
    with cache.reserve(600) as first:
        with pytest.raises(OSError, match="other attempts still take 600, of 1000"), cache.reserve(500):
            pass
        first.arrived(200)  # they are on the disk: what is free is less by them
        disk(monkeypatch, 800)
        with cache.reserve(400), pytest.raises(OSError, match="still take 800"), cache.reserve(1):
            pass
    with cache.reserve(800):
        pass


def test_a_part_that_is_here_is_not_reserved_again(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache.root / "partial").mkdir(parents=True)
    (cache.root / "partial" / SHA).write_bytes(BODY[:-1000])
    disk(monkeypatch, 1000)
    inputs = [InputFile(folder="base", name="model.safetensors", sha=SHA, size=len(BODY))]
    cache.build(inputs, tmp_path / "inputs", threading.Event())
    assert (tmp_path / "inputs" / "base" / "model.safetensors").read_bytes() == BODY


def test_what_an_attempt_has_in_its_folder_stays(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    cache.path_of(other).parent.mkdir(parents=True)
    cache.path_of(other).write_bytes(b"other")
    inputs = [InputFile(folder="base", name="model.safetensors", sha=SHA, size=len(BODY))]
    cache.build(inputs, tmp_path / "inputs", threading.Event())
    os.utime(cache.path_of(SHA), (1, 1))
    disk(monkeypatch, 1000)
    cache.make_room(900)
    assert cache.path_of(SHA).exists() and not cache.path_of(other).exists()
    (tmp_path / "inputs" / "base" / "model.safetensors").unlink()
    cache.make_room(900)
    assert not cache.path_of(SHA).exists()


def test_a_limit_is_kept_by_removing_the_longest_unused(served: Served, cache: Cache) -> None:
    limited = Cache(cache.root, cache._client, limit=len(BODY) + 500)
    for age, name in enumerate(("newer", "older"), start=1):
        path = limited.path_of(hashlib.sha256(name.encode()).hexdigest())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 400)
        os.utime(path, (100 - age, 100 - age))
    with limited.reserve(len(BODY)):
        pass
    left = {path.name for path in limited.root.glob("??/*")}
    assert left == {hashlib.sha256(b"newer").hexdigest()}


def test_what_is_held_is_told_the_newest_first(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "HOLDS", 2)
    names = [hashlib.sha256(bytes([n])).hexdigest() for n in range(3)]
    for age, name in enumerate(names):
        cache.path_of(name).parent.mkdir(parents=True, exist_ok=True)
        cache.path_of(name).write_bytes(b"x")
        os.utime(cache.path_of(name), (100 - age, 100 - age))
    assert cache.holds() == names[:2]


def test_what_broke_off_long_ago_makes_room_too(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache.root / "partial").mkdir(parents=True)
    (cache.root / "partial" / SHA).write_bytes(b"x" * 1000)
    half = cache.root / "hub" / "owner--name@abc"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"x" * 1000)
    disk(monkeypatch, 500)
    cache.make_room(400)
    assert not (cache.root / "partial" / SHA).exists() and not half.exists()
