"""`python -m workers.probe WHAT`: one look at this machine for `jsm doctor`, as one line of JSON on standard output.

WHAT is gpus, torch, bitsandbytes or llama_cpp. Each runs in a process of its own, because a native library that does
not fit this machine may take its process with it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from workers import hardware


def gpus() -> dict[str, Any]:
    """The NVIDIA devices by name, and the newest CUDA that their driver speaks, as (major, minor)."""
    names = [gpu.name for gpu in hardware.list_gpus()]
    return {"names": names, "driver": driver_cuda(_nvidia_smi()) if names else None}


def _nvidia_smi() -> str:
    try:
        return subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=hardware.NVIDIA_SMI_S).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def driver_cuda(text: str) -> list[int] | None:
    """What nvidia-smi's heading says: "CUDA Version: 12.8"."""
    _, _, rest = text.partition("CUDA Version:")
    numbers = rest.split()[:1]
    parts = numbers[0].split(".") if numbers else []
    return [int(part) for part in parts[:2]] if len(parts) >= 2 and all(map(str.isdigit, parts[:2])) else None


def torch() -> dict[str, Any]:
    """The installed torch: its version, the CUDA and the GPUs it was built for, whether it can use this machine's."""
    import torch

    usable = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "usable": usable,
        "archs": torch.cuda.get_arch_list(),
        "capability": list(torch.cuda.get_device_capability()) if usable else None,
    }


def bitsandbytes() -> dict[str, Any]:
    """Packs a few weights as NF4, as training does."""
    import bitsandbytes
    import torch
    from bitsandbytes import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    functional.quantize_4bit(torch.ones(64, 64, device=device), quant_type="nf4")
    return {"version": bitsandbytes.__version__, "device": device}


def llama_cpp() -> dict[str, Any]:
    """Loads llama.cpp."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    return {"version": llama_cpp.__version__}


LOOKS: dict[str, Callable[[], dict[str, Any]]] = {
    look.__name__: look for look in (gpus, torch, bitsandbytes, llama_cpp)
}


def main() -> int:
    """Returns the exit code. A failure is an answer: {"error": …, "missing": the package is not installed}."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print where the answer belongs
    try:
        found = LOOKS[sys.argv[1]]()
    except ModuleNotFoundError as error:
        found = {"error": str(error), "missing": error.name == sys.argv[1]}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0], "missing": False}
    print(json.dumps(found), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
