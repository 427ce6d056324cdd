"""Joining survives a death on either side of the api's answer; what is kept; what an invite says of the api's key."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jsm_queue import acl
from jsm_queue.errors import AuthError, SetupError
from jsm_queue.protocol import BrokerReply, JoinReply, JoinRequest
from workers import identity
from workers.client import Untrusted
from workers.runner import RESULT

API = "http://api"


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
        identity.find(tmp_path, API, "invite", "pc")
    found = identity.find(tmp_path, API, "invite", "pc")
    assert api.asked == [found.token, found.token] and len(found.token) == 43
    assert not (tmp_path / identity.JOINING).exists()
    (tmp_path / identity.JOINING).write_text("left by a death just after", encoding="utf-8")
    assert identity.find(tmp_path, API, None, "pc") == found
    assert not (tmp_path / identity.JOINING).exists()


def keep(home: Path, **kept: Any) -> Path:
    file = home / "identity.json"
    file.write_text(json.dumps(kept), encoding="utf-8")
    return file


def test_a_worker_keeps_its_name_from_pool_to_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def post(_path: str, request: JoinRequest, _reply: type[JoinReply]) -> JoinReply:
        names.append(request.name)
        return JoinReply(worker="a1b2c3d4", token=str(request.token), broker_url="redis://127.0.0.1:1", queue="q")

    monkeypatch.setattr(identity, "Client", lambda *_: SimpleNamespace(post=post))
    monkeypatch.setattr(identity, "_knows", lambda *_: False)
    monkeypatch.setattr(identity.platform, "node", lambda: "vm")
    for name in (None, "砂防PC", None, "other"):
        identity.find(tmp_path, API, "invite", name)
    assert names == ["vm", "砂防PC", "砂防PC", "other"]


def test_an_identity_of_an_older_version_gets_a_password_once(tmp_path: Path) -> None:
    keep(tmp_path, worker="a1b2c3d4", token="t")
    found = identity.find(tmp_path, "http://api/", None, "pc")
    assert len(found.broker_secret) == 43 and found.api == API
    assert identity.find(tmp_path, None, None, "pc") == found, "it knows by itself where its pool is"


def test_what_a_newer_version_kept_is_no_damage(tmp_path: Path) -> None:
    keep(tmp_path, worker="a1b2c3d4", token="t", broker_secret="s", api=API, new="thing")
    assert identity.find(tmp_path, None, None, "pc").worker == "a1b2c3d4"


@pytest.mark.parametrize("text", ["", "[]", '{"worker": "a1b2c3d4"}', "{"])
def test_a_damaged_identity_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "identity.json").write_text(text, encoding="utf-8")
    with pytest.raises(SetupError, match="is damaged"):
        identity.find(tmp_path, API, None, "pc")


class Pools:
    """Those that know the worker, by their addresses; the certificates of the others are no good."""

    def __init__(self, *known: str, foreign: tuple[str, ...] = ()) -> None:
        self.known, self.foreign = known, foreign

    def __call__(self, api: str, token: str, ca: str | None) -> SimpleNamespace:
        def post(path: str, *_: Any) -> JoinReply:
            if api not in self.known + self.foreign:
                raise Untrusted("another certificate")
            if path != "/v1/workers/join" and api in self.foreign:
                raise AuthError("no such worker")
            return JoinReply(worker="b1b2c3d4", token=token, broker_url="redis://127.0.0.1:1", queue="q")

        return SimpleNamespace(post=post)


def test_another_address_and_authority_are_kept_once_they_are_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "Client", Pools("https://moved"))
    keep(tmp_path, worker="a1b2c3d4", token="t", broker_secret="s", api=API, ca="old")
    assert identity.find(tmp_path, "https://moved", None, "pc").ca == "old"
    assert identity.find(tmp_path, "https://moved", None, "pc", "new").ca == "new"
    with pytest.raises(AuthError, match="another certificate") as caught:
        identity.find(tmp_path, "https://elsewhere", None, "pc")
    assert "Leave --api out" in caught.value.fix
    found = identity.find(tmp_path, None, None, "pc")
    assert (found.api, found.ca) == ("https://moved", "new")


def test_a_pool_that_does_not_know_it_needs_an_invite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "Client", Pools(API, foreign=("http://other",)))
    keep(tmp_path, worker="a1b2c3d4", token="t", broker_secret="s", api=API)
    with pytest.raises(SetupError, match="http://other does not know this worker"):
        identity.find(tmp_path, "http://other", None, "pc")
    assert identity.find(tmp_path, None, None, "pc").worker == "a1b2c3d4"
    assert identity.find(tmp_path, "http://other", "invite", "pc").worker == "b1b2c3d4"


@pytest.mark.parametrize("place", ["outbox/a1a1a1a1", "work/a1a1a1a1/out"])
def test_no_result_is_taken_to_another_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(identity, "Client", Pools(foreign=(API, "http://other")))
    keep(tmp_path, worker="a1b2c3d4", token="t", broker_secret="s", api=API)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / RESULT).touch()
    with pytest.raises(SetupError, match=f"1 result for the pool at {API}"):
        identity.find(tmp_path, "http://other", "invite", "pc")
    assert identity.find(tmp_path, None, None, "pc").worker == "a1b2c3d4"
    assert identity.find(tmp_path, API, "invite", "pc").worker == "b1b2c3d4", "its own pool has forgotten it"


def test_without_address_or_invite_it_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="which pool"):
        identity.find(tmp_path, None, "invite", "pc")
    with pytest.raises(SetupError, match="has not joined a pool"):
        identity.find(tmp_path, API, None, "pc")


def test_an_invite_with_a_key_goes_to_no_address_without_tls(tmp_path: Path) -> None:
    for api in ("http://api", "https://", "https://api:port"):
        with pytest.raises(SetupError, match="is no https:// address"):
            identity.find(tmp_path, api, "token.fingerprint", "pc")


def test_another_key_ends_it_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(host: str, port: int, expected: str) -> None:
        assert (host, port, expected) == ("api", 443, "fingerprint")
        raise AuthError("another key")

    monkeypatch.setattr(identity.tls, "pinned_context", other)
    monkeypatch.setattr(identity, "Client", lambda *_: pytest.fail("something was sent"))
    with pytest.raises(AuthError, match="another key"):
        identity.find(tmp_path, "https://api", "token.fingerprint", "pc")


def test_the_password_stays_here(tmp_path: Path) -> None:
    who = identity.Identity("a1b2c3d4", "t", "p/w")
    assert who.broker_request.secret_hash == acl.password_hash("p/w")
    own = BrokerReply(broker_url="rediss://pc:6380/0", queue="q", user="jsm-a1b2c3d4")
    assert who.broker_url(own) == "rediss://jsm-a1b2c3d4:p%2Fw@pc:6380/0"
    shared = BrokerReply(broker_url="redis://:all@127.0.0.1:1/0", queue="q")
    assert who.broker_url(shared) == shared.broker_url


@pytest.mark.parametrize("name", ["", 65 * "q", "x\ny"])
def test_a_name_that_no_table_could_show_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SetupError, match="is no name for a machine"):
        identity.find(tmp_path, "http://127.0.0.1:9", "invite", name)
