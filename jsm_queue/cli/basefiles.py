"""A base of the spec → content: a local folder or GGUF file is hashed, a hub revision becomes a commit."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from jsm_queue.canonical import content_hash
from jsm_queue.cli import basefacts
from jsm_queue.cli.inputs import Missing, add
from jsm_queue.data.chat_templates import TEMPLATES
from jsm_queue.errors import ModelError, SetupError
from jsm_queue.kinds import PICKLED, BaseFacts, BaseRef
from jsm_queue.spec import BaseSpec

MODEL_SUFFIXES = {".json", ".jinja", ".model", ".safetensors", ".txt"}
"""of a base's folder, what belongs to the model; its README and the like do not change a result"""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def base_files(
    base: BaseSpec, folder: Path, files: dict[str, Path], missing: Missing, ask_hub: bool
) -> tuple[BaseRef, BaseFacts]:
    """One base, and what is known of it. Raises ModelError, and SetupError when the hub does not answer."""
    template = _chat_template(base, folder)
    path = _local(base, folder)
    where = f"bases.{base.name}.source"
    if path is None:
        return _hub_base(base, template, ask_hub)
    if path.suffix == ".gguf":
        if not path.is_file():
            missing(ModelError(f"{where}: {path} does not exist", _how_to_get(base)))
            return BaseRef(
                form="gguf", files={"model.gguf": content_hash(base.source)}, chat_template=template
            ), BaseFacts()
        name = path.name if FILE_NAME.fullmatch(path.name) else "model.gguf"
        reference = BaseRef(form="gguf", files={name: add(path, files)}, chat_template=template)
        return reference, BaseFacts(bytes=path.stat().st_size)
    if not path.is_dir():
        missing(
            ModelError(f"{where}: {path} is neither a folder nor a .gguf file, nor is it a hub id", _how_to_get(base))
        )
        return BaseRef(
            form="folder", files={"config.json": content_hash(base.source)}, chat_template=template
        ), BaseFacts()
    members = _model_files(path, where)
    shas = {member.name: add(member, files) for member in members}
    return BaseRef(form="folder", files=shas, chat_template=template), basefacts.of_folder(path)


def _local(base: BaseSpec, folder: Path) -> Path | None:
    """Where a local base lies, whether or not it is there; None for a hub id.

    `package:NAME/FILE` is a file inside an installed Python package.
    """
    source = base.source
    if source.startswith("package:"):
        package, _, name = source.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(package)
        places = list(found.submodule_search_locations or []) if found else []
        return Path(places[0]) / name if places else Path(package) / name
    path = folder / Path(source).expanduser()
    if path.exists() or source.endswith(".gguf") or not HUB_ID.fullmatch(source) or source.startswith("."):
        return path
    return None


def _how_to_get(base: BaseSpec) -> str:
    if base.source.startswith("package:"):
        package = base.source.removeprefix("package:").partition("/")[0].replace("_", "-")
        return f"pip install {package}"
    return "Correct the path; it is relative to the spec's folder"


def _model_files(folder: Path, where: str) -> list[Path]:
    """The files of a local base that belong to the model. Raises ModelError when they cannot be one."""
    members = [path for path in sorted(folder.iterdir()) if path.is_file()]
    chosen = [path for path in members if path.suffix in MODEL_SUFFIXES and FILE_NAME.fullmatch(path.name)]
    if not any(path.name == "config.json" for path in chosen):
        raise ModelError(f"{where}: {folder} has no config.json", "Name a folder in the Hugging Face layout")
    if any(path.suffix == ".safetensors" for path in chosen):
        return chosen
    if any(path.suffix in PICKLED for path in members):
        fix = "Save it again with save_pretrained(…, safe_serialization=True); pickled weights can run code"
        raise ModelError(f"{where}: {folder} has its weights only in pickled form", fix)
    raise ModelError(f"{where}: {folder} has no .safetensors file", "Name a folder that holds the whole model")


def _chat_template(base: BaseSpec, folder: Path) -> str | None:
    """The Jinja text that replaces the base's own template. Raises ModelError when there is none."""
    if base.chat_template is None:
        return None
    if base.chat_template in TEMPLATES:
        return TEMPLATES[base.chat_template]
    path = folder / base.chat_template
    if path.is_file():
        return path.read_text(encoding="utf-8")
    known = ", ".join(sorted(TEMPLATES))
    raise ModelError(f"bases.{base.name}.chat_template: no file {path}", f"Name a Jinja file, or one of: {known}")


def _hub_base(base: BaseSpec, template: str | None, ask_hub: bool) -> tuple[BaseRef, BaseFacts]:
    revision = base.revision or "main"
    facts = BaseFacts()
    if ask_hub:
        revision, facts = _ask_hub(base, revision)
    return BaseRef(form="hub", repo=base.source, revision=revision, chat_template=template), facts


def _ask_hub(base: BaseSpec, revision: str) -> tuple[str, BaseFacts]:
    """The commit of a branch or tag, and what the hub says of its model. Raises ModelError, SetupError."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        fix = "pip install 'jsm-queue[worker]', or name a local folder"
        raise SetupError(f"bases.{base.name}: a hub id needs the package huggingface_hub", fix) from error
    where = f"bases.{base.name}: {base.source} at {revision}"
    try:
        info: Any = HfApi().model_info(base.source, revision=revision)
    except HfHubHTTPError as error:
        fix = "Check id and revision (a folder begins with ./); a gated model wants its licence accepted, and HF_TOKEN"
        raise ModelError(f"{where} cannot be had from the hub ({_first_line(error)})", fix) from error
    except Exception as error:  # which HTTP library's errors come through depends on the package's version
        if COMMIT.fullmatch(revision):
            return revision, BaseFacts()  # a commit names its content; workers that have it need no hub
        fix = "Check the network, or give a commit as `revision`"
        raise SetupError(f"{where}: the hub does not answer ({_first_line(error)})", fix) from error
    return info.sha, basefacts.of_hub(info)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
