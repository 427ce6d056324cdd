"""One server that speaks OpenAI's chat protocol, and may be slow, full, wrong or gone: one answer, or why none came.

The key is sent to the host that the spec names and to no other, and never leaves this file: it is struck out of what
the server says.
"""

import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from jsm_queue.errors import SetupError, SpecError
from jsm_queue.spec import LOOPBACK, JudgeSettings
from workers.judges.judgement import SCHEMA, clean

logger = logging.getLogger(__name__)

TRIES = 8
"""Of one question, while the server is busy or failing."""

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
"""Before the second try, doubled for each further one; a third of it is left to chance. `Retry-After` may raise it."""

CONNECT_S = 10.0
ONE_TRY_S = 120.0
QUESTION_S = 300.0
"""How long one try, and all tries of a question, may take: well below the kind's `stall_s`."""

AWAY_S = 30.0
"""How long nobody may take a connection before the server is away. A slot is not kept for one that is off."""

MAX_BYTES = 2**20
"""A longer answer is no judgement."""

SAID_CHARS = 200
"""Of what a server says of an error, what is repeated."""

SAMPLING: dict[str, Any] = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": SCHEMA}},
    "temperature": 0,
    "seed": 0,
    "max_tokens": 1024,
}
"""What is asked beside model and messages. A server that refuses a part of it is asked without that part."""

OLDER_FORMAT = {"type": "json_object", "schema": SCHEMA}
"""How `json_schema` is called by servers that do not know it, such as llama-cpp-python's own."""

REFUSED = (400, 422)
FAILED = (500, 501)
"""Statuses of a refused request. A failing server has refused it where it names what it does not know."""

BUSY = frozenset({408, 409, 425, 429, *range(500, 600)})


class Busy(Exception):
    """Nothing came this time: what happened, and for how long the server asks to wait."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class Away(Busy):
    """Nobody took the connection."""


@dataclass(frozen=True)
class Answer:
    """What the server said. `whole`: False where it said more than MAX_BYTES."""

    status: int
    text: str
    whole: bool
    retry_after: str = ""


@dataclass
class Server:
    """May be asked from several threads. `extras`: what of SAMPLING it has not refused so far. `away_since`: when
    nobody took a connection first, by the monotonic clock; None since one was taken.
    """

    judge: JudgeSettings
    http: httpx.Client
    key: str
    extras: dict[str, Any] = field(default_factory=lambda: dict(SAMPLING))
    away_since: float | None = None


@contextmanager
def open_server(judge: JudgeSettings) -> Iterator[Server]:
    """Raises SetupError when the key is not set on this machine, SpecError for an address that cannot be."""
    key = read_key(judge.key_env)
    try:
        host = httpx.URL(judge.url or "").host
    except (httpx.InvalidURL, ValueError) as error:  # also of a name that IDNA refuses
        raise SpecError(f"judge.url: {judge.url} is not an address", "Correct it in the spec") from error
    with httpx.Client(
        headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=httpx.Timeout(ONE_TRY_S, connect=CONNECT_S),
        follow_redirects=False,
        trust_env=host not in LOOPBACK,  # a proxy of the environment does not reach this machine
    ) as http:
        yield Server(judge, http, key)


def read_key(variable: str | None) -> str:
    """The key, "" where the spec names none. Raises SetupError that names the variable and repeats nothing of it."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    fix = f"Set {variable} where the worker is started, and start it again"
    if not key:
        raise SetupError(f"the judge's key is missing: the variable {variable} is not set on this worker", fix)
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SetupError(f"the variable {variable} holds no key: it has spaces or signs that no key has", fix)
    return key


