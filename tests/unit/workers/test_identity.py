"""Joining survives a death on either side of the api's answer."""

from pathlib import Path

import pytest

from jsm_queue.protocol import JoinReply, JoinRequest
from workers import identity


class Died(Exception):
    """The process ends here."""


class Api:
    """Knows who joined; at the first request it dies after it noted that."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.asked: list[str | None] = []

    def post(self, _path: str, request: JoinRequest, _reply: type[JoinReply]) -> JoinReply:
        assert request.token == (self.home / identity.JOINING).read_text(encoding="utf-8")
        self.asked.append(request.token)
        if len(self.asked) == 1:
            raise Died
        return JoinReply(worker="a1b2c3d4", token=str(request.token), broker_url="redis://127.0.0.1:1", queue="q")


def test_a_worker_that_died_before_the_answer_asks_with_the_same_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api(tmp_path)
    monkeypatch.setattr(identity, "Client", lambda *_: api)
    with pytest.raises(Died):
        identity.find(tmp_path, "http://api", "invite", "pc")
    found = identity.find(tmp_path, "http://api", "invite", "pc")
    assert api.asked == [found.token, found.token] and len(found.token) == 43
    assert not (tmp_path / identity.JOINING).exists()
    (tmp_path / identity.JOINING).write_text("left by a death just after", encoding="utf-8")
    assert identity.find(tmp_path, "http://api", None, "pc") == found
    assert not (tmp_path / identity.JOINING).exists()
