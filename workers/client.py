"""The worker's side of HTTP: requests that say plainly whether to retry, to drop or to leave."""

import logging
import random
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from jsm_queue import tls
from jsm_queue.canonical import file_hash
from jsm_queue.crashpoints import around, reach
from jsm_queue.errors import (
    AuthError,
    ConflictError,
    EpochError,
    ForbiddenError,
    GoneError,
    JsmError,
    ModelError,
    NotFoundError,
    RequestError,
    SetupError,
    TooLargeError,
)
from jsm_queue.protocol import ArtifactIn, ArtifactOffer, ArtifactState

logger = logging.getLogger(__name__)

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
UPLOAD = httpx.Timeout(600.0, connect=5.0)  # the api hashes 16 GB before it answers
LONG_POLL = httpx.Timeout(45.0, connect=5.0)  # the api answers within 25 s
FIRST_WAIT_S = 0.5  # before the second try; doubled for each further one
LONGEST_WAIT_S = 5.0  # a third of it is left to chance, so that a pool does not come back all at once
CHUNK = 2**20  # bytes
ERRORS: dict[int, type[JsmError]] = {
    400: RequestError,
    401: AuthError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: TooLargeError,
    422: RequestError,
}

Reply = TypeVar("Reply", bound=BaseModel)
Result = TypeVar("Result")


class Unreachable(Exception):
    """The api is away, restarting or failing: try again later."""


class Untrusted(Unreachable):
    """Who answers at the api's address shows another certificate: nothing is sent. Tomorrow's network may be ours.

    `by_clock`: or it is this pool's, and not good at what this machine takes for now.
    """

    def __init__(self, said: str, by_clock: bool = False) -> None:
        super().__init__(said)
        self.by_clock = by_clock


class Stopped(Exception):
    """Waiting was given up: the attempt is unwanted, or the agent leaves."""


