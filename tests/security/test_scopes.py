"""Nobody does more than their token says: each route names the scopes that open it, and asks for one of them."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import Route

from jsm_queue.cli.up import admin_token
from jsm_queue.settings import Settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import writing
from jsm_queue.store.tokens import token_hash
from tests.security.scene import Machine, Scene

OPEN = {"/healthz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/join.sh", "/join.ps1", "/v1/join"}
"""What needs no token: public text without secrets. `/v1/join` says by which authority this api is known."""

ADMIN = {
    ("POST", "/v1/artifacts/collect"),
    ("POST", "/v1/workers/invites"),
    ("POST", "/v1/workers/{worker}/pause"),
    ("POST", "/v1/workers/{worker}/resume"),
    ("POST", "/v1/workers/{worker}/drain"),
    ("POST", "/v1/workers/{worker}/remove"),
    ("POST", "/v1/tokens"),
    ("GET", "/v1/tokens"),
    ("DELETE", "/v1/tokens/{named}"),
}


def dependencies(dependant: Dependant) -> Iterator[Any]:
    for each in dependant.dependencies:
        yield each.call
        yield from dependencies(each)


def scopes(route: APIRoute) -> frozenset[str]:
    return frozenset().union(*(getattr(call, "scopes", ()) for call in dependencies(route.dependant)))


def flat(routes: list[Any]) -> Iterator[Route]:
    """The routes, also those of included routers, which newer versions of FastAPI keep as they are."""
    for route in routes:
        included = getattr(route, "original_router", None)
        yield from flat(included.routes) if included else [route]


def all_routes(scene: Scene) -> list[tuple[str, str, frozenset[str]]]:
    """(method, path, scopes of which one opens it), of everything that the api answers."""
    found = []
    for route in flat(scene.app.routes):
        path = re.sub(r":path}", "}", route.path)
        path = path if path.startswith("/v1") or path in OPEN else f"/v1{path}"
        declared = scopes(route) if isinstance(route, APIRoute) else frozenset[str]()
        found += [(method, path, declared) for method in route.methods or ()]
    documented = scene.app.openapi()["paths"]
    assert {path for _, path, _ in found} >= documented.keys(), "a route was missed"
    return found


def test_every_route_names_who_may_use_it(scene: Scene) -> None:
    routes = all_routes(scene)
    assert len(routes) > 30
    assert {path for _, path, needed in routes if not needed} <= OPEN
    admins = {(method, path) for method, path, needed in routes if needed == {"admin"}}
    assert admins >= ADMIN
    for method, path, needed in routes:
        if method in ("POST", "PATCH", "PUT", "DELETE") and path not in OPEN:
            assert "read" not in needed, f"{method} {path} changes something"


def fill(path: str) -> str:
    return path.replace("{repo}", "owner/name").replace("{sha}", "0" * 64).replace("{", "").replace("}", "")


def test_every_route_refuses_strangers(scene: Scene) -> None:
    for method, path, needed in all_routes(scene):
        if needed:
            reply = scene.ask("stranger", method, fill(path).removeprefix("/v1"), json={"name": "x"})
            assert reply.status_code == 401, f"{method} {path}: {reply.status_code}"
    for headers in ({}, {"Authorization": f"Basic {scene.token}"}, {"Authorization": scene.token}):
        assert scene.http.get("/v1/studies", headers=headers).status_code == 401


def make(scene: Scene, scope: str, **more: Any) -> str:
    reply = scene.admin("POST", "/tokens", json={"scope": scope, "name": f"{scope}er"} | more)
    assert reply.status_code == 201, reply.text
    return reply.json()["token"]


def test_a_smaller_scope_does_not_do_what_a_larger_one_does(scene: Scene) -> None:
    submit, read = make(scene, "submit"), make(scene, "read")
    for token in (submit, read):
        assert scene.ask(token, "GET", "/studies").status_code == 200
        for method, path in ADMIN:
            reply = scene.ask(token, method, fill(path.removeprefix("/v1")), json={"scope": "admin", "name": "x"})
            assert reply.status_code == 403, f"{method} {path}"
            assert reply.json()["error"]["code"] == "forbidden"
            assert "needs scope admin" in reply.json()["error"]["message"]
    assert scene.ask(submit, "POST", "/studies", json={}).status_code == 422, "it may, and said nothing"
    for method, path in (("POST", "/studies"), ("DELETE", "/studies/abcdef"), ("POST", "/studies/abcdef/pause")):
        assert scene.ask(read, method, path, json={}).status_code == 403


def test_a_worker_and_an_invite_are_no_people_and_people_no_workers(scene: Scene, mallory: Machine) -> None:
    invite = scene.admin("POST", "/workers/invites").json()["invite"]
    for token in (mallory.token, invite):
        for path in ("/studies", "/workers", "/tokens"):
            assert scene.ask(token, "GET", path).status_code == 401
    for token in (scene.token, make(scene, "submit"), invite):
        refused = scene.ask(token, "GET", "/worker/broker")
        assert refused.status_code == 401
        assert ("a person's" in refused.json()["error"]["message"]) == (token != invite)
        assert scene.ask(token, "POST", "/workers/join", json={"name": "x"}).status_code in (
            (201,) if token == invite else (401,)
        )


def test_a_token_is_good_for_nothing_from_its_end_on(scene: Scene) -> None:
    token = make(scene, "read", days=1)
    assert scene.ask(token, "GET", "/studies").status_code == 200
    with writing(scene.ctx.engine) as session:
        session.get_one(t.Token, token_hash(token)).expires_at = time.time() - 1
    assert scene.ask(token, "GET", "/studies").status_code == 401
    other = make(scene, "submit")
    assert scene.admin("DELETE", "/tokens/submiter").json()["valid"] is False
    assert scene.ask(other, "GET", "/studies").status_code == 401


def test_a_removed_worker_is_nobody_at_once(scene: Scene, mallory: Machine) -> None:
    assert mallory.ask("GET", "/worker/broker").status_code == 200
    assert scene.admin("POST", "/workers/mallory/remove").json()["state"] == "removed"
    hello = {"boot_id": "b" * 32, "hardware": {}, "slots": []}
    for method, path in (("GET", "/worker/broker"), ("POST", "/worker/hello"), ("GET", f"/artifacts/{'0' * 64}")):
        assert mallory.ask(method, path, json=hello).status_code == 401
    again = scene.ask("x", "POST", "/workers/join", json={"name": "mallory", "token": mallory.token})
    assert again.status_code in (401, 422), "its token is no way back in"


def test_no_secret_is_in_the_store(scene: Scene, mallory: Machine) -> None:
    secrets = [scene.token, mallory.token, make(scene, "read")]
    listed = scene.admin("GET", "/tokens").text + scene.admin("GET", "/workers").text
    kept = b"".join(file.read_bytes() for file in scene.home.rglob("*") if file.is_file())
    for secret in secrets:
        assert secret.encode() not in kept
        assert secret not in listed
        assert token_hash(secret) not in listed


def test_who_has_the_home_folder_is_an_admin_again(scene: Scene, tmp_path: Path) -> None:
    """An admin who revokes their own token is not locked out: `jsm up` makes a new one."""
    settings = Settings(home=tmp_path)
    first = admin_token(settings, tmp_path)
    assert admin_token(settings, tmp_path) == first
    with writing(scene.ctx.engine) as session:
        session.get_one(t.Token, token_hash(first)).revoked_at = 1.0
    assert scene.ask(first, "GET", "/studies").status_code == 401
    assert scene.ask(admin_token(settings, tmp_path), "GET", "/tokens").status_code == 200


@pytest.mark.parametrize("name", ["", "a/b", "../x", "x\n", "x" * 65])
def test_names_of_tokens_are_plain(scene: Scene, name: str) -> None:
    reply = scene.admin("POST", "/tokens", json={"scope": "read", "name": name})
    assert reply.status_code == 422
