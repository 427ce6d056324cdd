"""The model hub as workers see it: each file is fetched once from outside, kept, verified, and given to all.

    <home>/hub/<sha256 of repository@commit>/files.json              what the hub lists, of that what we take
    <home>/hub/<sha256 of repository@commit>/<sha256 of name>        the bytes so far; an interrupted fetch goes on
    <home>/hub/<sha256 of repository@commit>/<sha256 of name>.whole  written last: they are whole and right

No name that a request holds becomes a path. The models that were not asked for the longest go when the limit is met.
"""

import hashlib
import logging
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool

from jsm_queue.errors import HubAwayError, HubRefusedError, JsmError, NotFoundError, StoreAwayError
from jsm_queue.files import write_whole
from jsm_queue.hub import HubFile, is_right, listed
from jsm_queue.lru import Entry, evictions, room

logger = logging.getLogger(__name__)

TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # of the hub: it may be slow, but it says something
AT_ONCE = 4  # files that are fetched from outside at the same time
PIECE = 2**20  # bytes that are read and sent at once
LOOK_S = 0.05  # between two looks at a file that is still coming
PAGES = 100  # of a repository's list: 100 000 files
FILES = TypeAdapter(list[HubFile])


class BrokeOff(Exception):
    """The file does not come any further: who reads it sees that it is not whole."""


@dataclass
class Fetch:
    """One file that is here or on its way. `error`: why it does not come any further."""

    path: Path
    file: HubFile
    whole: bool = False
    error: JsmError | None = None


