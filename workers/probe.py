"""`python -m workers.probe WHAT`: one look at this machine for `jsm doctor`, as one line of JSON on standard output.

WHAT is gpus, torch, bitsandbytes or llama_cpp, or machine or pool with a worker's home. Each runs in a process of its
own, because a native library that does not fit this machine may take its process with it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from jsm_queue import processes, tls, yielding
from jsm_queue.errors import JsmError
from jsm_queue.kinds import KINDS
from jsm_queue.settings import settings
from workers import courtesy, hardware
from workers.owner import Owner

ANSWER_S = 5.0  # what the api may take to answer


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


def machine(home: str) -> dict[str, Any]:
    """What this machine's worker is and can do, and what is known of its owner.

    `kinds`: kind → why not, or ""; `readings`: what courtesy looks at → words, None where it is unknown; `slots` with
    their standing, if the worker runs (`pid`).
    """
    folder, running = Path(home), processes.find_leftover(Path(home) / "agent.pid")
    there = hardware.list_gpus()
    found = hardware.describe(there if hardware.torch_cuda() else [])
    plans = hardware.plan_slots(there if found.gpus else [], found.cores, found.memory_bytes, settings().cpu_slots)
    owner = Owner(folder, {plan.idx: plan.uuid for plan in plans if plan.uuid}, running.pid if running else os.getpid())
    rules, noted = courtesy.rules_of(settings()), yielding.noted(folder) if running else {}
    memory = {gpu.uuid: (gpu.free, gpu.memory) for gpu in there}
    system = psutil.virtual_memory()
    return {
        "pid": running.pid if running else None,
        "hardware": found.model_dump(mode="json", exclude={"packages", "lacks"}),
        "kinds": {kind: found.lacks.get(kind, "") for kind in KINDS},
        "readings": courtesy.words(owner.read(0.0), rules, [plan for plan in plans if plan.uuid]),
        "slots": [
            {
                "device": plan.device,
                "name": next((gpu.name for gpu in there if gpu.uuid == plan.uuid), found.cpu),
                "free": memory.get(plan.uuid, (system.available, system.total))[0],
                "total": memory.get(plan.uuid, (system.available, system.total))[1],
                "threads": plan.threads,
                **noted.get(str(plan.idx), {}),
            }
            for plan in plans
        ],
    }


def pool(home: str) -> dict[str, Any]:
    """The api that the worker joined: why it does not answer, or by how many seconds this clock is ahead of its. No
    URL: it has not joined.
    """
    try:
        joined = json.loads((Path(home) / "identity.json").read_text(encoding="utf-8"))
        url, ca = joined.get("api") or settings().api_url, joined.get("ca")
    except FileNotFoundError:
        url, ca = settings().api_url, None
    if not url:
        return {"url": None}
    try:
        context = tls.client_context(ca or tls.read_ca(settings().ca_file))
        answer = httpx.get(f"{url.rstrip('/')}/healthz", timeout=ANSWER_S, verify=context, trust_env=False)
        answer.raise_for_status()
        ahead = time.time() - parsedate_to_datetime(answer.headers["date"]).timestamp()
        return {"url": url, "skew": ahead}
    except (httpx.HTTPError, httpx.InvalidURL, JsmError) as error:
        return {"url": url, "error": str(error) or type(error).__name__}


LOOKS: dict[str, Callable[..., dict[str, Any]]] = {
    look.__name__: look for look in (gpus, torch, bitsandbytes, llama_cpp, machine, pool)
}


def main() -> int:
    """Returns the exit code. A failure is an answer: {"error": …, "missing": the package is not installed}."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print where the answer belongs
    try:
        found = LOOKS[sys.argv[1]](*sys.argv[2:])
    except ModuleNotFoundError as error:
        found = {"error": str(error), "missing": error.name == sys.argv[1]}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0], "missing": False}
    print(json.dumps(found), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
