"""`jsm logs`: what a job's attempts say, on standard output; what happens to them, on standard error."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx

from jsm_queue.cli import client, console
from jsm_queue.errors import SetupError
from jsm_queue.planner import TERMINAL

WAIT_S = 20.0  # what the api may take to answer that nothing is new
POLL_S = 1.5  # between two looks for a next attempt
PATIENCE_S = 90.0  # how long an api that was killed may take to answer again
UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
"""What a worker's log must not do to this terminal."""


def run(job: str, follow: bool, attempt: str | None, as_json: bool) -> int:
    """Prints the log of a job's newest attempt, or of `attempt`; with `follow` until the job is over.

    Returns the exit status: with `follow` 1 when the job did not get done.
    """
    with client.connect() as api:
        path = f"/v1/jobs/{client.quoted(job)}"
        try:
            if follow:
                return _follow(api, path, attempt, as_json)
            _show(api, path, attempt, as_json, wait=0)
        except KeyboardInterrupt:
            return 130
    return 0


def _follow(api: httpx.Client, path: str, attempt: str | None, as_json: bool) -> int:
    job, shown = client.call(api, "GET", path), None
    if not job["attempts"] and not as_json:
        console.err.print(f"job {job['id'][:12]} is {job['state']}: no attempt yet")
    while True:
        following = attempt or next_attempt([each["id"] for each in job["attempts"]], shown)
        if following and following != shown:
            _show(api, path, following, as_json, WAIT_S)
            shown = following
        elif attempt:
            return 0
        elif job["state"] in TERMINAL:
            console.err.print(f"job {job['id'][:12]} is {job['state']}" + (f": {job['error']}" if job["error"] else ""))
            return 0 if job["state"] == "done" else 1
        else:
            time.sleep(POLL_S)
        job = ask(api, path)


def next_attempt(attempts: list[str], shown: str | None) -> str | None:
    """The newest attempt at first, then each one after the last that was shown, however short it was; or None."""
    rest = attempts[-1:] if shown is None else attempts[attempts.index(shown) + 1 :]
    return rest[0] if rest else None


def _show(api: httpx.Client, path: str, attempt: str | None, as_json: bool, wait: float) -> None:
    """One attempt's log: what is there, or with `wait` all to its end."""
    piece: dict[str, Any] = {}
    for piece in pieces(api, path, attempt, wait):
        if piece["offset"] == 0 and not as_json and piece["attempt"]:
            console.err.print(f"attempt {piece['attempt'][:12]} on {console.escape(piece['worker'])}")
        if as_json:
            print(json.dumps(piece, ensure_ascii=False), flush=True)
        else:
            print(UNPRINTABLE.sub("", piece["text"]), end="", flush=True)
    if not as_json:
        console.err.print(console.escape(end_words(piece)))


def pieces(api: httpx.Client, path: str, attempt: str | None, wait: float) -> Iterator[dict[str, Any]]:
    """The pieces of one attempt's log, in order; the last one has no text."""
    offset = 0
    while True:
        params = {"offset": offset, "wait": wait} | ({"attempt": attempt} if attempt else {})
        piece = ask(api, f"{path}/log", **params) if wait else client.call(api, "GET", f"{path}/log", params=params)
        attempt, offset = piece["attempt"], piece["next"]
        yield piece
        if not piece["text"] and not (wait and piece["live"]):
            return


def end_words(piece: dict[str, Any]) -> str:
    """How an attempt is, or how it ended: the last line that people see."""
    if piece["attempt"] is None:
        return "no attempt yet (`jsm logs -f` waits for one)"
    if piece["live"]:
        return f"attempt {piece['attempt'][:12]} is {piece['state']} (`jsm logs -f` goes on)"
    how = piece["reason"] or piece["state"]
    return f"attempt {piece['attempt'][:12]} ended: {how}" + (f": {piece['message']}" if piece["message"] else "")


def ask(api: httpx.Client, path: str, **params: Any) -> Any:
    """GET, as JSON, also from an api that is being started again. Raises SetupError after `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.call(api, "GET", path, params=params)
        except SetupError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
