"""A server that misbehaves by script: each request gets the next of its answers, the last one for ever."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """One request, as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Says = Callable[[Any], None]
"""What answers one request, given its handler; `handler.case` is the request's last message."""


class Scripted(NamedTuple):
    """A running server: its address for `judge.url`, and what it was asked so far."""

    url: str
    asked: list[Asked]


@contextmanager
def scripted(*says: Says) -> Iterator[Scripted]:
    """Serves on a free port of this machine until the context ends."""
    asked: list[Asked] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        case = ""  # the last message of the request

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                turn = len(asked)
                asked.append(Asked(self.path, dict(self.headers), body))
            self.case = body["messages"][-1]["content"]
            says[min(turn, len(says) - 1)](self)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Scripted(f"http://127.0.0.1:{server.server_address[1]}/v1", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def status(code: int, text: str = "", **headers: str) -> Says:
    """An answer with that status and text."""

    def say(handler: BaseHTTPRequestHandler) -> None:
        data = text.encode("utf-8")
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return say


def content(text: str | None, finish: str = "stop", **message: Any) -> Says:
    """A chat completion with that content."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": finish}
    return status(200, json.dumps({"choices": [choice]}))


def scored(score: int, reason: str = "because") -> Says:
    """A chat completion that is a judgement."""
    return content(json.dumps({"reason": reason, "score": score}))


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Closes the connection without a word."""
    handler.close_connection = True


def endless(handler: BaseHTTPRequestHandler) -> None:
    """A body that goes on until the client hangs up."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    try:
        while True:
            handler.wfile.write(b" " * 65536)
    except OSError:
        return
