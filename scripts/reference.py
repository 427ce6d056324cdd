"""Writes docs/{cli,settings,errors,benchmarks}.md from code and measurements: `make docs`. A test compares them."""

import ast
import json
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Union

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jsm_queue import errors, spec
from jsm_queue.cli.main import app
from jsm_queue.settings import OTHER_VARIABLES, Settings

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NOTE = "<!-- written by `make docs`; change the code, not this file -->\n"


def main() -> None:
    """Writes all of them."""
    DOCS.mkdir(exist_ok=True)
    pages = {"cli": cli_page(), "settings": settings_page(), "errors": errors_page(), "benchmarks": benchmarks_page()}
    for name, text in pages.items():
        (DOCS / f"{name}.md").write_text(text, encoding="utf-8", newline="\n")


# The command line


def cli_page() -> str:
    """docs/cli.md: every command with its arguments and options."""
    root: Any = typer.main.get_command(app)
    lines = [NOTE, "# The command line\n", f"{root.help}\n"]
    lines.append("Every error is one line that says what to do; `JSM_DEBUG=1` adds where it came from.\n")
    for name, command in _commands(root, "jsm"):
        lines += [f"## {name}\n", f"`{' '.join([name, *_usage(command)])}`\n", f"{_paragraphs(command.help)}\n"]
        rows = [f"| {_parameter(param)} | {param.help} |" for param in command.params if param.help]
        if rows:
            lines += ["| | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _usage(command: Any) -> list[str]:
    arguments = [param.metavar or param.name.upper() for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and param.help]
    return [*arguments, *(["[OPTIONS]"] if options else [])]


def _parameter(param: Any) -> str:
    return ", ".join(f"`{name}`" for name in (param.opts if param.param_type_name == "option" else [param.metavar]))


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


# Settings and spec


def settings_page() -> str:
    """docs/settings.md: every JSM_* setting, every key of a study."""
    lines = [NOTE, "# Settings\n"]
    lines.append("Each is an environment variable, or a key without `JSM_` in `settings.toml` in the home folder.")
    lines.append("Variables win. A variable that begins with `JSM_` and is none of these is refused.\n")
    lines += ["| key | type | unit | default | example | |", "|---|---|---|---|---|---|"]
    lines += [_setting(name, field) for name, field in Settings.model_fields.items()]
    lines += ["", "Variables that are no settings:\n", "| variable | |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in OTHER_VARIABLES.items()]
    lines.append("")
    lines.append("# The study's file\n")
    lines.append("Paths are relative to the file. `jsm init` writes a commented one.\n")
    for title, model in _parts():
        lines += [f"## {title}\n", f"{_paragraphs(model.__doc__ or '')}\n"]
        lines += _table(model.model_fields.items())
    return "\n".join(lines)


def _setting(name: str, field: FieldInfo) -> str:
    cells = [f"`JSM_{name.upper()}`", _type(field.annotation), unit(field), _default(field), f"`{example(field)}`"]
    return f"| {' | '.join(cells)} | {field.description} |"


def unit(field: FieldInfo) -> str:
    """What a setting's value counts or is."""
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def example(field: FieldInfo) -> str:
    """A value that a setting may have."""
    return str(field.examples[0]) if field.examples else ""


def _parts() -> list[tuple[str, type[BaseModel]]]:
    return [
        ("top level", spec.StudySpec),
        ("data", spec.DataSpec),
        ("bases, each", spec.BaseSpec),
        ("training", spec.TrainingSpec),
        ("decoding", spec.DecodingSpec),
        ("judge", spec.JudgeSpec),
        ("stages", spec.Stages),
        ("stages.scale", spec.ScaleStage),
        ("stages.bases", spec.BasesStage),
        ("stages.quantization", spec.QuantizationStage),
        ("limits", spec.Limits),
    ]


def _table(fields: Any) -> list[str]:
    rows = [
        f"| `{name}` | {_type(field.annotation)} | {limits(field.metadata)} | {_default(field)} "
        f"| {field.description or ''} |"
        for name, field in fields
    ]
    return ["| key | type | limits | default | |", "|---|---|---|---|---|", *rows, ""]


LIMITS = {
    "ge": "≥ {}",
    "gt": "> {}",
    "le": "≤ {}",
    "lt": "< {}",
    "min_length": "at least {} long",
    "max_length": "at most {} long",
}
"""What a key of a constraint says. Of a list its length is counted in entries, of a text in characters."""


def limits(constraints: Iterable[Any]) -> str:
    """A field's constraints in plain words: "≥ 10, ≤ 512"."""
    found = [
        words.format(value)
        for each in constraints
        for name, words in LIMITS.items()
        if isinstance(value := getattr(each, name, None), int | float)
    ]
    return ", ".join(found)


def _type(annotation: Any) -> str:
    """A type in plain words: "number", "text or nothing", `"a"` or `"b"`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in arguments)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return "list, see below" if _type(arguments[0]) == "see below" else f"list of {_type(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "see below"
    words = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", type(None): "nothing"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, BaseModel):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


# Errors


def errors_page() -> str:
    """docs/errors.md: every error with its cause and cure, its HTTP status and the CLI's exit status."""
    lines = [NOTE, "# Errors\n"]
    lines.append("`jsm` prints one line, what is wrong and what to do, and leaves with the exit status. The api")
    lines.append('answers with the HTTP status and `{"error": {"code", "message", "fix"}}`. Below is the general cure;')
    lines.append("each message names its own.\n")
    lines += ["| exit | of |", "|---|---|", f"| 0 | success |\n{_exit_rows()}\n"]
    lines += ["| code | HTTP | exit | cause | cure |", "|---|---|---|---|---|"]
    for kind in errors.all_errors():
        cause = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"| `{kind.code}` | {kind.status} | {kind.exit_code} | {cause} | {kind.cure} |")
    return "\n".join([*lines, ""])


def _exit_rows() -> str:
    by_exit: dict[int, list[str]] = {}
    for kind in errors.all_errors():
        by_exit.setdefault(kind.exit_code, []).append(f"`{kind.code}`")
    also = {1: "; `jsm submit --watch` of a study that lost jobs", 2: "; wrong arguments of a command"}
    return "\n".join(f"| {code} | {', '.join(words)}{also.get(code, '')} |" for code, words in sorted(by_exit.items()))


# Measurements


def benchmarks_page() -> str:
    """docs/benchmarks.md: what each benchmark measures, and the figures that have a bound."""
    lines = [NOTE, "# Measured\n"]
    lines.append(
        "Each table is one run of `make bench-NAME`, which prints it and writes all its figures as JSON. Shown"
    )
    lines.append("are those with a bound: a ratio is of two figures of the same run. ✘ is a bound that is missed.\n")
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        source = (ROOT / "benchmarks" / f"{path.stem}.py").read_text(encoding="utf-8")
        about = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split(": ", 1)[-1]
        lines += [f"## {found['name']}\n", f"`{found['command']}`: {' '.join(about.split())}\n"]
        lines.append(f"{found['machine']}; commit {found['commit'].rstrip('+')};")
        lines.append(f"[all figures](../benchmarks/results/{path.name}).\n")
        rows = [_benchmark_row(row) for row in found["rows"] if row["bound"] is not None]
        if rows:
            lines += ["| case | measured | bound | beside it | |", "|---|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _benchmark_row(row: dict[str, Any]) -> str:
    beside = "" if row["reference"] is None else f"{row['reference']}: {row['reference_value']:.4g}"
    measured = f"{row['value']:.4g} {row['unit']}".strip()
    sign = "≤" if (row["value"] <= row["bound"]) == row["ok"] else "≥"
    return f"| {row['case']} | {measured} | {sign} {row['bound']:.4g} | {beside} | {'✔' if row['ok'] else '✘'} |"


if __name__ == "__main__":
    main()
