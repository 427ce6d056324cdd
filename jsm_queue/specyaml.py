"""A study's YAML file: read, with the line of every key at hand. YAML's traps are refused or taken out.

A key that is given twice is refused; a date is text, as it is written.
"""

from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import yaml
from yaml.constructor import ConstructorError

from jsm_queue.errors import SpecFileError

MAX_BYTES = 2**20
"""A longer file is no study, and YAML would take minutes to say so."""

Loc = Sequence[int | str]
"""Where something is in a spec: keys, and places in lists from 0."""


class SpecFile(NamedTuple):
    """What a file holds, and its nodes, which know their lines."""

    value: Any
    root: yaml.Node | None


def read(path: Path) -> SpecFile:
    """The one document in a YAML file. Raises SpecFileError that names the file and, where there is one, the line."""
    text = _text(path)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        _refuse_twice(path, root)
        return SpecFile(loader.construct_document(root) if root else None, root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        said = ", ".join(part for part in (error.context, error.problem) if part)
        if error.problem == "but found another document":
            said = "a second document begins (---), and a study is one"
        raise SpecFileError(f"{where}: not valid YAML: {said}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecFileError(f"{path}:{line}: not valid YAML: it holds the character U+{_number(error):04X}") from error
    except RecursionError as error:
        raise SpecFileError(f"{path}: not valid YAML: it is nested too deeply") from error


def line_of(root: yaml.Node, loc: Loc) -> int:
    """The line, from 1, of the key or list entry at `loc`, or of the last one on the way there that the file has."""
    node, line = root, root.start_mark.line + 1
    for part in loc:
        found = _child(node, part)
        if found is None:
            break
        node, line = found
    return line


def _child(node: yaml.Node, part: int | str) -> tuple[yaml.Node, int] | None:
    """The node below, and its line: that of its key in a mapping."""
    if isinstance(node, yaml.MappingNode):
        pairs = [(value, key.start_mark.line + 1) for key, value in node.value if key.value == str(part)]
        return pairs[-1] if pairs else None
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None


def _text(path: Path) -> str:
    try:
        about = path.stat()
        if not S_ISREG(about.st_mode):  # a device never ends, and a pipe may never begin
            said = f"{path}: cannot be read (it is no regular file)"
            raise SpecFileError(said, "Give the path of a study's YAML file")
        size = about.st_size
        if size > MAX_BYTES:
            raise SpecFileError(f"{path}: {size} bytes are no study", "Give the path of a study's YAML file")
        data = path.read_bytes()
    except OSError as error:
        said = f"{path}: cannot be read ({error.strerror})"
        raise SpecFileError(said, "Give the path of a study's YAML file") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecFileError(f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x})", "Save it as UTF-8") from error


def _refuse_twice(path: Path, root: yaml.Node | None) -> None:
    seen: set[int] = set()
    rest = [root]
    while rest:
        node = rest.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))  # an alias may stand at many places, even inside itself
        if isinstance(node, yaml.MappingNode):
            _refuse_twice_here(path, node)
            rest += [value for _, value in node.value]
        else:
            rest += node.value


def _refuse_twice_here(path: Path, node: yaml.MappingNode) -> None:
    lines: dict[Any, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and key.value in lines:
            first = f"the key `{key.value}` is there twice, first in line {lines[key.value]}"
            raise SpecFileError(f"{path}:{line}: {first}", "Leave one of them out")
        lines[key.value if isinstance(key, yaml.ScalarNode) else id(key)] = line


def _number(error: yaml.reader.ReaderError) -> int:
    return error.character if isinstance(error.character, int) else ord(error.character)


class _Loader(yaml.SafeLoader):
    """Safe YAML without dates, which says the line also where a number cannot be built."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own way to say it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from error
