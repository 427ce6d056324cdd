"""The worker's side of HTTP: requests that say plainly whether to retry, to drop or to leave."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from jsm_queue.canonical import file_hash
from jsm_queue.errors import AuthError, ConflictError, GoneError, JsmError, ModelError, NotFoundError
from jsm_queue.protocol import ArtifactIn, ArtifactOffer, ArtifactState

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
UPLOAD = httpx.Timeout(600.0, connect=5.0)  # the api hashes 16 GB before it answers
LONG_POLL = httpx.Timeout(45.0, connect=5.0)  # the api answers within 25 s
FIRST_WAIT_S = 0.5  # before the second try; doubled for each further one
LONGEST_WAIT_S = 5.0  # a third of it is left to chance, so that a pool does not come back all at once
CHUNK = 2**20  # bytes
ERRORS: dict[int, type[JsmError]] = {
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
}

Reply = TypeVar("Reply", bound=BaseModel)
Result = TypeVar("Result")


class Unreachable(Exception):
    """The api is away, restarting or failing: try again later."""


class Stopped(Exception):
    """Waiting was given up: the attempt is unwanted, or the agent leaves."""


class Client:
    """Requests with the worker's token. Safe to use from several threads.

    A 4xx raises the JsmError of that status, everything that may pass raises Unreachable.
    """

    def __init__(self, api: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        # A proxy of the environment must not see the token.
        self._http = httpx.Client(base_url=api.rstrip("/"), headers=headers, timeout=TIMEOUT, trust_env=False)

    def post(self, path: str, message: BaseModel, reply: type[Reply]) -> Reply:
        """Send a message, get a message."""
        return self._parse(self._ask("POST", path, json=message.model_dump(mode="json")), reply)

    def tell(self, path: str, message: BaseModel) -> None:
        """Send a message that has no answer."""
        self._ask("POST", path, json=message.model_dump(mode="json"))

    def get(self, path: str, reply: type[Reply], params: dict[str, Any] | None = None) -> Reply:
        """Ask for a message; the api may take its time (long poll)."""
        return self._parse(self._ask("GET", path, params=params, timeout=LONG_POLL), reply)

    def download(self, sha: str, offset: int) -> Iterator[bytes]:
        """An artifact's bytes from `offset` on."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        try:
            with self._http.stream("GET", f"/v1/artifacts/{sha}", headers=headers) as response:
                if response.is_error:
                    response.read()
                    _raise(response)
                skip = 0 if response.status_code == 206 else offset  # a proxy may ignore the range
                for piece in response.iter_raw():
                    yield piece[skip:]
                    skip = max(0, skip - len(piece))
        except httpx.TransportError as error:
            raise Unreachable(_words(error)) from error

    def upload(self, file: Path, artifact: ArtifactIn, stop: threading.Event) -> None:
        """Send a file, from where an earlier try broke off. Raises ModelError when the file is damaged."""
        offer = ArtifactOffer(sha=artifact.sha, size=artifact.size)
        asked = self._ask("POST", "/v1/artifacts", json=offer.model_dump(mode="json"), timeout=UPLOAD)
        state = self._parse(asked, ArtifactState)
        if state.have:
            return
        headers = {"Upload-Offset": str(state.offset), "Upload-Length": str(artifact.size)}
        try:
            self._ask(
                "PATCH",
                f"/v1/artifacts/{artifact.sha}",
                content=_pieces(file, state.offset, stop),
                headers=headers,
                timeout=UPLOAD,
            )
        except ConflictError as error:
            if file_hash(file) != artifact.sha:
                damaged = f"{file.name} changed after it was written"
                raise ModelError(damaged, "Check this machine's disk") from error
            raise Unreachable("the upload is begun again") from error

    def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise Unreachable(_words(error)) from error
        if response.is_error:
            _raise(response)
        return response

    def _parse(self, response: httpx.Response, reply: type[Reply]) -> Reply:
        try:
            return reply.model_validate_json(response.content)
        except ValueError as error:  # a proxy's page, or an api that is being updated
            raise Unreachable(f"{response.request.url.path} answered something else") from error


def _pieces(file: Path, offset: int, stop: threading.Event) -> Iterator[bytes]:
    with file.open("rb") as source:
        source.seek(offset)
        while piece := source.read(CHUNK):
            if stop.is_set():
                raise Stopped
            yield piece


def _raise(response: httpx.Response) -> None:
    status = response.status_code
    try:
        said = response.json()["error"]
        message, fix = str(said["message"]), str(said.get("fix", ""))
    except (ValueError, KeyError, TypeError):
        message, fix = f"{response.request.url.path} answered {status}", ""
    if status >= 500 or status in (408, 425, 429):
        raise Unreachable(message)
    raise ERRORS.get(status, JsmError)(message, fix)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def patiently(call: Callable[[], Result], stop: threading.Event, note: Callable[[str], object]) -> Result:
    """What `call` returns, tried again for ever while the api is away. Raises Stopped once `stop` is set.

    `note` hears of the first failure only: an outage is one line in the log.
    """
    wait, noted = FIRST_WAIT_S, False
    while not stop.is_set():
        try:
            return call()
        except Unreachable as error:
            if not noted:
                note(str(error))
                noted = True
        stop.wait(wait * random.uniform(0.67, 1.0))
        wait = min(2 * wait, LONGEST_WAIT_S)
    raise Stopped