class Client:
    """Requests with the worker's token. Safe to use from several threads.

    A 4xx raises the JsmError of that status, everything that may pass raises Unreachable, a foreign certificate
    Untrusted.
    """

    def __init__(self, api: str, token: str, trust: str | ssl.SSLContext | None = None) -> None:
        """`trust`: by what the api is known, an authority's PEM text or a context; without it the system's authorities.

        Raises SetupError for an address that no request could go to.
        """
        headers = {"Authorization": f"Bearer {token}"}
        verify = trust if isinstance(trust, ssl.SSLContext) else tls.client_context(trust)
        # A proxy of the environment must not see the token.
        self._http = httpx.Client(
            base_url=_address(api), headers=headers, timeout=TIMEOUT, verify=verify, trust_env=False
        )

    def post(self, path: str, message: BaseModel, reply: type[Reply], timeout: httpx.Timeout = TIMEOUT) -> Reply:
        """Send a message, get a message."""
        return self._parse(self._ask("POST", path, json=message.model_dump(mode="json"), timeout=timeout), reply)

    def tell(self, path: str, message: BaseModel, timeout: httpx.Timeout = TIMEOUT) -> None:
        """Send a message that has no answer."""
        self._ask("POST", path, json=message.model_dump(mode="json"), timeout=timeout)

    def get(self, path: str, reply: type[Reply], params: dict[str, Any] | None = None) -> Reply:
        """Ask for a message; the api may take its time (long poll)."""
        return self._parse(self._ask("GET", path, params=params, timeout=LONG_POLL), reply)

    def download(self, sha: str, offset: int) -> Iterator[bytes]:
        """An artifact's bytes from `offset` on."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        try:
            with self._http.stream("GET", f"/v1/artifacts/{sha}", headers=headers) as response:
                if not response.is_success:
                    response.read()
                    _raise(response)
                skip = 0 if response.status_code == 206 else offset  # a proxy may ignore the range
                reach("before download", sha)
                for piece in response.iter_raw():
                    yield piece[skip:]
                    reach("amid download", sha)
                    skip = max(0, skip - len(piece))
                reach("after download", sha)
        except httpx.RequestError as error:
            raise _away(error) from error

    def upload(self, file: Path, artifact: ArtifactIn, stop: threading.Event) -> None:
        """Send a file, from where an earlier try broke off, until the api has it whole.

        Raises ModelError when the file is damaged.
        """
        offer = ArtifactOffer(sha=artifact.sha, size=artifact.size)
        try:
            asked = self._ask("POST", "/v1/artifacts", json=offer.model_dump(mode="json"), timeout=UPLOAD)
        except ForbiddenError as error:  # mostly another attempt was faster: the answer to what names the file says so
            logger.warning("%s is not sent: %s", file.name, error)
            return
        state = self._parse(asked, ArtifactState)
        if state.have:
            return
        headers = {"Upload-Offset": str(state.offset), "Upload-Length": str(artifact.size)}
        pieces = _pieces(file, state.offset, stop)
        try:
            sent = self._ask("PATCH", f"/v1/artifacts/{artifact.sha}", content=pieces, headers=headers, timeout=UPLOAD)
            taken = self._parse(sent, ArtifactState).have
        except ConflictError:
            taken = False
        if taken:
            return
        if file_hash(file) != artifact.sha:
            raise ModelError(f"{file.name} changed after it was written", "Check this machine's disk")
        raise Unreachable(f"the upload of {file.name} is begun again")

    def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            with around(f"{method} {_without_ids(path)}"):
                response = self._http.request(method, path, **arguments)
        except httpx.RequestError as error:
            raise _away(error) from error
        if not response.is_success:
            _raise(response)
        return response

    def _parse(self, response: httpx.Response, reply: type[Reply]) -> Reply:
        try:
            return reply.model_validate_json(response.content)
        except ValueError as error:  # a proxy's page, or an api that is being updated
            raise Unreachable(f"{response.request.url.path} answered something else") from error


def _address(api: str) -> str:
    try:
        url = httpx.URL(api)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise SetupError(f"{api!r} is not an api's URL", "Give one such as https://192.168.0.5:8080")
    return api.rstrip("/")


def _without_ids(path: str) -> str:
    return "/".join(part for part in path.removeprefix("/v1/").split("/") if not re.fullmatch(r"[0-9a-f-]{8,64}", part))


def _pieces(file: Path, offset: int, stop: threading.Event) -> Iterator[bytes]:
    with file.open("rb") as source:
        source.seek(offset)
        reach("before upload")
        while piece := source.read(CHUNK):
            if stop.is_set():
                raise Stopped
            yield piece
            reach("amid upload")
        reach("after upload")


def _raise(response: httpx.Response) -> None:
    status = response.status_code
    try:
        said = response.json()["error"]
        code, message, fix = str(said.get("code", "")), str(said["message"]), str(said.get("fix", ""))
    except (ValueError, KeyError, TypeError):
        code, message, fix = "", f"{response.request.url.path} answered {status}", ""
    if not 400 <= status < 500 or status in (408, 425, 429):  # a proxy's redirection is no answer of the api
        raise Unreachable(message)
    if code == EpochError.code:  # a 410 too, but this session begins anew rather than ends
        raise EpochError(message, fix)
    raise ERRORS.get(status, JsmError)(message, fix)


def _away(error: httpx.RequestError) -> Unreachable:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        by_clock = any(words in str(error) for words in ("not yet valid", "has expired"))
        wrong = "is not good by this machine's clock" if by_clock else "is not this pool's"
        return Untrusted(f"its certificate {wrong}; nothing is sent: {error}", by_clock)
    return Unreachable(f"{type(error).__name__}: {error}")


def pauses() -> Iterator[float]:
    """Seconds to wait before the second try, the third and so on."""
    wait = FIRST_WAIT_S
    while True:
        yield wait * random.uniform(0.67, 1.0)
        wait = min(2 * wait, LONGEST_WAIT_S)


def patiently(call: Callable[[], Result], stop: threading.Event, note: Callable[[str], object]) -> Result:
    """What `call` returns, tried again for ever while the api is away. Raises Stopped once `stop` is set.

    `note` hears of the first failure only: an outage is one line in the log.
    """
    noted = False
    for pause in pauses():
        if stop.is_set():
            break
        try:
            return call()
        except Unreachable as error:
            if not noted:
                note(str(error))
                noted = True
        stop.wait(pause)
    raise Stopped
