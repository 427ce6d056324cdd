"""A base of the spec → content: a local folder or GGUF file is hashed, a hub revision becomes a commit."""

import importlib.util
import os
import re
from pathlib import Path

from jsm_queue.canonical import content_hash
from jsm_queue.cli import basefacts, hubfiles
from jsm_queue.cli.inputs import Missing, add
from jsm_queue.data import chat_templates
from jsm_queue.data.chat_templates import TEMPLATES
from jsm_queue.errors import ChatTemplateError, ModelMissingError, SpecError, located
from jsm_queue.kinds import BaseFacts, BaseRef
from jsm_queue.modelfiles import folder as model_folder
from jsm_queue.modelfiles import gguf
from jsm_queue.modelfiles import targets as module_names
from jsm_queue.spec import BaseSpec

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def base_files(
    base: BaseSpec, folder: Path, files: dict[str, Path], missing: Missing, ask_hub: bool
) -> tuple[BaseRef, BaseFacts]:
    """One base, and what is known of it: its files are judged by their headers before they are hashed.

    Raises ModelError, and HubAwayError when the hub does not answer.
    """
    template = _chat_template(base, folder)
    path = _local(base, folder)
    where = f"bases.{base.name}.source"
    if path is None:
        return _hub_base(base, template, ask_hub)
    if base.revision is not None:
        raise SpecError(
            f"bases.{base.name}.revision: means nothing to {base.source}, which is a local path",
            "Leave it out; it chooses a branch, tag or commit of a hub id",
        )
    if path.suffix == ".gguf":
        if not path.is_file():
            missing(ModelMissingError(f"{where}: {path} does not exist", _how_to_get(base)))
            return BaseRef(
                form="gguf", files={"model.gguf": content_hash(base.source)}, chat_template=template
            ), BaseFacts()
        with located(f"{where}: {path.parent}"):
            gguf.check(path, template is not None)
        name = path.name if FILE_NAME.fullmatch(path.name) else "model.gguf"
        reference = BaseRef(form="gguf", files={name: add(path, files)}, chat_template=template)
        return reference, BaseFacts(bytes=path.stat().st_size, positions=gguf.positions(path))
    if not path.is_dir():
        missing(
            ModelMissingError(
                f"{where}: {path} is neither a folder nor a .gguf file, nor is it a hub id", _how_to_get(base)
            )
        )
        return BaseRef(
            form="folder", files={"config.json": content_hash(base.source)}, chat_template=template
        ), BaseFacts()
    with located(f"{where}: {path}"):
        model_folder.refuse_links(path)
        model_folder.check(path)
        if template is None:
            model_folder.check_template(path)
    shas = {member.name: add(member, files) for member in _model_files(path)}
    return BaseRef(form="folder", files=shas, chat_template=template), basefacts.of_folder(path)


def check_context(base: BaseSpec, context: int, facts: BaseFacts) -> None:
    """Raises SpecError for a context beyond a base's positions, behind which it answers at random."""
    if facts.positions is not None and context > facts.positions:
        raise SpecError(
            f"decoding.context: {context} tokens, but bases.{base.name} has positions for {facts.positions}",
            f"Write {facts.positions} at most as decoding.context, or leave that base out",
        )


def check_targets(base: BaseSpec, targets: str | list[str], folder: Path) -> None:
    """Raises SpecError for one of `training.targets` that a base to be trained has no linear layer for."""
    if not base.train or isinstance(targets, str):
        return
    path = _local(base, folder)
    known = model_folder.tensors(path) if path is not None and path.is_dir() else None
    shapes = None if known is None else {name: tensor.shape for name, tensor in known.items()}
    with located(f"bases.{base.name}"):
        module_names.check(targets, shapes)


def _local(base: BaseSpec, folder: Path) -> Path | None:
    """Where a local base lies, whether or not it is there; None for a hub id.

    `package:NAME/FILE` is a file inside an installed Python package.
    """
    source = base.source
    if source.startswith("package:"):
        return package_file(source)
    path = folder / _expanded(source)
    if path.exists() or source.endswith(".gguf") or not HUB_ID.fullmatch(source) or source.startswith("."):
        return path
    return None


def package_file(source: str) -> Path:
    """Where `package:NAME/FILE` lies; a path that never exists where it leads out of the package, or that is absent."""
    package, _, name = source.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    places = list(found.submodule_search_locations or []) if found else []
    home = os.path.normpath(places[0]) if places and name else ""
    path = Path(os.path.normpath(Path(home) / name))
    inside = home and ".." not in Path(name).parts and path.is_relative_to(home)
    return path if inside else Path(source)


def _how_to_get(base: BaseSpec) -> str:
    if base.source.startswith("package:"):
        package, _, name = base.source.removeprefix("package:").partition("/")
        if not package.isidentifier() or not name or name.startswith("/") or ".." in Path(name).parts:
            return "Write package:NAME/PATH: an installed package's name, and what is meant inside it"
        package = package.replace("_", "-")
        return f"pip install {package}"
    return "Correct the path; it is relative to the spec's folder"


def _expanded(source: str) -> Path:
    """With `~` as the home folder; a user that this machine does not know stays as it is written."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def _model_files(folder: Path) -> list[Path]:
    """The files of a local base that belong to the model; its README and the like do not change a result."""
    members = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return [path for path in members if model_folder.is_needed(path.name) and FILE_NAME.fullmatch(path.name)]


def _chat_template(base: BaseSpec, folder: Path) -> str | None:
    """The Jinja text that replaces the base's own template. Raises ChatTemplateError when there is none."""
    if base.chat_template is None:
        return None
    if base.chat_template in TEMPLATES:
        return TEMPLATES[base.chat_template]
    where = f"bases.{base.name}.chat_template"
    path = folder / base.chat_template
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ChatTemplateError(f"{where}: {path} is not UTF-8", "Save the file as UTF-8") from error
        with located(f"{where}: {path}"):
            chat_templates.check(text)
        return text
    known = ", ".join(sorted(TEMPLATES))
    raise ChatTemplateError(f"{where}: no file {path}", f"Name a Jinja file, or one of: {known}")


def _hub_base(base: BaseSpec, template: str | None, ask_hub: bool) -> tuple[BaseRef, BaseFacts]:
    revision = base.revision or "main"
    facts = BaseFacts()
    if ask_hub:
        revision, facts = hubfiles.ask(base, revision, template is not None)
    return BaseRef(form="hub", repo=base.source, revision=revision, chat_template=template), facts
