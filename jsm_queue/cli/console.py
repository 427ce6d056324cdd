"""Where everything that a person reads is printed: one console for output, one for errors."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 200  # characters a line may have where nobody's terminal limits it

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """`value` as indented JSON, unchanged by the console's width or colours."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(columns: dict[str, str], rows: list[list[str]], empty: str) -> None:
    """A plain table. `columns`: heading → "left" or "right"; `empty` is printed when there are no rows."""
    if not rows:
        out.print(empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, justify in columns.items():
        table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def print_error(message: str, fix: str) -> None:
    """One line on stderr: what is wrong and what to do."""
    tail = f" — {fix}" if fix else ""
    err.print(f"[bold red]error:[/] {escape(message)}{escape(tail)}")


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
