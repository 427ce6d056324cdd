"""Where everything that a person reads is printed: one console for output, one for errors."""

import json
import sys
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 200  # characters a line may have where nobody's terminal limits it

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """`value` as indented JSON, unchanged by the console's width or colours."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(columns: dict[str, str], rows: list[list[str]], empty: str) -> None:
    """A plain table. `columns`: heading → "left", "right" or "cut"; `empty` is printed when there are no rows.

    Where lines get too long, only columns that may be "cut" give way; on a terminal that is narrower still lines fold.
    """
    if not rows:
        out.print(empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, (heading, kind) in enumerate(columns.items()):
        texts = [heading, *(Text.from_markup(row[place]).plain for row in rows)]
        whole = None if kind == "cut" else max(map(cell_len, texts))
        justify = "right" if kind == "right" else "left"
        table.add_column(heading, justify=justify, no_wrap=kind != "cut", overflow="ellipsis", min_width=whole)
    for row in rows:
        table.add_row(*map(_cell, columns.values(), row))
    out.print(table)


def _cell(kind: str, text: str) -> Text | str:
    """What may be cut is one line all the same, which a column that gives way would fold."""
    if kind != "cut":
        return text
    cell = Text.from_markup(text, overflow="ellipsis")
    cell.no_wrap = True
    return cell


def print_error(message: str, fix: str) -> None:
    """One line on stderr: what is wrong and what to do."""
    tail = f" — {fix}" if fix else ""
    err.print(f"[bold red]error:[/] {escape(message)}{escape(tail)}")


def print_warning(message: str, fix: str) -> None:
    """The same of what does not keep the command from its work."""
    err.print(f"[yellow]warning:[/] {escape(message)} — {escape(fix)}")


def escape(text: str) -> str:
    """Text that the console prints as it is, whatever brackets it holds."""
    return text.replace("[", r"\[")


def duration(seconds: float) -> str:
    """ "0.8 s", "12 s" or "8 min 12 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def size(byte_count: float) -> str:
    """Bytes for people: "6.2 MB" (10^6)."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if byte_count >= scale:
            return f"{byte_count / scale:.1f} {unit}"
    return f"{byte_count:.0f} B"
