"""Delivery against a pretended api: what is final, what is tried again, what happens when the agent leaves."""

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from jsm_queue.kinds import ROLE_FILES
from jsm_queue.protocol import EndRequest
from tests.waiting import wait_for
from workers import client as http
from workers import delivery as delivering
from workers import runner
from workers.board import Board
from workers.cache import Cache
from workers.client import Client
from workers.delivery import Delivery
from workers.outbox import Outbox
from workers.runner import RESULT
from workers.work import Outcome

Answer = Callable[[httpx.Request], httpx.Response | None]
CRASH = EndRequest(reason="crashed", message="it died")


class Api:
    """Takes everything, but for what `refuse` answers first. Remembers results and ends."""

    def __init__(self) -> None:
        self.refuse: Answer = lambda _: None
        self.asked: Counter[str] = Counter()
        self.results: list[str] = []
        self.ends: dict[str, EndRequest] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        what = f"{request.method} {request.url.path}"
        body = request.read()
        self.asked[what] += 1
        if refused := self.refuse(request):
            return refused
        attempt, _, path = request.url.path.removeprefix("/v1/attempts/").partition("/")
        if path == "result":
            self.results.append(attempt)
            return httpx.Response(200, json={"accepted": True})
        if path == "end":
            self.ends[attempt] = EndRequest.model_validate_json(body)
            return httpx.Response(204)
        return httpx.Response(200, json={"have": request.method == "PATCH", "offset": 0})


class Parts:
    """A delivery with all that it needs."""

    def __init__(self, home: Path) -> None:
        self.api = Api()
        client = Client("http://api", "secret")
        client._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(self.api))
        self.box, self.board, self.gone = Outbox(home), Board([]), []
        self.delivery = Delivery(client, self.box, self.board, Cache(home / "cache", client), self.gone.append)

    def finish(self, attempt: str) -> Path:
        """A finished convert job in the outbox. Returns its folder there."""
        folder = self.box.begin(attempt) / "out"
        (folder / ROLE_FILES["gguf"]).write_bytes(f"weights of {attempt}".encode())
        runner.write_result(folder, runner.collect("convert", Outcome(), folder, {}))
        self.box.put(attempt)
        return self.box.root / attempt

    def wait_idle(self) -> None:
        """Until nothing is left to bring."""
        wait_for(lambda: not self.box.attempts() and not self.board.attempt_reports(), "the delivery")


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(http, "LONGEST_WAIT_S", 0.002)
    parts = Parts(tmp_path)
    yield parts
    parts.board.leave()
    parts.delivery.leave()
    assert parts.gone == []


def times(count: int, on: str, answer: Callable[[], httpx.Response]) -> Answer:
    """That answer to the first `count` requests whose method and path hold `on`."""
    left = [count]

    def refuse(request: httpx.Request) -> httpx.Response | None:
        if left[0] and on in f"{request.method} {request.url.path}":
            left[0] -= 1
            return answer()
        return None

    return refuse


def always(on: str, status: int) -> Answer:
    """That status to every such request."""
    return times(-1, on, lambda: httpx.Response(status))


def test_a_result_is_brought_once_and_kept_in_the_cache(parts: Parts) -> None:
    folder = parts.finish("a1a1a1a1")
    sha = parts.box.read("a1a1a1a1").artifacts[0].sha
    parts.delivery.start()
    parts.wait_idle()
    assert parts.api.results == ["a1a1a1a1"] and parts.api.ends == {}
    assert not folder.exists() and parts.delivery._cache.path_of(sha).exists()


@pytest.mark.parametrize(
    ("on", "status"),
    [
        ("POST /v1/artifacts", 404),
        ("POST /v1/artifacts", 409),
        ("PATCH", 409),
        ("PATCH", 413),
        ("PATCH", 422),
        ("/result", 404),
        ("/result", 503),
    ],
)
def test_what_may_pass_is_tried_again(parts: Parts, caplog: pytest.LogCaptureFixture, on: str, status: int) -> None:
    parts.api.refuse = times(3, on, lambda: httpx.Response(status))
    parts.finish("a1a1a1a1")
    parts.delivery.start()
    parts.wait_idle()
    assert parts.api.results == ["a1a1a1a1"] and parts.api.ends == {}
    assert caplog.text.count("delivery waits") == 1


