"""Standard output and error, before anything is printed."""

import io
import os
import sys
from pathlib import Path


def print_anywhere() -> None:
    """What the terminal's encoding lacks is printed as "?"; who closed an output reads nothing of it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
