"""The program `jsm`, and `python -m jsm_queue.cli`: what `jsm_queue.cli.main` says."""

import io
import os
import sys
from pathlib import Path

from jsm_queue.interrupts import end_at_once


def print_anywhere() -> None:
    """What the terminal's encoding lacks is printed as "?"; who closed an output reads nothing of it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main() -> None:
    """Ends the process with a status."""
    with end_at_once():
        print_anywhere()
        from jsm_queue.cli import main as commands
    commands.main()


if __name__ == "__main__":
    main()
