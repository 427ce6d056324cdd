"""What this machine has:

its slots, the class that its timings belong to, its packages, and which kinds it lacks something for. Never imports
torch.
"""

import csv
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from jsm_queue import costs, processes
from jsm_queue.kinds import KINDS
from jsm_queue.protocol import Hardware
from workers import nvml

GIB = 2**30
NVIDIA_SMI_S = 20  # a driver that is starting takes seconds to answer
DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python"}  # what installs a module of another name
PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "gguf",
    "huggingface-hub",
    "jsm-queue",
    "llama-cpp-python",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)

NEEDS: Mapping[str, Sequence[str]] = {
    "train": ("torch", "transformers", "peft", "safetensors", "bitsandbytes"),
    "score": ("torch", "transformers", "peft", "safetensors", "bitsandbytes"),
    "convert": ("torch", "transformers", "gguf", "llama_cpp"),
    "parity": ("torch", "transformers", "peft", "gguf", "llama_cpp"),
    "answer": ("llama_cpp",),
    "latency": ("llama_cpp", "torch"),
    "judge": ("llama_cpp",),
}
"""The modules that a kind's work imports. A kind that is not here needs what the agent itself needs."""

PARTLY = {
    "bitsandbytes": "quantized training and scoring (NF4) need it, and a job may be either",
    "llama_cpp": "models in GGUF files need it",
}
"""What a missing module costs, where that is not all that the kind does."""


@dataclass(frozen=True)
class Gpu:
    """A CUDA device. `uuid` names it whatever the order in which devices are counted; sizes in bytes."""

    name: str
    uuid: str
    memory: int
    free: int


@dataclass(frozen=True)
class SlotPlan:
    """One slot of this machine.

    `device` is "cpu" or "cuda:<i>"; `uuid` the GPU's; `threads` its share of the cores.
    """

    idx: int
    kind: str
    device: str
    threads: int
    uuid: str = ""


def plan_slots(gpus: Sequence[Gpu], cores: int, memory: int, cpu_slots: int = 0) -> list[SlotPlan]:
    """One slot a GPU, then the CPU slots. `cpu_slots` > 0 says how many of those there are.

    Without it: one beside a GPU, which feeds it; else one per core and 3 GiB, at most 4, so that small jobs
    run side by side without swapping. The cores are shared evenly among all slots.
    """
    if cpu_slots <= 0:
        cpu_slots = 1 if gpus else costs.cpu_slots(cores, memory)
    threads = max(1, cores // (len(gpus) + cpu_slots))
    slots = [SlotPlan(i, "gpu", f"cuda:{i}", threads, gpu.uuid) for i, gpu in enumerate(gpus)]
    return slots + [SlotPlan(len(gpus) + i, "cpu", "cpu", threads) for i in range(cpu_slots)]


def hardware_class(gpus: Sequence[Gpu], cpu: str, cores: int) -> str:
    """Groups machines whose timings compare: "RTX 4060 Ti 16 GB", or the CPU's name with its cores."""
    if not gpus:
        return f"{cpu}, {cores} cores"[:128]
    name = re.sub(r"^NVIDIA (GeForce )?", "", gpus[0].name)
    count = f"{len(gpus)} × " if len(gpus) > 1 else ""
    return f"{count}{name} {round(gpus[0].memory / GIB)} GB"[:128]


def describe(gpus: Sequence[Gpu]) -> Hardware:
    """What the worker tells the api about this machine."""
    cpu, cores = cpu_name(), processes.cores()
    return Hardware(
        hardware_class=hardware_class(gpus, cpu, cores),
        os=f"{platform.system()} {platform.release()}"[:64],
        cpu=cpu[:128],
        cores=cores,
        memory_bytes=psutil.virtual_memory().total,
        gpus=[gpu.name for gpu in gpus],
        packages=package_versions(),
        driver=driver() if gpus else None,
        lacks=lacks(),
    )


def lacks(is_there: Callable[[str], bool] | None = None) -> dict[str, str]:
    """Kind → why this machine cannot do it, and what to do. Modules are looked for, never imported: importing torch
    takes seconds. `is_there`: whether a module is installed.
    """
    found = is_there or _is_installed
    missing = {kind: [module for module in NEEDS.get(kind, ()) if not found(module)] for kind in KINDS}
    return {kind: _lack(modules) for kind, modules in missing.items() if modules}


def _lack(modules: Sequence[str]) -> str:
    costs_only = [PARTLY[module] for module in modules if module in PARTLY]
    partly = f" ({costs_only[0]})" if len(costs_only) == len(modules) else ""
    line = " ".join(DISTRIBUTIONS.get(module, module) for module in modules)
    return f"not installed: {', '.join(modules)}{partly}. With the worker's own Python: python -m pip install {line}"


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def driver() -> str | None:
    """The version of NVIDIA's driver, "580.95.05", or None."""
    found = nvml.driver()
    if found is None:
        lines = _nvidia_smi("driver_version").splitlines()
        found = lines[0].strip() if lines else None
    return found[:64] if found else None


def cpu_name() -> str:
    """The CPU's name as its maker gave it, or the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return platform.processor() or platform.machine() or "CPU"


def package_versions() -> dict[str, str]:
    """The versions of the packages that results may depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for, read from its files; None for a CPU build or
    no torch.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    version = Path(spec.submodule_search_locations[0]) / "version.py"
    text = version.read_text(encoding="utf-8") if version.exists() else ""
    found = re.search(r"^cuda\b.*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def list_gpus() -> list[Gpu]:
    """The CUDA devices that this process may use, with their free memory now. Empty without a driver."""
    found = _from_nvml()
    return visible(found if found is not None else _from_nvidia_smi(), os.environ)


def visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order: indices or (beginnings of) UUIDs."""
    value = environment.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for name in (part.strip() for part in value.split(",")):
        fits = [gpu for i, gpu in enumerate(gpus) if name and (str(i) == name or gpu.uuid.startswith(name))]
        if not fits:  # as CUDA does: what follows an unknown device is not seen
            break
        chosen += fits[:1]
    return chosen


def _from_nvml() -> list[Gpu] | None:
    devices = nvml.devices()
    return None if devices is None else [Gpu(*device) for device in devices]


def _from_nvidia_smi() -> list[Gpu]:
    return parse_nvidia_smi(_nvidia_smi("name,uuid,memory.total,memory.free"))


def _nvidia_smi(fields: str) -> str:
    """What the driver's own program says of each GPU, or nothing where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def parse_nvidia_smi(text: str) -> list[Gpu]:
    """nvidia-smi's CSV lines "name, uuid, MiB, MiB"; a device that does not know its memory is left out."""
    rows = [[field.strip() for field in row] for row in csv.reader(text.splitlines()) if row]
    return [
        Gpu(name, uuid, int(total) * 2**20, int(free) * 2**20)
        for name, uuid, total, free in (row for row in rows if len(row) == 4)
        if total.isdigit() and free.isdigit()
    ]
