"""The report over HTTP in its three forms, and an adapter whose files were never uploaded."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jsm_queue import lifecycle
from jsm_queue.settings import Settings
from jsm_queue.store.database import open_store, writing
from jsm_queue.store.tokens import create_token
from tests.unit.studies import inputs, spec

MINE = {"name": "mine", "source": "bases/a", "train": False, "adapter": "./mine"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    url = f"sqlite:///{(tmp_path / 'store.sqlite').as_posix()}"
    return Settings(home=tmp_path, database_url=url, broker_url="redis://127.0.0.1:1/0")


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    token = create_token(open_store(settings.store_url), "admin")
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


@pytest.mark.parametrize(
    ("form", "kind", "begins"),
    [("html", "text/html", "<!DOCTYPE html>"), ("md", "text/markdown", "# toy\n"), ("json", "application/json", "{")],
)
def test_a_report_has_three_forms(client: TestClient, settings: Settings, form: str, kind: str, begins: str) -> None:
    toy = spec()
    with writing(open_store(settings.store_url)) as session:
        study, _ = lifecycle.add_study(session, toy.model_dump(mode="json"), inputs(toy).model_dump(mode="json"), 1.0)
        study_id = study.id
    reply = client.get(f"/v1/studies/{study_id}/report", params={"format": form})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith(kind) and reply.text.startswith(begins)
    assert client.get(f"/v1/studies/{study_id}/report", params={"format": "pdf"}).status_code == 422


def test_an_adapters_files_must_be_uploaded_like_a_bases(client: TestClient) -> None:
    toy = spec(stages={"quantization": {"bases": ["mine"]}}, bases=[MINE])
    body = {"spec": toy.model_dump(mode="json"), "inputs": inputs(toy).model_dump(mode="json")}
    reply = client.post("/v1/studies", json=body)
    assert reply.status_code == 422 and "3 input files were not uploaded" in reply.text, reply.text