class HubCache:
    """Of the one process that serves the api. Safe to use from several threads.

    `token`: the api's own at the hub. No worker hears it, and it goes to the hub's own host alone.
    """

    def __init__(self, root: Path, endpoint: str, token: str | None, limit: int = 0, offline: bool = False) -> None:
        self.root, self.endpoint, self.offline = root, endpoint.rstrip("/"), offline
        self._limit = limit
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._changed = threading.Lock()
        self._listing: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
        self._fetches: dict[Path, Fetch] = {}
        self._turns = threading.Semaphore(AT_ONCE)

    # ---- what there is ----

    def files(self, repo: str, commit: str) -> dict[str, HubFile]:
        """Name → file, of what we take of a repository. Asks the hub once.

        Raises HubRefusedError, HubAwayError.
        """
        folder = self._folder(repo, commit)
        with self._listing[folder]:
            try:
                found = FILES.validate_json((folder / "files.json").read_bytes())
            except (FileNotFoundError, ValueError):
                found = self._ask_list(repo, commit)
                write_whole(folder / "files.json", FILES.dump_json(found))
        os.utime(folder / "files.json")
        return {file.path: file for file in found}

    def fetch(self, repo: str, commit: str, name: str) -> Fetch:
        """The file, which may still be coming: the first to ask begins it.

        Raises as `files` does, and NotFoundError.
        """
        file = self.files(repo, commit).get(name)
        if file is None:
            raise NotFoundError(f"{repo} at {commit} has no {name} that workers may have", "Check the base's files")
        path = self._folder(repo, commit) / hashlib.sha256(name.encode()).hexdigest()
        with self._changed:
            going = self._fetches.get(path)
            if going is not None:
                return going
            if _marker(path).exists():
                return Fetch(path, file, whole=True)
            self._require_online(f"{name} of {repo} at {commit}")
            going = self._fetches[path] = Fetch(path, file)
        what = f"{name} of {repo}"
        url = f"{self.endpoint}/{repo}/resolve/{commit}/{name}"
        threading.Thread(target=self._run, args=(going, url, what), name=f"hub {name}", daemon=True).start()
        return going

    def _folder(self, repo: str, commit: str) -> Path:
        return self.root / hashlib.sha256(f"{repo}@{commit}".encode()).hexdigest()

    # ---- asking the hub ----

    def _require_online(self, what: str) -> None:
        if self.offline:
            raise HubAwayError(
                f"The api has not {what}, and HF_HUB_OFFLINE forbids it to ask {self.endpoint}",
                "Unset HF_HUB_OFFLINE where the api runs, or give the base as a local folder",
            )

    def _ask_list(self, repo: str, commit: str) -> list[HubFile]:
        self._require_online(f"the list of {repo} at {commit}")
        url: str | None = f"{self.endpoint}/api/models/{repo}/tree/{commit}?recursive=true"
        entries: list[Any] = []
        try:
            with self._client() as hub:
                for _ in range(PAGES):
                    answer = hub.get(url)
                    self._require_success(answer, f"{repo} at {commit}")
                    entries += answer.json()
                    url = answer.links.get("next", {}).get("url")
                    if url is None or not url.startswith(f"{self.endpoint}/"):
                        break
            return listed(entries)
        except httpx.HTTPError as error:
            raise self._away(f"the list of {repo} at {commit}", error) from error
        except (ValueError, TypeError) as error:
            raise HubAwayError(f"The hub at {self.endpoint} answered something else for {repo}", "Try later") from error

    def _client(self) -> httpx.Client:
        # What the hub redirects to another host gets no token: httpx leaves it out there.
        return httpx.Client(headers=self._headers, timeout=TIMEOUT, follow_redirects=True)

    def _require_success(self, answer: httpx.Response, what: str) -> None:
        status = answer.status_code
        if answer.is_success or status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        if 400 <= status < 500 and status not in (408, 425, 429):
            raise HubRefusedError(
                f"{what} cannot be had from the hub: it answered {status}",
                "Check id and revision; a gated model wants its licence accepted, and HF_TOKEN where the api runs",
            )
        raise HubAwayError(f"{what} cannot be had now: the hub at {self.endpoint} answered {status}", "Try later")

    def _away(self, what: str, error: Exception) -> HubAwayError:
        return HubAwayError(
            f"The api has not {what}, and the hub at {self.endpoint} does not answer ({type(error).__name__})",
            "Check the network of the api's machine, or give the base as a local folder",
        )

    # ---- fetching ----

    def _run(self, fetch: Fetch, url: str, what: str) -> None:
        """In a thread of its own, whoever still waits for it. It ends with `whole` or with `error`."""
        try:
            with self._turns:
                self._bring(fetch, url, what)
        except JsmError as error:
            fetch.error = error
        except OSError as error:
            fetch.error = StoreAwayError(f"The api cannot keep {what}: {error}", "Make room on its disk")
        except Exception as error:
            logger.exception("hub: %s", what)
            fetch.error = HubAwayError(f"{what}: the api failed to fetch it ({type(error).__name__})", "See its log")
        finally:
            with self._changed:
                self._fetches.pop(fetch.path, None)
        if fetch.error:
            logger.warning("hub: %s", fetch.error)

    def _bring(self, fetch: Fetch, url: str, what: str) -> None:
        have = _size(fetch.path)
        if have > fetch.file.size:
            fetch.path.unlink()
            have = 0
        self._make_room(fetch.file.size - have)
        logger.info("hub: %s begins at %d of %d bytes", what, have, fetch.file.size)
        try:
            if have < fetch.file.size or have == 0:
                self._download(fetch, url, have, what)
        except httpx.HTTPError as error:
            raise self._away(f"all of {what}", error) from error
        if not is_right(fetch.path, fetch.file):
            fetch.error = HubAwayError(f"{what} arrived with another content than the hub lists", "It is fetched again")
            fetch.path.unlink()
            raise fetch.error
        with fetch.path.open("ab") as file:
            os.fsync(file.fileno())
        _marker(fetch.path).touch()
        fetch.whole = True
        logger.info("hub: %s is here", what)

    def _download(self, fetch: Fetch, url: str, have: int, what: str) -> None:
        ranged = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self._client() as hub, hub.stream("GET", url, headers=ranged) as answer:
            self._require_success(answer, what)
            appends = have and answer.status_code == httpx.codes.PARTIAL_CONTENT
            with fetch.path.open("ab" if appends else "wb", buffering=0) as file:
                left = fetch.file.size - (have if appends else 0)
                for piece in answer.iter_raw(PIECE):
                    left -= len(piece)
                    if left < 0:
                        raise HubAwayError(f"{what} is longer than the hub lists", "It is fetched again")
                    file.write(piece)

    # ---- giving ----

    async def read(self, fetch: Fetch, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes `start` up to `end`, as they come. Raises BrokeOff where they do not come any further.

        Of a file that turns out wrong some were given already: whoever takes them compares hashes too.
        """
        at = start
        while at < end:
            over = fetch.whole or fetch.error is not None  # looked at before reading: what came until then is read
            piece = await run_in_threadpool(_read, fetch.path, at, min(PIECE, end - at))
            if piece:
                at += len(piece)
                yield piece
            elif over:
                raise BrokeOff(str(fetch.error))
            else:
                await anyio.sleep(LOOK_S)

    # ---- room ----

    def _make_room(self, needed: int) -> None:
        """Raises OSError where there is none."""
        with self._changed:
            entries = list(self._models())
            held = sum(entry.size for entry in entries)
            free = shutil.disk_usage(self.root).free
            going = sum(fetch.file.size - _size(fetch.path) for fetch in self._fetches.values())
            limit = min(room(held, free, self._limit), held + free) - max(needed, going)
            for folder in evictions(entries, limit):
                logger.info("hub: a model that was not asked for goes: %s", folder.name)
                shutil.rmtree(folder, ignore_errors=True)
            if shutil.disk_usage(self.root).free < needed:
                raise OSError(f"{needed} bytes are needed, {shutil.disk_usage(self.root).free} are free")

    def _models(self) -> list[Entry]:
        busy = {path.parent for path in self._fetches}
        found = []
        for used in self.root.glob("*/files.json"):
            with suppress(FileNotFoundError):
                size = sum(file.stat().st_size for file in used.parent.iterdir())
                found.append(Entry(used.parent, size, used.stat().st_mtime, used.parent in busy))
        return found


def own_token(variables: dict[str, str]) -> str | None:
    """The api's token at the hub: HF_TOKEN, or what `hf auth login` left."""
    if token := variables.get("HF_TOKEN", "").strip():
        return token
    home = Path(variables.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    try:
        return (Path(variables.get("HF_TOKEN_PATH") or home / "token")).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def from_environment(root: Path, limit: int, variables: dict[str, str]) -> HubCache:
    """A cache of the hub that HF_ENDPOINT names."""
    offline = variables.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    endpoint = variables.get("HF_ENDPOINT") or "https://huggingface.co"
    return HubCache(root, endpoint, own_token(variables), limit, offline)


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.whole")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, at: int, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(at)
            return file.read(count)
    except FileNotFoundError:  # it has not begun, or it was wrong
        return b""
