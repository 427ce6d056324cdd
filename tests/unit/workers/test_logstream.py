"""An attempt's log on its way to the api: nothing twice, nothing lost, and no harm when the api says no."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from api import attemptlogs
from jsm_queue.errors import ConflictError
from tests.waiting import wait_for
from workers import logstream
from workers.client import Client
from workers.logstream import LogStream, Tail, cleaned

ATTEMPT = "a1" * 16


class Api:
    """Keeps what it is sent as the real one does; `answer` may come before it, or in the place of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.requests = home, 0
        self.answer: Callable[[], httpx.Response | None] = lambda: None
        self.lost = False  # the next answer is lost on its way

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if said := self.answer():
            return said
        asked = json.loads(request.content)
        try:
            size = attemptlogs.append(self.home, request.url.path.split("/")[3], asked["offset"], asked["text"])
        except ConflictError as error:
            return httpx.Response(409, json={"error": {"code": "conflict", "message": error.message}})
        if self.lost:
            self.lost = False
            raise httpx.ReadTimeout("slow", request=request)
        return httpx.Response(200, json={"size": size})

    @property
    def text(self) -> str:
        file = attemptlogs.path(self.home, ATTEMPT)
        return file.read_text(encoding="utf-8") if file.exists() else ""


@pytest.fixture
def api(tmp_path: Path) -> Api:
    return Api(tmp_path / "api")


@pytest.fixture
def stream(api: Api) -> LogStream:
    client = Client("http://api", "secret")
    client._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(api))
    return LogStream(client)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    log = tmp_path / "slot0.log"
    log.write_text("of the job before\n", encoding="utf-8")
    return log


def say(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8", newline="") as file:
        file.write(text)


def tail_of(stream: LogStream, log: Path) -> Tail:
    stream.follow(ATTEMPT, log, log.stat().st_size)
    return stream._tails[ATTEMPT]


def test_whole_lines_go_while_it_runs_and_the_rest_at_its_end(stream: LogStream, api: Api, log: Path) -> None:
    tail = tail_of(stream, log)
    say(log, "堤防 1\nhalf")
    stream.send(ATTEMPT, tail)
    assert api.text == "堤防 1\n"
    say(log, " a line")
    stream.send(ATTEMPT, tail)
    assert (api.text, api.requests) == ("堤防 1\n", 1)
    tail.whole = logstream.read(log, tail.start, logstream.LIMIT)
    stream.send(ATTEMPT, tail)
    assert api.text == "堤防 1\nhalf a line" and stream._tails == {} and tail.tried.is_set()


def test_an_answer_that_was_lost_doubles_nothing(stream: LogStream, api: Api, log: Path) -> None:
    tail = tail_of(stream, log)
    say(log, "one\n")
    api.lost = True
    stream.send(ATTEMPT, tail)
    say(log, "two\n")
    stream.send(ATTEMPT, tail)
    assert api.text == "one\ntwo\n"


def test_an_outage_is_caught_up_with(stream: LogStream, api: Api, log: Path) -> None:
    tail = tail_of(stream, log)
    say(log, "one\n")
    api.answer = lambda: httpx.Response(503)
    stream.send(ATTEMPT, tail)
    tail.whole = b"one\ntwo\n"
    stream.send(ATTEMPT, tail)
    assert tail.tried.is_set() and ATTEMPT in stream._tails, "it is tried again, and nobody waits for it"
    api.answer = lambda: None
    stream.send(ATTEMPT, tail)
    assert api.text == "one\ntwo\n" and stream._tails == {}


@pytest.mark.parametrize("status", [401, 404, 409, 410, 422])
def test_what_the_api_refuses_is_given_up(stream: LogStream, api: Api, log: Path, status: int) -> None:
    tail = tail_of(stream, log)
    say(log, "one\n")
    api.answer = lambda: httpx.Response(status, json={"error": {"code": "x", "message": "no"}})
    stream.send(ATTEMPT, tail)
    assert stream._tails == {} and tail.tried.is_set()
    stream.finish(ATTEMPT)
    assert api.requests == 1


def test_a_log_that_is_gone_hurts_nobody(stream: LogStream, api: Api, tmp_path: Path) -> None:
    stream.follow(ATTEMPT, tmp_path / "none", 0)
    stream.send(ATTEMPT, stream._tails[ATTEMPT])
    assert api.requests == 0


def test_a_long_log_is_cut_with_a_note(stream: LogStream, api: Api, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logstream, "LIMIT", 1000)
    monkeypatch.setattr(logstream, "PIECE", 300)
    tail = tail_of(stream, log)
    say(log, "x" * 99 + "\n")
    say(log, ("y" * 99 + "\n") * 30)
    stream.send(ATTEMPT, tail)
    assert api.text == "x" * 99 + "\n" + ("y" * 99 + "\n") * 9 + logstream.FULL
    say(log, "more\n")
    before = api.requests
    stream.send(ATTEMPT, tail)
    assert api.requests == before


def test_the_thread_sends_the_last_lines_before_the_end_is_told(stream: LogStream, api: Api, log: Path) -> None:
    stream.start()
    stream.follow(ATTEMPT, log, log.stat().st_size)
    say(log, "the last line")
    stream.finish(ATTEMPT)
    assert api.text == "the last line"


def test_an_api_that_hangs_holds_up_no_end(
    stream: LogStream, api: Api, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logstream, "FLUSH_S", 0.05)
    answered = threading.Event()
    api.answer = lambda: None if answered.wait(60) else httpx.Response(503)
    stream.start()
    stream.follow(ATTEMPT, log, log.stat().st_size)
    say(log, "late\n")
    stream.finish(ATTEMPT)
    log.write_text("the next attempt's log\n", encoding="utf-8")
    answered.set()
    wait_for(lambda: api.text == "late\n", "the line, once the api answers")


def test_a_progress_bar_is_as_a_terminal_shows_it_and_secrets_are_masked() -> None:
    assert cleaned(b"load:  0%\rload: 50%\rload: 100%\nnext\r\n") == "load: 100%\nnext\n"
    assert cleaned(b"redis://:hush@host/0 \xff") == "redis://…@host/0 \ufffd"
