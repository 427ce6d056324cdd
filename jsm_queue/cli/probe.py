"""What this machine's own packages say of it, asked in a process that may import torch."""

import json
import subprocess
import sys
from typing import Any

PROBE_S = 60.0  # a torch that was never imported before takes long


def ask(what: str) -> dict[str, Any]:
    """The answer of `workers.probe`; empty where there is none."""
    argv = [sys.executable, "-m", "workers.probe", what]
    try:
        return json.loads(subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=PROBE_S).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


def gpus() -> list[str]:
    """The names of the GPUs for which a worker here has slots: none where torch cannot use them."""
    names = ask("gpus").get("names") or []
    return names if names and ask("torch").get("usable") else []
