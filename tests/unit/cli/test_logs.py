"""`jsm logs` against a pretended api: which pieces it asks for, how it goes on, what it prints where."""

import json
from contextlib import nullcontext
from typing import Any

import httpx
import pytest

from jsm_queue.cli import client, logs
from jsm_queue.errors import SetupError

JOB = "3f" * 32
FIRST, SECOND = "a1" * 16, "b2" * 16


class Api:
    """A job with attempts, each with the pieces of its log; `away`: how many requests fail before it answers."""

    def __init__(self, *attempts: str, state: str = "done") -> None:
        self.attempts, self.state, self.error, self.away = list(attempts), state, None, 0
        self.texts = {FIRST: "one\ntwo\n", SECOND: "three\n"}
        self.ends: dict[str, dict[str, Any]] = {}
        self.asked: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            self.away -= 1
            raise httpx.ConnectError("refused", request=request)
        if not request.url.path.endswith("/log"):
            return httpx.Response(200, json=self.job())
        query = dict(request.url.params)
        self.asked.append(query)
        attempt, offset = query.get("attempt") or (self.attempts or [None])[-1], int(query["offset"])
        text = self.texts[attempt][offset : offset + 4] if attempt else ""
        said = {"attempt": attempt, "worker": "desk", "live": False, "state": "accepted", "reason": None}
        said |= {"message": None, "offset": offset, "next": offset + len(text), "text": text, "over": True}
        return httpx.Response(200, json=said | self.ends.get(attempt or "", {}))

    def job(self) -> dict[str, Any]:
        return {
            "id": JOB,
            "state": self.state,
            "error": self.error,
            "attempts": [{"id": attempt} for attempt in self.attempts],
        }


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(api: Api) -> Api:
        http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(api))
        monkeypatch.setattr(client, "connect", lambda: nullcontext(http))
        return api

    monkeypatch.setattr(logs, "POLL_S", 0.0)
    return use


def test_the_newest_attempts_log_is_printed_piece_by_piece(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    api = serve(Api(FIRST))
    assert logs.run(JOB, follow=False, attempt=None, as_json=False) == 0
    said, told = capsys.readouterr()
    assert said == "one\ntwo\n"
    assert told.splitlines() == [f"attempt {FIRST[:12]} on desk", f"attempt {FIRST[:12]} ended: accepted"]
    assert [query["offset"] for query in api.asked] == ["0", "4", "8"]
    assert "attempt" not in api.asked[0] and api.asked[1]["attempt"] == FIRST, "it stays with the attempt it began"


def test_json_has_a_piece_a_line(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    serve(Api(FIRST))
    logs.run(JOB, follow=False, attempt=FIRST, as_json=True)
    said, told = capsys.readouterr()
    assert "".join(json.loads(line)["text"] for line in said.splitlines()) == "one\ntwo\n" and told == ""


def test_following_goes_on_with_the_next_attempt(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    api = serve(Api(FIRST, state="active"))
    api.ends[FIRST] = {"state": "ended", "reason": "crashed", "message": "no [room]"}
    states = iter([("active", [FIRST]), ("ready", [FIRST]), ("active", [FIRST, SECOND]), ("done", [FIRST, SECOND])])

    def job() -> dict[str, Any]:
        api.state, api.attempts = next(states)
        return Api.job(api)

    api.job = job
    assert logs.run(JOB, follow=True, attempt=None, as_json=False) == 0
    said, told = capsys.readouterr()
    assert said == "one\ntwo\nthree\n"
    assert f"attempt {FIRST[:12]} ended: crashed: no [room]" in told and told.endswith(f"job {JOB[:12]} is done\n")
    assert {query["wait"] for query in api.asked} == {"20.0"}


def test_following_a_live_attempt_waits_for_its_end(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    api = serve(Api(FIRST, state="done"))
    api.ends[FIRST] = {"live": True, "state": "running"}
    looks = iter([{"live": True}] * 4 + [{"live": False, "state": "accepted"}] * 9)
    before = api.__call__

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/log"):
            api.ends[FIRST] = next(looks)
        return before(request)

    client.connect().__enter__()._transport = httpx.MockTransport(answer)
    assert logs.run(JOB, follow=True, attempt=None, as_json=False) == 0
    assert capsys.readouterr().out == "one\ntwo\n" and len(api.asked) == 5


def test_a_job_that_did_not_get_done_is_the_exit_status(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    api = serve(Api(FIRST, state="quarantined"))
    api.error = "crashed 3 times"
    assert logs.run(JOB, follow=True, attempt=None, as_json=False) == 1
    assert "is quarantined: crashed 3 times" in capsys.readouterr().err
    assert logs.run(JOB, follow=True, attempt=FIRST, as_json=False) == 0


def test_an_api_that_comes_back_is_waited_for(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = serve(Api(FIRST))
    http = client.connect().__enter__()
    api.away = 3
    assert logs.ask(http, f"/v1/jobs/{JOB}")["id"] == JOB
    api.away = 3
    monkeypatch.setattr(logs, "PATIENCE_S", -1.0)
    with pytest.raises(SetupError, match="does not answer"):
        logs.ask(http, f"/v1/jobs/{JOB}")


def test_a_job_without_an_attempt(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    serve(Api(state="waiting"))
    assert logs.run(JOB, follow=False, attempt=None, as_json=False) == 0
    said, told = capsys.readouterr()
    assert said == "" and told.startswith("no attempt yet")


def test_a_log_does_nothing_to_the_terminal(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    api = serve(Api(FIRST))
    api.texts[FIRST] = "\x1b[2J\x1b]0;title\x07red\x1b[0m\t堤\n"
    http = client.connect().__enter__()
    piece = next(logs.pieces(http, f"/v1/jobs/{JOB}", None, 0))
    assert logs.UNPRINTABLE.sub("", piece["text"] + api.texts[FIRST][4:]) == "]0;titlered\t堤\n"
