"""What the api cannot take ends the attempt; it is never sent again, and holds up nobody."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jsm_queue.protocol import EndRequest
from tests.unit.workers.test_delivery import Parts, always
from tests.waiting import wait_for
from workers import client as http
from workers import delivery as delivering


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(http, "LONGEST_WAIT_S", 0.002)
    parts = Parts(tmp_path)
    yield parts
    parts.board.leave()
    parts.delivery.leave()
    assert parts.gone == []


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_result_that_the_api_cannot_take_is_an_error(parts: Parts, status: int) -> None:
    said = {"error": {"code": "invalid", "message": "records.0 is wrong", "fix": "See /docs"}}
    parts.api.refuse = lambda request: httpx.Response(status, json=said) if "/result" in request.url.path else None
    folder = parts.finish("a1a1a1a1")
    parts.delivery.start()
    parts.wait_idle()
    assert parts.api.asked["POST /v1/attempts/a1a1a1a1/result"] == 1
    assert parts.api.ends["a1a1a1a1"].reason == "error"
    assert "records.0 is wrong" in parts.api.ends["a1a1a1a1"].message
    assert not folder.exists()


def test_a_result_that_is_too_large_is_not_even_sent(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "MAX_RESULT", 10)
    parts.finish("a1a1a1a1")
    parts.delivery.start()
    parts.wait_idle()
    assert parts.api.asked["POST /v1/attempts/a1a1a1a1/result"] == 0
    assert parts.api.ends["a1a1a1a1"].reason == "error"


def test_an_end_is_told_without_words_that_are_refused(parts: Parts) -> None:
    def refuse(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(422) if b"odd" in request.read() else None

    parts.api.refuse = refuse
    parts.delivery.start()
    parts.delivery.end("a1a1a1a1", EndRequest(reason="oom", message="odd"))
    wait_for(lambda: parts.api.ends, "the end")
    assert parts.api.ends["a1a1a1a1"].reason == "oom"


def test_an_end_that_is_refused_twice_is_dropped(parts: Parts) -> None:
    parts.api.refuse = always("a1a1a1a1/end", 422)
    parts.delivery.start()
    parts.delivery.end("a1a1a1a1", EndRequest(reason="oom"))
    parts.delivery.end("b2b2b2b2", EndRequest(reason="oom"))
    wait_for(lambda: parts.api.ends, "the next end")
    assert parts.api.asked["POST /v1/attempts/a1a1a1a1/end"] == 2


def test_nuls_of_a_log_are_not_sent(parts: Parts) -> None:
    parts.delivery.start()
    parts.delivery.end("a1a1a1a1", EndRequest(reason="oom", message="a\0b", log_tail="\0"))
    wait_for(lambda: parts.api.ends, "the end")
    assert "\0" not in parts.api.ends["a1a1a1a1"].model_dump_json() + parts.api.ends["a1a1a1a1"].message