def ask(server: Server, messages: list[dict[str, str]]) -> Answer:
    """The first answer that is not "later".

    Raises Busy after TRIES or QUESTION_S, Away once nobody took a connection for AWAY_S, SetupError where the server
    will answer no question of this worker.
    """
    deadline = time.monotonic() + QUESTION_S
    wait = FIRST_WAIT_S
    for _ in range(TRIES - 1):
        try:
            return _ask_once(server, messages)
        except Busy as error:
            pause = max(wait * random.uniform(0.67, 1.0), min(error.wait_s, LONGEST_WAIT_S))
            if time.monotonic() + pause > _patience_ends(server, error, deadline):
                raise
            logger.warning("the judge did not answer (%s); again in %.0f s", error, pause)
            time.sleep(pause)
            wait = min(2 * wait, LONGEST_WAIT_S)
    return _ask_once(server, messages)


def _patience_ends(server: Server, error: Busy, deadline: float) -> float:
    if not isinstance(error, Away) or server.away_since is None:
        return deadline
    return min(deadline, server.away_since + AWAY_S)


def _ask_once(server: Server, messages: list[dict[str, str]]) -> Answer:
    extras = dict(server.extras)
    answer = _post(server, messages, extras)
    while (fewer := without_refused(extras, answer)) is not None:
        extras = fewer
        answer = _post(server, messages, extras)
    if answer.status in BUSY:
        wait_s = float(answer.retry_after) if answer.retry_after.isdecimal() else 0.0
        raise Busy(f"it answered {answer.status}: {clean(answer.text, SAID_CHARS)}", wait_s)
    if answer.status == 200 and extras != server.extras:  # only then was it that part, and not this question
        logger.warning("the judge refuses some of %s; from now on it is asked with %s", [*SAMPLING], extras)
        server.extras = extras
    return answer


def without_refused(extras: dict[str, Any], answer: Answer) -> dict[str, Any] | None:
    """What to ask instead, None when the answer refuses none of `extras`. Where it names no part, the first goes."""
    if not extras or answer.status not in (*REFUSED, *FAILED):
        return None
    refused = [name for name in extras if name in answer.text]
    if not refused and answer.status in REFUSED:
        refused = [next(iter(extras))]
    fewer = {name: value for name, value in extras.items() if name not in refused}
    if "response_format" in refused and extras["response_format"] != OLDER_FORMAT:
        fewer = {"response_format": OLDER_FORMAT} | fewer
    return fewer if refused else None


def _post(server: Server, messages: list[dict[str, str]], extras: dict[str, Any]) -> Answer:
    body = {"model": server.judge.model, "messages": messages} | extras
    began = time.monotonic()
    data = bytearray()
    try:
        with server.http.stream("POST", f"{server.judge.url}/chat/completions", json=body) as response:
            server.away_since = None
            _require_access(server.judge, response.status_code)
            for piece in response.iter_raw():
                data += piece
                if len(data) > MAX_BYTES:
                    break
                if time.monotonic() - began > ONE_TRY_S:
                    raise Busy(f"its answer takes longer than {ONE_TRY_S:.0f} s")
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        server.away_since = server.away_since or began
        raise Away(f"{type(error).__name__}: {error}") from error
    except httpx.RequestError as error:
        server.away_since = None
        raise Busy(f"{type(error).__name__}: {error}") from error
    text = data[:MAX_BYTES].decode("utf-8", "replace")
    text = text.replace(server.key, "[key]") if server.key else text
    return Answer(response.status_code, text, len(data) <= MAX_BYTES, response.headers.get("Retry-After", ""))


def _require_access(judge: JudgeSettings, status: int) -> None:
    if 300 <= status < 400:
        fix = "Give the address that it points to as judge.url: requests and keys go nowhere else"
        raise SetupError(f"the judge at {judge.url} points to another address ({status})", fix)
    if status in (401, 402, 403):
        fix = f"Check the key in {judge.key_env} on this worker" if judge.key_env else "Name its key: judge.key_env"
        raise SetupError(f"the judge at {judge.url} refuses this worker ({status})", fix)
    if status in (404, 405):
        fix = "Check judge.url, which ends before /chat/completions, and judge.model"
        raise SetupError(f"the judge at {judge.url} knows no such address, or no model {judge.model} ({status})", fix)
