"""Heartbeats of a session, against a pretended api."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from jsm_queue.protocol import Hardware, HeartbeatRequest, HelloRequest
from tests.waiting import wait_for
from workers.board import Board
from workers.client import Client
from workers.hardware import SlotPlan
from workers.session import Session

MACHINE = Hardware(hardware_class="A", os="x", cpu="x", cores=1, memory_bytes=1)
PLANS = [SlotPlan(0, "cpu", "cpu", 1), SlotPlan(1, "cpu", "cpu", 1)]


def begun(answer: Callable[[httpx.Request], httpx.Response], board: Board, home: Path) -> Session:
    """A session that said hello to an api which answers so."""
    client = Client("http://api", "secret")
    client._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(answer))
    session = Session(client, board, PLANS, home, lambda _: None)
    session.boot_id = "d4d4d4d4"
    return session


def test_who_leaves_says_that_no_slot_is_free(tmp_path: Path) -> None:
    beats: list[HeartbeatRequest] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/control"):
            return httpx.Response(200, json={"control_rev": 1, "desired": {}})
        beats.append(HeartbeatRequest.model_validate_json(request.read()))
        return httpx.Response(200, json={"control_rev": 1})

    board = Board(PLANS)
    session = begun(answer, board, tmp_path)
    session.start()
    wait_for(lambda: beats and all(slot.free for slot in beats[-1].slots), "a heartbeat")
    board.leave()
    wait_for(lambda: not any(slot.free for slot in beats[-1].slots), "the last heartbeat")
    assert beats[-1].disk_free


def test_the_last_word_is_goodbye(tmp_path: Path) -> None:
    heard: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path.rpartition("/")[2]
        if path == "heartbeat":
            time.sleep(0.05)  # an api at work: a goodbye that did not wait would be there first
        heard.append(path)
        return httpx.Response(200, json={"control_rev": 1, "desired": {}})

    board = Board(PLANS)
    session = begun(answer, board, tmp_path)
    session.start()
    wait_for(lambda: "heartbeat" in heard, "a heartbeat")
    board.leave()
    session.leave()
    beating = session._beating
    assert beating
    wait_for(lambda: not beating.is_alive(), "the last heartbeat")
    assert [path for path in heard if path != "control"][-2:] == ["heartbeat", "leave"]


def test_a_goodbye_that_does_not_arrive_ends_nothing(tmp_path: Path) -> None:
    session = Session(Client("http://127.0.0.1:1", "secret"), Board(PLANS), PLANS, tmp_path, lambda _: None)
    session.boot_id = "d4d4d4d4"
    session.leave()


def test_what_the_api_wants_of_the_worker_reaches_the_board(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        reply = {"control_rev": 1, "desired": {"a1a1a1a1": "run"}, "worker": "pause"}
        return httpx.Response(200, json=reply if request.url.path.endswith("/control") else {"control_rev": 1})

    board = Board(PLANS)
    held = board.begin("a1a1a1a1", 0)
    session = begun(answer, board, tmp_path)
    session.start()
    wait_for(lambda: held and held.wish == "pause", "the pause")
    assert not any(slot.free for slot in board.slot_reports({}))
    board.leave()


def test_a_restored_store_gets_a_new_hello_and_what_runs_goes_on(tmp_path: Path) -> None:
    hellos: list[HelloRequest] = []
    restored: list[bool] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/hello"):
            hellos.append(HelloRequest.model_validate_json(request.read()))
            if len(hellos) == 2:
                time.sleep(0.05)  # time for the other thread to ask meanwhile
                raise httpx.ReadError("the answer was lost", request=request)
            drop = ["c3c3c3c3"] if len(hellos) == 3 else []
            return httpx.Response(200, json={"drop": drop, "lease_s": 60.0, "heartbeat_s": 0.01})
        control = request.url.path.endswith("/control")
        boot = (
            request.url.params["boot_id"] if control else HeartbeatRequest.model_validate_json(request.read()).boot_id
        )
        if restored and len(hellos) == 1:
            said = {"code": "epoch", "message": "the store was restored", "fix": ""}
            return httpx.Response(410, json={"error": said})
        if boot != hellos[-1].boot_id:
            return httpx.Response(410, json={"error": {"code": "gone", "message": "superseded", "fix": ""}})
        return httpx.Response(200, json={"control_rev": 1, "desired": {}})

    client = Client("http://api", "secret")
    client._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(answer))
    board, gone = Board(PLANS), []
    session = Session(client, board, PLANS, tmp_path, gone.append, lambda: ["ab" * 32])
    session.hello(MACHINE, [])
    running = board.begin("a1a1a1a1", 0)
    unknown = board.begin("c3c3c3c3", 1)
    board.begin("b2b2b2b2", 0)
    board.delivering("b2b2b2b2")
    session.start()
    restored.append(True)
    wait_for(lambda: len(hellos) == 3, "a hello whose answer arrives")
    wait_for(lambda: session.boot_id == hellos[2].boot_id, "the new session")
    assert hellos[2].undelivered == ["b2b2b2b2"]
    assert hellos[2].running == ["a1a1a1a1", "c3c3c3c3"]
    assert running and running.wish == "run"
    assert unknown
    wait_for(lambda: unknown.wish == "release", "that what the store does not know makes room")
    board.leave()
    assert gone == [] and len(hellos) == 3
    assert [hello.holds for hello in hellos] == [["ab" * 32]] * 3
    assert hellos[0].slots[0].vram_total >= hellos[0].slots[0].vram_free > 0
