"""Heartbeats of a session, against a pretended api."""

from pathlib import Path

import httpx

from jsm_queue.protocol import HeartbeatRequest
from tests.waiting import wait_for
from workers.board import Board
from workers.client import Client
from workers.hardware import SlotPlan
from workers.session import Session

PLANS = [SlotPlan(0, "cpu", "cpu", 1), SlotPlan(1, "cpu", "cpu", 1)]


def test_who_leaves_says_that_no_slot_is_free(tmp_path: Path) -> None:
    beats: list[HeartbeatRequest] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/control"):
            return httpx.Response(200, json={"control_rev": 1, "desired": {}})
        beats.append(HeartbeatRequest.model_validate_json(request.read()))
        return httpx.Response(200, json={"control_rev": 1})

    client = Client("http://api", "secret")
    client._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(answer))
    board = Board(PLANS)
    session = Session(client, board, PLANS, tmp_path, lambda _: None)
    session.boot_id = "d4d4d4d4"
    session.start()
    wait_for(lambda: beats and all(slot.free for slot in beats[-1].slots), "a heartbeat")
    board.leave()
    wait_for(lambda: not any(slot.free for slot in beats[-1].slots), "the last heartbeat")
    assert beats[-1].disk_free
