"""A spec's judge → content: the text of its rubric and, of a GGUF, its file."""

import re
from pathlib import Path

from jsm_queue.canonical import content_hash
from jsm_queue.cli.basefiles import package_file
from jsm_queue.cli.inputs import Missing, add
from jsm_queue.data.examples import read_text
from jsm_queue.data.rubrics import RUBRICS
from jsm_queue.errors import DataError, ModelError, SetupError
from jsm_queue.kinds import RUBRIC_CHARS, FileRef, JudgeInputs
from jsm_queue.spec import JudgeSpec

HUB_FILE = re.compile(r"hub:([\w.-]+/[\w.-]+)/([\w./-]+\.gguf)(?:@([\w./-]+))?")
MAGIC = b"GGUF"


def judge_files(
    judge: JudgeSpec, folder: Path, files: dict[str, Path], missing: Missing, ask_hub: bool
) -> JudgeInputs | None:
    """None for the judge that needs neither. Raises DataError, ModelError, and SetupError when the hub is away."""
    if judge.kind == "key_facts":
        return None
    rubric = _rubric(judge.rubric, folder, missing)
    file = _model(judge.source, folder, files, missing, ask_hub) if judge.source else None
    return JudgeInputs(rubric=rubric, file=file)


def _rubric(name: str, folder: Path, missing: Missing) -> str:
    """The text of a built-in rubric or of a file. Raises DataError for a file that is none."""
    if name in RUBRICS:
        return RUBRICS[name]
    path = folder / Path(name).expanduser()
    known = ", ".join(sorted(RUBRICS))
    if not path.is_file():
        missing(DataError(f"judge.rubric: {path} is not a file", f"Give a text file, or one of: {known}"))
        return name
    if path.stat().st_size > 4 * RUBRIC_CHARS:  # bytes; UTF-8 has at most 4 a character
        raise _unusable(path, f"longer than {RUBRIC_CHARS} characters")
    text = read_text(path).strip()
    if not text:
        raise _unusable(path, "empty")
    if len(text) > RUBRIC_CHARS:
        raise _unusable(path, f"longer than {RUBRIC_CHARS} characters")
    if any(not sign.isprintable() and sign not in "\n\r\t\u3000" for sign in text):
        raise _unusable(path, "no plain text: it holds control characters")
    return text


def _unusable(path: Path, what: str) -> DataError:
    return DataError(f"judge.rubric: {path} is {what}", "docs/judges.md says what a rubric is")


def _model(source: str, folder: Path, files: dict[str, Path], missing: Missing, ask_hub: bool) -> FileRef:
    if source.startswith("hub:"):
        path = _from_hub(source) if ask_hub else None
    elif source.startswith("package:"):
        path = package_file(source)
    else:
        path = folder / Path(source).expanduser()
    if path is None or not path.is_file():
        if path is not None:
            fix = "Give a .gguf file, package:NAME/FILE.gguf of an installed package, or hub:ORG/NAME/FILE.gguf"
            missing(ModelError(f"judge.source: {path} does not exist", fix))
        return FileRef(sha=content_hash(source), suffix=".gguf")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"judge.source: {path} is not a GGUF file", "Name the judge's .gguf file")
    return FileRef(sha=add(path, files), suffix=".gguf")


def _from_hub(source: str) -> Path:
    """Downloads the file to this machine, from where it is uploaded. Raises ModelError, SetupError."""
    named = HUB_FILE.fullmatch(source)
    if named is None:
        raise ModelError(f"judge.source: {source} names no GGUF of the hub", "Write hub:ORG/NAME/FILE.gguf@REVISION")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        fix = "pip install 'jsm-queue[worker]', or name a local file"
        raise SetupError("judge.source: hub: needs the package huggingface_hub", fix) from error
    repository, name, revision = named.groups()
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # which HTTP library's errors come through depends on the package's version
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = f"judge.source: {source}"
        if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
            fix = "Check repository, file and revision; a gated one wants its licence accepted, and HF_TOKEN"
            raise ModelError(f"{where} cannot be had from the hub ({said})", fix) from error
        raise SetupError(f"{where}: the hub does not answer ({said})", "Check the network") from error