def test_trouble_with_the_disk_is_tried_again(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.finish("a1a1a1a1")
    errors = [OSError(errno.EIO, "input/output error"), PermissionError(13, "another program uses it")]
    real = http._pieces

    def failing(*given: object) -> Iterator[bytes]:
        if errors:
            raise errors.pop()
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(http, "_pieces", failing)
    parts.delivery.start()
    parts.wait_idle()
    assert parts.api.results == ["a1a1a1a1"] and parts.api.ends == {} and not errors


def test_a_result_whose_folder_is_in_use_moves_later(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parts.box.begin("a1a1a1a1") / "out"
    runner.write_result(folder, runner.collect("judge", Outcome(), folder, {}))
    errors, rename = [PermissionError(13, "another program uses it")], Path.rename

    def failing(source: Path, target: Path) -> Path:
        if errors:
            raise errors.pop()
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", failing)
    parts.delivery.start()
    parts.delivery.result("a1a1a1a1")
    parts.wait_idle()
    assert parts.api.results == ["a1a1a1a1"] and parts.api.ends == {} and not errors


def test_a_409_to_the_result_is_final(parts: Parts) -> None:
    parts.api.refuse = always("/result", 409)
    folder = parts.finish("a1a1a1a1")
    parts.delivery.start()
    parts.wait_idle()
    assert parts.api.asked["POST /v1/attempts/a1a1a1a1/result"] == 1
    assert parts.api.ends["a1a1a1a1"].reason == "crashed"
    assert "the result was refused" in parts.api.ends["a1a1a1a1"].message
    assert not folder.exists()


def damage_marker(folder: Path) -> None:
    (folder / RESULT).write_text('{"metrics": {"sec', encoding="utf-8")


def damage_file(folder: Path) -> None:
    (folder / ROLE_FILES["gguf"]).write_bytes(b"other bytes")


def lose_file(folder: Path) -> None:
    (folder / ROLE_FILES["gguf"]).unlink()


@pytest.mark.parametrize("damage", [damage_marker, damage_file, lose_file])
def test_a_damaged_result_is_a_crash_and_never_an_error(parts: Parts, damage: Callable[[Path], None]) -> None:
    folder = parts.finish("a1a1a1a1")
    damage(folder)
    parts.api.refuse = always("PATCH", 409)
    parts.delivery.start()
    parts.wait_idle()
    assert parts.api.results == []
    assert parts.api.ends["a1a1a1a1"].reason == "crashed"
    assert "damaged on the worker's disk" in parts.api.ends["a1a1a1a1"].message


def test_one_that_cannot_be_brought_does_not_block_the_others(parts: Parts) -> None:
    parts.api.refuse = always("a1a1a1a1/result", 404)
    for attempt in ("a1a1a1a1", "b2b2b2b2"):
        parts.finish(attempt)
    parts.delivery.start()
    parts.delivery.end("c3c3c3c3", CRASH)
    wait_for(lambda: parts.api.results == ["b2b2b2b2"] and parts.api.ends == {"c3c3c3c3": CRASH}, "the others")
    assert parts.box.attempts() == ["a1a1a1a1"]


def test_an_end_is_told_until_it_is_heard_or_refused(parts: Parts) -> None:
    parts.api.refuse = times(2, "a1a1a1a1/end", lambda: httpx.Response(404))
    parts.delivery.start()
    parts.delivery.end("a1a1a1a1", CRASH)
    wait_for(lambda: parts.api.ends == {"a1a1a1a1": CRASH}, "the end")
    parts.api.refuse = always("/end", 409)
    parts.delivery.end("b2b2b2b2", CRASH)
    parts.delivery.end("c3c3c3c3", CRASH)
    wait_for(lambda: parts.api.asked["POST /v1/attempts/c3c3c3c3/end"], "the next end")
    assert parts.api.asked["POST /v1/attempts/b2b2b2b2/end"] == 1


def test_who_leaves_tells_its_ends_and_keeps_its_results(parts: Parts) -> None:
    released = EndRequest(reason="released", message="its worker left the pool")
    parts.delivery.start()
    parts.board.leave()
    folder = parts.box.begin("a1a1a1a1") / "out"
    runner.write_result(folder, runner.collect("judge", Outcome(), folder, {}))
    parts.box.put("a1a1a1a1")
    parts.delivery.result("a1a1a1a1")
    parts.delivery.end("b2b2b2b2", released)
    parts.delivery.leave()
    assert parts.api.ends == {"b2b2b2b2": released}
    assert parts.api.results == [] and parts.box.attempts() == ["a1a1a1a1"]


def test_who_leaves_asks_an_api_that_is_away_once(parts: Parts) -> None:
    parts.api.refuse = always("", 503)
    parts.delivery.start()
    parts.board.leave()
    for attempt in ("b2b2b2b2", "c3c3c3c3"):
        parts.delivery.end(attempt, CRASH)
        wait_for(lambda path=f"POST /v1/attempts/{attempt}/end": parts.api.asked[path], "the try")
    parts.delivery.leave()
    assert parts.api.asked == {"POST /v1/attempts/b2b2b2b2/end": 1, "POST /v1/attempts/c3c3c3c3/end": 1}


def test_an_api_that_hangs_does_not_hold_up_who_leaves(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "LEAVE_S", 0.1)
    done = threading.Event()

    def hang(_: httpx.Request) -> None:
        done.wait(60)

    parts.api.refuse = hang
    parts.delivery.start()
    parts.board.leave()
    parts.delivery.end("b2b2b2b2", CRASH)
    began = time.monotonic()
    parts.delivery.leave()
    assert time.monotonic() - began < 30
    assert parts.api.ends == {}
    done.set()
