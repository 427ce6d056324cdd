"""The api over HTTP, as the CLI uses it."""

import re
import ssl
import time
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from jsm_queue import protocol, tls
from jsm_queue.cli import console, home
from jsm_queue.errors import (
    AuthError,
    ConflictError,
    JsmError,
    NotFoundError,
    RequestError,
    SetupError,
    StoreAwayError,
    of_code,
)
from jsm_queue.settings import settings

TIMEOUT_S = 60.0  # a report of a large study takes seconds
VERIFY_S = 600.0  # the api hashes 16 GB before it answers
PAUSE_S = 0.5  # after a refused piece: another client may be sending the same file
CHUNK = 4 * 1024 * 1024  # bytes a PATCH while uploading
WRITE_IT = "Write JSM_API_URL like http://127.0.0.1:8080"
TRUST_IT = "Name its authority in JSM_CA: tls/ca.pem of the home folder where `jsm up --lan` runs"
START_IT = "Start it with `jsm up`, or name one in JSM_API_URL"


def connect() -> httpx.Client:
    """A client for the api that the settings name, or the home folder's own. Raises SetupError, AuthError."""
    folder = home.home()
    endpoint = home.read_endpoint(folder)
    url = settings().api_url or (endpoint.api if endpoint else None)
    if url is None:
        raise SetupError(f"No api is running on {folder}", START_IT)
    _check(url)
    token = (settings().token or "").strip() or home.read_token(folder)
    if token is None:
        raise AuthError(f"No token for {url}", "Set JSM_TOKEN")
    return client(url, token)


def quoted(part: str) -> str:
    """A part of a path as it is in a URL, whatever it holds: it never becomes two parts, nor none.

    Raises NotFoundError for one with a slash, which servers see as two however it is written.
    """
    if "/" in part:
        raise NotFoundError(f"{part!r} is no id, and no name that can be asked for", "Give the id, or its beginning")
    return quote(part, safe="", errors="surrogatepass").replace(".", "%2E") or "%20"


def client(url: str, token: str) -> httpx.Client:
    """A client for the api at `url`, to be used as a context manager.

    Raises SetupError for what is no address, AuthError for what cannot be a token.
    """
    _check(url)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", token):
        raise AuthError("JSM_TOKEN holds signs that no token has", "Give the token as the api told it")
    headers = {"Authorization": f"Bearer {token}"}
    # An HTTP proxy of the environment must not see a token that is meant for the api.
    return httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, verify=trust(url), trust_env=False)


def _check(url: str) -> None:
    """Raises SetupError for what is no api's address."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SetupError(f"{url!r} is not an address ({error})", WRITE_IT) from error
    if address.scheme not in ("http", "https") or not re.fullmatch(r"[^%\[\]]+", address.host):
        raise SetupError(f"{url!r} is not the address of an api", WRITE_IT)


def trust(url: str) -> ssl.SSLContext | bool:
    """By what an api at that URL is known: the settings' authority, else the system's. Raises SetupError."""
    return tls.client_context(tls.read_ca(settings().ca_file)) if url.lower().startswith("https:") else True


def call(api: httpx.Client, method: str, path: str, **arguments: Any) -> Any:
    """One request and its JSON answer. Raises the JsmError that the api answered with, or SetupError."""
    return request(api, method, path, **arguments).json()


def request(api: httpx.Client, method: str, path: str, **arguments: Any) -> httpx.Response:
    """One request and its answer. Raises the JsmError that the api answered with, or SetupError."""
    try:
        response = api.request(method, path, **arguments)
    except UnicodeEncodeError as error:  # bytes of a command line that are no text
        raise RequestError(f"{error.object!r} is no text", "Write it in UTF-8") from error
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise SetupError(f"{api.base_url} shows a certificate that is not trusted ({error})", TRUST_IT) from error
        raise SetupError(f"The api at {api.base_url} does not answer ({error})", START_IT) from error
    if not response.is_success:
        raise error_of(response)
    if protocol.STORE_AWAY in response.headers:
        _warn_of_the_store()
    return response


@cache
def _warn_of_the_store() -> None:
    """Once a command, however many answers it needs."""
    console.print_warning("the api cannot write its store now, so what it says is old", StoreAwayError.cure)


def error_of(response: httpx.Response) -> JsmError:
    """The error in an answer, as the class it was raised with."""
    try:
        said = response.json()["error"]
        missing = NotFoundError if response.status_code == NotFoundError.status else JsmError
        other = SetupError if response.is_server_error else missing
        return of_code(said["code"], other)(said["message"], said.get("fix", ""))
    except (ValueError, KeyError, TypeError):
        if response.status_code == NotFoundError.status:
            return NotFoundError(f"{response.request.url} is not there", "Is this address a jsm api?")
        kind = SetupError if response.is_server_error else JsmError
        return kind(f"The api answered {response.status_code} to {response.request.url}", "See its log")


def pages(api: httpx.Client, path: str, key: str, **params: Any) -> list[dict[str, Any]]:
    """All items of a paged list."""
    items: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = call(api, "GET", path, params=params | ({"after": after} if after else {}))
        items += page[key]
        after = page.get("next")
        if not after:
            return items


def upload(api: httpx.Client, sha: str, path: Path) -> bool:
    """Brings a file to the api, from where a broken upload stopped. Returns False when it was there.

    Begins again once when the api refuses what arrived. Raises ConflictError when that does not help.
    """
    size = path.stat().st_size
    state = _offer(api, sha, size)
    if state.have:
        return False
    begun_again = False
    with path.open("rb") as file:
        while not state.have:
            before, state = state.offset, _send(api, sha, file, size, state.offset)
            if not state.have and state.offset <= before:
                if begun_again:
                    raise ConflictError(
                        f"{path} did not arrive whole", "Submit again, and leave the file alone until it is uploaded"
                    )
                begun_again = True
    return True


def _offer(api: httpx.Client, sha: str, size: int) -> protocol.ArtifactState:
    offer = protocol.ArtifactOffer(sha=sha, size=size).model_dump()
    return protocol.ArtifactState.model_validate(call(api, "POST", "/v1/artifacts", json=offer, timeout=VERIFY_S))


def _send(api: httpx.Client, sha: str, file: BinaryIO, size: int, offset: int) -> protocol.ArtifactState:
    """Sends one piece. Returns what the api has then."""
    file.seek(offset)
    headers = {"Upload-Offset": str(offset), "Upload-Length": str(size)}
    try:
        reply = call(api, "PATCH", f"/v1/artifacts/{sha}", content=file.read(CHUNK), headers=headers, timeout=VERIFY_S)
    except ConflictError:
        time.sleep(PAUSE_S)
        return _offer(api, sha, size)
    return protocol.ArtifactState.model_validate(reply)
